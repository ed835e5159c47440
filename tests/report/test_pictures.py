"""Pictures: what they show is what was measured, and a file of one run is the file of another."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest

from gradcheck import candidates, catalogue, report, tolerances
from gradcheck.checking import How, check
from gradcheck.formats import Array, named
from gradcheck.problem import Problem
from gradcheck.profiles import Profile
from gradcheck.reference import Settings
from gradcheck.report import Style, _pictures
from gradcheck.results import Report, Result
from tests.conftest import Program, make_problem


def result_of(problem: Problem, gradient: Array) -> Result:
    candidate = candidates.computed("mine", lambda _: gradient)
    (found,) = check(problem, [candidate], How(tolerance=tolerances.parse("stable"), settings=Settings()), case="case")
    return found


def profile_of(problem: Problem, gradient: Array) -> Profile:
    judged = result_of(problem, gradient).judged
    assert judged is not None
    return judged.profile


LOGITS = np.array([[0.0, -1.0, -3.0, -10.0], [2.0, 2.0, 0.0, 1.0]])


def test_a_profile_shows_the_worst_of_each_slice_at_its_place() -> None:
    problem = make_problem(LOGITS.tolist(), [1, 0], "float64")
    gradient = candidates.load("compensated").gradient(problem).copy()
    gradient[0, 3] *= 1 + 2.0**-40  # 8192 ulp or twice that, 10 below the maximum
    gradient[1, 2] = np.nan
    points = {(point.row, point.cls): point for point in profile_of(problem, gradient).points}
    assert 2**12 <= points[0, 3].ulp <= 2**14
    assert points[0, 3].gap == 10
    assert not points[0, 3].true
    assert points[1, 2].ulp == math.inf
    assert points[0, 1].true
    assert points[0, 1].gap == 1
    # the true class has slices of its own: (1, 0) and (1, 1) are as far below the maximum
    assert points[1, 0].true


def test_a_histogram_counts_every_judged_component() -> None:
    problem = make_problem(LOGITS.tolist(), [1, 0], "float64")
    gradient = candidates.load("compensated").gradient(problem).copy()
    gradient[0, 3] *= 1 + 2.0**-40
    gradient[1, 2] = np.nan
    counts = dict(profile_of(problem, gradient).histogram)
    assert sum(counts.values()) == 8
    assert counts[None] == 1
    assert counts[13] + counts.get(14, 0) == 1
    assert counts[-1] >= 2


def test_distances_of_subnormal_logits_have_a_profile() -> None:
    problem = catalogue.cases()["extreme-subnormal-logits"].problem(named("float64"))
    assert problem is not None
    points = profile_of(problem, candidates.load("shifted").gradient(problem)).points
    assert {point.true for point in points} == {False, True}


def test_masks_are_in_no_slice() -> None:
    problem = make_problem([[0.0, -math.inf, -1.0]], [0], "float32")
    assert all(point.cls != 1 for point in profile_of(problem, candidates.load("shifted").gradient(problem)).points)


def two(problem: Problem) -> Report:
    gradient = candidates.load("shifted").gradient(problem)
    results = (result_of(problem, gradient), result_of(problem, gradient * 2))
    return Report(version="0", settings={}, results=results)


def test_a_matrix_needs_two_rows_and_shows_the_worst_of_each_place() -> None:
    problem = make_problem(LOGITS.tolist(), [1, 0], "float64")
    assert _pictures.matrix(two(problem)) is None
    one, other = two(problem).results
    moved = dataclasses.replace(one, case="elsewhere")
    found = _pictures.matrix(Report(version="0", settings={}, results=(moved, one, other)))
    assert found is not None
    assert [name for name, _ in found.rows] == ["elsewhere", "case"]
    cells = [cells[0] for _, cells in found.rows]
    assert [cell and cell.verdict for cell in cells] == ["pass", "fail"]
    assert [cell and cell.result for cell in cells] == [0, 2]


@pytest.mark.parametrize("form", ["svg", "png"])
def test_a_picture_tells_no_time_and_is_the_same_again(form: str) -> None:
    problem = make_problem(LOGITS.tolist(), [1, 0], "float64")
    report_of_two = two(problem)
    first, again = (report.render(form, report_of_two, Style()) for _ in range(2))
    assert isinstance(first, bytes)
    assert first == again
    assert not re.search(rb"20\d\d-\d\d-\d\d", first)
    assert first.startswith(b"<?xml" if form == "svg" else b"\x89PNG")


@pytest.mark.parametrize("form", ["svg", "png"])
def test_many_results_are_one_picture_with_a_cell_each(form: str, program: Program, tmp_path: Path) -> None:
    path = tmp_path / f"x.{form}"
    words = ["stability", "--case", "overflow-sum", "--case", "plain-3", "--dtype", "float32"]
    assert program(*words, "--candidate", "naive", "--candidate", "shifted", "--output", str(path)).code == 1
    drawn = path.read_bytes()
    if form == "svg":
        written = re.findall(r"<text[^>]*>([^<]+)</text>", drawn.decode())
        for name in ("overflow-sum", "plain-3", "naive", "shifted"):
            assert any(name in text for text in written), name
        assert sorted(text.split()[0] for text in written if text[:5] in ("pass ", "fail ")) == ["fail", *["pass"] * 3]
    else:
        assert drawn.startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_said(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    path.write_text("old")
    nothing = program("check", "--generate", "normal", "--labels", "0", "--loss", "weight=0,1,1,1,1,1,1,1,1,1",
        "--loss", "reduction=mean", "--output", str(path))  # fmt: skip
    assert nothing.code == 2
    assert "there is nothing to draw: no gradient was judged" in nothing.err
    assert path.read_text() == "old"


def test_the_page_draws_every_point() -> None:
    problem = make_problem(LOGITS.tolist(), [1, 0], "float64")
    page = report.render("html", two(problem), Style())
    assert isinstance(page, str)
    points = two(problem).results[0].judged.profile.points  # type: ignore[union-attr]
    others, true = sum(not point.true for point in points), sum(point.true for point in points)
    # a legend has one of each, too
    assert page.count('<circle class="m') == 2 * (others + 1)
    assert page.count('<rect class="m') == 2 * (true + 1)


def test_nothing_is_fetched() -> None:
    problem = make_problem(LOGITS.tolist(), [1, 0], "float64")
    page = report.render("html", two(problem), Style())
    assert isinstance(page, str)
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert "default-src 'none'" in page
    assert "url(" not in page


@pytest.mark.parametrize(("form", "package"), [("html", "jinja2"), ("png", "matplotlib")])
def test_a_missing_extra_is_said_before_anything_is_computed(
    form: str, package: str, monkeypatch: pytest.MonkeyPatch, program: Program, tmp_path: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )
    run = program("check", "--case", "plain-3", "--report", f"{form}={tmp_path / 'x'}")
    assert run.code == 2
    assert f"needs the package '{package}': pip install 'gradcheck[" in run.err
    assert not (tmp_path / "x").exists()


def test_a_sweep_is_drawn(program: Program, tmp_path: Path) -> None:
    words = ["sweep", "--case", "saturated-gap-20", "--dtype", "float32"]
    program(*words, *(f"--report={form}={tmp_path / form}" for form in ("html", "svg", "png")), "-q")
    page = (tmp_path / "html").read_text()
    assert page.count("<polyline") == 5
    assert "In float64 the best step of any order errs by" in page
    drawn = (tmp_path / "svg").read_text()
    assert drawn.startswith("<?xml")
    # the whole title, and what everybody has before what nobody has
    said = re.findall(r">([^<>]+)</text>", drawn)
    assert said[-6:] == [
        "saturated-gap-20, float32, row 0, class 0",
        "float64",
        *(f"{n} digits" for n in (16, 30, 50, 100)),
    ]
    assert (tmp_path / "png").read_bytes().startswith(b"\x89PNG")
