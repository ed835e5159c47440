"""Label smoothing: every class gets a share of the label weight.

    q = (1 − ε)·y + ε/K,    ∂L/∂l_i = p_i − q_i

K is the number of all classes: not of those in one device's shard, and not K − 1, which Megatron and fairseq mean by
the same option (`label_smoothing=0.1:others`).
"""

from __future__ import annotations

import numpy as np

from gradcheck.catalogue import Case, fixed

CASES = (
    Case(
        name="smoothing-plain",
        reason="Smoothing of 0.1 over four classes.",
        make=fixed([[1.0, 2.0, 3.0, -1.0], [0.0, -4.0, 2.5, 0.5]], [2, 0]),
        loss=("label_smoothing=0.1",),
    ),
    Case(
        name="smoothing-shard",
        reason="Sixteen classes, as two devices would hold eight of each: the share is that of sixteen.",
        make=fixed(np.stack([np.linspace(-2.0, 2.0, 16), np.linspace(3.0, -1.0, 16)]), [3, 12]),
        loss=("label_smoothing=0.2",),
        sources=("NVIDIA/Megatron-LM#737", "NVIDIA/Megatron-LM#7464"),
    ),
    Case(
        name="smoothing-everything",
        reason="Smoothing of 1: the label is the uniform distribution, and the true class one among others.",
        make=fixed([[1.0, 2.0, 3.0], [0.5, -1.5, 0.25]], [2, 0]),
        loss=("label_smoothing=1",),
    ),
    Case(
        name="smoothing-saturated",
        reason="A lead of 30 under smoothing: the other classes are pulled up by their share, not down by p.",
        make=fixed([[30.0, 0.0, -1.0, -0.5]], [0]),
        loss=("label_smoothing=0.1",),
    ),
)
