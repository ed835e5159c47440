"""Errors of a candidate gradient against the reference, and the decision that a tolerance takes on them.

Everything is counted in the reference's units, against its own high + low pair, so that nothing underflows and
the subtraction loses nothing: a metric is rounded once, at its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradcheck.estimates import in_units
from gradcheck.exact import Dyadic
from gradcheck.formats import Array, Float64
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Reference
from gradcheck.tolerances import Limits, label_sum_error, softmax_roundings, summing_roundoff


@dataclass(frozen=True, kw_only=True)
class Extreme:
    """The largest value of a metric, and where it stands.

    Attributes:
        reference: the exact value; 0 where it is smaller than its own uncertainty.
        uncertainty_ulp: how far the reference may be off there.
    """

    value: float
    row: int
    cls: int
    candidate: float
    reference: Dyadic
    uncertainty_ulp: float
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


class Comparison:
    """A gradient beside its reference, component by component, (N, k).

    Attributes:
        values: the candidate in float64.
        errors: |c − g| in the reference's units; inf for a component that is not finite.
        ulps: the same in ulps.
        judged: False in undefined rows.
    """

    @np.errstate(all="ignore")
    def __init__(self, reference: Reference, candidate: Array) -> None:
        self.reference = reference
        self.values: Float64 = candidate.astype(np.float64)
        finite = np.isfinite(self.values)
        scaled = in_units(np.where(finite, self.values, 0.0), reference.unit_log2)
        self.errors: Float64 = np.where(finite, np.abs((scaled - reference.high) - reference.low), np.inf)
        self.ulps = reference.in_ulps(self.errors)
        self.judged = np.broadcast_to(reference.judged[:, None], self.errors.shape)

    def worst(self, metric: Float64) -> Extreme | None:
        """The largest value of a metric, (N, k), among the judged components; None where there are none."""
        reference = self.reference
        if not self.judged.any():
            return None
        seen = np.where(self.judged, metric, -1.0)
        largest = float(seen.max())
        # Among equals (often infinite) the largest error is the one to show
        places = np.flatnonzero(seen == largest)
        place = int(places[np.argmax(self.ulps.ravel()[places])])
        row, cls = divmod(place, metric.shape[1])
        resolved = abs(reference.high[row, cls]) > reference.uncertainty[row, cls]
        return Extreme(
            value=largest,
            row=row,
            cls=cls,
            candidate=float(self.values[row, cls]),
            reference=reference.exact(row, cls) if resolved else Dyadic(0, 0),
            uncertainty_ulp=reference.in_ulps_at(reference.uncertainty, row, cls),
            ulp=float(self.ulps[row, cls]),
        )


@np.errstate(all="ignore")
def decide(comparison: Comparison, limits: Limits) -> Decision:
    """Compares every judged component with its limit, the reference's uncertainty taken into account."""
    reference, errors, judged = comparison.reference, comparison.errors, comparison.judged
    slack = reference.uncertainty
    # An infinite error, NaN's among them, passes no limit, not even one that overflows
    certain, possible = (np.minimum(limit, np.finfo(np.float64).max) for limit in (limits.certain, limits.possible))
    # 2^-50 covers the rounding of the error and of the limit themselves
    passed = (errors + slack) * (1 + 2.0**-50) <= certain
    failed = errors * (1 - 2.0**-50) - slack > possible
    passed |= (errors == 0) & (slack == 0)
    failed |= ~np.isfinite(comparison.values)
    undecided = judged & ~passed & ~failed
    worst = comparison.worst(_ratio(errors, certain))
    return Decision(
        failed=int((failed & judged).sum()),
        judged=int(judged.sum()),
        undecided_rows=np.flatnonzero(undecided.any(axis=1)).tolist(),
        worst=worst,
        limit_ulps=math.nan if worst is None else reference.in_ulps_at(certain, worst.row, worst.cls),
    )


@np.errstate(all="ignore")
def measure(problem: Problem, comparison: Comparison, bound: Limits) -> Measures:
    """All metrics of a gradient, whatever the tolerance; `bound` is what `stable` allows."""
    reference, values, errors = comparison.reference, comparison.values, comparison.errors
    judged, status = comparison.judged, problem.status[:, None]
    exact = reference.high
    size = np.abs(exact)
    resolved = size > reference.uncertainty
    top = reference.unit_log2.max(axis=1, keepdims=True)
    shift = (reference.unit_log2 - top).astype(np.int32)
    absolute = np.ldexp(errors, reference.unit_log2.astype(np.int32))
    # an error past 2^1024 units is all candidate
    absolute = np.where(np.isinf(errors) & np.isfinite(values), np.abs(values), absolute)
    # What cannot be told from 0, in the reference and in the candidate, is 0 in both
    visible = np.where(resolved | (errors > 2 * reference.uncertainty), errors, 0.0)
    largest = np.ldexp(size, shift).max(axis=1, keepdims=True)
    metrics = {
        "abs": absolute,
        "rel": _ratio(visible, size),
        "ulp": comparison.ulps,
        "norm": _ratio(np.ldexp(visible, shift), largest),
        "bound": _ratio(errors, bound.certain),
    }
    return Measures(
        extremes={name: comparison.worst(metric) for name, metric in metrics.items()},
        nonfinite=int((judged & ~np.isfinite(values)).sum()),
        wrong_sign=int((judged & resolved & (np.sign(values) * np.sign(exact) < 0)).sum()),
        flushed=int((judged & (values == 0) & (reference.in_ulps(size) > 0.5)).sum()),
        ignored_nonzero=int(((status == RowStatus.IGNORED) & (values != 0)).sum()),
        total=_total(reference, values),
        undefined_rows=int((status == RowStatus.UNDEFINED).sum()),
        infinite_loss_rows=sum(row.infinite_loss for row in problem.distinct if row is not None),
    )


def _ratio(errors: Float64, limits: Float64) -> Float64:
    """errors/limits, where 0/0 is 0: nothing is allowed and nothing is wrong."""
    ratio = errors / limits
    return np.where(errors == 0, 0.0, np.where(np.isnan(ratio), np.inf, ratio))


def _total(reference: Reference, values: Float64) -> float | None:
    """The largest |Σc − Σg| of a row, over what rounding explains; None where no row has a known sum.

    Explained is 4·√Σ(rounding of component i)², where components that share a logit share their rounding, too, so
    that theirs add up before they are squared; and s·A·(16·u_acc + 2u·ln S₀) + the error of W, which all
    probabilities have in common. Σg is 2sζ·lse/T. A softcap weighs the components by f', which leaves no known sum.
    """
    fmt = reference.format
    u, worst = fmt.unit_roundoff, None
    for n, row in enumerate(reference.rows):
        if row is None or row.estimates.row.softcap is not None or not np.isfinite(values[n]).all():
            continue
        e = row.estimates
        due = 2 * e.scale * e.zeta * (e.largest + e.log_sum) / e.temperature if e.zeta else 0.0
        rounding = e.p * e.weight * u * softmax_roundings(e) + 4 * u * np.abs(e.q) + 2 * u * np.abs(e.inner)
        shared = e.row.counts * np.maximum(e.scale * e.slope * rounding, fmt.smallest_subnormal)
        logits = e.row.logits
        group = np.cumsum(np.append(False, logits[1:] != logits[:-1]))  # pairs are sorted
        apart = 4 * math.sqrt(float((np.bincount(group, shared) ** 2).sum()))
        common = e.weight * (16 * summing_roundoff(fmt) + 2 * u * e.log_sum) + label_sum_error(e, fmt)
        allowed = apart + e.scale / e.temperature * common
        try:
            off = abs(math.fsum(values[n].tolist()) - due)
        except OverflowError:
            off = math.inf
        ratio = off / allowed if allowed else math.inf if off else 0.0
        worst = ratio if worst is None else max(worst, ratio)
    return worst
