"""Errors of a candidate gradient against the reference, and the decision that a tolerance takes on them.

Everything is counted in the exact values' units, against their own high + low pair, so that nothing underflows and
the subtraction loses nothing: a metric is rounded once, at its end.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradcheck.estimates import Estimates, Known, RowsEstimates, in_units
from gradcheck.exact import Dyadic
from gradcheck.formats import Array, Float64, Format
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference.values import Exact, ExactGradient, following
from gradcheck.tolerances import Limits, label_sum_error, moved_error, softmax_roundings, summing_roundoff

_LANES = 128
"""Accumulators among which a sound sum deals out its terms."""


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
    ignored_nonzero: int = 0
    total: float | None = None
    undefined_rows: int = 0
    infinite_loss_rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a tolerance says of a gradient.

    Attributes:
        failed: components that certainly exceed their limit.
        judged: components that were looked at.
        undecided_rows: rows in which the reference's uncertainty covers a limit.
        worst: the component nearest to, or furthest past, its limit; value is error/limit.
        top: as many of the next such components as were asked for, `worst` first.
        limit_ulps: the limit there, in ulps.
        counted: whether all components were looked at, or `worst` alone, and `failed` is the least that there are.
    """

    failed: int
    judged: int
    undecided_rows: list[int]
    worst: Extreme | None
    limit_ulps: float
    top: tuple[Extreme, ...] = ()
    counted: bool = True


class Comparison:
    """A candidate beside exact values, component by component, (N, k).

    Attributes:
        candidate: in float64; finite: where it is neither NaN nor infinite.
        errors: |c − g| in units; inf for a component that is not finite. certain: what of that metrics are made of.
        ulps: the same in ulps; absolute: as a number.
        judged: False in undefined rows.
    """

    @np.errstate(all="ignore")
    def __init__(self, exact: Exact, candidate: Array) -> None:
        self.exact, self.values = exact, exact.values
        self.candidate: Float64 = candidate.astype(np.float64)
        self.finite = np.isfinite(self.candidate)
        errors = in_units(self.candidate, self.values.unit_log2) - self.values.high
        errors -= self.values.low
        np.abs(errors, out=errors)
        self.errors: Float64 = errors if self.finite.all() else np.where(self.finite, errors, np.inf)
        self.certain = self.values.certain(self.errors)
        self.ulps = self.values.in_ulps(self.certain)
        absolute = in_units(self.certain, -self.values.unit_log2)
        if self.errors.max(initial=0.0) == np.inf:
            # an error past 2^1024 units is all candidate
            absolute = np.where(np.isinf(self.errors) & self.finite, np.abs(self.candidate), absolute)
        self.absolute: Float64 = absolute
        self.judged = np.broadcast_to(exact.judged, self.errors.shape)
        self._all_judged = bool(exact.judged.all())
        self._ratios: dict[int, tuple[Float64, Float64]] = {}

    def of(self, limits: Float64) -> Float64:
        """The errors as multiples of limits in units: see `ratio`."""
        # a bound is a metric, and most often the tolerance's limit, too
        if id(limits) not in self._ratios:
            # the limits are held, too, so that no others get their id
            self._ratios[id(limits)] = (limits, ratio(self.errors, limits))
        return self._ratios[id(limits)][1]

    @property
    def judged_count(self) -> int:
        """How many components are judged."""
        return self.judged.size if self._all_judged else int(np.count_nonzero(self.judged))

    def worst(self, metric: Float64) -> Extreme | None:
        """The largest value of a metric, (N, k), among the judged components; None where there are none."""
        if not self.judged.any():
            return None
        seen = self._seen(metric)
        # Among equals (often infinite) the largest error is the one to show
        places = np.flatnonzero(seen == seen.max())
        return self._extreme(metric, int(places[np.argmax(self.ulps.ravel()[places])]))

    def top(self, metric: Float64, count: int) -> tuple[Extreme, ...]:
        """The judged components with the largest values of a metric, the largest first."""
        seen = self._seen(metric).ravel()
        count = min(count, self.judged_count)
        if not count:
            return ()
        places = np.flatnonzero(seen >= np.partition(seen, -count)[-count])
        order = np.lexsort((places, -self.ulps.ravel()[places], -seen[places]))
        return tuple(self._extreme(metric, place) for place in places[order][:count].tolist())

    def _seen(self, metric: Float64) -> Float64:
        return metric if self._all_judged else np.where(self.judged, metric, -1.0)

    def _extreme(self, metric: Float64, place: int) -> Extreme:
        row, cls = divmod(place, metric.shape[1])
        return Extreme(
            value=float(metric[row, cls]),
            row=row,
            cls=cls,
            candidate=float(self.candidate[row, cls]),
            reference=self.exact.exact(row, cls) if self.values.resolved[row, cls] else Dyadic(0, 0),
            uncertainty_ulp=self.values.in_ulps_at(self.values.uncertainty, (row, cls)),
            ulp=float(self.ulps[row, cls]),
        )


@np.errstate(all="ignore")
def failing(comparison: Comparison, limits: Limits) -> NDArray[np.bool_]:
    """The judged components that certainly exceed their limit, (N, k)."""
    # NaN passes no limit, not even one that overflows
    possible = np.minimum(limits.possible, np.finfo(np.float64).max)
    past = comparison.errors * (1 - 2.0**-50) - comparison.values.uncertainty > possible
    return np.asarray((past | ~comparison.finite) & comparison.judged)


@np.errstate(all="ignore")
def undecided(comparison: Comparison, limits: Limits) -> NDArray[np.bool_]:
    """The judged components of which it is left open whether they exceed their limit, (N, k)."""
    return _left_open(comparison, _certain(limits), failing(comparison, limits))


def _certain(limits: Limits) -> Float64:
    # An infinite error, NaN's among them, passes no limit, not even one that overflows
    most = np.finfo(np.float64).max
    return limits.certain if limits.certain.max(initial=0.0) <= most else np.minimum(limits.certain, most)


def _left_open(comparison: Comparison, certain: Float64, failed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    errors, slack = comparison.errors, comparison.values.uncertainty
    # 2^-50 covers the rounding of the error and of the limit themselves
    found = comparison.judged & ~((errors + slack) * (1 + 2.0**-50) <= certain) & ~failed
    if found.any():
        found &= (errors != 0) | (slack != 0)
    return np.asarray(found)


@np.errstate(all="ignore")
def decide(comparison: Comparison, limits: Limits, *, top: int = 0) -> Decision:
    """Compares every judged component with its limit, the exact value's uncertainty taken into account.

    Args:
        top: how many of the components to name, the worst first.
    """
    values = comparison.values
    certain = _certain(limits)
    of_limit = comparison.of(certain)
    worst = comparison.worst(of_limit)
    failed, rows = 0, []
    # where every error is at most half of its limit, and the slack a quarter, there is no more to look at
    if not (of_limit.max(initial=0.0) <= 0.5 and bool((4 * values.uncertainty <= certain).all())):
        past = failing(comparison, limits)
        failed = int(np.count_nonzero(past))
        rows = np.flatnonzero(_left_open(comparison, certain, past).any(axis=1)).tolist()
    return Decision(
        failed=failed,
        judged=comparison.judged_count,
        undecided_rows=rows,
        worst=worst,
        limit_ulps=math.nan if worst is None else values.in_ulps_at(certain, (worst.row, worst.cls)),
        top=comparison.top(of_limit, top) if top else (),
    )


@np.errstate(all="ignore")
def measure(comparison: Comparison, bound: Float64) -> Measures:
    """All metrics, whatever the tolerance; `bound` is what a sound algorithm needs, in units, (N, k)."""
    values, candidate, errors = comparison.values, comparison.candidate, comparison.errors
    judged = comparison.judged
    apart = values.unit_log2.max(axis=1, keepdims=True) - values.unit_log2
    # What cannot be told from 0, in the reference and in the candidate, is 0 in both
    visible = comparison.certain
    if not values.resolved.all():
        visible = np.where(values.resolved | (errors > 2 * values.uncertainty), visible, 0.0)
    largest = in_units(values.measuring_size, apart).max(axis=1, keepdims=True)
    metrics = {
        "abs": comparison.absolute,
        "rel": ratio(visible, values.measuring_size),
        "ulp": comparison.ulps,
        "norm": ratio(in_units(visible, apart), largest),
        "bound": comparison.of(bound),
    }
    zero = candidate == 0
    against = np.signbit(candidate) != np.signbit(values.high)
    if against.any():
        # NaN has a sign bit and no sign; an exact value that is not resolved has none, either
        against &= judged & values.resolved & ~zero & ~np.isnan(candidate)
    return Measures(
        extremes={name: comparison.worst(metric) for name, metric in metrics.items()},
        nonfinite=0 if comparison.finite.all() else int(np.count_nonzero(judged & ~comparison.finite)),
        wrong_sign=int(np.count_nonzero(against)),
        flushed=int(np.count_nonzero(judged & zero & (values.in_ulps(values.certain(values.size)) > 0.5)))
        if zero.any()
        else 0,
    )


def measure_gradient(
    problem: Problem, exact: ExactGradient, comparison: Comparison, bound: Float64, *, flush: bool = False
) -> Measures:
    """All metrics, and what is known of a gradient's rows beside them.

    Args:
        flush: whether flushed subnormals are accepted.
    """
    status = problem.status
    return dataclasses.replace(
        measure(comparison, bound),
        ignored_nonzero=int((comparison.candidate[status == RowStatus.IGNORED] != 0).sum()),
        total=_total(exact, comparison.candidate, flush=flush),
        undefined_rows=int((status == RowStatus.UNDEFINED).sum()),
        infinite_loss_rows=problem.infinite_loss_rows,
    )


def ratio(errors: Float64, limits: Float64) -> Float64:
    """errors/limits, where 0/0 is 0: nothing is allowed and nothing is wrong."""
    ratio = np.asarray(errors / limits)
    if math.isnan(ratio.max(initial=0.0)):  # NaN wins over every number
        return np.where(errors == 0, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
    return ratio


def _total(exact: ExactGradient, candidate: Float64, *, flush: bool) -> float | None:
    """The largest |Σc − Σg| of a row, over what rounding explains; None where no row has a known sum."""
    known = exact.at_once
    if known is not None:
        return _total_at_most(exact, known, candidate, flush=flush)
    worst = None
    for n, due, allowed in _sums(exact, flush):
        if not np.isfinite(candidate[n]).all():
            continue
        ratio = _of_allowed(candidate[n], due, allowed)
        worst = ratio if worst is None else max(worst, ratio)
    return worst


def _of_allowed(candidate: Float64, due: float, allowed: float) -> float:
    try:
        off = abs(math.fsum(candidate.tolist()) - due)
    except OverflowError:
        off = math.inf
    return off / allowed if allowed else math.inf if off else 0.0


def _total_at_most(exact: ExactGradient, e: RowsEstimates, candidate: Float64, *, flush: bool) -> float | None:
    """The same or more: only rows that the errors in common do not explain are looked at class by class."""
    if e.capped:
        return None
    fmt = exact.values.format
    rows = np.isfinite(candidate).all(axis=1) & (exact.judged[:, 0])
    allowed = (e.scale / e.temperature * _common(e, fmt, 1 / _LANES))[:, 0]
    due = (2 * e.sign * e.scale * e.zeta * (e.largest + e.log_sum) / e.temperature)[:, 0] if e.zeta else 0.0
    off = np.abs(candidate.sum(axis=1) - due)
    # what the sum itself, and due, may have been rounded by
    off += (np.abs(candidate).sum(axis=1) + np.abs(due)) * 2.0**-46
    found = np.where(rows, np.where(off <= allowed, off / np.maximum(allowed, 1e-300), np.inf), -1.0)
    for n in np.flatnonzero(np.isinf(found)).tolist():
        one = exact.estimates[n]
        found[n] = -1.0 if one is None else _of_allowed(candidate[n], *_sum(one, fmt, flush=flush))
    return None if found.max() < 0 else float(found.max())


def _common(e: Known, fmt: Format, alike: float) -> Float64:
    """What all probabilities of a row have in common, before s/T: errors of S and of W."""
    return np.asarray(e.weight * shared_rounding(fmt, e.log_sum, alike) + label_sum_error(e, fmt))


def shared_rounding(fmt: Format, log_sum: Float64 | float, alike: float = 1 / _LANES) -> Float64 | float:
    """Relative errors that all probabilities of a row may have in common: that of S, of which `alike` terms round alike
    in each lane, and that of ln S."""
    return (16 + alike) * summing_roundoff(fmt) + 2 * fmt.unit_roundoff * log_sum


@following
@np.errstate(all="ignore")
def _sums(exact: ExactGradient, flush: bool) -> tuple[tuple[int, float, float], ...]:
    """Of each row that has a known sum its number, Σg, and what rounding explains.

    Explained is 4·√Σ(rounding of component i)², where components that share a logit share their rounding, too, so
    that theirs add up before they are squared; and s·A·((16 + n/128)·u_acc + 2u·ln S₀) + the error of W, which all
    probabilities have in common: n equal terms of S round alike wherever they are added up, here in 128 lanes. Σg is
    2sζ·lse/T. A softcap weighs the components by f', which leaves no known sum. Where flushed subnormals are accepted,
    all of them are explained, too.
    """
    fmt = exact.values.format
    every = ((n, e) for n, e in enumerate(exact.estimates) if e is not None and not e.capped)
    return tuple((n, *_sum(e, fmt, flush=flush)) for n, e in every)


def _sum(e: Estimates, fmt: Format, *, flush: bool) -> tuple[float, float]:
    u = fmt.unit_roundoff
    due = 2 * e.scale * e.zeta * (e.largest + e.log_sum) / e.temperature if e.zeta else 0.0
    rounding = e.p * e.weight * u * softmax_roundings(e) + 4 * u * np.abs(e.q) + 2 * u * np.abs(e.inner)
    if e.moved:
        rounding += e.weight * moved_error(e, u)
    shared = e.row.counts * np.maximum(e.scale * e.slope * rounding, fmt.smallest_subnormal)
    logits = e.row.logits
    group = np.cumsum(np.append(False, logits[1:] != logits[:-1]))  # pairs are sorted
    apart = 4 * math.hypot(*np.bincount(group, shared).tolist())  # the square of a subnormal number is 0
    alike = float(np.bincount(group, e.row.counts).max()) / _LANES
    allowed = apart + e.scale / e.temperature * float(_common(e, fmt, alike))
    if flush:
        # what is flushed is lost in one direction
        size = np.abs(e.gradient)
        allowed += float(e.row.counts @ np.where(size < fmt.smallest_normal, size, 0.0))
    return due, allowed
