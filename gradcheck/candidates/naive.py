"""exp(l) / Σ exp(l) − y, without a shift: overflows and underflows where exp does.

The formula of the textbooks, kept to show where it breaks.
"""

from __future__ import annotations

import numpy as np

from gradcheck import closed_form
from gradcheck.formats import Array, Format
from gradcheck.problem import Problem


def _softmax(logits: Array, fmt: Format) -> Array:
    exps = np.exp(logits)
    return closed_form.divide(exps, closed_form.row_sum(exps, fmt), fmt)


def gradient(problem: Problem) -> Array:
    """The gradient, (N, k), in the problem's format."""
    return closed_form.gradient(problem, _softmax)
