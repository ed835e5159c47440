"""The boundary where exp overflows in each format, and beyond.

    exp(l_i)/Σ exp(l_j) − y_i,    without a shift

Past log(max), 11.09 in float16, 88.7 in bfloat16 and float32, 709.8 in float64, exp is inf and inf/inf is NaN; a little
below, only the sum overflows, and every probability is 0. Shifting by anything but the row's maximum moves the
boundary, and does not remove it.
"""

from __future__ import annotations

import math

from gradcheck.catalogue import Case, Labels, Logits
from gradcheck.formats import Format


def _log_max(fmt: Format) -> float:
    return fmt.round(math.log(fmt.max))


def _boundary(fmt: Format) -> tuple[Logits, Labels]:
    edge = _log_max(fmt)
    below, above = fmt.next_down(edge), fmt.next_up(edge)
    return [[below, edge, above, edge - 1], [above, fmt.next_up(above), below, edge - 2]], [1, 3]


def _sum(fmt: Format) -> tuple[Logits, Labels]:
    # Half formats sum in float32, so there the sum has room
    below = fmt.next_down(fmt.next_down(_log_max(fmt)))
    return [[below] * 6, [below, below - 0.5, below, below, below - 1, below]], [0, 1]


def _beyond(fmt: Format) -> tuple[Logits, Labels]:
    edge = _log_max(fmt)
    return [[2 * edge, 2 * edge - 1, edge, 0.0], [3 * edge, 3 * edge - 2, 3 * edge - 2, -edge]], [1, 0]


CASES = (
    Case(
        name="overflow-boundary",
        reason="Logits one step below, at and above the largest x whose exp is finite.",
        make=_boundary,
    ),
    Case(
        name="overflow-sum",
        reason="Every exp is finite, their sum is not (in the formats that sum in themselves).",
        make=_sum,
    ),
    Case(
        name="overflow-beyond",
        reason="Logits at two and three times the overflow boundary of exp: inf/inf without a shift.",
        make=_beyond,
    ),
)
