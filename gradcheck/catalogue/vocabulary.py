"""Vocabulary-sized rows."""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, Labels, Logits
from gradcheck.formats import Format


def _row(dominant: bool) -> tuple[Logits, Labels]:
    rng = np.random.default_rng(5)
    # a grid of 1/16, as the logits of a half-precision model lie on one
    row = np.round(rng.normal(size=50_257) * 2.5 * 16) / 16
    if dominant:
        row[-1] = 24.0
    return row[None, :], [50_256 if dominant else 17]


def _plain(fmt: Format) -> tuple[Logits, Labels]:
    return _row(dominant=False)


CASES = (
    Case(
        name="vocabulary-50257",
        reason="GPT-2's vocabulary, 50,257 classes: no power of two, and a sum that one accumulator loses digits of.",
        make=_plain,
    ),
    Case(
        name="vocabulary-last-dominates",
        reason="50,257 classes, of which the last holds nearly all probability: a kernel that drops the tail shows.",
        make=lambda fmt: _row(dominant=True),
    ),
)
