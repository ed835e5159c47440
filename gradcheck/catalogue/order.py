"""Ladders and order: the same row ascending, descending and shuffled must have the same gradient, permuted.

Kernels read a row in blocks and keep a running maximum m and sum S (online softmax):

    m' = max(m, block),    S' = S·exp(m − m') + Σ exp(l − m')

Where the rescaling is left out, or m starts at 0, or the last block is cut short, most rows never show it: the maximum
must come late, far above what came before, or the last class must matter.
"""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, Labels, Logits, fixed
from gradcheck.formats import Format

_LADDER = np.arange(0.0, 64.0)


def _shuffled(fmt: Format) -> tuple[Logits, Labels]:
    order = np.random.default_rng(4).permutation(len(_LADDER))
    return _LADDER[order][None, :], [int(np.flatnonzero(order == 60)[0])]


def _last_block(fmt: Format) -> tuple[Logits, Labels]:
    # A running maximum that is not rescaled in the last block leaves the first blocks too heavy
    row = np.concatenate([np.linspace(-2.0, 2.0, 1920), np.linspace(2.0, 12.0, 128)])
    return np.stack([row, row[::-1]]), [100, 2047]


def _late(fmt: Format) -> tuple[Logits, Labels]:
    # 40,000 is no multiple of 128: a block of any size up to 2^15 ends with a part of a block
    row = np.round(np.random.default_rng(11).normal(size=40_000) * 16) / 16
    row[-64:] += 9.0
    return row[None, :], [39_990]


def _dominant_last(fmt: Format) -> tuple[Logits, Labels]:
    row = np.round(np.random.default_rng(7).normal(size=1000) * 2 * 16) / 16
    row[-1] = 14.0
    return np.stack([row, row]), [999, 3]


CASES = (
    Case(
        name="order-ascending",
        reason="A ladder of 64 logits, ascending: every step raises a running maximum.",
        make=fixed(_LADDER[None, :], [60]),
    ),
    Case(
        name="order-descending",
        reason="The same ladder, descending: the first logit is the maximum.",
        make=fixed(_LADDER[::-1][None, :], [3]),
    ),
    Case(name="order-shuffled", reason="The same ladder in a random order.", make=_shuffled),
    Case(
        name="order-last-block",
        reason="2,048 classes whose maximum stands in the last block of 128, and the row reversed: "
        "online softmax must rescale what it has summed.",
        make=_last_block,
    ),
    Case(
        name="order-late-40000",
        reason="40,000 classes whose last 64 hold nine tenths of the probability, the label, past 2^15, among them.",
        make=_late,
    ),
    Case(
        name="order-range-800",
        reason="2,048 classes that ascend by 800 in all: the first block's sum must be rescaled to 0, not overflow.",
        make=fixed(np.linspace(-800.0, 0.0, 2048)[None, :], [2040]),
    ),
    Case(
        name="order-dominant-last",
        reason="1,000 classes, of which the last holds nearly all probability: a kernel that drops the tail shows.",
        make=_dominant_last,
    ),
    Case(
        name="order-geometric",
        reason="Powers of two with both signs, from 2^-10 to 2^12: every size of gap in one row.",
        make=fixed(np.concatenate([-(2.0 ** np.arange(12, -11, -1)), 2.0 ** np.arange(-10, 13)])[None, :], [40]),
    ),
)
