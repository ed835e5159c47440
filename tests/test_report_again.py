"""Saved results: shown again in any format, judged again, compared with older ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Program

RUNS = {
    "fail": "check --case offset-plus-1e4 --dtype float32 --candidate logsumexp --top 3",
    "pass": "check --generate normal --rows 5 --classes 7",
    "rows": "check --generate normal --rows 9 --sample 3 --candidate naive",
    "stability": "stability --case saturated-* --case nonfinite-* --candidate naive --candidate shifted",
    "derive": "derive --generate normal --rows 3 --classes 5 --dtype float32",
    "selftest": "selftest --mistake labels-* --mistake flushing --dtype float32 --case plain-*",
    "inconclusive": "check --generate normal --rows 3 --digits 8",
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("form", ["json", "concise", "markdown", "csv", "junit", "github", "jsonl", "html"])
def test_a_saved_report_is_shown_as_it_was(run: str, form: str, tmp_path: Path, program: Program) -> None:
    saved, direct = tmp_path / "saved.json", tmp_path / "direct"
    first = program(*RUNS[run].split(), "--report", f"json={saved}", "--report", f"{form}={direct}", "-q")
    again = program("report", str(saved), "--format", form)
    assert again.out == direct.read_text()
    assert again.code == first.code
    assert json.loads(saved.read_text())["results"]


def judged(program: Program, path: Path, tolerance: str) -> tuple[str, int]:
    run = program("report", str(path), "--tolerance", tolerance, "--format", "json")
    (result,) = json.loads(run.out)["results"]
    return result["verdict"], run.code


def test_another_tolerance_judges_saved_results(tmp_path: Path, program: Program) -> None:
    saved = tmp_path / "saved.json"
    words = ["check", "--case", "offset-plus-1e4", "--dtype", "float32", "--candidate", "logsumexp"]
    program(*words, "--report", f"json={saved}", "-q")
    (result,) = json.loads(saved.read_text())["results"]
    for name, field in (("ulp", "max_ulp"), ("rel", "max_rel"), ("abs", "max_abs"), ("norm", "norm")):
        for factor, verdict, code in ((1.01, "pass", 0), (0.99, "fail", 1)):
            rule = f"{name}:{result[field] * factor!r}"
            assert judged(program, saved, rule) == (verdict, code)
            # as it would have been judged then
            assert program(*words, "--tolerance", rule, "-q").code == code
    assert judged(program, saved, "stable") == ("fail", 1)
    refused = program("report", str(saved), "--tolerance", "allclose:1,1")
    assert refused.code == 2
    assert "check again" in refused.err
    said = program("report", str(saved), "--tolerance", "ulp:1").out
    assert "at least 1 component of 14 is past the limit" in said


def test_the_command_of_another_tolerance_judges_by_it(tmp_path: Path, program: Program) -> None:
    saved = tmp_path / "saved.json"
    program(
        "check", "--case", "plain-3", "--dtype", "float32", "--tolerance", "rel:1", "--report", f"json={saved}", "-q"
    )
    out = program("report", str(saved), "--tolerance", "ulp:0.1").out
    assert "again: gradcheck check --case plain-3 --dtype float32 --candidate shifted --tolerance ulp:0.1" in out


def edited(saved: Path, **changes: Any) -> Path:
    """A saved report whose first result has other fields, each named by its path with `__` between."""
    record = json.loads(saved.read_text())
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = record["results"][0]
        for name in outer:
            place = place[name]
        place[last] = value
    target = saved.with_name("edited.json")
    target.write_text(json.dumps(record))
    return target


@pytest.fixture
def saved(tmp_path: Path, program: Program) -> Path:
    path = tmp_path / "saved.json"
    words = ["check", "--case", "offset-plus-1e4", "--dtype", "float32", "--candidate", "logsumexp"]
    program(*words, "--report", f"json={path}", "-q")
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"places": None},
        {"places": {}},
        {"worst__candidate_hex": "0x1p99999"},
        {"worst__reference": "1e" + "9" * 500},
        {"worst__reference": "1" * 5000},
        {"worst__reference": "abc"},
        {"reference__precision_bits": 10**400},
        {"reference__step": "2^-99999999999"},
        {"rows": -3},
        {"failed": -1},
        {"nonfinite": -2},
        {"tolerance": "frob:1"},
        {"dtype": "float8"},
        {"verdict": "maybe"},
        {"profile__gap": [math.nan]},
        {"profile__gap": [0.0]},
        {"profile__histogram": [[2000, 5]]},
        {"profile__histogram": [[3, 0]]},
        {"worst": "x"},
    ],
    ids=str,
)
def test_a_record_that_cannot_be_is_refused(changes: Any, saved: Path, program: Program) -> None:
    path = edited(saved, **changes)
    for words in (["report", str(path), "--format", "html"], ["report", str(saved), "--baseline", str(path)]):
        run = program(*words)
        assert run.code == 2
        assert "edited.json" in run.err
        assert len(run.err) < 500


def test_numbers_too_long_to_read_are_no_json(saved: Path, program: Program) -> None:
    saved.write_text(saved.read_text().replace('"rows": 2', '"rows": 1' + "0" * 5000))
    run = program("report", str(saved))
    assert (run.code, "is no JSON" in run.err) == (2, True)


def test_a_baseline_knows_itself_and_counts_twins(tmp_path: Path, program: Program) -> None:
    saved, twice = tmp_path / "saved.json", tmp_path / "twice.json"
    words = "stability --case offset-plus-1e7 --case plain-3 --dtype float32 --candidate naive -q --report"
    program(*words.split(), f"json={saved}")
    run = program("report", str(saved), "--baseline", str(saved))
    assert run.code == 0
    assert "0 worse, 0 better, 0 new, 0 gone, 2 the same" in run.out
    record = json.loads(saved.read_text())
    assert record["results"][0]["max_ulp"] == "inf"
    record["results"] *= 2
    twice.write_text(json.dumps(record))
    assert "0 new, 0 gone, 4 the same" in program("report", str(twice), "--baseline", str(twice)).out
    assert "2 new, 0 gone, 2 the same" in program("report", str(twice), "--baseline", str(saved)).out
    assert "0 new, 2 gone, 2 the same" in program("report", str(saved), "--baseline", str(twice)).out


def test_a_mended_nan_is_better_and_another_verdict_worse(saved: Path, program: Program) -> None:
    worse = edited(saved, worst__of_limit="inf")
    assert "1 better" in program("report", str(saved), "--baseline", str(worse)).out
    run = program("report", str(worse), "--baseline", str(saved))
    assert (run.code, "1 worse" in run.out) == (1, True)
    # the same gradient under another tolerance is no change
    run = program("report", str(saved), "--baseline", str(saved), "--tolerance", "ulp:1")
    assert (run.code, "1 the same" in run.out) == (0, True)


def test_a_baseline_shows_what_changed(tmp_path: Path, program: Program) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    program(
        "stability", "--case", "plain-3", "--case", "offset-*", "--dtype", "float32", "--report", f"json={old}", "-q"
    )
    program(
        "stability",
        "--case",
        "plain-*",
        "--case",
        "offset-plus-1e4",
        "--dtype",
        "float32",
        "--report",
        f"json={new}",
        "-q",
    )
    record = json.loads(new.read_text())
    (worse,) = [result for result in record["results"] if result["case"] == "offset-plus-1e4"]
    worse |= {"verdict": "fail", "failed": 1}
    new.write_text(json.dumps(record))
    run = program("report", str(new), "--baseline", str(old))
    assert run.code == 1
    assert "worse: offset-plus-1e4 float32 shifted: pass, now fail" in run.out
    assert "new: plain-1000 float32 shifted: pass" in run.out
    assert "gone: offset-minus-1e3 float32 shifted" in run.out
    assert "1 worse, 0 better," in run.out
    assert program("report", str(old), "--baseline", str(new), "-q").code == 0
    assert "1 better" in program("report", str(old), "--baseline", str(new)).out
