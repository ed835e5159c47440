"""A gradient from above: what comes after the loss multiplies its gradient, row by row.

    ∂L/∂l = upstream_n·(p − y)

With reduction none each row has its own: a backward that takes the first for all, or expects 1, is right wherever the
loss is summed at once, and wrong as soon as it is masked or weighted afterwards.
"""

from __future__ import annotations

from gradcheck.catalogue import Case, fixed

CASES = (
    Case(
        name="upstream-per-row",
        reason="Another factor for each row, a negative one and 0 among them.",
        make=fixed([[1.0, 2.0, 3.0], [0.5, 0.0, -0.5], [3.0, -1.0, 0.0], [0.25, 0.5, 1.0]], [2, 0, 1, 1]),
        loss=("upstream=1,-2,0,0.375",),
        sources=("linkedin/Liger-Kernel#968", "linkedin/Liger-Kernel#678"),
    ),
    Case(
        name="upstream-loss-scale",
        reason="A loss scaled by 1024, as mixed precision does.",
        make=fixed([[1.0, 2.0, 3.0], [8.0, 0.0, -0.5]], [2, 0]),
        loss=("upstream=1024",),
    ),
)
