"""The study of the step, against values computed by hand and the claims that the documents make."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from gradcheck import catalogue
from gradcheck.exact import to_fraction
from gradcheck.exceptions import InputError
from gradcheck.formats import named
from gradcheck.sweep import DIGITS, FLOAT64, RICHARDSON, Sweep, sweep
from tests.conftest import Program, make_problem


@pytest.fixture(scope="module")
def half() -> Sweep:
    """Two equal logits: L(±h) = log(1 + e^∓h), gradient −1/2, and D_h = −1/2 exactly for every h."""
    return sweep(make_problem([[0.0, 0.0]], [0]), case="half")


@pytest.fixture(scope="module")
def saturated() -> Sweep:
    problem = catalogue.cases()["saturated-published"].problem(named("float64"))
    assert problem is not None
    return sweep(problem, case="saturated-published")


def test_a_difference_by_hand(half: Sweep) -> None:
    assert float(to_fraction(half.value)) == -0.5
    # the loss is −h/2 plus an even function of h, so truncation is 0 and only rounding is left
    fine = [point for point in half.points if point.arithmetic == "100 digits" and point.method == "2"]
    assert max(point.error for point in fine) < 1e-75


def test_every_curve_is_there(half: Sweep) -> None:
    found = {(point.arithmetic, point.method) for point in half.points}
    arithmetics = [f"{digits} digits" for digits in DIGITS]
    orders = ("2", "4", "6", "8")
    assert found == {(a, o) for a in [FLOAT64, *arithmetics] for o in orders} | {(a, RICHARDSON) for a in arithmetics}


def test_the_curve_is_a_v() -> None:
    """At 30 digits truncation falls by 4 a step on the left, and rounding rises on the right."""
    found = sweep(make_problem([[1.0, 2.0, 3.0]], [0]), case="plain")
    curve = {p.step_log2: p for p in found.points if p.arithmetic == "30 digits" and p.method == "2"}
    for depth in range(5, 25):
        assert curve[-depth].error / curve[-depth - 1].error == pytest.approx(4, rel=0.01)
    assert curve[-60].error > 1e6 * curve[-33].error
    for point in curve.values():
        assert point.truncation is not None
        assert point.rounding is not None
        assert point.error <= (point.truncation + point.rounding) * 1.0001
    richardson = next(
        p for p in found.points if (p.arithmetic, p.method, p.step_log2) == ("50 digits", RICHARDSON, -10)
    )
    order4 = next(p for p in found.points if (p.arithmetic, p.method, p.step_log2) == ("50 digits", "4", -10))
    assert richardson.error < order4.error  # h and h/2 against h and 2h


def test_double_precision_never_sees_a_saturated_gradient(saturated: Sweep) -> None:
    for point in saturated.bottoms():
        if point.arithmetic == FLOAT64:
            assert point.relative is not None
            assert point.relative >= 1 or point.relative == pytest.approx(1)
        if point.arithmetic in ("50 digits", "100 digits"):
            assert point.relative is not None
            assert point.relative < 1e-20


def test_the_rule_meets_its_goal(saturated: Sweep) -> None:
    assert [choice.plan.stencil.order for choice in saturated.chosen] == [2, 4, 6, 8]
    for choice in saturated.chosen:
        assert choice.truncation_ulp + choice.rounding_ulp <= 2.0**-10


def test_rows_that_have_no_gradient() -> None:
    problem = make_problem([[math.nan, 0.0], [1.0, 2.0]], [0, 0])
    for row, cls in ((0, None), (5, None), (1, 7)):
        with pytest.raises(InputError):
            sweep(problem, case="x", row=row, cls=cls)


def test_the_command(program: Program) -> None:
    ran = program("sweep", "--case", "saturated-published", "--dtype", "float64")
    assert ran.code == 0
    assert "exact gradient -5.5511151231257757870e-17" in ran.out
    assert "In float64 no step of lse − l_y gives a single digit of this gradient" in ran.out
    assert "2^-31" in ran.out
    rows = list(csv.DictReader(io.StringIO(program("sweep", "--case", "plain-3", "--format", "csv").out)))
    assert {"arithmetic", "method", "step_log2", "error", "truncation", "rounding"} <= set(rows[0])
    record = json.loads(
        program("sweep", "--generate", "normal", "--row", "2", "--engine", "flint", "--format", "json").out
    )
    (found,) = record["sweeps"]
    assert (found["row"], len(found["rule"])) == (2, 4)
    assert (
        program("sweep", "--case", "plain-3", "--case", "saturated-gap-4*").out.count("The bottom of each curve") == 2
    )
    assert program("sweep", "--case", "plain-3", "--format", "markdown").out.count("\n|---:|") == 3
    for wrong in (["--format", "jsonl"], ["--row", "9"], ["--class", "9"], ["--sample", "2"]):
        assert program("sweep", "--case", "plain-3", *wrong).code == 2


def test_what_was_left_out_is_said(program: Program) -> None:
    ran = program("sweep", "--case", "offset-plus-1e300", "--case", "plain-3", "--format", "csv")
    assert (ran.code, {row["case"] for row in csv.DictReader(io.StringIO(ran.out))}) == (0, {"plain-3"})
    assert ran.err == "note: left out, because their logits do not fit into the format: offset-plus-1e300\n"


def test_explain_reference(program: Program) -> None:
    ran = program("explain", "reference")
    assert ran.code == 0
    for word in ("2^-H", "uncertainty", "Ziv", "--digits", "inconclusive", "G = 10"):
        assert word in ran.out


def test_a_gradient_of_0_is_said_to_be_0(program: Program) -> None:
    for engine in ("mpmath", "flint"):
        ran = program("sweep", "--case", "equal-1", "--engine", engine)
        assert ran.code == 0
        assert "exact gradient 0.0" in ran.out
        assert "The exact gradient is 0" in ran.out
