"""What float64 knows of a row: enough to choose a step, a precision, a tolerance, and how far its gradient is off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.problem import Row

# Where a probability is below 2^-5000, no format, and no product with another finite factor, sees more than 0.
_NOTHING_LOG2 = -5000.0

_U = 2.0**-53
_FUNCTION = 8 * _U
"""4 ulp: how far off exp, exp2, log, log1p, log2, tanh and powers are taken to be, relative to what they return."""
_TINY = math.ldexp(1.0, -1074)


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimates:
    """Float64 estimates for one row, one value for each distinct pair, (m,).

    Attributes:
        z: transformed logits; slope: f'(l); largest: max z; log_sum: ln S with S = Σ exp(z - max z).
        delta: max z − z, clipped where the probability is nothing in every format.
        p_log2: log2 of the probability.
        weight: A = Σ|q| + 2|ζ|(1 + |lse|).
        inner: G = (W + 2ζ·lse)·p − q, without cancellation for one-hot labels.
    """

    row: Row
    z: Float64
    slope: Float64
    largest: float
    log_sum: float
    delta: Float64
    p_log2: Float64
    q: Float64
    total_q: float
    zeta: float
    scale: float
    temperature: float
    softcap: float
    weight: float
    inner: Float64

    @property
    def p(self) -> Float64:
        """The probabilities; 0 where float64 cannot hold them."""
        return np.exp2(self.p_log2)

    @property
    def gradient(self) -> Float64:
        """s·f'·G."""
        return self.scale * self.slope * self.inner

    def times_p(self, factor: float) -> Float64:
        """factor·p, even where p underflows and the product does not."""
        return _times_p(self.p_log2, factor)

    def p_in_units(self, unit_log2: Int64) -> Float64:
        """p / 2^`unit_log2` even where p itself underflows."""
        whole = np.floor(self.p_log2)
        return np.ldexp(np.exp2(self.p_log2 - whole), (whole - unit_log2).astype(np.int32))


def estimate(row: Row) -> Estimates:
    """The estimates for `row`."""
    temperature = float(row.temperature)
    softcap = math.inf if row.softcap is None else float(row.softcap)
    with np.errstate(all="ignore"):
        masked = row.logits == -np.inf
        if row.softcap is None:
            z, slope = row.logits / temperature, np.full(len(row.logits), 1 / temperature)
        else:
            # A mask of -inf stays a mask under the cap
            z = np.where(masked, -np.inf, softcap * np.tanh(row.logits / softcap) / temperature)
            # sech² = 4w/(1 + w)², w = e^−2|x|, without the overflow of cosh²
            falling = np.exp(-2 * np.abs(row.logits / softcap))
            slope = 4 * falling / (1 + falling) ** 2 / temperature
        largest = float(z.max())
        # The difference first: dividing huge logits by T would round it away. Halves, because it may overflow
        apart = (
            (z.max() / 2 - z / 2) if row.softcap is not None else (row.logits.max() / 2 - row.logits / 2) / temperature
        )
        delta = np.minimum(apart * 2, -_NOTHING_LOG2)
        top = int(np.argmax(z))
        others_log2 = _others_log2(delta, row.counts, top)
        others = 2.0**others_log2
        log_sum = math.log1p(others)
        p_log2 = np.maximum(-(delta + log_sum) / math.log(2), _NOTHING_LOG2)
        p_log2 = np.where(masked, _NOTHING_LOG2, p_log2)
        p = np.exp2(p_log2)
        # 1 − p, for the largest logit as the others' share, which may underflow where a label times it does not
        rest_log2 = np.where(z == largest, others_log2 - log_sum / math.log(2), np.log2(1 - p))
        q = row.q_estimate
        zeta, total_q = float(row.zeta), float(row.total_q)
        lse = largest + log_sum
        # p(W − q) − q(1 − p): no cancellation where q = 0 or q = W
        inner = np.sign(total_q - q) * _times_p(p_log2, np.abs(total_q - q)) - np.sign(q) * _times_p(
            rest_log2, np.abs(q)
        )
        if zeta:
            inner = inner + 2 * zeta * lse * p
    return Estimates(
        row=row,
        z=z,
        slope=slope,
        largest=largest,
        log_sum=log_sum,
        delta=delta,
        p_log2=p_log2,
        q=q,
        total_q=total_q,
        zeta=zeta,
        scale=float(row.scale),
        temperature=temperature,
        softcap=softcap,
        weight=float(np.abs(q) @ row.counts) + (2 * abs(zeta) * (1 + abs(lse)) if zeta else 0.0),
        inner=inner,
    )


@np.errstate(all="ignore")
def closed_form_error(estimates: Estimates) -> Float64:
    """A bound on |`gradient` − the exact gradient| for each pair, (m,); inf where there is none to be had.

    Errors are counted in u = 2^-53, to first order: what that leaves out is below 2^-16 of it as long as every relative
    error is below 2^-20, and nothing is claimed where one is not. docs/numerics.md has the outline.
    """
    e, row = estimates, estimates.row
    unknown = np.full(len(e.z), math.inf)
    narrow, wide = min(e.temperature, e.softcap), max(e.temperature, e.softcap if row.softcap is not None else 1.0)
    if not (narrow > 2.0**-500 and wide < 2.0**500 and (not row.scale or e.scale > 2.0**-900)):
        return unknown
    z_error, delta_error, slope_error = _logit_errors(e)
    others, log_others, others_error = _others_error(e, delta_error)
    log_sum_error = _FUNCTION * e.log_sum + others / (1 + others) * (others_error + _FUNCTION) + 2.0**-500

    # p = exp2(−(δ + ln S)/ln 2): an absolute error of its logarithm is a relative one of p
    log_p_error = delta_error + log_sum_error + 3 * _U * (e.delta + e.log_sum)
    p = e.p

    # p·(W − q), where W and q are rounded before their difference is
    factor = np.abs(e.total_q - e.q)
    factor_error = _U * (abs(e.total_q) + np.abs(e.q) + factor) + _TINY
    first, first_error = _product(e.p_log2, factor, log_p_error)
    first_error += _times_p(e.p_log2, factor_error)

    # q·(1 − p), which for the largest is that of the others' share
    largest = e.z == e.largest
    log_rest = np.where(largest, log_others - e.log_sum, np.log1p(-p))
    # one that counts as the largest and is not has more beside it than the others' share
    placed = np.where((others < 0.5) & (e.delta == 0), 0.0, (e.delta + delta_error) / others)
    rest_error = np.where(
        largest,
        others_error + log_sum_error + 3 * _U * e.log_sum + placed,
        np.where(p < 0.75, p * (log_p_error + _FUNCTION) / (1 - p) + _U + _FUNCTION * np.abs(log_rest), math.inf),
    )
    rest_error += np.where(np.isfinite(log_rest), _U * np.abs(log_rest), 0.0)
    rest_log2 = log_rest / math.log(2)
    second, second_error = _product(rest_log2, np.abs(e.q), rest_error)
    second_error += np.where(e.q == 0, 0.0, _times_p(rest_log2, _U * np.abs(e.q) + _TINY))

    inner_error = first_error + second_error + _U * (first + second)
    lse = abs(e.largest + e.log_sum)
    if e.zeta:
        lse_error = float(z_error.max()) + log_sum_error + _U * lse
        inner_error += 2 * abs(e.zeta) * e.times_p(lse_error)
        inner_error += 2 * abs(e.zeta) * e.times_p(lse) * (log_p_error + _FUNCTION + 3 * _U) + _U * np.abs(e.inner)
    # what float64 holds as subnormal numbers, or not at all
    inner_error += 16 * _TINY * (1 + abs(e.zeta) * lse)

    outer = e.scale * e.slope
    error = outer * inner_error + np.abs(e.gradient) * (slope_error + 3 * _U)
    error += _TINY * (2 + np.abs(e.inner) + inner_error)
    if row.softcap is not None:
        # w = exp(−2|l/c|) may be no normal number
        flat = np.abs(row.logits) > 350 * e.softcap
        error += np.where(flat, e.scale / e.temperature * 2.0**-1000 * (np.abs(e.inner) + inner_error), 0.0)
    known = (np.maximum(log_p_error, rest_error * (e.q != 0)) < 2.0**-20) & (slope_error < 2.0**-20)
    known &= np.isfinite(e.gradient) & np.isfinite(error)
    return np.where(known, error * (1 + 2.0**-16), unknown)


def _logit_errors(e: Estimates) -> tuple[Float64, Float64, Float64 | float]:
    """Of z and delta, absolute, and of the slope, relative."""
    # T in float64, and the division by it
    cooled = 0.0 if e.row.temperature == 1 else 2 * _U
    size = np.where(np.isfinite(e.z), np.abs(e.z), 0.0)
    slope_error: Float64 | float = cooled
    if e.row.softcap is None:
        z_error, apart_error = cooled * size, cooled * e.delta
    else:
        # l/c costs 2u, which tanh does not magnify, and its product with c another 2u
        z_error = (4 * _U + _FUNCTION + cooled) * size
        apart_error = z_error + z_error.max()
        # the 2u of l/c become 4u|l/c| of w = exp(−2|l/c|); 4w/(1 + w)² grows no faster than w
        ratio = np.where(np.isfinite(e.row.logits), np.abs(e.row.logits / e.softcap), 0.0)
        slope_error = 4 * _U * ratio + _FUNCTION + 4 * _U + cooled
    # the difference rounds once; halves of subnormal numbers lose less than the last term
    return z_error, apart_error + _U * e.delta + 2.0**-500, slope_error


def _others_error(e: Estimates, delta_error: Float64) -> tuple[float, float, float]:
    """S − 1, its logarithm, and the error of the logarithm, of which each term's own counts by its share."""
    top = int(np.argmax(e.z))
    counts = e.row.counts.copy()
    counts[top] -= 1
    present = counts > 0
    if not present.any():
        return 0.0, -math.inf, 0.0
    nearest = float(e.delta[present].min())
    beyond = np.where(present, e.delta - nearest, 0.0)
    terms = np.exp(-beyond) * counts
    total = float(terms.sum())
    log_others = math.log(total) - nearest
    others = math.exp(log_others)
    # the sum is pairwise, in blocks of 128 of eight lanes each
    error = float((terms * (delta_error + _U * beyond)).sum()) / total + _FUNCTION + _U * (25 + math.log2(len(terms)))
    if others >= 0.5 or e.delta[top]:
        # the class left out as the largest is one of several, and may be another one
        error += float(e.delta[top] + delta_error[top]) / others
    return others, log_others, error + _FUNCTION * abs(math.log(total)) + 4 * _U * abs(log_others)


def _product(log2: Float64, factor: Float64, log_error: Float64) -> tuple[Float64, Float64]:
    """2^`log2`·factor as `_times_p` makes it, and its error where `log_error` is that of ln 2^`log2`."""
    product = _times_p(log2, factor)
    factor_log2 = np.log2(factor)
    rounding = math.log(2) * (_FUNCTION * np.abs(factor_log2) + _U * np.abs(log2 + factor_log2)) + _FUNCTION
    return product, np.where(product == 0, 0.0, product * (log_error + rounding))


def _others_log2(delta: Float64, counts: Int64, top: int) -> float:
    """log2 of S − 1: the terms of all classes but one of the largest, relative to the largest of their own."""
    counts = counts.copy()
    counts[top] -= 1
    present = counts > 0
    if not present.any():
        return -math.inf
    nearest = float(delta[present].min())
    total = float((np.exp(nearest - delta[present]) * counts[present]).sum())
    return (math.log(total) - nearest) / math.log(2)


def _times_p(p_log2: Float64, factors: Float64 | float) -> Float64:
    return np.asarray(np.exp2(p_log2 + np.log2(factors)))


def in_units(values: Array, unit_log2: Int64) -> Float64:
    """Float64 `values` in units of 2^`unit_log2`."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(np.asarray(values, np.float64), -unit_log2.astype(np.int32))


def ulp_log2_of(fmt: Format, values: Float64) -> Int64:
    """log2 of the ulp of float64 estimates in a gradient format; overflowing ones count as the largest finite value."""
    return fmt.ulp_log2(np.where(np.isnan(values), 0.0, np.minimum(np.abs(values), fmt.max)))
