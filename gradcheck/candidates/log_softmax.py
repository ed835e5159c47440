"""exp((l − max) − log Σ exp(l − max)) − y: what frameworks do that keep log-probabilities."""

from __future__ import annotations

import numpy as np

from gradcheck import closed_form
from gradcheck.formats import Array, Format
from gradcheck.problem import Problem


def _softmax(logits: Array, fmt: Format) -> Array:
    shifted = closed_form.shift(logits)
    log_sum = np.log(closed_form.row_sum(np.exp(shifted), fmt)).astype(fmt.dtype)
    return np.asarray(np.exp(shifted - log_sum))


def gradient(problem: Problem) -> Array:
    """The gradient, (N, k), in the problem's format."""
    return closed_form.gradient(problem, _softmax)
