"""Vocabulary-sized rows: sizes that are no power of two, and sums that lose digits in one accumulator.

    S = Σ exp(l_j − max l) over 32,000 to 151,936 classes

One float32 accumulator over 150,000 terms errs by up to 1e-3; blocks, lanes or pairs do not. A kernel pads the row to a
multiple of its block: what it leaves out of S, or lets in, changes no component by more than rounding explains, but all
of them alike, and the row's sum, which is 0, tells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradcheck.catalogue import LARGE, Case, Labels, Logits
from gradcheck.formats import Format

_LAST = 24.0


def _row(classes: int, *, last: float | None = None) -> Callable[[Format], tuple[Logits, Labels]]:
    def make(fmt: Format) -> tuple[Logits, Labels]:
        rng = np.random.default_rng(5)
        # a grid of 1/16, as the logits of a half-precision model lie on one
        row = np.round(rng.normal(size=classes) * 2.5 * 16) / 16
        if last is not None:
            row[-1] = last
        return row[None, :], [17 if last is None else classes - 1]

    return make


def _crowd(fmt: Format) -> tuple[Logits, Labels]:
    row = np.zeros((1, 151_936))
    row[0, 0] = 16.0
    return row, [3]


_SIZES = {
    32_000: "Llama 2's and Mistral's",
    50_257: "GPT-2's",
    128_256: "Llama 3's",
    151_936: "Qwen's",
}

CASES = (
    *(
        Case(
            name=f"vocabulary-{classes}",
            reason=f"{whose} vocabulary, {classes:,} classes, with logits of scale 2.5.",
            make=_row(classes),
            tags=(LARGE,),
        )
        for classes, whose in _SIZES.items()
    ),
    Case(
        name="vocabulary-last-dominates",
        reason="50,257 classes, of which the last holds nearly all probability: a kernel that drops the tail shows.",
        make=_row(50_257, last=_LAST),
        tags=(LARGE,),
    ),
    Case(
        name="vocabulary-crowd",
        reason="151,936 classes, of which the first leads by 16: each of the others is about an ulp of the sum so far.",
        make=_crowd,
        tags=(LARGE,),
    ),
)
