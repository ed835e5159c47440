"""Soft labels, among them those that softmax meets exactly.

    ∂L/∂l_i = (Σ_j y_j)·p_i − y_i

p − y is the derivative only where the labels sum to 1: TensorFlow's op returns it anyway, and so do hand-written
kernels. Where softmax meets the labels, the gradient is what is left of the rounding, or exactly 0.
"""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, Labels, Logits, fixed
from gradcheck.formats import Format


def _own_softmax(fmt: Format) -> tuple[Logits, Labels]:
    logits = np.array([[0.0, 1.0, -2.0, 0.5, 3.0]])
    exps = np.exp(logits)
    return logits, (exps / exps.sum()).tolist()


CASES = (
    Case(
        name="soft-plain",
        reason="Soft labels that sum to 1 but for their rounding.",
        make=fixed([[1.0, 2.0, 3.0], [0.0, -4.0, 2.5]], [[0.1, 0.2, 0.7], [0.25, 0.25, 0.5]]),
    ),
    Case(
        name="soft-uniform-exact",
        reason="Uniform labels on equal logits: the gradient is exactly 0, and the reference must be sure of it.",
        make=fixed([[2.0, 2.0, 2.0, 2.0]], [[0.25, 0.25, 0.25, 0.25]]),
    ),
    Case(
        name="soft-uniform-rounded",
        reason="Labels of 1/7, rounded, on seven equal logits: the gradient is exactly 0 all the same.",
        make=fixed([[0.5] * 7], [[1 / 7] * 7]),
    ),
    Case(
        name="soft-softmax-rounded",
        reason="Labels that are the softmax itself, rounded: the gradient is what is left of the rounding.",
        make=_own_softmax,
    ),
    Case(
        name="soft-off-simplex",
        reason="Labels that sum to 1.5: the derivative is 1.5*p - y, not p - y.",
        make=fixed([[1.0, 2.0, 3.0]], [[0.5, 0.5, 0.5]]),
    ),
)
