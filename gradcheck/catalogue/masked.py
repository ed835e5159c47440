"""Logits of −inf, or of the format's lowest number: masked classes have probability 0 and a gradient of −q.

    p_i = exp(−inf − max l)/S = 0,    ∂L/∂l_i = −q_i

A mask of −inf makes NaN wherever two of them meet: −inf − (−inf) in a block that holds nothing else, 0·(−inf) in a
loss that multiplies. A mask of the lowest finite number is one only beside greater logits, and becomes −inf where it is
added twice.
"""

from __future__ import annotations

import math

import numpy as np

from gradcheck.catalogue import SOFT, Case, fixed

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
        reason="A masked class with soft label 0: 0 times -inf is NaN in a careless loss.",
        make=fixed([[_MASK, 0.0, 1.0]], [[0.0, 0.25, 0.75]]),
        tags=(SOFT,),
        sources=("google-deepmind/optax#896",),
    ),
    Case(
        name="masked-first-block",
        reason="A whole block of 128 masked classes before the others: a running maximum that is still -inf.",
        make=fixed(np.concatenate([np.full(128, _MASK), np.linspace(-3.0, 3.0, 128)])[None, :], [200]),
    ),
    Case(
        name="masked-finfo-min",
        reason="Masks of the format's lowest finite number beside ordinary logits: as good as -inf.",
        make=lambda fmt: ([[-fmt.max, 0.0, 1.0, -fmt.max], [2.0, -fmt.max, 0.5, 0.25]], [2, 0]),
    ),
    Case(
        name="masked-finfo-min-all",
        reason="Nothing but masks of the lowest finite number: 1/k each, but NaN where adding them twice makes -inf.",
        make=lambda fmt: ([[-fmt.max] * 4, [1.0, -fmt.max, 0.0, -fmt.max]], [1, 0]),
    ),
    Case(
        name="masked-by-option",
        reason="Classes that are taken out by a mask, the largest logit among them: they are no part of S.",
        make=fixed([[9.0, 0.0, 1.0, -2.0], [9.0, 2.0, -1.0, 0.5]], [2, 1]),
        loss=("mask=0,1,1,1",),
    ),
)
