"""One row in high precision, and central differences of what each step of the derivation differentiates.

A difference of order 2 with step h errs by at most h²/6 times the third derivative, which for every function here is at
most 3 times the first one over the distance h (docs/derivation.md): |D − f'| <= h²/2·|f'|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from mpmath.libmp import from_float, mpf_sub

from gradcheck.estimates import Estimates
from gradcheck.exact import Dyadic
from gradcheck.formats import Format
from gradcheck.reference import Settings, bits_of
from gradcheck.reference.engines import cut_each
from gradcheck.reference.rule import TARGET_BITS
from gradcheck.reference.values import Values, values_in_units

_GUARD_BITS = 24
_LARGEST_STEP_LOG2 = -3
"""Past this step the truncation is not bounded."""
_ROUNDINGS_LOG2 = 6
"""log2 of how many roundings of the differenced value, each 2^-P of it, a difference may gather."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Step 2^`step_log2` and working precision of the differences of one row."""

    step_log2: int
    bits: int


def precision(estimates: Estimates, fmt: Format, settings: Settings) -> Precision:
    """What a difference of any step needs to be good to 2^-10 ulp, unless the user's own digits or step say other.

    Truncation wants h² <= 2^-(p + G + 3); rounding costs the bits of 1/h, twice for a second difference, those of the
    smallest product of two probabilities that the format can tell from 0, and those of the largest logarithm.
    """
    step_log2 = settings.step_log2
    if step_log2 is None:
        step_log2 = -math.ceil((fmt.precision + TARGET_BITS + 3) / 2)
    present = np.isfinite(estimates.z)
    # a class that stands alone has derivatives of 0, which no number of digits tells from 0
    alone = int(estimates.row.counts[present].sum()) == 1
    depth = (
        -fmt.subnormal_log2
        if alone
        else min(-fmt.subnormal_log2, math.ceil(-2 * float(estimates.p_log2[present].min())))
    )
    logarithm = math.frexp(float(estimates.z.max()) - float(estimates.z[present].min()) + estimates.log_sum + 1)[1]
    heavy = max(0, math.frexp(estimates.weight)[1])
    bits = fmt.precision + TARGET_BITS - 2 * step_log2 + depth + logarithm + heavy + _GUARD_BITS
    return Precision(step_log2=step_log2, bits=bits if settings.digits is None else bits_of(settings.digits))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A central difference, and what its rounding is counted in: the size of what was differenced, over h."""

    value: Any
    size: Any


_NOTHING = Difference(value=mpmath.mpf(0), size=mpmath.mpf(0))


class ExactRow:
    """One row: exp(l − max l), their sum, and differences by each logit. Classes whose logit is -inf are 0."""

    def __init__(self, estimates: Estimates, used: Precision) -> None:
        row = estimates.row
        self.estimates, self.precision = estimates, used
        context = mpmath.MPContext()
        context.prec = used.bits
        self._h = context.ldexp(context.one, used.step_log2)
        # what a step adds to exp(l), as a multiple of it
        self._up, self._down = context.expm1(self._h), context.expm1(-self._h)
        largest = from_float(float(row.logits[-1]))
        # each distinct logit once, its distance to the largest without rounding
        self._exps = [
            context.exp(context.make_mpf(mpf_sub(from_float(logit), largest))) if logit > -math.inf else context.zero
            for logit in row.logits.tolist()
        ]
        self._context, self._inverse = context, row.inverse.tolist()
        self._total = context.fsum(n * e for n, e in zip(row.counts.tolist(), self._exps, strict=True))
        self._weights = [self._real(q) for q in row.q]
        self._total_q = self._real(row.total_q)
        self._softmax: dict[int, list[Difference]] = {}

    def exponential(self, x: float) -> Difference:
        """d eˣ/dx at the format's own x."""
        if x == -math.inf:
            return _NOTHING
        context, at = self._context, self._context.mpf(x)
        up, down = context.exp(at + self._h), context.exp(at - self._h)
        # x ± h is rounded, too
        return Difference(value=(up - down) / (2 * self._h), size=self._over_step(up * (1 + abs(at))))

    def logarithm(self, x: Any) -> Difference:
        """d log x/dx at x > 0; the step is relative."""
        at, step = self._context.mpf(x), self._h * x
        up, down = (self._context.log(at + way) for way in (step, -step))
        return Difference(value=(up - down) / (2 * step), size=self._over_step((abs(up) + 1) / at))

    def log_total(self, n: int) -> Difference:
        """∂ log Σ exp(l)/∂lₙ: what the chain rule is shown on."""
        e = self._e(n)
        if not e:
            return _NOTHING
        up, down = (self._context.log(self._total + e * change) for change in (self._up, self._down))
        return Difference(value=(up - down) / (2 * self._h), size=self._over_step(abs(up) + 1))

    def probability(self, i: int) -> Difference:
        """ŷᵢ itself, which no difference is needed for."""
        value = self._e(i) / self._total
        return Difference(value=value, size=value)

    def softmax(self, n: int) -> list[Difference]:
        """∂ŷᵢ/∂lₙ for each class i; several steps ask for the same column."""
        if n not in self._softmax:
            self._softmax[n] = self._by_logit(n, range(len(self._inverse)), self._softmax_by(n))
        return self._softmax[n]

    def softmax_diagonal(self, i: int) -> Difference:
        """∂ŷᵢ/∂lᵢ."""
        return self._by_logit(i, (i,), self._softmax_by(i))[0]

    def _softmax_by(self, n: int) -> Callable[[int], Difference]:
        moved = self._e(n)
        totals = [self._total + moved * change for change in (self._up, self._down)]

        def difference(i: int) -> Difference:
            e = self._e(i)
            up, down = (e / total for total in totals)
            if i == n:
                up, down = up * (1 + self._up), down * (1 + self._down)
            return Difference(value=(up - down) / (2 * self._h), size=self._over_step(up))

        return difference

    def output_loss(self, i: int) -> Difference:
        """∂(−yᵢ log ŷᵢ)/∂ŷᵢ at the exact ŷᵢ."""
        weight = self._weights[self._inverse[i]]
        if not weight:
            return _NOTHING
        found = self.logarithm(self._e(i) / self._total)
        return Difference(value=-weight * found.value, size=weight * found.size)

    def hessian(self, n: int) -> list[Difference]:
        """∂²L/∂lᵢ∂lₙ for each class i: the four losses at l ± h·eᵢ ± h·eₙ, as one logarithm of their sums' ratio."""
        area = 4 * self._h * self._h
        changes = (self._up, self._down)

        def total(i: int, first: Any, second: Any) -> Any:
            if i == n:
                # moved twice
                return self._total + self._e(n) * (first + second + first * second)
            return self._total + self._e(i) * first + self._e(n) * second

        def difference(i: int) -> Difference:
            up, down = changes
            alike, apart = total(i, up, up) * total(i, down, down), total(i, up, down) * total(i, down, up)
            value = self._total_q * self._context.log(alike / apart) / area
            return Difference(value=value, size=self._over_step(self._total_q / self._h))

        return self._by_logit(n, range(len(self._inverse)), difference)

    def _by_logit(self, n: int, classes: Iterable[int], difference: Callable[[int], Difference]) -> list[Difference]:
        """Once for all classes that share a logit, but for the one that is moved; nothing where one of two is -inf."""
        found: dict[int, Difference] = {}
        keys = []
        for i in classes:
            key = -1 if i == n else self._inverse[i]
            keys.append(key)
            if key not in found:
                found[key] = difference(i) if self._e(i) and self._e(n) else _NOTHING
        return [found[key] for key in keys]

    def _e(self, i: int) -> Any:
        return self._exps[self._inverse[i]]

    def _real(self, x: Fraction) -> Any:
        return self._context.mpf(x.numerator) / x.denominator

    def _over_step(self, size: Any) -> Any:
        return size / self._h


def _log2(x: Any) -> float:
    return Dyadic.from_mpf(x._mpf_).log2()


def values_of(fmt: Format, found: list[list[Difference]], used: Precision) -> tuple[Values, list[list[Dyadic]]]:
    """Differences as values with their uncertainty, (R, c), and to all their digits."""
    exact = [[Dyadic.from_mpf(one.value._mpf_) for one in row] for row in found]
    high, low, exponent = cut_each(exact)
    # relative to the value, whose exponent may be past what float64 holds
    rounding_log2 = np.array(
        [[_log2(one.size / abs(one.value) if one.value else one.size) for one in row] for row in found]
    )
    rounding_log2 += _ROUNDINGS_LOG2 - used.bits
    if used.step_log2 > _LARGEST_STEP_LOG2:
        error_log2 = np.full(high.shape, math.inf)
    else:
        relative_log2 = np.logaddexp2(2.0 * used.step_log2 - 1, rounding_log2)
        error_log2 = np.where(high == 0, rounding_log2, exponent + np.frexp(high)[1] + relative_log2)
    return values_in_units(fmt, high, low, exponent, error_log2), exact
