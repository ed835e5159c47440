"""`shifted`, but the true class is minus the sum of the others: no cancellation, at no extra cost.

p_t − 1 = −Σ_{j≠t} p_j. The sum keeps what p_t − 1 loses once p_t rounds to 1.
"""

from __future__ import annotations

import numpy as np

from gradcheck import closed_form
from gradcheck.formats import Array
from gradcheck.problem import Problem

_FAR = 1e4
"""A gap whose exp is 0 in every format; stands in for the infinite one of a single class."""


def gradient(problem: Problem) -> Array:
    """The gradient, (N, k), in the problem's format."""
    fmt = problem.format
    wide = closed_form.accumulator(fmt)
    found = closed_form.parts(problem, fmt, exact_slope=True)
    shifted = closed_form.shift(found.z)
    exps = np.exp(shifted)
    rows = np.arange(problem.rows)
    # In the accumulator's range: many classes that a half format flushes one by one still count together
    others = np.exp(shifted.astype(wide))
    total = np.asarray(others.sum(axis=1, keepdims=True))
    if found.true is not None:
        true, label = found.true, found.labels
    else:
        true = np.argmax(found.labels, axis=1)
        label = found.labels[rows, true][:, None]
    probability = others[rows, true][:, None] / total
    # The others relative to their own maximum: where each of them is subnormal, their sum need not be
    apart = shifted.astype(wide)
    apart[rows, true] = -np.inf
    second = np.maximum(apart.max(axis=1, keepdims=True), -_FAR)
    rest = np.exp(apart - second).sum(axis=1, keepdims=True) / total * np.exp(second / 2) * np.exp(second / 2)
    inner = closed_form.minus_labels(found, closed_form.divide(exps, total, fmt))
    # W·p − q = (W − q)·p − q·(1 − p), where 1 − p is the sum of the others
    inner[rows, true] = ((found.weight - label) * probability - label * rest)[:, 0]
    return closed_form.finish(problem, found, inner, fmt)
