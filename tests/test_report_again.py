"""Saved results: shown again in any format, judged again, compared with older ones."""

from __future__ import annotations

import json
from pathlib import Path

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
    worse["verdict"] = "fail"
    new.write_text(json.dumps(record))
    run = program("report", str(new), "--baseline", str(old))
    assert run.code == 1
    assert "worse: offset-plus-1e4 float32 shifted: pass, now fail" in run.out
    assert "new: plain-1000 float32 shifted: pass" in run.out
    assert "gone: offset-minus-1e3 float32 shifted" in run.out
    assert "1 worse, 0 better," in run.out
    assert program("report", str(old), "--baseline", str(new), "-q").code == 0
    assert "1 better" in program("report", str(old), "--baseline", str(new)).out
