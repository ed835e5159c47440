"""The closed form of the gradient in NumPy: arithmetic element by element in one format, sums in its accumulator.

Built-in candidates and planted mistakes are made of them. Summing in a half format itself is one of the mistakes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradcheck.formats import Array, Format, named
from gradcheck.problem import Problem

Softmax = Callable[[Array, Format], Array]
Gradient = Callable[[Problem], Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What the gradient s·f'·[(W + 2ζ·lse)·p − q] is made from, computed in one format.

    Attributes:
        z: transformed logits, (N, k); slope: f', (N, k), or a number.
        weight: W + 2ζ·lse, (N, 1), in the format's accumulator, as the labels are.
        labels: q, (N, k); or (N, 1) where a single class carries it, `true`, (N,), which is None otherwise.
    """

    z: Array
    slope: Array
    weight: Array
    labels: Array
    true: Array | None


def gradient(problem: Problem, softmax: Softmax, fmt: Format | None = None) -> Array:
    """s·f'·[(W + 2ζ·lse)·p − q], (N, k), computed in `fmt` (the problem's own, unless given)."""
    fmt = fmt or problem.format
    return assembled(problem, parts(problem, fmt), softmax, fmt)


def assembled(problem: Problem, found: Parts, softmax: Softmax, fmt: Format) -> Array:
    """The gradient from its parts, (N, k), in `fmt`."""
    return finish(problem, found, minus_labels(found, softmax(found.z, fmt)), fmt)


def parts(problem: Problem, fmt: Format, *, exact_slope: bool = False) -> Parts:
    """What the gradient is made from.

    Args:
        exact_slope: sech² for the slope of a softcap, not 1 − tanh² as usual, which loses it near the cap.
    """
    terms, wide = problem.terms, accumulator(fmt)
    logits = terms.logits.astype(fmt.dtype)
    z, slope = logits, np.ones((), fmt.dtype)
    if terms.softcap is not None:
        cap = fmt.dtype.type(float(terms.softcap))
        ratio = logits / cap
        tanh = np.tanh(ratio)
        # a mask stays a mask under the cap
        z = np.where(np.isneginf(logits), logits, cap * tanh)
        slope = np.cosh(ratio) ** fmt.dtype.type(-2) if exact_slope else 1 - tanh * tanh
    if terms.temperature != 1:
        temperature = fmt.dtype.type(float(terms.temperature))
        z, slope = z / temperature, slope / temperature
    true, labels = terms.hard, np.ones((problem.rows, 1))
    if terms.plain_labels:
        if terms.weight is not None:
            labels = terms.weight[terms.hard][:, None]
        weight = labels
    else:
        true, labels = None, terms.label_weights()
        weight = labels.sum(axis=1, keepdims=True)
    weight = weight.astype(wide)
    if terms.zeta:
        largest = z.max(axis=1, keepdims=True).astype(wide)
        lse = largest + np.log(np.exp(z.astype(wide) - largest).sum(axis=1, keepdims=True))
        weight = weight + wide.type(float(2 * terms.zeta)) * lse
    return Parts(z=z, slope=np.asarray(slope), weight=weight, labels=labels.astype(wide), true=true)


def accumulator(fmt: Format) -> np.dtype[np.generic]:
    """The dtype in which sums over classes are made."""
    return named(fmt.accumulator).dtype


def row_sum(values: Array, fmt: Format) -> Array:
    """Σ over classes, (N, 1), in the accumulator's dtype."""
    return np.asarray(np.sum(values, axis=1, keepdims=True, dtype=accumulator(fmt)))


def divide(values: Array, total: Array, fmt: Format) -> Array:
    """values/total, rounded once to `fmt`; `total` may be too large for a half format."""
    return np.asarray(values / total).astype(fmt.dtype)


def shift(logits: Array) -> Array:
    """logits − max of the row."""
    return np.asarray(logits - logits.max(axis=1, keepdims=True))


def minus_labels(found: Parts, probabilities: Array) -> Array:
    """(W + 2ζ·lse)·p − q, in the accumulator's dtype."""
    inner = probabilities.astype(found.weight.dtype) * found.weight
    if found.true is None:
        return np.asarray(inner - found.labels)
    inner[np.arange(len(inner)), found.true] -= found.labels[:, 0]
    return inner


def finish(problem: Problem, found: Parts, inner: Array, fmt: Format) -> Array:
    """Multiplies by f' and s, and rounds to `fmt`; rows that are ignored and classes that are masked are 0."""
    terms, wide = problem.terms, inner.dtype
    if found.slope.ndim or found.slope != 1:
        inner = inner * found.slope.astype(wide)
    if any(factor != 1 for factor in terms.upstream):
        # one factor: what the one makes subnormal, the other might make ordinary again
        scale = [float(terms.scale(n)) for n in range(terms.rows)]
        inner = inner * np.array(scale)[:, None].astype(wide)
    elif terms.divisor is not None:
        # a count of rows divides with one rounding; its reciprocal would multiply with two
        inner = inner / wide.type(float(terms.divisor) if terms.divisor else math.inf)
    inner = inner.astype(fmt.dtype)
    inner[~terms.kept] = 0
    return inner if terms.mask is None else np.where(terms.mask, inner, inner.dtype.type(0))
