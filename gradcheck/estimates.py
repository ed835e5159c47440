"""What float64 knows of a row: enough to choose a step, a precision, a tolerance, and how far its gradient is off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.problem import Row, Terms

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

    @property
    def classes(self) -> int:
        """k."""
        return self.row.classes

    @property
    def capped(self) -> bool:
        """Whether the logits go through a softcap."""
        return self.row.softcap is not None

    @property
    def moved(self) -> bool:
        """Whether z is another than the logits."""
        return self.capped or self.row.temperature != 1

    @property
    def reach(self) -> float:
        """The largest finite |z|."""
        return float(np.abs(self.z[np.isfinite(self.z)]).max())

    @property
    def steepest(self) -> float:
        """The largest f'."""
        return float(self.slope.max())

    @property
    def label_roundings(self) -> float:
        """R·n: n labels carry weight, and all but the largest of them carry R = Σ|q| − max|q|."""
        size = np.abs(self.q)
        rest = float(size @ self.row.counts) - float(size.max())
        return rest * int(self.row.counts[self.q != 0].sum())

    def times_p(self, factor: float) -> Float64:
        """factor·p, even where p underflows and the product does not."""
        return _times_p(self.p_log2, factor)

    def p_in_units(self, unit_log2: Int64) -> Float64:
        """p / 2^`unit_log2` even where p itself underflows."""
        whole = np.floor(self.p_log2)
        return np.ldexp(np.exp2(self.p_log2 - whole), (whole - unit_log2).astype(np.int32))


@dataclass(frozen=True, kw_only=True, eq=False)
class RowsEstimates:
    """The same of many rows, one value for each class, (N, k), and one for each row, (N, 1).

    Attributes:
        error: how far `gradient` is off at most.
        sign: that of s, which is part of `gradient` alone.
        steepest, reach, label_roundings: see `Estimates`.
    """

    classes: int
    capped: bool
    moved: bool
    temperature: float
    zeta: float
    total_q: Float64
    z: Float64
    slope: Float64
    delta: Float64
    p: Float64
    q: Float64
    inner: Float64
    gradient: Float64
    error: Float64
    largest: Float64
    log_sum: Float64
    scale: Float64
    sign: Float64
    weight: Float64
    reach: Float64
    steepest: Float64
    label_roundings: Float64

    @property
    def loss(self) -> Float64:
        """Of each row, (N, 1)."""
        with np.errstate(all="ignore"):
            apart = np.where(self.q != 0, self.q * (self.largest - self.z), 0.0).sum(axis=1, keepdims=True)
            square = self.zeta * (self.largest + self.log_sum) ** 2 if self.zeta else 0.0
            return np.asarray(self.sign * self.scale * (self.total_q * self.log_sum + apart + square))

    def p_in_units(self, unit_log2: Int64) -> Float64:
        """p / 2^`unit_log2`; 0 where p itself underflows."""
        return in_units(self.p, unit_log2)


Known = Estimates | RowsEstimates
"""What float64 knows: of a row, or of many."""


@np.errstate(all="ignore")
def estimate_rows(terms: Terms, kept: NDArray[np.bool_]) -> RowsEstimates:
    """The estimates for all rows at once, with a bound on the error of the gradient.

    It is assumed that exp, log1p and tanh of float64 are good to 4 ulp. With ε = 2^-52: a difference z_max − z is good
    to 3ε of itself, so exp of it to (3δ + 4)ε; a sum of k such terms, added in pairs, to (3·ln k + 36 + log2 k)ε, for
    Σ pδ <= ln k; and p to the two together. A softcap adds its own error of z, 16ε·max|z|, and that of sech². What
    follows is a few roundings of terms of size A·p and |q|; in a row where one class carries all label weight, 1 − p of
    that class is the sum of the others, and nothing cancels.

    Args:
        kept: rows that have a gradient; what is said of the others is of no use, (N,).
    """
    rows, classes = terms.logits.shape
    # sums along rows are added in pairs only where a row lies in one piece
    logits = terms.logits.astype(np.float64, order="C")
    logits[~kept] = 0.0
    temperature, zeta = float(terms.temperature), float(terms.zeta)
    each = np.arange(rows)
    capped = terms.softcap is not None
    widest = np.zeros((rows, 1))
    slope, steepest = np.full((1, 1), 1 / temperature), np.full((1, 1), 1 / temperature)
    if terms.softcap is None:
        z = logits if temperature == 1 else logits / temperature
        top = logits.argmax(axis=1)
        delta = logits[each, top][:, None] - logits
        if temperature != 1:
            delta /= temperature
        if terms.format.wider is None:
            # halves, where a difference overflows
            apart = (logits[each, top][:, None] / 2 - logits / 2) / temperature * 2
            delta = np.where(np.isfinite(delta), delta, apart)
    else:
        softcap = float(terms.softcap)
        ratio = logits / softcap
        z = np.where(logits == -np.inf, -np.inf, softcap * np.tanh(ratio) / temperature)
        falling = np.exp(-2 * np.abs(ratio))
        slope = 4 * falling / (1 + falling) ** 2 / temperature
        steepest = slope.max(axis=1, keepdims=True)
        top = z.argmax(axis=1)
        delta = z[each, top][:, None] - z
        widest = np.minimum(np.where(np.isfinite(ratio), np.abs(ratio), 0.0).max(axis=1, keepdims=True), 400.0)
    np.minimum(delta, -_NOTHING_LOG2, out=delta)
    p = np.exp(-delta)
    p[each, top] = 0.0
    others = p.sum(axis=1, keepdims=True)
    p[each, top] = 1.0
    log_sum = np.log1p(others)
    p /= 1 + others
    largest = z[each, top][:, None]
    reach = (
        np.abs(np.where(np.isfinite(z), z, 0.0)).max(axis=1, keepdims=True)
        if terms.softcap or temperature != 1
        else np.abs(largest)
    )
    scale, sign = scales(terms)
    q, total_q, weight, label_roundings = _labels(terms)
    if terms.plain_labels:
        inner = p * total_q
        at = (each, terms.hard)
        own = p[at]
        rest = np.where(top == terms.hard, others[:, 0] / (1 + others[:, 0]), 1 - own)
        inner[at] = -total_q[:, 0] * rest
    else:
        rest = 1 - p
        rest[each, top] = (others / (1 + others))[:, 0]
        inner = p * (total_q - q) - q * rest
    if zeta:
        lse = largest + log_sum
        inner += 2 * zeta * lse * p
        weight = weight + 2 * abs(zeta) * (1 + np.abs(lse))
    factor = scale * slope
    # most often both are 1, and a pass over all components is saved
    gradient = inner if (factor * sign == 1).all() else factor * sign * inner
    epsilon = 2.0**-52
    common = 12 * math.log(max(classes, 2)) + 64 + (16 * reach if capped else 0.0)
    error = delta * 3
    error += common
    error *= p
    error *= 2 * weight * epsilon
    if terms.plain_labels and not zeta:
        # what the others sum to is about exp of the distance of the nearest of them
        near = np.minimum(np.maximum(-np.log(others), 0.0), -_NOTHING_LOG2)
        error[at] = np.abs(inner[at]) * ((common + 3 * near)[:, 0] + 3 * delta[at]) * epsilon
    else:
        error += 16 * epsilon * np.abs(q)
    if (factor != 1).any():
        error *= factor
    if capped:
        # the rounding of l/c, which sech² magnifies
        error += np.abs(gradient) * ((4 * widest + 8) * epsilon)
    # what underflows
    error += scale * np.maximum(weight, 1.0) / temperature * 2.0**-1000 + 2.0**-1060
    # of large relative errors more than the first order counts, and the stable bound is no better than them
    if not np.all(common * epsilon < 2.0**-35) or not np.isfinite(gradient.sum()):
        error = np.where((common * epsilon < 2.0**-35) & np.isfinite(gradient), error, np.inf)
    return RowsEstimates(
        classes=classes,
        capped=capped,
        moved=capped or terms.temperature != 1,
        temperature=temperature,
        zeta=zeta,
        total_q=total_q,
        z=z,
        slope=slope,
        delta=delta,
        p=p,
        q=q,
        inner=inner,
        gradient=gradient,
        error=error,
        largest=largest,
        log_sum=log_sum,
        scale=scale,
        sign=sign,
        weight=weight,
        reach=reach,
        steepest=steepest,
        label_roundings=label_roundings,
    )


def scales(terms: Terms) -> tuple[Float64, Float64]:
    """|s| and its sign, of every row, (N, 1), or of all, (1, 1)."""
    same = all(factor is terms.upstream[0] for factor in terms.upstream)
    found = np.array([float(terms.scale(n)) for n in ([0] if same else range(terms.rows))])[:, None]
    return np.abs(found), np.where(found < 0, -1.0, 1.0)


def _labels(terms: Terms) -> tuple[Float64, Float64, Float64, Float64]:
    """q, (N, k), and of each row W, Σ|q| and R·n, (N, 1)."""
    if terms.plain_labels:
        q, each = np.zeros(terms.logits.shape), np.arange(terms.rows)
        own = np.ones((terms.rows, 1)) if terms.weight is None else terms.weight[terms.hard].reshape(-1, 1)
        q[each, terms.hard] = own[:, 0]
        return q, own, own, np.zeros_like(own)
    q = terms.label_weights()
    size = np.abs(q)
    total = size.sum(axis=1, keepdims=True)
    rest = np.maximum(total - size.max(axis=1, keepdims=True), 0.0)
    return q, q.sum(axis=1, keepdims=True), total, rest * np.count_nonzero(size, axis=1)[:, None]


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
    if unit_log2.size == 1 and not unit_log2.any():
        return np.asarray(values, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(np.asarray(values, np.float64), -unit_log2.astype(np.int32))


def ulp_log2_of(fmt: Format, values: Float64) -> Int64:
    """log2 of the ulp of float64 estimates in a gradient format; overflowing ones count as the largest finite value."""
    return fmt.ulp_log2(np.where(np.isnan(values), 0.0, np.minimum(np.abs(values), fmt.max)))
