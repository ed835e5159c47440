"""Ignored rows: they have no gradient, and do not count in the mean.

    ∂L/∂l = 0 in an ignored row,    s = 1/(number of rows that are kept)

What is to be left out is left out of three places: the gradient, the denominator, and the terms that smoothing or a
z-loss adds. A mean of means over micro-batches with different counts is another mean.
"""

from __future__ import annotations

from gradcheck.catalogue import Case, fixed

_IGNORED = -100

CASES = (
    Case(
        name="ignored-some",
        reason="Two of five rows are ignored: exactly 0 there, and a mean over the three others.",
        make=fixed(
            [[1.0, 2.0, 3.0], [0.5, 0.0, -0.5], [3.0, -1.0, 0.0], [0.25, 0.5, 1.0], [-2.0, 0.0, 2.0]],
            [2, _IGNORED, 0, _IGNORED, 1],
        ),
        loss=("ignore_index=-100", "reduction=mean"),
    ),
    Case(
        name="ignored-uneven",
        reason="One kept row in the first half, three in the second: a mean of the halves' means weighs them wrongly.",
        make=fixed(
            [[1.0, 2.0, 3.0], [0.5, 0.0, -0.5], [3.0, -1.0, 0.0]] * 2,
            [2, _IGNORED, _IGNORED, 0, 1, 2],
        ),
        loss=("ignore_index=-100", "reduction=mean"),
        sources=("huggingface/transformers#34191",),
    ),
    Case(
        name="ignored-all",
        reason="Every row is ignored: the loss is a matter of convention (empty=nan, zero), the gradient is 0.",
        make=fixed([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], [_IGNORED, _IGNORED]),
        loss=("ignore_index=-100", "reduction=mean"),
        sources=("pytorch/pytorch#70348",),
    ),
    Case(
        name="ignored-class",
        reason="The ignored label is a class, 0, as padding often is: its rows are left out, its logits are not.",
        make=fixed([[1.0, 2.0, 3.0], [4.0, 0.0, -0.5], [3.0, -1.0, 0.0]], [0, 1, 2]),
        loss=("ignore_index=0", "reduction=mean"),
    ),
    Case(
        name="ignored-smoothing",
        reason="Smoothing beside ignored rows: its uniform part has no place in them, nor in the mean.",
        make=fixed([[1.0, 2.0, 3.0], [0.5, 0.0, -0.5], [3.0, -1.0, 0.0]], [2, _IGNORED, 0]),
        loss=("ignore_index=-100", "reduction=mean", "label_smoothing=0.1"),
        sources=("pytorch/pytorch#73205",),
    ),
)
