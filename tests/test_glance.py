"""Rows that are seen to be right at a glance: what is said of them is what is said of them at length."""

from __future__ import annotations

import numpy as np
import pytest

from gradcheck import candidates, glance, tolerances
from gradcheck.checking import How
from gradcheck.formats import Array, Float64
from gradcheck.metrics import Comparison, failing, measure_gradient, undecided
from gradcheck.problem import Problem
from gradcheck.reference import Settings
from gradcheck.screening import ClosedForm
from gradcheck.tolerances import stable_bound
from tests.conftest import make_problem

HOW = How(tolerance=tolerances.parse("stable"), settings=Settings())


def wrong_rows(problem: Problem, gradient: Array, *, flush: bool = False) -> Float64:
    """Of how many components of each row something is to be said beside the size of its error."""
    closed = ClosedForm(problem, problem.format)
    bound, comparison = stable_bound(closed, flush=flush), Comparison(closed, gradient)
    limits = HOW.tolerance.limits(closed.values, bound)
    found = failing(comparison, limits) | undecided(comparison, limits)
    zero = (gradient == 0) & (closed.values.in_ulps(closed.values.size) > 0.5)
    sign = gradient.astype(np.float64) * closed.values.high < 0
    sums = []
    for n in range(problem.rows):
        one = ClosedForm(problem.take(np.array([n])), problem.format)
        row = Comparison(one, gradient[n : n + 1])
        sums.append(measure_gradient(problem.take(np.array([n])), one, row, stable_bound(one)).total)
    return np.asarray((found | zero | sign).sum(axis=1) + np.array([(total or 0) > 1 for total in sums]), np.float64)


@pytest.fixture(params=[40, 1 << 15])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in several pieces, and several rows in one."""
    monkeypatch.setattr(glance, "_AT_ONCE", request.param)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("fmt", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "loss", [[], ["reduction=mean"], ["upstream=1024"], ["reduction=mean", "weight=W"]], ids=" ".join
)
@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (7, 8.0), (300, 0.1), (300, 4.0), (300, 40.0)])
def test_what_is_said_is_so(fmt: str, loss: list[str], classes: int, scale: float) -> None:
    rng = np.random.default_rng(classes)
    weights = ",".join(str(x) for x in rng.integers(1, 9, classes) / 4)
    loss = [text.replace("W", weights) for text in loss]
    logits = rng.normal(size=(40, classes)) * scale
    logits[3, :2] = -np.inf, 0
    logits[4, 1] = np.nan
    logits[5] += 700 * (np.arange(classes) == 1)
    labels = rng.integers(0, classes, 40)
    tiny = {"float16": 18.0, "bfloat16": 92.0, "float32": 103.0}[fmt]
    logits[17, (labels[17] + 1) % classes] = logits[17].max() - tiny
    logits[19, labels[19]] = logits[19].max() + 30
    problem = make_problem(logits, labels, fmt, loss)
    with np.errstate(all="ignore"):
        gradient = candidates.load("compensated").gradient(problem)
    bound = stable_bound(ClosedForm(problem, problem.format))
    # errors up to a few times the bound in most rows, zeros, signs, what is not finite
    for row in range(6, 40, 2):
        cls = int(rng.integers(classes))
        gradient[row, cls] += problem.format.dtype.type(bound[row, cls] * rng.choice([0.1, 0.5, 0.9, 1.1, 3]))
    gradient[7, 0], gradient[9, 1], gradient[11, 0] = 0, np.nan, np.inf
    gradient[13] = -gradient[13]
    gradient[15] *= problem.format.dtype.type(1.01)
    # small things that a bound forgives and that are told all the same: signs, and a sum that rounding does not explain
    gradient[17, (labels[17] + 1) % classes] *= -1
    gradient[19, labels[19]] = problem.format.dtype.type(bound[19, labels[19]] / 4)
    away = np.where(np.arange(classes) == labels[21], 0.0, bound[21] * 0.9)
    gradient[21] = problem.format.round_array(gradient[21].astype(np.float64) + away)
    assert glance.possible(problem, gradient, HOW)
    seen, others = glance.glance(problem, gradient, flush=False)
    right = np.setdiff1d(np.arange(40), others)
    wrong = wrong_rows(problem, gradient)
    assert not wrong[right].any()
    assert {3, 4, 5}.issubset(others.tolist())
    if seen is None:
        return
    # of rows that are right the largest errors are those that are measured at length, or larger ones of the others
    some = problem.take(right)
    closed = ClosedForm(some, some.format)
    measures = measure_gradient(some, closed, Comparison(closed, gradient[right]), stable_bound(closed))
    assert seen.decision.judged == len(right) * classes
    for metric, extreme in measures.extremes.items():
        found = seen.measures.extremes[metric]
        assert extreme is not None
        assert found is not None
        if found.row in right:
            # the closed form's metrics are what is certain: beside a power of two, or near 0, that is less
            assert extreme.value * (1 - 1e-5) <= found.value <= max(2 * extreme.value, 1e-9)
            assert float(gradient[found.row, found.cls]) == found.candidate
        else:
            assert not found.value < extreme.value * (1 - 1e-5)


def test_sound_rows_are_seen_to_be_right() -> None:
    """It is of use: no row is left where every one is alike."""
    rng = np.random.default_rng(0)
    problem = make_problem(rng.normal(size=(50, 2000)) * 3, rng.integers(0, 2000, 50), "float32")
    for name in ("shifted", "compensated", "logsumexp", "wide"):
        seen, others = glance.glance(problem, candidates.load(name).gradient(problem), flush=False)
        assert seen is not None
        assert not others.size


def test_the_bound_is_the_stable_bound() -> None:
    """At classes without a label."""
    problem = make_problem([[0.0, -3.0, 5.0, -90.0]], [1], "float32", ["upstream=3"])
    closed = ClosedForm(problem, problem.format)
    log_sum, g = closed.at_once.log_sum, closed.values.high
    constant, slope = tolerances.plain_bound(problem.format, 4, log_sum)
    simple = (constant + slope * closed.at_once.delta) * g + problem.format.smallest_subnormal * 3.5
    assert np.allclose(np.delete(simple, 1), np.delete(stable_bound(closed), 1), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "loss",
    [["label_smoothing=0.1"], ["z_loss=0.1"], ["softcap=5"], ["temperature=2"], ["mask=1,1,0"]],
    ids=" ".join,
)
def test_other_losses_are_not_looked_at(loss: list[str]) -> None:
    problem = make_problem([[1.0, 2.0, 3.0]], [1], "float32", loss)
    assert not glance.possible(problem, np.zeros((1, 3), np.float32), HOW)


def test_nor_other_formats_shapes_and_rules() -> None:
    problem = make_problem([[1.0, 2.0, 3.0]], [1], "float32")
    assert glance.possible(problem, np.zeros((1, 3), np.float32), HOW)
    for gradient in (np.zeros((1, 3)), np.zeros((1, 2), np.float32), np.zeros((1, 3), np.int32)):
        assert not glance.possible(problem, gradient, HOW)
    for how in (
        How(tolerance=tolerances.parse("ulp:4"), settings=Settings()),
        How(tolerance=tolerances.parse("stable"), settings=Settings(), top=1),
        How(
            tolerance=tolerances.parse("stable"), settings=Settings(), gradient_format=make_problem([[1.0]], [0]).format
        ),
    ):
        assert not glance.possible(problem, np.zeros((1, 3), np.float32), how)
