"""exp(l − max) / Σ exp(l − max) − y: the usual stable form.

Loses the true class to cancellation once its probability rounds to 1.
"""

from __future__ import annotations

import numpy as np

from gradcheck import closed_form
from gradcheck.formats import Array, Format
from gradcheck.problem import Problem


def softmax(logits: Array, fmt: Format) -> Array:
    """Softmax of each row, (N, k), element by element in `fmt`."""
    exps = np.exp(closed_form.shift(logits))
    return closed_form.divide(exps, closed_form.row_sum(exps, fmt), fmt)


def gradient(problem: Problem) -> Array:
    """The gradient, (N, k), in the problem's format."""
    return closed_form.gradient(problem, softmax)
