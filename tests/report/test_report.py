"""Every output format renders the same facts; nothing is cut, rounded to 0 or run."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import candidates, report, text, tolerances
from gradcheck.checking import How, check
from gradcheck.exact import Dyadic
from gradcheck.formats import named
from gradcheck.reference import Settings
from gradcheck.report import Style
from gradcheck.results import Report
from tests.conftest import make_problem


def strict(content: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(content, parse_constant=refuse)


def render(name: str, sample: Report, style: Style) -> str:
    shown = report.render(name, sample, style)
    return shown if isinstance(shown, str) else shown.decode("latin-1")


@pytest.fixture(scope="module")
def sample() -> Report:
    """A pass, a failure with NaN and infinities, an inconclusive result, a skip and a crash, under hostile names."""
    problem = make_problem([[0.5, -1.0, 2.0]], [2], "float32")
    sound = candidates.load("shifted").gradient(problem)
    nan = np.array([[math.nan, math.inf, 0.0]], dtype=np.float32)
    empty = make_problem([[math.nan, 0.0]], [0])
    runs = [
        (problem, candidates.computed("sound", lambda _: sound), Settings()),
        (problem, candidates.computed("<script>alert(1)</script>", lambda _: nan), Settings()),
        (problem, candidates.computed("a|b\n\x1b[31m", lambda _: sound), Settings(digits=8)),
        (empty, candidates.computed("[red]x[/red]", lambda _: sound), Settings()),
        (problem, candidates.computed("=1+1", lambda _: sound.T), Settings()),
    ]
    results = [
        result
        for made, candidate, settings in runs
        for result in check(
            made, [candidate], How(tolerance=tolerances.parse("stable"), settings=settings), case="case"
        )
    ]
    return Report(version="1", settings={"a": 1}, results=tuple(results), notes=("a note",))


def test_json_is_strict_and_keeps_the_contract(sample: Report) -> None:
    record = strict(render("json", sample, Style()))
    assert record["schema_version"] == 1
    assert record["summary"] == {"pass": 1, "fail": 1, "inconclusive": 1, "skipped": 1, "crashed": 1}
    fields = {
        "case", "candidate", "dtype", "loss", "rows", "classes", "verdict", "reason", "max_abs", "max_rel", "max_ulp",
        "max_bound", "norm", "worst", "loss_value", "undefined_rows", "nonfinite", "total", "flushed", "wrong_sign",
        "reference", "diagnosis",
    }  # fmt: skip
    for result in record["results"]:
        assert fields <= set(result)
    good, bad, unsure, skipped, crashed = record["results"]
    assert set(good["worst"]) >= {"row", "class", "candidate", "candidate_hex", "reference", "ulp"}
    assert len(good["worst"]["reference"].replace("-", "").replace(".", "").lstrip("0")) >= 30
    assert len(good["loss_value"].replace(".", "").lstrip("0")) >= 30
    assert set(good["reference"]) >= {"engine", "method", "order", "step", "digits", "uncertainty_ulp", "certified"}
    assert good["reference"]["step"].startswith("2^-")
    assert bad["max_ulp"] == "inf"
    assert bad["worst"]["candidate"] in ("nan", "inf")
    assert "--digits" in unsure["reason"]
    assert skipped["worst"] is None
    assert "shape" in crashed["reason"]


def test_json_lines(sample: Report) -> None:
    head, *results = [strict(line) for line in render("jsonl", sample, Style()).splitlines()]
    assert "results" not in head
    assert results == strict(render("json", sample, Style()))["results"]


def test_csv_keeps_all_digits_and_runs_nothing(sample: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(render("csv", sample, Style()))))
    record = strict(render("json", sample, Style()))["results"]
    assert float(rows[0]["max_ulp"]) == record[0]["max_ulp"]
    assert rows[0]["worst_reference"] == record[0]["worst"]["reference"]
    assert rows[4]["candidate"] == "'=1+1"


@pytest.mark.parametrize("name", report.names())
@pytest.mark.parametrize("style", [Style(), Style(width=80, color=True, verbose=True)], ids=["plain", "rich"])
def test_hostile_names_stay_text(name: str, style: Style, sample: Report) -> None:
    rendered = render(name, sample, style)
    assert rendered.endswith("\n") or name == "png"
    assert "\x1b[31m" not in rendered.replace("\\u001b", "")
    if name in ("table", "concise"):
        assert "[red]x[/red]" in rendered
        assert "a|b\\n\\x1b[31m" in rendered
    if name == "markdown":
        assert "<script>" not in rendered
        assert all(line.count("|") - line.count("\\|") == 11 for line in rendered.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_a_table_never_cuts_a_digit(width: int, sample: Report) -> None:
    wide = render("table", sample, Style())
    narrow = render("table", sample, Style(width=width))
    assert "…" not in narrow
    dropped = next((line for line in narrow.splitlines() if line.startswith("left out")), "")
    if width < 80:  # five candidates would be five lines that nothing tells apart
        assert narrow == render("concise", sample, Style())
        return
    assert bool(dropped) == (width < 140)
    for title in ("case", "max ulp", "bound", "verdict"):
        assert title in wide
    first = wide.splitlines()[2].split()
    assert max(len(line) for line in narrow.splitlines() if "again" not in line) <= width
    for cell in (first[6], first[5]):
        assert cell in narrow


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_table_keeps_what_tells_its_lines_apart(width: int) -> None:
    made = gradcheck.check("naive", [[1.0, 2.0]], [0]).results[0]
    results = tuple(dataclasses.replace(made, candidate=name) for name in ("naive", "torch:loss.py:CrossEntropy"))
    found = Report(version="1", settings={}, results=results)
    alone, both = (
        render("table", dataclasses.replace(found, results=some), Style(width=width)) for some in (results[1:], results)
    )
    assert "torch:loss.py:CrossEntropy  " in both
    assert "torch" not in alone


def test_color_only_where_it_is_wanted(sample: Report) -> None:
    assert "\x1b[" not in render("table", sample, Style(width=100))
    assert "\x1b[" in render("table", sample, Style(width=100, color=True))


def test_numbers_as_text() -> None:
    assert [text.brief(x) for x in (0.0, 1e-300, 0.1234567, math.inf, math.nan, None)] == [
        "0",
        "1e-300",
        "0.123",
        "inf",
        "nan",
        "-",
    ]
    assert text.hexadecimal(0.1) == "0x1.999999999999ap-4"
    assert text.hexadecimal(1.0) == "0x1p+0"
    assert text.hexadecimal(-0.0) == "-0x0p+0"
    assert float.fromhex(text.hexadecimal(5e-324)) == 5e-324
    assert text.exact(Dyadic(1, -2), 30) == "0.250000000000000000000000000000"
    assert text.exact(Dyadic(0, 0)) == "0.0"
    assert text.reference(Dyadic(-1, -(10**40)), named("float64")) == "-10^-3.01e+39"
    assert text.reference(Dyadic(-1, -(10**400)), named("float64")) == "-10^-infinity"
    assert text.reference(Dyadic(1, -1), named("float32")) == "0.5"
    assert text.candidate(float(np.float32(0.1)), named("float32")) == "0.1"
    assert text.candidate(1.0078125, named("bfloat16")) == "1.00781"
