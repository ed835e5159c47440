"""Entries: a gradient that is right but for some of its components, or for where they stand."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np

from gradcheck import reference
from gradcheck.candidates import compensated
from gradcheck.exact import to_fraction
from gradcheck.exceptions import NotApplicableError
from gradcheck.formats import Array
from gradcheck.mistakes import Planted, Sign
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Reference, Settings
from gradcheck.tolerances import stable_bound


@lru_cache(maxsize=1)
def _exact(problem: Problem) -> Reference:
    return reference.compute(problem, problem.format, Settings())


def _rounded(problem: Problem) -> Array:
    """The exact gradient, correctly rounded."""
    values = _exact(problem).values
    whole = np.rint(values.high)
    rest = (values.high - whole) + values.low
    # a tie goes to the even neighbour
    step = np.where((np.abs(rest) == 0.5) & (whole % 2 == 1), np.sign(rest), np.rint(rest))
    in_ulps = np.where(values.unit_log2 == values.ulp_log2, whole + step, values.high)
    return np.ldexp(in_ulps, values.unit_log2.astype(np.int32)).astype(problem.format.dtype)


def _moved(problem: Problem, *, past: bool) -> Array:
    """The correctly rounded gradient, one entry of which is moved as far as the bound allows, or a few ulp past it."""
    exact, found, fmt = _exact(problem), _rounded(problem), problem.format
    row = int(np.argmax(problem.status == RowStatus.JUDGED))
    cls = problem.classes // 2
    value = to_fraction(exact.exact(row, cls))
    unit = Fraction(2) ** int(exact.values.unit_log2[row, cls])
    bound = Fraction(float(stable_bound(exact)[row, cls])) * unit
    # just inside: what equals the limit, no precision decides
    limit = value + (bound if past else bound * (1 - Fraction(2) ** -30))
    moved = fmt.round(limit)
    if past:
        while moved <= limit or moved < fmt.next_up(fmt.next_up(fmt.round(limit))):
            moved = fmt.next_up(moved)
    elif Fraction(moved) > limit:
        moved = fmt.next_down(moved)
    if not math.isfinite(moved):
        raise NotApplicableError(f"past the bound lies nothing that {fmt.name} can hold")
    found[row, cls] = moved
    return found


def _without_entry(problem: Problem) -> Array:
    found = compensated.gradient(problem)
    found[0, problem.classes // 3] = 0
    return found


def _without_last(problem: Problem) -> Array:
    found = compensated.gradient(problem)
    found[:, -1] = 0
    return found


def _without_top(problem: Problem) -> Array:
    found, logits = compensated.gradient(problem), problem.terms.logits.astype(np.float64)
    found[np.arange(problem.rows), np.argmax(np.where(np.isnan(logits), -np.inf, logits), axis=1)] = 0
    return found


def _transposed(problem: Problem) -> Array:
    found = compensated.gradient(problem)
    return np.ascontiguousarray(found.T).reshape(found.shape)


MISTAKES = (
    Planted(
        name="zeros",
        cause="scaled",
        reason="All zeros: at a gap of 20 they agree with the exact gradient to 1e-8.",
        gradient=lambda problem: np.zeros_like(problem.logits),
        signs=(
            Sign(case="saturated-gap-10"),
            Sign(case="saturated-gap-20", formats=("bfloat16", "float32", "float64")),
        ),
    ),
    Planted(
        name="entry-zeroed",
        cause="isolated-entries",
        reason="A single entry of a thousand is 0.",
        gradient=_without_entry,
        signs=(Sign(case="plain-1000"),),
    ),
    Planted(
        name="entry-past-bound",
        cause="isolated-entries",
        reason="A single entry lies two ulp past the bound that a sound algorithm meets, the others are exact.",
        gradient=lambda problem: _moved(problem, past=True),
        signs=(Sign(case="plain-1000"), Sign(case="plain-3"), Sign(case="saturated-gap-20")),
    ),
    Planted(
        name="last-class-dropped",
        cause="isolated-entries",
        reason="The gradient of the last class is never written.",
        gradient=_without_last,
        signs=(Sign(case="plain-3"), Sign(case="order-dominant-last")),
    ),
    Planted(
        name="top-class-dropped",
        cause="isolated-entries",
        reason="The gradient of the class with the largest logit is never written.",
        gradient=_without_top,
        signs=(Sign(case="plain-3"), Sign(case="losing-gap-100")),
    ),
    Planted(
        name="transposed",
        cause="transposed",
        reason="The array is transposed in memory: (k, N) where (N, k) is due.",
        gradient=_transposed,
        signs=(Sign(case="plain-10"),),
    ),
)

SOUND = (
    Planted(name="correctly-rounded", reason="The exact gradient, rounded once.", gradient=_rounded),
    Planted(
        name="entry-within-bound",
        reason="A single entry lies as far off as a sound algorithm may be, the others are exact.",
        gradient=lambda problem: _moved(problem, past=False),
    ),
)
