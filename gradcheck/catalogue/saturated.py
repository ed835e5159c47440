"""The true class wins by a gap: its gradient p − 1 is lost to cancellation once p rounds to 1."""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, fixed

_GAPS = ("5", "8", "10", "17", "20", "40", "100", "800", "1e4", "1e10", "1e38", "1e300")


def _case(text: str) -> Case:
    gap = float(text)
    return Case(
        name=f"saturated-gap-{text}",
        reason=f"The true class leads by {text}: p - 1 cancels where minus the sum of the others does not.",
        make=fixed([[gap, 0.0, -1.0, -0.5], [0.0, -0.25, gap, 0.0]], [0, 2]),
    )


CASES = (
    *(_case(text) for text in _GAPS),
    Case(
        name="saturated-published",
        reason="The row of pytorch #195678, jax #40344 and tensorflow #126634: 0 where -5.55e-17 is due in float64.",
        make=fixed([[37.42994775023705, 0.0]], [0]),
    ),
    Case(
        name="saturated-crowd",
        reason="4,095 classes, each of them negligible, together carry 6e-5 of the probability.",
        make=fixed(np.concatenate([[18.0], np.zeros(4095)])[None, :], [0]),
    ),
)
