"""Equal logits: every probability is 1/k, from the single class to more classes than a half format can count.

    ∂L/∂l_i = 1/k − y_i

A sum of k ones stops growing at 2^p in a format of p bits (256 in bfloat16, 2,048 in float16), and float16 overflows
at 65,504: a softmax that sums in the half format answers 0 or NaN, or probabilities many times too large.
"""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, fixed

CASES = (
    Case(
        name="equal-1",
        reason="One class: p is 1, and the gradient is exactly 0.",
        make=fixed([[0.0], [3.5], [-100.0]], [0, 0, 0]),
    ),
    Case(name="equal-2", reason="Two equal logits: ±1/2.", make=fixed([[0.0, 0.0], [7.0, 7.0]], [0, 1])),
    Case(
        name="equal-10",
        reason="Ten equal logits: 1/10 is no binary fraction.",
        make=fixed(np.full((1, 10), 1.5), [4]),
    ),
    Case(
        name="equal-70000",
        reason="70,000 equal logits: a sum in float16 stops at 2,048 or overflows, one in bfloat16 stops at 256.",
        make=fixed(np.zeros((1, 70_000)), [12_345]),
    ),
    Case(
        name="equal-65536",
        reason="2^16 equal logits: the count of classes is no number of float16, and its logarithm becomes inf.",
        make=fixed(np.full((1, 2**16), 0.5), [1]),
        sources=("jax-ml/jax#40409",),
    ),
)
