"""A softcap: logits go through c·tanh(l/c), and the gradient through its slope.

    z = c·tanh(l/c),    ∂L/∂l_i = sech²(l_i/c)·(p_i − q_i),    p = softmax(z)

A slope that is forgotten, z·tanh(z/c) in its place, or masked lanes that the cap lifts from −inf to −c: each is a loss
of its own. 1 − tanh² for sech² loses all digits beyond the cap; `stable` forgives that.
"""

from __future__ import annotations

import math

import numpy as np

from gradcheck.catalogue import Case, fixed

CASES = (
    Case(
        name="softcap-plain",
        reason="A cap of 20 on logits up to 25: the slope falls to a third.",
        make=fixed([[25.0, 20.0, -3.0, 0.5], [-20.0, 1.0, 2.0, 24.0]], [1, 3]),
        loss=("softcap=20",),
        sources=("unslothai/unsloth-zoo#593",),
    ),
    Case(
        name="softcap-beyond",
        reason="Logits of ten times the cap: a slope of 8e-9, which 1 - tanh² rounds to 0.",
        make=fixed([[300.0, 299.0, -300.0, 0.0]], [1]),
        loss=("softcap=30",),
    ),
    Case(
        name="softcap-padding",
        reason="Four classes near -100 beside 124 lanes of padding at -inf: capped to -30, the padding would win.",
        make=fixed(np.concatenate([[-104.0, -96.0, -100.0, -99.0], np.full(124, -math.inf)])[None, :], [2]),
        loss=("softcap=30",),
        sources=("unslothai/unsloth#10616",),
    ),
)
