"""Logits of −inf: masked classes have probability 0 and a gradient of −q."""

from __future__ import annotations

import math

from gradcheck.catalogue import Case, fixed

_MASK = -math.inf

CASES = (
    Case(
        name="masked-some",
        reason="Masked classes beside ordinary ones: gradient 0 there.",
        make=fixed([[_MASK, 0.0, 1.0, _MASK], [2.0, _MASK, 0.5, 0.25]], [2, 0]),
    ),
    Case(
        name="masked-all-but-one",
        reason="Every class but the true one is masked: gradient 0 everywhere.",
        make=fixed([[_MASK, 5.0, _MASK]], [1]),
    ),
    Case(
        name="masked-true-class",
        reason="The true class is masked: the loss is +inf, the gradient -1 there and p elsewhere.",
        make=fixed([[_MASK, 0.0, 1.0]], [0]),
    ),
    Case(
        name="masked-soft-label-0",
        reason="A masked class with soft label 0: 0 times -inf is NaN in a careless loss (optax #896).",
        make=fixed([[_MASK, 0.0, 1.0]], [[0.0, 0.25, 0.75]]),
    ),
)
