"""Ordinary logits, where every sound form agrees: what fails here is wrong outright.

    ∂L/∂l_i = p_i − y_i,    over N under a mean

A sign, a factor, a label off by one, a batch transposed: nothing numerical, and still the commonest mistakes.
"""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, Labels, Logits, fixed
from gradcheck.formats import Format


def _normal(rows: int, classes: int, scale: float, seed: int) -> tuple[Logits, Labels]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, classes)) * scale, rng.integers(0, classes, rows)


def _normal_case(fmt: Format) -> tuple[Logits, Labels]:
    return _normal(8, 10, 1.0, 1)


CASES = (
    Case(
        name="plain-3",
        reason="The row of the textbooks: three classes, small logits.",
        make=fixed([[1.0, 2.0, 3.0], [0.5, -1.5, 0.25]], [2, 0]),
    ),
    Case(name="plain-10", reason="A batch of eight ordinary rows of ten classes.", make=_normal_case),
    Case(
        name="plain-1000",
        reason="A thousand classes with logits of scale 4: long sums of ordinary size.",
        make=lambda fmt: _normal(2, 1000, 4.0, 2),
    ),
    Case(
        name="plain-300-rows",
        reason="Three hundred rows: a grid that stops early, and a divisor that a half format cannot count.",
        make=lambda fmt: _normal(300, 4, 2.0, 10),
        loss=("reduction=mean",),
    ),
    Case(
        name="plain-mean",
        reason="The mean over seven rows: 1/7 is no power of two, and dividing twice or not at all shows.",
        make=lambda fmt: _normal(7, 5, 2.0, 3),
        loss=("reduction=mean",),
    ),
)
