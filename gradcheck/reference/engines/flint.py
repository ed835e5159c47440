"""Central differences in Arb's ball arithmetic (python-flint): every value comes as a proved enclosure.

python-flint's precision belongs to the whole process. It is taken under a lock and put back, so that threads and
callers keep theirs.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
from flint import arb, arb_poly, ctx, fmpq

from gradcheck.estimates import Estimates
from gradcheck.exact import Dyadic
from gradcheck.problem import Row
from gradcheck.reference.engines import Evaluation, cut
from gradcheck.reference.rule import PRECISION_CAP_BITS, Plan, truncation_log2

CERTIFIED = True
"""The rounding bound is the radius of a ball that Arb proves to hold the value."""

_LOSS_BITS, _LOSS_ACCURACY_BITS = 128, 105
_SERIES_FARTHEST_LOG2 = -1.5
"""log2 of the step from which log(1 + x) is not summed by its Taylor series: below, |x| < expm1(2^-1.5) < 1/2."""
_FEW_TERMS = 4
"""Terms that are taken without asking whether a few components could do with their logarithms."""
_LOGARITHMS = 300
"""What both logarithms of a component at one node cost, in terms of the series."""
_LOCK = threading.RLock()


@contextmanager
def _precision(bits: int) -> Iterator[None]:
    with _LOCK:
        before = ctx.prec
        ctx.prec = bits
        try:
            yield
        finally:
            ctx.prec = before


def incremental(estimates: Estimates, plan: Plan) -> Evaluation:
    """Every perturbed loss from S± = S·(1 + (exp(z_i±) − exp(z_i))/S): O(1) work for each component."""
    # one pass of exponentials serves the loss as well
    with _precision(max(plan.precision_bits, _LOSS_BITS)):
        balls = _Balls(estimates.row)
        row, exps = balls.row, balls.exps()
    with _precision(plan.precision_bits):
        total = _sum(exps if (balls.counts == 1).all() else map(operator.mul, exps, balls.counts.tolist()))
        farthest_log2 = plan.step_log2 + math.log2(plan.stencil.reach / estimates.temperature)
        if row.softcap is None and not row.zeta and farthest_log2 < _SERIES_FARTHEST_LOG2:
            terms, others = _series_terms(estimates, plan, farthest_log2)
            values = _series(balls, exps, total, plan, terms)
            for i, value in zip(others, _general(balls, exps, total, plan, others), strict=True):
                values[i] = value
        else:
            values = _general(balls, exps, total, plan, range(len(exps)))
        return _evaluation(balls.masked_values() + values, lambda: _loss(balls, exps))


def _series_terms(estimates: Estimates, plan: Plan, farthest_log2: float) -> tuple[int, list[int]]:
    """After how many terms what is cut off counts for nothing beside truncation, and which components need more.

    The ball that holds what is cut off is the proof. A saturated class would need hundreds of terms where the others
    need three: those few are better off with both their logarithms.

    Args:
        farthest_log2: log2 of jh/T at the outermost node; a component's series runs in powers of p·expm1(jh/T).
    """
    size = estimates.scale * estimates.weight * plan.stencil.weight
    if not size:
        return 1, []
    present = np.isfinite(estimates.z)
    limit = truncation_log2(estimates, plan)[present] - 8
    powers = (limit + plan.step_log2 - math.log2(size)) / (farthest_log2 + 0.3 + estimates.p_log2[present])
    needed = np.maximum(np.ceil(powers) - 1, 1)
    if needed.max() <= _FEW_TERMS:
        return int(needed.max()), []
    choices = np.unique(needed)
    more = len(needed) - np.searchsorted(np.sort(needed), choices, side="right")
    terms = choices[np.argmin(choices * len(needed) + _LOGARITHMS * plan.stencil.reach * more)]
    return int(terms), np.flatnonzero(needed > terms).tolist()


def _series(balls: _Balls, exps: list[arb], total: arb, plan: Plan, terms: int) -> list[arb]:
    """f(l) = l/T and ζ = 0: the differences of all components are one polynomial in e = exp(z − max z).

    A step moves e by the factor exp(±jh/T), so both logarithms are log(1 + r·e) with r = expm1(±jh/T)/S, and their
    Taylor series have the same coefficients for every component. The last one is a ball that holds what is cut off.
    """
    row = balls.row
    step, temperature = _ball(Fraction(2) ** plan.step_log2), _ball(row.temperature)
    per_step = _ball(row.total_q * row.scale) / step
    coefficients, rest = [arb(0)] * (terms + 1), arb(0)
    for j, c in enumerate(plan.stencil.coefficients, start=1):
        rise, fall = ((sign * j * step / temperature).expm1() / total for sign in (1, -1))
        weight = _ball(c) * per_step
        for n in range(1, terms + 1):
            coefficients[n] += weight * (rise**n - fall**n) / (n if n % 2 else -n)
        # what follows term N of log(1 + x) is at most |x|^(N+1)/((N+1)·(1 − |x|)), and |x| is below 1/2
        rest += abs(weight) * (abs(rise) ** (terms + 1) + abs(fall) ** (terms + 1)) * 2 / (terms + 1)
    series = arb_poly([*coefficients, arb(0, rest.abs_upper())])
    values: list[arb] = series.evaluate(exps, algorithm="iter")
    # a central difference of the line q·z is its slope, exactly
    slopes = [_ball(weight * row.scale) / temperature for weight in row.weights]
    for i in np.flatnonzero(row.q_estimate[balls.masked :]).tolist():
        values[i] -= slopes[row.weight_of[balls.masked + i]]
    return values


def _general(balls: _Balls, exps: list[arb], total: arb, plan: Plan, places: Iterable[int]) -> list[arb]:
    """Any f, ζ and step, at some places: both perturbed losses, but for what the two have in common."""
    row = balls.row
    scale, step = _ball(row.scale), _ball(Fraction(2) ** plan.step_log2)
    nodes = [(j * step, _ball(c)) for j, c in enumerate(plan.stencil.coefficients, start=1)]
    total_q, zeta = _ball(row.total_q), _ball(row.zeta)
    lse = balls.largest + total.log()
    values = []
    for i in places:
        value, q = arb(0), _ball(balls.q[i])
        for by, c in nodes:
            up, down = (balls.moved(i, way) for way in (by, -by))
            rise, fall = (((moved.exp() - exps[i]) / total).log1p() for moved in (up, down))
            value += c * (total_q * (rise - fall) - q * (up - down))
            if row.zeta:
                value += c * zeta * ((lse + rise) ** 2 - (lse + fall) ** 2)
        values.append(value * scale / step)
    return values


def direct(estimates: Estimates, plan: Plan) -> Evaluation:
    """The loss from its definition at every perturbed point: O(k) work for each, O(k²) for the row."""
    with _precision(plan.precision_bits):
        balls = _Balls(estimates.row)
        row = balls.row
        scale, step = _ball(row.scale), _ball(Fraction(2) ** plan.step_log2)

        def loss(moved: int, by: arb) -> arb:
            points = list(zip(balls.counts.tolist(), balls.apart, balls.q, strict=True))
            n, z, q = points[moved]
            # one class of the pair is moved, the others that share it stay
            points[moved] = (n - 1, z, q)
            points.append((1, balls.moved(moved, by), q))
            # all relative to max z, which W·lse and Σ q·z lose alike
            log_sum = _sum(n * z.exp() for n, z, _ in points if n).log()
            value = _ball(row.total_q) * log_sum - _sum(n * _ball(q) * z for n, z, q in points if n and q)
            return value + _ball(row.zeta) * (balls.largest + log_sum) ** 2 if row.zeta else value

        values = []
        for i in range(len(balls.apart)):
            nodes = enumerate(plan.stencil.coefficients, start=1)
            values.append(_sum(_ball(c) * (loss(i, j * step) - loss(i, -j * step)) for j, c in nodes) * scale / step)
        return _evaluation(balls.masked_values() + values, lambda: _loss(balls, None))


METHODS: dict[str, Callable[[Estimates, Plan], Evaluation]] = {"incremental": incremental, "direct": direct}


def _loss(balls: _Balls, exps: list[arb] | None) -> Dyadic:
    """The row's loss s·[Σ q(z_max − z) + W·ln S + ζ·lse²], at as many bits as its ball proves 30 digits with."""
    row, bits = balls.row, _LOSS_BITS
    while True:
        with _precision(bits):
            balls = balls if exps else _Balls(row)
            *exps, _ = exps or balls.exps()
            *counts, most = balls.counts.tolist()
            # all classes but one of the largest: S itself would hide e^-100 behind its 1
            log_sum = (_sum(map(operator.mul, exps, counts)) + (most - 1)).log1p()
            value = _ball(row.total_q) * log_sum
            if row.zeta:
                value += _ball(row.zeta) * (balls.largest + log_sum) ** 2
            for i in np.flatnonzero(row.q_estimate[balls.masked :]).tolist():
                value -= _ball(balls.q[i] * int(balls.counts[i])) * balls.apart[i]
            value *= _ball(row.scale)
        if value.rel_accuracy_bits() >= _LOSS_ACCURACY_BITS or bits > PRECISION_CAP_BITS:
            return _dyadic(value)
        bits, exps = 2 * bits, None


class _Balls:
    """One row's transformed logits, without the pairs whose logit is -inf: pairs are sorted, so those stand first.

    Attributes:
        masked: how many those are.
        apart: z − max z of the others; q, counts: theirs.
        largest: max z; f increases, so it stands last.
    """

    def __init__(self, row: Row) -> None:
        self.row = row
        self.masked = int(np.count_nonzero(row.logits == -np.inf))
        self.counts = row.counts[self.masked :]
        logits = row.logits[self.masked :].tolist()
        top = arb(logits[-1])
        self.largest = self._transformed(top)
        self._logits = [arb(logit) for logit in logits]
        if row.softcap is None:
            # the difference first: far from 0 it is small, and exact, where the logits are neither
            self._logits = [logit - top for logit in self._logits]
            plain = row.temperature == 1
            self.apart = self._logits if plain else [self._transformed(logit) for logit in self._logits]
        else:
            self.apart = [self._transformed(logit) - self.largest for logit in self._logits]

    def exps(self) -> list[arb]:
        """exp(z − max z)."""
        return [z.exp() for z in self.apart]

    @property
    def q(self) -> tuple[Fraction, ...]:
        return self.row.q[self.masked :]

    def masked_values(self) -> list[arb]:
        """The gradient of the masked pairs: −s·f'·q."""
        factor = -self.row.scale * self.row.masked_slope
        return [_ball(factor * q) for q in self.row.q[: self.masked]] if self.masked else []

    def moved(self, i: int, by: arb) -> arb:
        """z − max z of a logit that is moved, where the largest stays."""
        moved = self._transformed(self._logits[i] + by)
        return moved if self.row.softcap is None else moved - self.largest

    def _transformed(self, logit: arb) -> arb:
        row = self.row
        capped = logit if row.softcap is None else _ball(row.softcap) * (logit / _ball(row.softcap)).tanh()
        return capped / _ball(row.temperature)


def _sum(terms: Iterable[arb]) -> arb:
    return sum(terms, arb(0))


def _ball(x: Fraction) -> arb:
    return arb(fmpq(x.numerator, x.denominator))


def _dyadic(x: arb) -> Dyadic:
    man, exp = x.mid().man_exp()
    return Dyadic(int(man), int(exp))


def _evaluation(balls: list[arb], loss: Callable[[], Dyadic]) -> Evaluation:
    """Midpoints as two float64 and a power of two, with log2 of what the radius is below."""
    # each map is a loop in C, in which a third of the engine's time is spent
    high = np.fromiter(map(float, balls), np.float64, len(balls))
    low = np.fromiter(map(float, map(operator.sub, balls, high.tolist())), np.float64, len(balls))
    accuracy = np.fromiter(map(arb.rel_accuracy_bits, balls), np.float64, len(balls))
    exponent = np.zeros(len(balls), dtype=np.int64)
    # Arb counts the bits from the top of the midpoint to the top of the radius
    rounding_log2 = np.frexp(high)[1] - accuracy
    # What float64 cannot hold as a normal number, or holds to the last bit of its low half, goes another way
    size = np.abs(high)
    for i in np.flatnonzero(~((size > 1e-250) & (size < 1e250) & (np.abs(accuracy) < 1e5))).tolist():
        if not balls[i].is_finite():
            # nothing is known, which no precision of the user's own is too low to say
            high[i], low[i], rounding_log2[i] = 0.0, 0.0, math.inf
            continue
        rounding_log2[i] = math.nextafter(_dyadic(balls[i].rad()).log2(), math.inf)
        high[i], low[i], exponent[i] = cut(_dyadic(balls[i]))
    return Evaluation(
        high=high,
        low=low,
        exponent=exponent,
        rounding_log2=rounding_log2,
        exact=lambda i: _dyadic(balls[i]) if balls[i].is_finite() else Dyadic(0, 0),
        loss=loss,
    )
