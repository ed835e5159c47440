"""z-loss: λ·lse² beside the cross-entropy keeps the logits from drifting.

    ∂L/∂l_i = (W + 2λ·lse)·p_i − q_i

It is added to each row and goes through the same mean: the square of a mean, a mean over other rows, or a term that
stays on when it is switched off are other losses. The components of a row add up to 2λ·lse, not to 0.
"""

from __future__ import annotations

from gradcheck.catalogue import Case, fixed

_ROWS = [[1.0, 2.0, 3.0], [10.0, 0.0, -0.5], [3.0, -1.0, 0.0]]

CASES = (
    Case(
        name="z-loss-sum",
        reason="A z-loss of 0.01 on rows whose lse differ: each is squared for itself.",
        make=fixed(_ROWS, [2, 0, 1]),
        loss=("z_loss=0.01",),
        sources=("mlfoundations/open_lm#92",),
    ),
    Case(
        name="z-loss-mean-ignored",
        reason="A z-loss beside an ignored row: the mean over the two others is that of both terms.",
        make=fixed(_ROWS, [2, -100, 1]),
        loss=("z_loss=0.01", "ignore_index=-100", "reduction=mean"),
        sources=("allenai/OLMo-core#702",),
    ),
    Case(
        name="z-loss-offset",
        reason="Logits around 300 and -300: the term is 60 times the label's, and negative below 0.",
        make=fixed([[300.0, 301.0, 299.0], [-300.0, -302.0, -300.0]], [1, 0]),
        loss=("z_loss=0.1",),
    ),
)
