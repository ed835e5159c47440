"""exp(l − lse) − y, without a division: loses digits in proportion to the size of the logits.

Rounding lse errs by u·|lse|, and exp makes a relative error of it: the warning of Blanchard, Higham & Higham,
IMA J. Numer. Anal. 41(4), 2021.
"""

from __future__ import annotations

import numpy as np

from gradcheck import closed_form
from gradcheck.formats import Array, Format
from gradcheck.problem import Problem


def _softmax(logits: Array, fmt: Format) -> Array:
    largest = logits.max(axis=1, keepdims=True)
    log_sum = np.log(closed_form.row_sum(np.exp(logits - largest), fmt)).astype(fmt.dtype)
    return np.asarray(np.exp(logits - (largest + log_sum)))


def gradient(problem: Problem) -> Array:
    """The gradient, (N, k), in the problem's format."""
    return closed_form.gradient(problem, _softmax)
