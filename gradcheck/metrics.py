"""Errors of a candidate gradient against the reference, and the decision that a tolerance takes on them.

Everything is counted in the reference's units, against its own high + low pair, so that nothing underflows and
the subtraction loses nothing: a metric is rounded once, at its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradcheck.estimates import in_units
from gradcheck.exact import Dyadic
from gradcheck.formats import Array, Float64
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Reference
from gradcheck.tolerances import Limits, stable_bound


@dataclass(frozen=True, kw_only=True)
class Extreme:
    """The largest value of a metric, and where it stands."""

    value: float
    row: int
    cls: int
    candidate: float
    reference: Dyadic
    ulp: float


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What was measured on the judged rows; every maximum is None where nothing was judged.

    Attributes:
        extremes: by metric: abs, rel, ulp, norm, bound.
        nonfinite: components that are NaN or infinite.
        wrong_sign: components whose sign is certainly wrong.
        flushed: components that are 0 where the exact value does not round to 0.
        ignored_nonzero: components of ignored rows that are not 0.
        total: largest |Σc − Σg| of a row, as a multiple of what rounding explains; above 1 it is a finding.
        undefined_rows, infinite_loss_rows: rows without a gradient; rows whose loss is +inf.
    """

    extremes: dict[str, Extreme | None]
    nonfinite: int
    wrong_sign: int
    flushed: int
    ignored_nonzero: int
    total: float | None
    undefined_rows: int
    infinite_loss_rows: int


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a tolerance says of a gradient.

    Attributes:
        failed: components that certainly exceed their limit.
        judged: components that were looked at.
        undecided_rows: rows in which the reference's uncertainty covers a limit.
        worst: the component nearest to, or furthest past, its limit; value is error/limit.
        limit_ulps: the limit there, in ulps.
    """

    failed: int
    judged: int
    undecided_rows: list[int]
    worst: Extreme | None
    limit_ulps: float


def errors_in_units(reference: Reference, candidate: Array) -> Float64:
    """|c − g| of every component in the reference's units, (N, k); inf for a component that is not finite."""
    values = candidate.astype(np.float64)
    finite = np.isfinite(values)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = in_units(np.where(finite, values, 0.0), reference.unit_log2)
        return np.where(finite, np.abs((scaled - reference.high) - reference.low), np.inf)


def decide(reference: Reference, candidate: Array, limits: Limits) -> Decision:
    """Compares every judged component with its limit, the reference's uncertainty taken into account."""
    errors = errors_in_units(reference, candidate)
    slack = reference.uncertainty * (1 + limits.slope)
    judged = np.broadcast_to(reference.judged[:, None], errors.shape)
    # An infinite error, NaN's among them, passes no limit, not even one that overflows
    most = np.minimum(limits.units, np.finfo(np.float64).max)
    with np.errstate(over="ignore"):
        # 2^-50 covers the rounding of the error and of the limit themselves
        passed = errors * (1 + 2.0**-50) + slack <= most
        failed = errors * (1 - 2.0**-50) - slack > most
    passed |= (errors == 0) & (slack == 0)
    undecided = judged & ~passed & ~failed
    worst = _extreme(reference, candidate, reference.in_ulps(errors), _ratio(errors, limits.units), judged)
    return Decision(
        failed=int((failed & judged).sum()),
        judged=int(judged.sum()),
        undecided_rows=np.flatnonzero(undecided.any(axis=1)).tolist(),
        worst=worst,
        limit_ulps=math.nan if worst is None else float(reference.in_ulps(limits.units)[worst.row, worst.cls]),
    )


def measure(problem: Problem, reference: Reference, candidate: Array, *, flush: bool) -> Measures:
    """All metrics of a gradient of shape (N, k), whatever the tolerance."""
    values = candidate.astype(np.float64)
    errors = errors_in_units(reference, candidate)
    judged = np.broadcast_to(reference.judged[:, None], errors.shape)
    status = problem.status[:, None]
    exact = reference.high
    resolved = np.abs(exact) > reference.uncertainty
    top = reference.unit_log2.max(axis=1, keepdims=True)
    shift = (reference.unit_log2 - top).astype(np.int32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        absolute = np.ldexp(errors, reference.unit_log2.astype(np.int32))
        # What cannot be told from 0, in the reference and in the candidate, is 0 in both
        visible = np.where(resolved | (errors > 2 * reference.uncertainty), errors, 0.0)
        largest = np.ldexp(np.abs(exact), shift).max(axis=1, keepdims=True)
        norm = _ratio(np.ldexp(visible, shift), np.broadcast_to(largest, errors.shape))
    ulps = reference.in_ulps(errors)
    metrics = {
        "abs": absolute,
        "rel": _ratio(visible, np.abs(exact)),
        "ulp": ulps,
        "norm": norm,
        "bound": _ratio(errors, stable_bound(reference, flush=flush)),
    }
    return Measures(
        extremes={name: _extreme(reference, candidate, ulps, metric, judged) for name, metric in metrics.items()},
        nonfinite=int((judged & ~np.isfinite(values)).sum()),
        wrong_sign=int((judged & resolved & (np.sign(values) * np.sign(exact) < 0)).sum()),
        flushed=int((judged & (values == 0) & (reference.in_ulps(np.abs(exact)) > 0.5)).sum()),
        ignored_nonzero=int(((status == RowStatus.IGNORED) & (values != 0)).sum()),
        total=_total(reference, values),
        undefined_rows=int((status == RowStatus.UNDEFINED).sum()),
        infinite_loss_rows=sum(row.infinite_loss for row in problem.distinct if row is not None),
    )


def _ratio(errors: Float64, limits: Float64) -> Float64:
    """errors/limits, where 0/0 is 0: nothing is allowed and nothing is wrong."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = errors / limits
    return np.where(errors == 0, 0.0, np.where(np.isnan(ratio), np.inf, ratio))


def _extreme(
    reference: Reference, candidate: Array, ulps: Float64, metric: Float64, judged: NDArray[np.bool_]
) -> Extreme | None:
    if not judged.any():
        return None
    largest = float(metric[judged].max())
    # Among equals (often infinite) the largest error is the one to show
    place = int(np.argmax(np.where(judged & (metric == largest), ulps, -1.0)))
    row, cls = divmod(place, metric.shape[1])
    return Extreme(
        value=largest,
        row=row,
        cls=cls,
        candidate=float(candidate[row, cls]),
        reference=reference.exact(row, cls),
        ulp=float(ulps[row, cls]),
    )


def _total(reference: Reference, values: Float64) -> float | None:
    """max over rows of |Σc − Σg| / (4·√Σ(rounding of component i)² + 16·u_acc·s·A); None where no row has it.

    Components that share a logit share their rounding too, so theirs add up before they are squared. A softcap
    weighs the components by f', which leaves no known sum.
    """
    u = reference.format.unit_roundoff
    worst = None
    for n, (row, inverse) in enumerate(zip(reference.rows, reference.inverse, strict=True)):
        if row is None or inverse is None or row.estimates.row.softcap is not None or not np.isfinite(values[n]).all():
            continue
        e = row.estimates
        counts = e.row.counts
        due = 2 * e.scale * e.zeta * (e.largest + e.log_sum) / e.temperature if e.zeta else 0.0
        size = e.scale * e.slope * np.maximum(np.maximum(e.p * e.total_q, np.abs(e.q)), np.abs(e.inner))
        rounding = counts * np.maximum(u * size, reference.format.smallest_subnormal)
        allowed = 4 * math.sqrt(float((rounding**2).sum())) + 16 * min(u, 2.0**-24) * e.scale * e.weight
        ratio = abs(math.fsum(values[n].tolist()) - due) / allowed
        worst = ratio if worst is None else max(worst, ratio)
    return worst
