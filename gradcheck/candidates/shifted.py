"""exp(l − max) / Σ exp(l − max) − y: the usual stable form.

Loses the true class to cancellation once its probability rounds to 1.
"""

from __future__ import annotations

import numpy as np

from gradcheck.candidates import _numpy
from gradcheck.formats import Array, Format
from gradcheck.problem import Problem


def softmax(logits: Array, fmt: Format) -> Array:
    """Softmax of each row, (N, k), element by element in `fmt`."""
    exps = np.exp(_numpy.shift(logits))
    return _numpy.divide(exps, _numpy.row_sum(exps, fmt), fmt)


def gradient(problem: Problem) -> Array:
    """The gradient, (N, k), in the problem's format."""
    return _numpy.gradient(problem, softmax)
