"""The study of the step: how the error of a central difference depends on h, on the digits and on the order.

Too large a step truncates, too small a step rounds: the error over h is a V. In float64 its bottom lies near 1e-11 for
ordinary rows, and on a saturated one it never falls below the gradient itself, which is why checks in double precision
accept a gradient of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from gradcheck import reference
from gradcheck.estimates import Estimates, estimate
from gradcheck.exact import Dyadic, to_fraction
from gradcheck.exceptions import InputError
from gradcheck.formats import Format
from gradcheck.problem import Problem
from gradcheck.reference import RowReference, engines
from gradcheck.reference.rule import TARGET_BITS, Plan, derivative_log2, plan, truncation_log2
from gradcheck.reference.stencils import ORDERS, Stencil, stencil

FLOAT64 = "float64"
DIGITS = (16, 30, 50, 100)
RICHARDSON = "richardson"
_DEEPEST = 60


@dataclass(frozen=True, kw_only=True)
class Point:
    """One step of one curve.

    Attributes:
        arithmetic: `float64`, or the working digits.
        method: the order of the difference, or `richardson`: the orders 2 and 4 of steps h and h/2 extrapolated.
        error: |D_h − g|.
        error_ulp: the same in ulps of the format; relative: over |g|, None where g is 0.
        truncation, rounding: the two parts of the bound; None where there is none (float64, Richardson).
    """

    arithmetic: str
    method: str
    step_log2: int
    error: float
    error_ulp: float
    relative: float | None
    truncation: float | None
    rounding: float | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the rule picks for an order, and the two parts of its uncertainty in ulps of the format."""

    plan: Plan
    truncation_ulp: float
    rounding_ulp: float


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The curves of one component.

    Attributes:
        row, cls: the component; value: its exact gradient, 0 where 2^-200 ulp cannot tell it from 0.
        chosen: what the rule picks, by order.
    """

    case: str
    format: Format
    row: int
    cls: int
    value: Dyadic
    points: tuple[Point, ...]
    chosen: tuple[Choice, ...]

    def bottoms(self) -> list[Point]:
        """The best point of each curve."""
        curves: dict[tuple[str, str], Point] = {}
        for point in self.points:
            key = (point.arithmetic, point.method)
            if key not in curves or point.error < curves[key].error:
                curves[key] = point
        return list(curves.values())


@np.errstate(all="ignore")
def sweep(problem: Problem, *, case: str, row: int = 0, cls: int | None = None, engine: str = "mpmath") -> Sweep:
    """The curves of one component of one row: class `cls`, or that of its largest label weight.

    Raises:
        InputError: where the row has no gradient, or the class is none of its own.
    """
    if not 0 <= row < problem.rows or (pairs := problem.distinct[row]) is None:
        raise InputError(f"row {row} has no gradient to look at (there are {problem.rows} rows)")
    weights = pairs.q_estimate[pairs.inverse]
    cls = int(np.argmax(weights)) if cls is None else cls
    if not 0 <= cls < problem.classes:
        raise InputError(f"class {cls} is outside 0…{problem.classes - 1}")
    settings = reference.Settings(engine=engine, target_bits=200)
    exact = reference.compute(problem.take(np.array([row])), problem.format, settings)
    (found,) = exact.rows
    assert found is not None  # the row has been seen to be defined
    value = exact.exact(0, cls) if exact.values.resolved[0, cls] else Dyadic(0, 0)
    estimates = estimate(pairs)
    pair = int(pairs.inverse[cls])
    points = [
        _point(problem.format, value, arithmetic, method, step_log2, difference, parts)
        for arithmetic, method, step_log2, difference, parts in _differences(problem, row, cls, estimates, pair, engine)
    ]
    return Sweep(
        case=case,
        format=problem.format,
        row=row,
        cls=cls,
        value=value,
        points=tuple(points),
        chosen=tuple(_choice(problem.format, found, pair, order, engine) for order in ORDERS),
    )


def _choice(fmt: Format, found: RowReference, pair: int, order: int, engine: str) -> Choice:
    picked = plan(found.estimates, fmt, found.values.ulp_log2, stencil(order), TARGET_BITS)
    differences = engines.load(engine).METHODS["incremental"](estimates=found.estimates, plan=picked)
    _, evaluation = engines.evaluate(differences, np.array([pair]))
    ulp_log2 = float(found.values.ulp_log2[pair])
    return Choice(
        plan=picked,
        truncation_ulp=2.0 ** (float(truncation_log2(found.estimates, picked)[pair]) - ulp_log2),
        rounding_ulp=2.0 ** (float(evaluation.rounding_log2[0]) - ulp_log2),
    )


_Found = tuple[str, str, int, Fraction, tuple[float, float] | None]


def _differences(
    problem: Problem, row: int, cls: int, estimates: Estimates, pair: int, engine: str
) -> Iterator[_Found]:
    method = engines.load(engine).METHODS["incremental"]
    for digits in DIGITS:
        by_order: dict[tuple[int, int], Fraction] = {}
        for order in ORDERS:
            shape = stencil(order)
            bits, bound_log2 = reference.bits_of(digits), derivative_log2(estimates, shape)
            for depth in range(_DEEPEST + 1):
                used = Plan(stencil=shape, step_log2=-depth, precision_bits=bits, derivative_log2=bound_log2)
                differences, place = method(estimates=estimates, plan=used), np.array([pair])
                shares, evaluation = engines.evaluate(differences, place)
                (exact,) = engines.exact(differences, shares, place)
                by_order[order, depth] = to_fraction(exact)
                parts = (
                    2.0 ** float(truncation_log2(estimates, used)[pair]),
                    2.0 ** float(evaluation.rounding_log2[0]),
                )
                yield f"{digits} digits", str(order), -depth, by_order[order, depth], parts
        for depth in range(_DEEPEST):
            # (4·D(h/2) − D(h))/3 removes the h² term
            extrapolated = (4 * by_order[2, depth + 1] - by_order[2, depth]) / 3
            yield f"{digits} digits", RICHARDSON, -depth, extrapolated, None
    for order in ORDERS:
        for depth in range(_DEEPEST + 1):
            found = _float64(problem, row, cls, stencil(order), math.ldexp(1.0, -depth))
            yield FLOAT64, str(order), -depth, Fraction(found) if math.isfinite(found) else Fraction(0), None


def _float64(problem: Problem, row: int, cls: int, shape: Stencil, step: float) -> float:
    """The difference as gradient checkers take it: a stable loss, in double precision throughout."""
    terms = problem.take(np.array([row])).terms
    logits, labels = terms.logits[0].astype(np.float64), terms.label_weights()[0]
    zeta, scale = float(terms.zeta), float(terms.scale(0))

    def loss(by: float) -> float:
        moved = logits.copy()
        moved[cls] += by
        if terms.softcap is not None:
            moved = np.where(np.isneginf(moved), moved, float(terms.softcap) * np.tanh(moved / float(terms.softcap)))
        moved = moved / float(terms.temperature)
        largest = moved.max()
        lse = largest + np.log(np.exp(moved - largest).sum())
        return float((labels * (lse - np.where(labels != 0, moved, 0.0))).sum() + zeta * lse**2) * scale

    nodes = enumerate(shape.coefficients, start=1)
    return sum(float(c) * (loss(j * step) - loss(-j * step)) for j, c in nodes) / step


def _point(
    fmt: Format,
    value: Dyadic,
    arithmetic: str,
    method: str,
    step_log2: int,
    found: Fraction,
    parts: tuple[float, float] | None,
) -> Point:
    exact = to_fraction(value)
    error = abs(found - exact)
    ulp = Fraction(2) ** int(fmt.ulp_log2(fmt.round(exact)))
    return Point(
        arithmetic=arithmetic,
        method=method,
        step_log2=step_log2,
        error=_float(error),
        error_ulp=_float(error / ulp),
        relative=_float(error / abs(exact)) if exact else None,
        truncation=None if parts is None else parts[0],
        rounding=None if parts is None else parts[1],
    )


def _float(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return math.inf
