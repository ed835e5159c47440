"""Central differences in Arb's ball arithmetic (python-flint): every value comes as a proved enclosure.

python-flint's precision belongs to the whole process. It is taken in turns and put back, so that threads and
callers keep theirs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from flint import arb, arb_poly, ctx, fmpq
from numpy.typing import NDArray

from gradcheck.estimates import Estimates
from gradcheck.exact import Dyadic
from gradcheck.formats import Int64
from gradcheck.locks import Turn
from gradcheck.problem import Row
from gradcheck.reference.engines import Evaluation, Method, Pairs, cut
from gradcheck.reference.rule import PRECISION_CAP_BITS, Plan, truncation_log2
from gradcheck.reference.stencils import Stencil

CERTIFIED = True
"""The rounding bound is the radius of a ball that Arb proves to hold the value."""

_LOSS_BITS, _LOSS_ACCURACY_BITS = 128, 105
_SERIES_FARTHEST_LOG2 = -1.5
"""log2 of the step from which log(1 + x) is not summed by its Taylor series: below, |x| < expm1(2^-1.5) < 1/2."""
_FEW_TERMS = 4
"""Terms that are taken without asking whether a few components could do with their logarithms."""
_LOGARITHMS = 300
"""What both logarithms of a component at one node cost, in terms of the series."""
_TURN = Turn()

_Share = tuple[Dyadic, Dyadic]


@contextmanager
def _precision(bits: int) -> Iterator[None]:
    with _TURN:
        before = ctx.prec
        ctx.prec = bits
        try:
            yield
        finally:
            ctx.prec = before


@dataclass(frozen=True, kw_only=True, eq=False)
class Incremental:
    """Every perturbed loss from S± = S·(1 + (exp(z_i±) − exp(z_i))/S): O(1) work for each component."""

    estimates: Estimates
    plan: Plan

    def block(self, places: Int64) -> _Block:
        """The pairs at some places, ascending."""
        terms, others = self._terms
        return _Block(
            pairs=Pairs.of(self.estimates.row, places),
            stencil=self.plan.stencil,
            step_log2=self.plan.step_log2,
            bits=self.plan.precision_bits,
            terms=terms,
            others=np.flatnonzero(others[places]).tolist(),
        )

    def loss(self, shares: Sequence[_Share]) -> Dyadic:
        """The row's loss to 30 digits or more."""
        bits = _summed_bits(self.plan.precision_bits)
        with _precision(bits):
            return _loss(self.estimates.row, bits, _total(shares))

    @cached_property
    def _terms(self) -> tuple[int, NDArray[np.bool_]]:
        """Those of the series, and which pairs need more: all of the row decides, however it is cut."""
        row, plan = self.estimates.row, self.plan
        farthest_log2 = plan.step_log2 + math.log2(plan.stencil.reach / self.estimates.temperature)
        if row.softcap is None and not row.zeta and farthest_log2 < _SERIES_FARTHEST_LOG2:
            return _series_terms(self.estimates, plan, farthest_log2)
        return 0, np.ones(len(row.logits), dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """Some pairs of a row as balls.

    Attributes:
        terms: those of the series; others: the pairs that take their logarithms instead.
    """

    pairs: Pairs
    stencil: Stencil
    step_log2: int
    bits: int
    terms: int
    others: list[int]

    @cached_property
    def _balls(self) -> tuple[_Balls, list[arb]]:
        with _precision(_summed_bits(self.bits)):
            balls = _Balls(self.pairs)
            return balls, balls.exps()

    def __getstate__(self) -> dict[str, Any]:
        # python-flint cannot pickle a ball, and making it again is as quick as sending it
        return {name: value for name, value in vars(self).items() if name != "_balls"}

    def share(self) -> _Share:
        """Their part of S − 1."""
        # the turn first, as everywhere: until Python 3.12 a cached property has a lock that all instances share
        with _precision(_summed_bits(self.bits)):
            balls, exps = self._balls
            return _sent(balls.others(exps))

    def evaluate(self, shares: Sequence[_Share]) -> Evaluation:
        """Their differences, from the shares of the whole row."""
        with _precision(self.bits):
            return _evaluation(self._values(shares))

    def exact(self, shares: Sequence[_Share]) -> list[Dyadic]:
        """The values of the same differences, to all their bits."""
        with _precision(self.bits):
            return list(map(_middle, self._values(shares)))

    def _values(self, shares: Sequence[_Share]) -> list[arb]:
        balls, exps = self._balls
        step, total = _ball(Fraction(2) ** self.step_log2), _total(shares) + 1
        masked = self.pairs.masked
        others = [i - masked for i in self.others if i >= masked]
        if self.terms:
            values = _series(balls, exps, total, self.stencil, step, self.terms)
            for i, value in zip(others, _general(balls, exps, total, self.stencil, step, others), strict=True):
                values[i] = value
        else:
            values = _general(balls, exps, total, self.stencil, step, others)
        return balls.masked_values() + values


def _series_terms(estimates: Estimates, plan: Plan, farthest_log2: float) -> tuple[int, NDArray[np.bool_]]:
    """After how many terms what is cut off counts for nothing beside truncation, and which components need more.

    The ball that holds what is cut off is the proof. A saturated class would need hundreds of terms where the others
    need three: those few are better off with both their logarithms.

    Args:
        farthest_log2: log2 of jh/T at the outermost node; a component's series runs in powers of p·expm1(jh/T).
    """
    size = estimates.scale * estimates.weight * plan.stencil.weight
    others = np.zeros(len(estimates.z), dtype=np.bool_)
    if not size:
        return 1, others
    present = np.isfinite(estimates.z)
    limit = truncation_log2(estimates, plan)[present] - 8
    powers = (limit + plan.step_log2 - math.log2(size)) / (farthest_log2 + 0.3 + estimates.p_log2[present])
    needed = np.maximum(np.ceil(powers) - 1, 1)
    if needed.max() <= _FEW_TERMS:
        return int(needed.max()), others
    choices = np.unique(needed)
    more = len(needed) - np.searchsorted(np.sort(needed), choices, side="right")
    terms = choices[np.argmin(choices * len(needed) + _LOGARITHMS * plan.stencil.reach * more)]
    others[present] = needed > terms
    return int(terms), others


def _series(balls: _Balls, exps: list[arb], total: arb, stencil: Stencil, step: arb, terms: int) -> list[arb]:
    """f(l) = l/T and ζ = 0: the differences of all components are one polynomial in e = exp(z − max z).

    A step moves e by the factor exp(±jh/T), so both logarithms are log(1 + r·e) with r = expm1(±jh/T)/S, and their
    Taylor series have the same coefficients for every component. The last one is a ball that holds what is cut off.
    """
    pairs = balls.pairs
    temperature = _ball(pairs.temperature)
    per_step = _ball(pairs.total_q * pairs.scale) / step
    coefficients, rest = [arb(0)] * (terms + 1), arb(0)
    for j, c in enumerate(stencil.coefficients, start=1):
        rise, fall = ((sign * j * step / temperature).expm1() / total for sign in (1, -1))
        weight = _ball(c) * per_step
        for n in range(1, terms + 1):
            coefficients[n] += weight * (rise**n - fall**n) / (n if n % 2 else -n)
        # what follows term N of log(1 + x) is at most |x|^(N+1)/((N+1)·(1 − |x|)), and |x| is below 1/2
        rest += abs(weight) * (abs(rise) ** (terms + 1) + abs(fall) ** (terms + 1)) * 2 / (terms + 1)
    series = arb_poly([*coefficients, arb(0, rest.abs_upper())])
    values: list[arb] = series.evaluate(exps, algorithm="iter")
    # a central difference of the line q·z is its slope, exactly
    slopes = [_ball(weight * pairs.scale) / temperature for weight in pairs.weights]
    weighty = np.array([bool(weight) for weight in pairs.weights])
    weight_of = pairs.weight_of[pairs.masked :]
    for i in np.flatnonzero(weighty[weight_of]).tolist():
        values[i] -= slopes[weight_of[i]]
    return values


def _general(
    balls: _Balls, exps: list[arb], total: arb, stencil: Stencil, step: arb, places: Iterable[int]
) -> list[arb]:
    """Any f, ζ and step, at some places: both perturbed losses, but for what the two have in common."""
    pairs = balls.pairs
    nodes = [(j * step, _ball(c)) for j, c in enumerate(stencil.coefficients, start=1)]
    scale, total_q, zeta = _ball(pairs.scale), _ball(pairs.total_q), _ball(pairs.zeta)
    lse = balls.largest + total.log()
    values = []
    for i in places:
        value, q = arb(0), _ball(balls.q[i])
        for by, c in nodes:
            up, down = (balls.moved(i, way) for way in (by, -by))
            rise, fall = (((moved.exp() - exps[i]) / total).log1p() for moved in (up, down))
            value += c * (total_q * (rise - fall) - q * (up - down))
            if pairs.zeta:
                value += c * zeta * ((lse + rise) ** 2 - (lse + fall) ** 2)
        values.append(value * scale / step)
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class Direct:
    """The loss from its definition at every perturbed point: O(k) work for each, O(k²) for the row."""

    estimates: Estimates
    plan: Plan

    def block(self, places: Int64) -> _DirectBlock:
        """The pairs at some places, ascending."""
        return _DirectBlock(row=self.estimates.row, plan=self.plan, places=places)

    def loss(self, shares: Sequence[Any]) -> Dyadic:
        """The row's loss to 30 digits or more."""
        return _loss(self.estimates.row, _LOSS_BITS)


@dataclass(frozen=True, kw_only=True, eq=False)
class _DirectBlock:
    """Some pairs of a row, with all the others."""

    row: Row
    plan: Plan
    places: Int64

    def share(self) -> None:
        """Nothing: each difference takes its own sums."""

    def evaluate(self, shares: Sequence[Any]) -> Evaluation:
        """Their differences."""
        with _precision(self.plan.precision_bits):
            return _evaluation(self._values())

    def exact(self, shares: Sequence[Any]) -> list[Dyadic]:
        """The values of the same differences, to all their bits."""
        with _precision(self.plan.precision_bits):
            return list(map(_middle, self._values()))

    def _values(self) -> list[arb]:
        balls, plan = _Balls(_all(self.row)), self.plan
        row = balls.pairs
        scale, step = _ball(row.scale), _ball(Fraction(2) ** plan.step_log2)

        def loss(moved: int, by: arb) -> arb:
            points = list(zip(balls.counts, balls.apart, balls.q, strict=True))
            n, z, q = points[moved]
            # one class of the pair is moved, the others that share it stay
            points[moved] = (n - 1, z, q)
            points.append((1, balls.moved(moved, by), q))
            # all relative to max z, which W·lse and Σ q·z lose alike
            log_sum = _sum(n * z.exp() for n, z, _ in points if n).log()
            value = _ball(row.total_q) * log_sum - _sum(n * _ball(q) * z for n, z, q in points if n and q)
            return value + _ball(row.zeta) * (balls.largest + log_sum) ** 2 if row.zeta else value

        values, masked = [], balls.masked_values()
        for i in self.places.tolist():
            if i < len(masked):
                values.append(masked[i])
                continue
            i -= len(masked)
            nodes = enumerate(plan.stencil.coefficients, start=1)
            values.append(_sum(_ball(c) * (loss(i, j * step) - loss(i, -j * step)) for j, c in nodes) * scale / step)
        return values


METHODS: dict[str, Method] = {"incremental": Incremental, "direct": Direct}


def _loss(row: Row, bits: int, others: arb | None = None) -> Dyadic:
    """The row's loss s·[Σ q(z_max − z) + W·ln S + ζ·lse²], at as many bits as its ball proves 30 digits with.

    Args:
        others: S − 1, the sum of all classes but one of the largest: S itself would hide e^-100 behind its 1.
    """
    weighty = np.array([bool(weight) for weight in row.weights])[row.weight_of]
    labelled = Pairs.of(row, np.flatnonzero(weighty & (row.logits > -np.inf)))
    while True:
        with _precision(bits):
            if others is None:
                whole = _Balls(_all(row))
                others = whole.others(whole.exps())
            balls, log_sum = _Balls(labelled), others.log1p()
            value = _ball(row.total_q) * log_sum
            if row.zeta:
                value += _ball(row.zeta) * (balls.largest + log_sum) ** 2
            for q, n, apart in zip(balls.q, balls.counts, balls.apart, strict=True):
                value -= _ball(q * n) * apart
            value *= _ball(row.scale)
        if value.rel_accuracy_bits() >= _LOSS_ACCURACY_BITS or bits > PRECISION_CAP_BITS:
            return _dyadic(value)
        bits, others = 2 * bits, None


class _Balls:
    """The transformed logits of some pairs, without those whose logit is -inf.

    Attributes:
        apart: z − max z of the others; q, counts: theirs.
        largest: max z of the row; f increases.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        logits = pairs.logits[pairs.masked :].tolist()
        top = arb(pairs.top)
        self.largest = self._transformed(top)
        self._logits = [arb(logit) for logit in logits]
        if pairs.softcap is None:
            # the difference first: far from 0 it is small, and exact, where the logits are neither
            self._logits = [logit - top for logit in self._logits]
            plain = pairs.temperature == 1
            self.apart = self._logits if plain else [self._transformed(logit) for logit in self._logits]
        else:
            self.apart = [self._transformed(logit) - self.largest for logit in self._logits]

    def exps(self) -> list[arb]:
        """exp(z − max z)."""
        return [z.exp() for z in self.apart]

    def others(self, exps: list[arb]) -> arb:
        """The sum of all their classes' exp(z − max z), but for one of the row's last pair, which is 1."""
        if (self.pairs.counts == 1).all():
            return _sum(exps[:-1] if self.pairs.last else exps)
        return _sum(map(operator.mul, exps, self.pairs.others[self.pairs.masked :]))

    @property
    def counts(self) -> list[int]:
        counts: list[int] = self.pairs.counts[self.pairs.masked :].tolist()
        return counts

    @property
    def q(self) -> tuple[Fraction, ...]:
        return self.pairs.q[self.pairs.masked :]

    def masked_values(self) -> list[arb]:
        """The gradient of the masked pairs: −s·f'·q."""
        factor, masked = -self.pairs.scale * self.pairs.masked_slope, self.pairs.masked
        return [_ball(factor * q) for q in self.pairs.q[:masked]] if masked else []

    def moved(self, i: int, by: arb) -> arb:
        """z − max z of a logit that is moved, where the largest stays."""
        moved = self._transformed(self._logits[i] + by)
        return moved if self.pairs.softcap is None else moved - self.largest

    def _transformed(self, logit: arb) -> arb:
        pairs = self.pairs
        capped = logit if pairs.softcap is None else _ball(pairs.softcap) * (logit / _ball(pairs.softcap)).tanh()
        return capped / _ball(pairs.temperature)


def _all(row: Row) -> Pairs:
    return Pairs.of(row, np.arange(len(row.logits)))


def _summed_bits(bits: int) -> int:
    """The precision of exponentials and their sum, which serve the loss as well."""
    return max(bits, _LOSS_BITS)


def _sent(ball: arb) -> _Share:
    """A ball as it is, for another process."""
    return _dyadic(ball.mid()), _dyadic(ball.rad())


def _total(shares: Sequence[_Share]) -> arb:
    """The sum of balls that were sent; a radius may grow on the way, by the same wherever it came from."""
    return _sum(arb((mid.man, mid.exp), (rad.man, rad.exp)) for mid, rad in shares)


def _sum(terms: Iterable[arb]) -> arb:
    return sum(terms, arb(0))


def _ball(x: Fraction) -> arb:
    return arb(fmpq(x.numerator, x.denominator))


def _dyadic(x: arb) -> Dyadic:
    man, exp = x.mid().man_exp()
    return Dyadic(int(man), int(exp))


def _middle(x: arb) -> Dyadic:
    return _dyadic(x) if x.is_finite() else Dyadic(0, 0)


def _evaluation(balls: list[arb]) -> Evaluation:
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
    return Evaluation(high=high, low=low, exponent=exponent, rounding_log2=rounding_log2)
