"""Large common offsets: softmax does not change when a constant is added, a rounded log-sum-exp does.

    p_i = exp(l_i − max l)/S = exp(l_i − lse)

The first form subtracts stored numbers, exactly where they are near each other. The second rounds lse, an error of
u·|lse|, which exp turns into a relative error of every probability: hundreds of ulp at an offset of 10,000
(Blanchard, Higham & Higham, IMA J. Numer. Anal. 41(4), 2021).
"""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, Labels, Logits
from gradcheck.formats import Format

# Ties and small steps: enough classes share the row that lse lies between two representable values
_STEPS = np.array([[0, 0, 0, 1, 2, -1, -3], [2, 2, 1, 1, 0, -2, -2]])


def _at(offset: float, fmt: Format) -> tuple[Logits, Labels] | None:
    if abs(offset) > fmt.max:
        return None
    step = max(0.5, fmt.ulp(fmt.round(offset)))
    return fmt.round(offset) + _STEPS * step, [3, 0]


def _case(offset: float, label: str) -> Case:
    return Case(
        name=f"offset-{label}",
        reason=f"Rows whose logits share an offset of {label.replace('plus-', '+').replace('minus-', '-')}: "
        "exp(l - lse) loses u*|l|, exp(l - max) loses nothing.",
        make=lambda fmt: _at(offset, fmt),
    )


def _published(fmt: Format) -> tuple[Logits, Labels] | None:
    if fmt.max < 1e7:
        return None
    return np.random.default_rng(6).random((4, 3)) - 1e7, [0, 1, 2, 0]


def _mixed(fmt: Format) -> tuple[Logits, Labels]:
    offsets = [0.0, 1000.0, -1000.0, 10000.0, -10000.0]
    rows = []
    for offset in offsets:
        rows.append(offset + np.array([1.0, 0.0, 1.0, -2.0]) * max(0.5, fmt.ulp(offset)))
    return np.array(rows), [0, 1, 2, 3, 0]


CASES = (
    *(
        _case(sign * size, f"{'plus' if sign > 0 else 'minus'}-{text}")
        for size, text in ((1e3, "1e3"), (1e4, "1e4"), (1e7, "1e7"), (1e30, "1e30"), (1e300, "1e300"))
        for sign in (1, -1)
    ),
    Case(
        name="offset-published",
        reason="Random rows in [0, 1) less 1e7, as stored: ties and whole steps, whose softmax is ordinary.",
        make=_published,
        sources=("pytorch/pytorch#38839",),
    ),
    Case(
        name="offset-mixed-rows",
        reason="Rows at very different offsets in one batch: a maximum taken over the batch, not the row, shows.",
        make=_mixed,
    ),
)
