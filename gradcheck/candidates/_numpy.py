"""What the NumPy candidates share: arithmetic element by element in one format, sums in its accumulator.

Summing in a half format itself is one of the mistakes that gradcheck looks for, so no candidate here does it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradcheck.formats import Array, Format, named
from gradcheck.problem import Problem

Softmax = Callable[[Array, Format], Array]


def gradient(problem: Problem, softmax: Softmax, fmt: Format | None = None) -> Array:
    """s·(W·p − q), (N, k), computed in `fmt` (the problem's own, unless given)."""
    fmt = fmt or problem.format
    probabilities = softmax(problem.logits.astype(fmt.dtype), fmt)
    return finish(problem, minus_labels(problem, probabilities))


def row_sum(values: Array, fmt: Format) -> Array:
    """Σ over classes, (N, 1), in the accumulator's dtype."""
    return np.asarray(np.sum(values, axis=1, keepdims=True, dtype=named(fmt.accumulator).dtype))


def divide(values: Array, total: Array, fmt: Format) -> Array:
    """values/total, rounded once to `fmt`; `total` may be too large for a half format."""
    return np.asarray(values / total).astype(fmt.dtype)


def shift(logits: Array) -> Array:
    """logits − max of the row."""
    return np.asarray(logits - logits.max(axis=1, keepdims=True))


def minus_labels(problem: Problem, probabilities: Array) -> Array:
    """W·p − q in the dtype of `probabilities`, which is overwritten for hard labels."""
    hard = problem.terms.hard
    if hard is not None:
        probabilities[np.arange(problem.rows), hard] -= probabilities.dtype.type(1)
        return probabilities
    labels = problem.labels.astype(probabilities.dtype)
    return np.asarray(label_total(problem).astype(probabilities.dtype) * probabilities - labels)


def label_total(problem: Problem) -> Array:
    """W of each row of soft labels, (N, 1), in float64."""
    return np.asarray(np.sum(problem.labels, axis=1, keepdims=True, dtype=np.float64))


def finish(problem: Problem, inner: Array) -> Array:
    """Scales by s, and sets the rows that are ignored to 0."""
    terms = problem.terms
    if terms.scale != 1:
        wide = named(problem.format.accumulator).dtype if inner.itemsize < 4 else inner.dtype
        # a count of rows divides with one rounding; its reciprocal would multiply with two
        inner = (inner.astype(wide) / wide.type(float(1 / terms.scale))).astype(inner.dtype)
    inner[~terms.kept] = 0
    return inner
