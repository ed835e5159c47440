"""The true class wins by a gap: its gradient p − 1 is lost to cancellation once p rounds to 1.

    p_t − 1 = −Σ_{j≠t} p_j

The left side is 0 from a gap of 17 in float32 and 37 in float64 on; the right side keeps every digit down to the
smallest number. `stable` forgives the left side, as every framework computes it; `ulp:4` does not. What nothing
forgives is to lose the other classes, too: all zeros agree with the numbers to 1e-8 at a gap of 20, and train nothing.
"""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, Labels, Logits, fixed
from gradcheck.formats import Format

_GAPS = ("5", "8", "10", "17", "20", "40", "100", "800", "1e4", "1e10", "1e38", "1e300")


def _case(text: str) -> Case:
    gap = float(text)
    return Case(
        name=f"saturated-gap-{text}",
        reason=f"The true class leads by {text}: p - 1 cancels where minus the sum of the others does not.",
        make=fixed([[gap, 0.0, -1.0, -0.5], [0.0, -0.25, gap, 0.0]], [0, 2]),
    )


def _tail(fmt: Format) -> tuple[Logits, Labels]:
    # the head holds 9/10; every class of the tail lies below eps/32 of bfloat16, 2.4e-4
    tail = np.random.default_rng(9).normal(size=2047) * 0.25
    return np.concatenate([[np.log(9.0 * 2047)], tail])[None, :], [0]


CASES = (
    *(_case(text) for text in _GAPS),
    Case(
        name="saturated-published",
        reason="The row that was published against three frameworks: 0 where -5.55e-17 is due in float64.",
        make=fixed([[37.42994775023705, 0.0]], [0]),
        sources=(
            "pytorch/pytorch#195678",
            "jax-ml/jax#40344",
            "jax-ml/jax#40384",
            "jax-ml/jax#40386",
            "tensorflow/tensorflow#126634",
        ),
    ),
    Case(
        name="saturated-fix-up",
        reason="Leads of 4 and 6: 1 subtracted from a stored bfloat16 probability leaves two to five of its bits.",
        make=fixed([[4.0, 0.0, -1.0, 0.5], [6.0, 0.25, 0.0, -2.0]], [0, 0]),
        sources=("linkedin/Liger-Kernel#1268", "linkedin/Liger-Kernel#1329", "NVIDIA/TransformerEngine#3193"),
    ),
    Case(
        name="saturated-tail",
        reason="2,048 classes in blocks whose probabilities are all small: a filter that drops them loses a tenth.",
        make=_tail,
        sources=("apple/ml-cross-entropy#14",),
    ),
    Case(
        name="saturated-crowd",
        reason="4,095 classes, 18 behind: together 6e-5 of the probability, and lost one by one in one float32 sum.",
        make=fixed(np.concatenate([[18.0], np.zeros(4095)])[None, :], [0]),
    ),
)
