"""Central differences in mpmath's arithmetic, at an explicit precision and with a bound on the rounding.

Nothing here reads or sets a global precision; what libmp keeps for all threads is used in turns. `incremental` works
on scaled integers: a number x is held as floor(x·2^P), so that every error is a count of units 2^-P and the bounds are
sums of small integers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import mpmath
import numpy as np
from mpmath.libmp import (
    from_float,
    from_man_exp,
    from_rational,
    mpf_add,
    mpf_cosh_sinh,
    mpf_div,
    mpf_exp,
    mpf_log,
    mpf_mul,
    mpf_shift,
    mpf_sub,
    mpf_sum,
    to_fixed,
)

from gradcheck.estimates import Estimates
from gradcheck.exact import Dyadic
from gradcheck.formats import Float64, Int64
from gradcheck.locks import MPMATH
from gradcheck.problem import Row
from gradcheck.reference.engines import Evaluation, Method, Pairs, cut_each
from gradcheck.reference.rule import Plan
from gradcheck.reference.stencils import Stencil

CERTIFIED = False
"""libmp's exp and log are taken to be good to one unit in their last place; they state no proof."""

_LOSS_BITS, _LOSS_ACCURACY_BITS = 128, 110
_TINY = math.ldexp(1.0, -1074)
"""What underflows in float64 must not turn a bound into 0."""
_SERIES_GAIN = 12
"""Bits that a term of log1p's series must gain; below, libmp's logarithm is quicker."""

_Raw = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Incremental:
    """Every perturbed loss from S± = S + (exp(z_i±) − exp(z_i)): O(1) work for each component."""

    estimates: Estimates
    plan: Plan

    def block(self, places: Int64) -> _Block:
        """The pairs at some places, ascending."""
        return _Block(
            pairs=Pairs.of(self.estimates.row, places),
            delta=self.estimates.delta[places],
            rounding_log2=self._rounding_log2[places],
            stencil=self.plan.stencil,
            step_log2=self.plan.step_log2,
            bits=self.plan.precision_bits,
            extra=self._extra,
        )

    @MPMATH
    def loss(self, shares: Sequence[int]) -> Dyadic:
        """The row's loss to 30 digits or more."""
        row, bits = self.estimates.row, self.plan.precision_bits
        others = sum(shares) - (1 << bits)
        # each exp is off by 3 units at most: where that leaves digits enough, it need not be made again
        enough = others.bit_length() > _LOSS_ACCURACY_BITS + (3 * row.classes).bit_length()
        return _loss(row, from_man_exp(others, -bits) if enough else None)

    @cached_property
    def _rounding_log2(self) -> Float64:
        return _incremental_rounding_log2(self.estimates, self.plan)

    @cached_property
    def _extra(self) -> int:
        # weights below 1 need as many more bits behind the point
        row = self.estimates.row
        return 8 + max(0, -_floor_log2(max(abs(weight) for weight in (*row.weights, row.zeta)) or Fraction(1)))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """Some pairs of a row as scaled integers, and what a step does to each.

    Attributes:
        extra: bits behind the point beyond those of the plan.
    """

    pairs: Pairs
    delta: Float64
    rounding_log2: Float64
    stencil: Stencil
    step_log2: int
    bits: int
    extra: int

    @cached_property
    def _exps(self) -> list[int]:
        """exp(z − z_max)."""
        bits = self.bits
        # exp below 2^-(P+1) is 0 in units of 2^-P
        nothing = (bits + 2) * math.log(2)
        return [
            0 if arg is None or delta > nothing else to_fixed(mpf_exp(arg, bits, "n"), bits)
            for arg, delta in zip(_arguments(self.pairs, bits), self.delta.tolist(), strict=True)
        ]

    @MPMATH
    def share(self) -> int:
        """Their part of S; a sum of integers does not depend on how it is cut."""
        return sum(n * e for n, e in zip(self.pairs.counts.tolist(), self._exps, strict=True))

    def evaluate(self, shares: Sequence[int]) -> Evaluation:
        """Their differences, from the shares of the whole row."""
        return _evaluation(self.exact(shares), self.rounding_log2)

    @MPMATH
    def exact(self, shares: Sequence[int]) -> list[Dyadic]:
        """The values of the same differences, to all their bits."""
        pairs, bits = self.pairs, self.bits
        total, to_units = sum(shares), bits + self.extra
        common = math.lcm(*(c.denominator for c in self.stencil.coefficients))
        nodes = [(j, int(c * common)) for j, c in enumerate(self.stencil.coefficients, start=1)]
        total_q, zeta = pairs.total_q / common, pairs.zeta / common
        around, linear = self._around(), self._linear(to_units)
        lse = to_fixed(mpf_add(_largest(pairs, bits), _fixed_log(total, bits)), bits) if zeta else 0
        values = [_rational(-q * pairs.scale * pairs.masked_slope, bits) for q in pairs.q[: pairs.masked]]
        for i, exp in itertools.islice(enumerate(self._exps), pairs.masked, None):
            first = second = 0
            for j, c in nodes:
                up, down = (_log1p_fixed((moved << bits) // total, bits) for moved in around(i, exp, j))
                first += c * (up - down)
                if zeta:
                    second += c * ((lse + up) ** 2 - (lse + down) ** 2)
            difference = _times(total_q, first, self.extra) - linear(i)
            if zeta:
                difference += _times(zeta, second, self.extra - bits)
            values.append(Dyadic(int(difference), -self.step_log2 - to_units).scaled(pairs.scale, bits))
        return values

    def _around(self) -> Callable[[int, int, int], tuple[int, int]]:
        """exp(z_i+) − exp(z_i) and exp(z_i−) − exp(z_i), as a function of i, exp(z_i) and how many steps away."""
        pairs, bits = self.pairs, self.bits
        if pairs.softcap is None:
            one, step = 1 << bits, Fraction(2) ** self.step_log2 / pairs.temperature
            factors = {
                j: to_fixed(mpf_exp(_ratio(j * step, bits + 16), bits + 4, "n"), bits) - one
                for j in range(-self.stencil.reach, self.stencil.reach + 1)
            }
            return lambda i, exp, j: ((exp * factors[j]) >> bits, (exp * factors[-j]) >> bits)
        largest = _largest(pairs, bits)

        def capped(i: int, exp: int, j: int) -> tuple[int, int]:
            up, down = (
                to_fixed(mpf_exp(mpf_sub(self._moved(i, place), largest), bits, "n"), bits) for place in (j, -j)
            )
            return up - exp, down - exp

        return capped

    def _linear(self, to_units: int) -> Callable[[int], int]:
        """h times the difference of q_i·z_i, in units of 2^-`to_units`, as a function of i."""
        pairs = self.pairs
        if pairs.softcap is None:
            # a central difference of a line is its slope, exactly
            slope = Fraction(2) ** self.step_log2 / pairs.temperature
            table = [_times(q * slope, 1, to_units) for q in pairs.weights]
            places = pairs.weight_of.tolist()
            return lambda i: table[places[i]]

        def capped(i: int) -> int:
            apart = (
                c * to_fixed(mpf_sub(self._moved(i, j), self._moved(i, -j)), self.bits)
                for j, c in enumerate(self.stencil.coefficients, start=1)
            )
            return _times(pairs.q[i] * sum(apart, Fraction(0)), 1, to_units - self.bits)

        return capped

    def _moved(self, i: int, j: int) -> _Raw:
        if (i, j) not in self._moves:
            step = from_man_exp(j, self.step_log2)
            self._moves[i, j] = _capped(mpf_add(from_float(self.pairs.logits[i]), step), self.pairs, self.bits)
        return self._moves[i, j]

    @cached_property
    def _moves(self) -> dict[tuple[int, int], _Raw]:
        return {}


def _incremental_rounding_log2(estimates: Estimates, plan: Plan) -> Float64:
    """Each unit is 2^-P: exps 2 (one more for a rounded argument), their sum k times that, S± − S three and what
    of exp's error the step passes on, its quotient by S one, a term of the logarithm's series 1 + 1/n."""
    e, row, stencil = estimates, estimates.row, plan.stencil
    plain = row.softcap is None
    exp_units = 6.0 if not plain else 2.0 if row.temperature == 1 else 3.0
    step = math.ldexp(1.0, plan.step_log2) * stencil.reach / min(e.temperature, e.softcap)
    moved_units = exp_units * math.expm1(step) + 3 if plain else exp_units + 1
    # |S± − S|/S <= p·(e^step − 1): each term of the series is that much smaller; a step may underflow
    growth_log2 = math.log2(math.expm1(step) / step) if step else 0.0
    gain = -growth_log2 - plan.step_log2 - math.log2(stencil.reach / min(e.temperature, e.softcap)) - e.p_log2 - 0.1
    # The innermost node may need the series where the outermost does not
    innermost = gain + math.log2(stencil.reach) + 0.5
    terms = plan.precision_bits / np.maximum(gain, _SERIES_GAIN)
    log_units = 4 + np.where(innermost > _SERIES_GAIN, 1.1 * terms, 0.0)
    heaviest = max(float(np.abs(e.q).max()), abs(e.zeta))
    # per component, divided by 1/h: the part that the division by h magnifies, and the part that it does not
    magnified = stencil.weight * e.weight * (moved_units * math.exp(step) + 1 + log_units) + heaviest * 2.0**-5
    if not plain:
        magnified += 2 * stencil.weight * heaviest
    common = e.weight * e.p * row.classes * exp_units * math.exp(2 * step) * stencil.weight + np.abs(e.inner)
    units = e.scale * (magnified + np.ldexp(common, plan.step_log2))
    return np.asarray(np.log2(np.maximum(units, _TINY)) - plan.step_log2 - plan.precision_bits)


@dataclass(frozen=True, kw_only=True, eq=False)
class Direct:
    """The loss from its definition at both perturbed points: O(k) work for each, O(k²) for the row."""

    estimates: Estimates
    plan: Plan

    def block(self, places: Int64) -> _DirectBlock:
        """The pairs at some places, ascending."""
        return _DirectBlock(estimates=self.estimates, plan=self.plan, places=places)

    @MPMATH
    def loss(self, shares: Sequence[Any]) -> Dyadic:
        """The row's loss to 30 digits or more."""
        return _loss(self.estimates.row)


@dataclass(frozen=True, kw_only=True, eq=False)
class _DirectBlock:
    """Some pairs of a row, with all the others."""

    estimates: Estimates
    plan: Plan
    places: Int64

    def share(self) -> None:
        """Nothing: each difference takes its own sums."""

    def evaluate(self, shares: Sequence[Any]) -> Evaluation:
        """Their differences."""
        return _evaluation(self.exact(shares), _direct_rounding_log2(self.estimates, self.plan)[self.places])

    @MPMATH
    def exact(self, shares: Sequence[Any]) -> list[Dyadic]:
        """The values of the same differences, to all their bits."""
        row, plan, bits = self.estimates.row, self.plan, self.plan.precision_bits
        context = mpmath.MPContext()
        context.prec = bits
        step = Fraction(2) ** plan.step_log2
        logits = [None if logit == -np.inf else Fraction(logit) for logit in row.logits.tolist()]
        origin = max(logit for logit in logits if logit is not None) if row.softcap is None else Fraction(0)

        def real(x: Fraction) -> Any:
            return context.make_mpf(from_rational(x.numerator, x.denominator, bits))

        def transform(logit: Fraction) -> Any:
            if row.softcap is None:
                return real((logit - origin) / row.temperature)
            return real(row.softcap) * context.tanh(real(logit / row.softcap)) / real(row.temperature)

        def loss(moved: int, by: Fraction) -> Fraction:
            # one class of pair `moved` is moved, the others that share the pair stay
            points = [(n, logit, q) for n, logit, q in zip(row.counts.tolist(), logits, row.q, strict=True)]
            n, logit, q = points[moved]
            points[moved] = (n - 1, logit, q)
            points.append((1, None if logit is None else logit + by, q))
            present = [(n, x, q, transform(x)) for n, x, q in points if n and x is not None]
            log_sum = context.log(context.fsum(n * context.exp(z) for n, _, _, z in present))
            value = real(row.total_q) * log_sum
            if row.zeta:
                value += real(row.zeta) * (real(origin / row.temperature) + log_sum) ** 2
            if row.softcap is None:  # exactly: a large gap would cost the digits of the difference
                lines = sum((n * q * (x - origin) for n, x, q, _ in present if q), Fraction(0)) / row.temperature
            else:
                lines = _fraction(context.fsum(n * real(q) * z for n, _, q, z in present))
            return _fraction(value) - lines

        values = []
        for i in self.places.tolist():
            if logits[i] is None:
                values.append(_rational(-row.q[i] * row.scale * row.masked_slope, bits))
            else:
                nodes = enumerate(plan.stencil.coefficients, start=1)
                difference = sum((c * (loss(i, j * step) - loss(i, -j * step)) for j, c in nodes), Fraction(0)) / step
                values.append(_rational(difference * row.scale, 2 * bits))
        return values


def _direct_rounding_log2(estimates: Estimates, plan: Plan) -> Float64:
    """Relative errors of 2^-P: exp with its argument two, their sum one, log one of ln S, products two; the terms
    of a softcap or of ζ lose in proportion to their own size."""
    e, row = estimates, estimates.row
    step = math.ldexp(1.0, plan.step_log2) * plan.stencil.reach / min(e.temperature, e.softcap)
    reach = e.reach if row.softcap is not None else 0.0
    magnified = e.weight * (4 + 3 * (e.log_sum + step) + 8 * reach)
    if e.zeta:
        magnified += 6 * abs(e.zeta) * (abs(e.largest + e.log_sum) + step) ** 2
    units = e.scale * plan.stencil.weight * magnified + np.ldexp(np.abs(e.gradient), plan.step_log2)
    return np.asarray(np.log2(np.maximum(units, _TINY)) - plan.step_log2 - plan.precision_bits)


METHODS: dict[str, Method] = {"incremental": Incremental, "direct": Direct}


def _loss(row: Row, others: _Raw | None = None) -> Dyadic:
    """The row's loss s·[Σ q(z_max − z) + W·ln S + ζ·lse²] to 30 digits or more: each term but ζ's is positive.

    Args:
        others: the sum of exp(z − z_max) of all classes but one of the largest, if it is known.
    """
    bits, pairs = _LOSS_BITS, Pairs.of(row, np.arange(len(row.logits)))
    # ln S = log1p of that sum: S itself would hide e^-100 behind its 1
    others = others or mpf_sum(
        (
            mpf_mul(from_man_exp(n, 0), mpf_exp(arg, bits, "n"))
            for n, arg in zip(pairs.others, _arguments(pairs, bits), strict=True)
            if n and arg is not None
        ),
        bits,
    )
    log_sum = _log1p(others, bits)
    terms: list[_Raw] = [mpf_mul(log_sum, _ratio(row.total_q, bits))]
    labelled = Pairs.of(row, np.flatnonzero(np.array([bool(weight) for weight in row.weights])[row.weight_of]))
    for q, n, arg in zip(labelled.q, labelled.counts.tolist(), _arguments(labelled, bits), strict=True):
        if arg is not None:
            terms.append(mpf_mul(_ratio(-q * n, bits), arg))
    if row.zeta:
        lse = mpf_add(_largest(pairs, bits), log_sum, bits)
        terms.append(mpf_mul(_ratio(row.zeta, bits), mpf_mul(lse, lse)))
    return Dyadic.from_mpf(mpf_mul(mpf_sum(terms, bits), _ratio(row.scale, bits), bits))


def _arguments(pairs: Pairs, bits: int) -> Iterator[_Raw | None]:
    """z − max z for each pair, None where masked, good to 2^-`bits`."""
    largest = from_float(pairs.top) if pairs.softcap is None else _largest(pairs, bits)
    by = None if pairs.softcap is not None or pairs.temperature == 1 else _ratio(1 / pairs.temperature, bits + 16)
    for logit in pairs.logits.tolist():
        if logit == -math.inf:
            yield None
        elif pairs.softcap is not None:
            yield mpf_sub(_capped(from_float(logit), pairs, bits), largest)
        else:
            # the difference first: far from 0 it is small, and exact, where the logits are neither
            apart = mpf_sub(from_float(logit), largest)
            yield apart if by is None else mpf_mul(apart, by, bits + 16)


def _largest(pairs: Pairs, bits: int) -> _Raw:
    """max z; f increases."""
    top: _Raw = from_float(pairs.top)
    if pairs.softcap is not None:
        return _capped(top, pairs, bits)
    if pairs.temperature != 1:
        top = mpf_mul(top, _ratio(1 / pairs.temperature, bits + 16))
    return top


def _capped(logit: _Raw, row: Pairs, bits: int) -> _Raw:
    """c·tanh(logit/c)/T with an absolute error below 2^-`bits`."""
    assert row.softcap is not None
    reach = max(0, _floor_log2(row.softcap / row.temperature) + 1)
    bits = bits + reach + 8
    tanh = mpf_cosh_sinh(mpf_div(logit, _ratio(row.softcap, bits + 16), bits), bits, "n", tanh=1)
    capped: _Raw = mpf_mul(tanh, _ratio(row.softcap / row.temperature, bits), bits)
    return capped


def _log1p(x: _Raw, bits: int) -> _Raw:
    """log(1 + x) for x >= 0 with a relative error of a few 2^-`bits`; mpmath 1.3 has no such libmp function."""
    if not x[1]:
        return x
    magnitude = x[2] + x[3]
    if magnitude < -bits:
        # log1p(x) = x(1 − x/2 + …)
        raised: _Raw = mpf_sub(x, mpf_shift(mpf_mul(x, x), -1), bits)
    else:
        raised = mpf_log(mpf_add(from_man_exp(1, 0), x), bits + max(0, -magnitude), "n")
    return raised


def _log1p_fixed(x: int, bits: int) -> int:
    """log(1 + x) where both are in units of 2^-`bits`; a term of the series loses one unit and 1/n."""
    if x.bit_length() > bits - _SERIES_GAIN:
        return int(to_fixed(mpf_log(from_man_exp((1 << bits) + x, -bits), bits + 4, "n"), bits))
    log = power = x
    for n in itertools.count(2):
        power = -((power * x) >> bits)
        if -n < power < n:
            return log
        log += power // n
    raise AssertionError


def _fixed_log(total: int, bits: int) -> _Raw:
    raw: _Raw = mpf_log(from_man_exp(total, -bits), bits, "n")
    return raw


def _evaluation(values: list[Dyadic], rounding_log2: Float64) -> Evaluation:
    """The values cut into two float64 and a power of two."""
    (high,), (low,), (exponent,) = cut_each([values])
    return Evaluation(high=high, low=low, exponent=exponent, rounding_log2=rounding_log2)


def _times(factor: Fraction, units: int, shift: int) -> int:
    """floor(factor·units·2^shift)."""
    numerator, denominator = factor.numerator * units, factor.denominator
    return (numerator << shift) // denominator if shift >= 0 else numerator // (denominator << -shift)


def _floor_log2(x: Fraction) -> int:
    """floor(log2 x) or one less, for x > 0."""
    return x.numerator.bit_length() - x.denominator.bit_length() - 1


def _ratio(x: Fraction, bits: int) -> _Raw:
    raw: _Raw = from_rational(x.numerator, x.denominator, bits)
    return raw


def _rational(x: Fraction, bits: int) -> Dyadic:
    """`x` exactly where it is dyadic, else to a relative 2^-`bits`."""
    return Dyadic(1, 0).scaled(x, bits)


def _fraction(x: Any) -> Fraction:
    value = Dyadic.from_mpf(x._mpf_)
    return Fraction(value.man) * Fraction(2) ** value.exp
