"""Central differences in mpmath's arithmetic, at an explicit precision and with a bound on the rounding.

Nothing here reads or sets a global precision. `incremental` works on scaled integers: a number x is held as
floor(x·2^P), so that every error is a count of units 2^-P and the bounds are sums of small integers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
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
from gradcheck.formats import Float64
from gradcheck.problem import Row
from gradcheck.reference.engines import Evaluation, cut_each
from gradcheck.reference.rule import Plan

CERTIFIED = False
"""libmp's exp and log are taken to be good to one unit in their last place; they state no proof."""

_LOSS_BITS = 128
_TINY = math.ldexp(1.0, -1074)
"""What underflows in float64 must not turn a bound into 0."""
_SERIES_GAIN = 12
"""Bits that a term of log1p's series must gain; below, libmp's logarithm is quicker."""

_Raw = tuple[int, int, int, int]


def incremental(estimates: Estimates, plan: Plan) -> Evaluation:
    """Every perturbed loss from S± = S + (exp(z_i±) − exp(z_i)): O(1) work for each component."""
    row, bits, stencil = estimates.row, plan.precision_bits, plan.stencil
    shifted = _Shifted(estimates, plan)
    total = sum(n * e for n, e in zip(row.counts.tolist(), shifted.exps, strict=True))
    # weights below 1 need as many more bits behind the point
    extra = 8 + max(0, -_floor_log2(max(abs(weight) for weight in (*row.weights, row.zeta)) or Fraction(1)))
    to_units = bits + extra
    common = math.lcm(*(c.denominator for c in stencil.coefficients))
    nodes = [(j, int(c * common)) for j, c in enumerate(stencil.coefficients, start=1)]
    total_q, zeta = row.total_q / common, row.zeta / common
    linear = shifted.linear(to_units)
    lse = to_fixed(mpf_add(shifted.largest, _fixed_log(total, bits)), bits) if zeta else 0
    values = []
    for i, exp in enumerate(shifted.exps):
        if shifted.masked[i]:
            values.append(_rational(-row.q[i] * row.scale * row.masked_slope, bits))
            continue
        first = second = 0
        for j, c in nodes:
            up, down = (_log1p_fixed((moved << bits) // total, bits) for moved in shifted.around(i, exp, j))
            first += c * (up - down)
            if zeta:
                second += c * ((lse + up) ** 2 - (lse + down) ** 2)
        difference = _times(total_q, first, extra) - linear(i)
        if zeta:
            difference += _times(zeta, second, extra - bits)
        values.append(Dyadic(int(difference), -plan.step_log2 - to_units).scaled(row.scale, bits))
    return _evaluation(values, _incremental_rounding_log2(estimates, plan), estimates)


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


def direct(estimates: Estimates, plan: Plan) -> Evaluation:
    """The loss from its definition at both perturbed points: O(k) work for each, O(k²) for the row."""
    row, bits = estimates.row, plan.precision_bits
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
    for i, logit in enumerate(logits):
        if logit is None:
            values.append(_rational(-row.q[i] * row.scale * row.masked_slope, bits))
        else:
            nodes = enumerate(plan.stencil.coefficients, start=1)
            difference = sum((c * (loss(i, j * step) - loss(i, -j * step)) for j, c in nodes), Fraction(0)) / step
            values.append(_rational(difference * row.scale, 2 * bits))
    return _evaluation(values, _direct_rounding_log2(estimates, plan), estimates)


def _direct_rounding_log2(estimates: Estimates, plan: Plan) -> Float64:
    """Relative errors of 2^-P: exp with its argument two, their sum one, log one of ln S, products two; the terms
    of a softcap or of ζ lose in proportion to their own size."""
    e, row = estimates, estimates.row
    step = math.ldexp(1.0, plan.step_log2) * plan.stencil.reach / min(e.temperature, e.softcap)
    reach = float(np.abs(e.z[np.isfinite(e.z)]).max()) if row.softcap is not None else 0.0
    magnified = e.weight * (4 + 3 * (e.log_sum + step) + 8 * reach)
    if e.zeta:
        magnified += 6 * abs(e.zeta) * (abs(e.largest + e.log_sum) + step) ** 2
    units = e.scale * plan.stencil.weight * magnified + np.ldexp(np.abs(e.gradient), plan.step_log2)
    return np.asarray(np.log2(np.maximum(units, _TINY)) - plan.step_log2 - plan.precision_bits)


METHODS: dict[str, Callable[[Estimates, Plan], Evaluation]] = {"incremental": incremental, "direct": direct}


def _loss(estimates: Estimates) -> Dyadic:
    """The row's loss s·[Σ q(z_max − z) + W·ln S + ζ·lse²] to some 128 bits: each term but ζ's is positive."""
    row, bits = estimates.row, _LOSS_BITS
    largest, args = _arguments(estimates, bits)
    top = next(i for i, arg in enumerate(args) if arg is not None and not arg[1])
    # ln S = log1p of the sum of all classes but one of the largest: S itself would hide e^-100 behind its 1
    counts = [n - (i == top) for i, n in enumerate(row.counts.tolist())]
    others = mpf_sum(
        [
            mpf_mul(from_man_exp(n, 0), mpf_exp(arg, bits, "n"))
            for n, arg in zip(counts, args, strict=True)
            if n and arg is not None
        ],
        bits,
    )
    log_sum = _log1p(others, bits)
    terms: list[_Raw] = [mpf_mul(log_sum, _ratio(row.total_q, bits))]
    for q, n, arg in zip(row.q, row.counts.tolist(), args, strict=True):
        if q and arg is not None:
            terms.append(mpf_mul(_ratio(-q * n, bits), arg))
    if row.zeta:
        lse = mpf_add(largest, log_sum, bits)
        terms.append(mpf_mul(_ratio(row.zeta, bits), mpf_mul(lse, lse)))
    return Dyadic.from_mpf(mpf_mul(mpf_sum(terms, bits), _ratio(row.scale, bits), bits))


class _Shifted:
    """One row's exp(z − z_max) as scaled integers, and what a step does to each."""

    def __init__(self, estimates: Estimates, plan: Plan) -> None:
        row, bits = estimates.row, plan.precision_bits
        self._row, self._bits, self._plan = row, bits, plan
        self.largest, args = _arguments(estimates, bits)
        self.masked = [arg is None for arg in args]
        # exp below 2^-(P+1) is 0 in units of 2^-P
        nothing = (bits + 2) * math.log(2)
        self.exps = [
            0 if arg is None or delta > nothing else to_fixed(mpf_exp(arg, bits, "n"), bits)
            for arg, delta in zip(args, estimates.delta.tolist(), strict=True)
        ]
        one = 1 << bits
        step = Fraction(2) ** plan.step_log2 / row.temperature
        self._factors = {
            j: to_fixed(mpf_exp(_ratio(j * step, bits + 16), bits + 4, "n"), bits) - one
            for j in range(-plan.stencil.reach, plan.stencil.reach + 1)
        }
        self._moves: dict[tuple[int, int], _Raw] = {}

    def around(self, i: int, exp: int, j: int) -> tuple[int, int]:
        """exp(z_i+) − exp(z_i) and exp(z_i−) − exp(z_i), j steps away."""
        if self._row.softcap is None:
            return (exp * self._factors[j]) >> self._bits, (exp * self._factors[-j]) >> self._bits
        up, down = (
            to_fixed(mpf_exp(mpf_sub(self._moved(i, place), self.largest), self._bits, "n"), self._bits)
            for place in (j, -j)
        )
        return up - exp, down - exp

    def linear(self, to_units: int) -> Callable[[int], int]:
        """h times the difference of q_i·z_i, in units of 2^-`to_units`, as a function of i."""
        row, plan = self._row, self._plan
        if row.softcap is None:
            # a central difference of a line is its slope, exactly
            slope = Fraction(2) ** plan.step_log2 / row.temperature
            table = [_times(q * slope, 1, to_units) for q in row.weights]
            places = row.weight_of.tolist()
            return lambda i: table[places[i]]

        def capped(i: int) -> int:
            apart = (
                c * to_fixed(mpf_sub(self._moved(i, j), self._moved(i, -j)), self._bits)
                for j, c in enumerate(plan.stencil.coefficients, start=1)
            )
            return _times(row.q[i] * sum(apart, Fraction(0)), 1, to_units - self._bits)

        return capped

    def _moved(self, i: int, j: int) -> _Raw:
        if (i, j) not in self._moves:
            step = from_man_exp(j, self._plan.step_log2)
            self._moves[i, j] = _capped(mpf_add(from_float(self._row.logits[i]), step), self._row, self._bits)
        return self._moves[i, j]


def _arguments(estimates: Estimates, bits: int) -> tuple[_Raw, list[_Raw | None]]:
    """max z, and z − max z for each pair (None where masked), good to 2^-`bits`."""
    row = estimates.row
    logits = [None if logit == -math.inf else from_float(logit) for logit in row.logits.tolist()]
    if row.softcap is not None:
        logits = [None if logit is None else _capped(logit, row, bits) for logit in logits]
        temperature = None
    else:
        temperature = None if row.temperature == 1 else _ratio(1 / row.temperature, bits + 16)
    # pairs are sorted by logit, and f increases
    largest = next(logit for logit in reversed(logits) if logit is not None)
    args = [None if logit is None else mpf_sub(logit, largest) for logit in logits]
    if temperature is not None:
        largest = mpf_mul(largest, temperature)
        args = [None if arg is None else mpf_mul(arg, temperature, bits + 16) for arg in args]
    return largest, args


def _capped(logit: _Raw, row: Row, bits: int) -> _Raw:
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


def _evaluation(values: list[Dyadic], rounding_log2: Float64, estimates: Estimates) -> Evaluation:
    """The values cut into two float64 and a power of two."""
    (high,), (low,), (exponent,) = cut_each([values])
    return Evaluation(
        high=high,
        low=low,
        exponent=exponent,
        rounding_log2=rounding_log2,
        exact=values.__getitem__,
        loss=lambda: _loss(estimates),
    )


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
