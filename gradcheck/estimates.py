"""What float64 knows of a row: enough to choose a step, a precision or a tolerance, never for a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.problem import Row

# Where a probability is below 2^-5000, no format, and no product with another finite factor, sees more than 0.
_NOTHING_LOG2 = -5000.0


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
