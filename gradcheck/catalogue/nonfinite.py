"""NaN and +inf: such a row has no gradient, and must not touch the rows beside it.

A softmax of NaN is NaN, whoever computes it: nothing is judged there. But NaN spreads through whatever is shared by a
batch, a maximum, a sum, a product with 0; the other rows are judged, and so is an ignored row, which must be 0.
"""

from __future__ import annotations

import math

from gradcheck.catalogue import Case, fixed

CASES = (
    Case(
        name="nonfinite-nan-row",
        reason="A row of NaN between two good ones: only the good ones are judged.",
        make=fixed([[0.0, 1.0, 2.0], [0.0, math.nan, 1.0], [3.0, -1.0, 0.5]], [0, 1, 2]),
    ),
    Case(
        name="nonfinite-inf-row",
        reason="Rows with +inf, and with nothing but -inf, beside a good one.",
        make=fixed([[math.inf, 0.0], [-math.inf, -math.inf], [1.0, 0.0]], [0, 1, 1]),
    ),
    Case(
        name="nonfinite-ignored-row",
        reason="Ignored rows that hold NaN and -inf: their gradient is exactly 0.",
        make=fixed([[math.nan, 1.0, 2.0], [-math.inf, -math.inf, -math.inf], [0.5, 1.0, -1.0]], [-100, -100, 1]),
        loss=("ignore_index=-100", "reduction=mean"),
        sources=("pytorch/pytorch#11551", "PaddlePaddle/Paddle#28622"),
    ),
)
