"""Some components as differences, the others as the closed form in float64 with a bound on its error."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradcheck import catalogue, reference
from gradcheck.estimates import estimate_rows
from gradcheck.exact import to_fraction
from gradcheck.formats import Format, named
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Settings, engines
from tests.conftest import EVERY_FORMAT, make_problem
from tests.reference import closed_form
from tests.reference.test_reference import LABELS, LOGITS, OPTIONS

FINE = Settings(engine="flint", target_bits=30)


def share_of_the_bound(problem: Problem) -> float:
    """How much of its bound the error of the closed form takes at least, where that is most."""
    defined = problem.status == RowStatus.JUDGED
    known = estimate_rows(problem.terms, defined)
    values = reference.compute(problem, named("float64"), FINE).values
    unit = values.unit_log2.astype(np.int32)
    with np.errstate(all="ignore"):
        apart = np.abs((np.ldexp(known.gradient, -unit) - values.high) - values.low) - values.uncertainty
        share = np.where(apart > 0, apart / np.ldexp(known.error, -unit), 0.0)
    return float(share[defined].max(initial=0.0))


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_the_closed_form_keeps_its_bound_on_every_case(fmt: Format) -> None:
    for case in catalogue.cases().values():
        problem = case.problem(fmt)
        if problem is not None and problem.classes < 5000:
            problem = problem.take(np.arange(min(4, problem.rows)))
            assert share_of_the_bound(problem) <= 1, case.name
            assert np.isfinite(estimate_rows(problem.terms, problem.status == RowStatus.JUDGED).error).all(), case.name


@pytest.mark.parametrize("classes", [1, 2, 7, 300])
@pytest.mark.parametrize(
    "loss",
    [
        [],
        ["label_smoothing=0.1"],
        ["z_loss=0.001"],
        ["softcap=30"],
        ["softcap=5", "temperature=0.7", "z_loss=0.01"],
        ["temperature=3", "reduction=mean"],
        ["upstream=-3.7", "label_smoothing=0.1", "temperature=0.1"],
    ],
    ids=" ".join,
)
def test_the_closed_form_keeps_its_bound_on_random_rows(classes: int, loss: list[str]) -> None:
    rng = np.random.default_rng(classes)
    for spread in (1e-8, 1.0, 30.0, 1e4):
        for offset in (0.0, 1000.0):
            logits = rng.normal(size=(1, classes)) * spread + offset
            soft = rng.random((1, classes))
            for labels in ([0], soft, soft / soft.sum()):
                for fmt in ("float32", "float64"):
                    assert share_of_the_bound(make_problem(logits, labels, fmt, loss)) <= 1


EXTREME: tuple[list[float], ...] = (
    *LOGITS,
    [1e18, 1.000000000000001e18, 3.0],
    [1e16, 1.0000000000000002e16, 0.0],
    [-1e17, -1e17 + 16, -1e17],
    [1e300, 1e300, -1e300],
    [3000.0, 0.0, 1.0],
    [5e-324, 0.0, 1.0],
    [9.0, 9.0, 9.0],
)
FURTHER: tuple[dict[str, Any], ...] = (
    *OPTIONS,
    {"temperature": Fraction(1, 10**9)},
    {"softcap": Fraction(1, 1000)},
    {"softcap": Fraction(10**12)},
    {"scale": Fraction(10) ** 200},
    {"scale": Fraction(1, 10**200)},
)


@pytest.mark.parametrize("logits", EXTREME, ids=str)
def test_the_closed_form_keeps_its_bound_or_claims_none(logits: list[float]) -> None:
    """Ties that rounding makes, gaps past float64, heavy and light labels; against mpmath's own closed form."""
    k = len(logits)
    labels = [*LABELS, [1e200, 0, 0, 0], [1e-300, 2e-300, 5e-324, 0], [1, 1e-17, 1e-9, 0], [1 / k] * 4]
    for weights in labels:
        for options in FURTHER:
            if options.get("zeta") and 1e300 in logits:
                continue
            given = {"upstream" if name == "scale" else name: value for name, value in options.items()}
            if "upstream" in given:
                given["upstream"] = (given["upstream"],)
            terms = dataclasses.replace(make_problem([logits], [weights[:k]]).terms, **given)
            row = terms.row(0)
            known, exact = estimate_rows(terms, np.ones(1, dtype=np.bool_)), closed_form.gradient(row, 700)
            found = zip(known.gradient[0].tolist(), known.error[0].tolist(), row.inverse.tolist(), strict=True)
            for value, bound, pair in found:
                if not row.vanishing[pair] and math.isfinite(bound):
                    assert abs(Fraction(value) - exact[pair]) <= Fraction(bound)


def test_the_bound_is_narrow() -> None:
    """Beside an ulp of float32 it is nothing, for labels that are classes."""
    logits = np.random.default_rng(0).normal(size=(1, 20_000)) * 3
    for loss, most in (([], 2.0**-18), (["z_loss=0.001"], 2.0**-17), (["softcap=30"], 2.0**-16)):
        problem = make_problem(logits, [3], "float32", loss)
        known = estimate_rows(problem.terms, np.ones(1, dtype=np.bool_))
        ulps = np.ldexp(1.0, named("float32").ulp_log2(known.gradient).astype(np.int32))
        assert (known.error / ulps).max() < most


# --- references at some components -----------------------------------------------------------------------------


def problem_of(loss: list[str]) -> Problem:
    logits = np.random.default_rng(7).normal(size=(3, 40)) * 5
    logits[:, 5] = logits[:, 6]
    logits[1, :3] = -math.inf
    logits[2, 0] = math.nan
    return make_problem(logits, [6, 7, 8], "float32", loss)


@pytest.mark.parametrize("loss", [[], ["z_loss=0.01"], ["softcap=5", "temperature=0.7"], ["label_smoothing=0.1"]])
@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("method", ["incremental", "direct"])
def test_some_components(
    loss: list[str], engine: str, order: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of the whole reference to the last bit, and the others are the same within what they claim."""
    problem = problem_of(loss)
    settings = Settings(engine=engine, order=order, method=method)
    whole = reference.compute(problem, problem.format, settings)
    asked = (np.array([6, 20, 0]), np.array([], dtype=np.int64), np.arange(problem.classes))
    known = estimate_rows(problem.terms, problem.status == RowStatus.JUDGED)
    for size in (2, 2**14):
        monkeypatch.setattr(engines, "EVALUATED", size)
        some = reference.at(problem, problem.format, settings, known, asked)
        for name in (field.name for field in dataclasses.fields(whole.values) if field.name not in ("format", "rough")):
            one, other = getattr(whole.values, name)[0, [6, 20, 0]], getattr(some.values, name)[0, [6, 20, 0]]
            assert np.array_equal(one, other)
        for n in (0, 1):
            assert some.exact_row(n) == whole.exact_row(n)
            assert some.rows[n].loss == whole.rows[n].loss  # type: ignore[union-attr]
            for cls in range(problem.classes):
                unit = Fraction(2) ** int(some.values.unit_log2[n, cls])
                held = (Fraction(some.values.high[n, cls]) + Fraction(some.values.low[n, cls])) * unit
                apart = abs(held - to_fraction(whole.exact(n, cls))) / unit
                assert apart <= Fraction(some.values.uncertainty[n, cls]) + Fraction(1, 2**9)
                if loss != ["label_smoothing=0.1"]:
                    assert some.values.in_ulps(some.values.uncertainty)[n, cls] <= 2.0**-10
        assert not some.judged[2, 0]


def test_refining_leaves_the_others() -> None:
    problem = problem_of([])
    known = estimate_rows(problem.terms, problem.status == RowStatus.JUDGED)
    places = [np.array([6]), np.array([1, 2, 3]), np.array([0])]
    coarse = reference.at(problem, problem.format, Settings(), known, places)
    fine = reference.refine(problem, coarse, [0], 40)
    assert fine.values.uncertainty[0, 6] <= 2.0**-40 < coarse.values.uncertainty[0, 6]
    others = np.delete(np.arange(problem.classes), 6)
    assert np.array_equal(fine.values.high[0, others], coarse.values.high[0, others])


def test_what_float64_cannot_say_is_unknown() -> None:
    problem = make_problem([[1e15, 0.0, 1.0, -1e15]], [[0.5, 0.5, 0.25, 0.0]], loss=["softcap=1e9"])
    known = estimate_rows(problem.terms, np.ones(1, dtype=np.bool_))
    assert np.isinf(known.error).all()
    exact = reference.at(problem, problem.format, Settings(), known, [np.array([0])])
    assert np.isinf(exact.values.uncertainty[0, 1:]).all()
    assert np.isfinite(exact.values.uncertainty[0, 0])
