"""A temperature: logits are divided by T, and so is the gradient.

    z = l/T,    ∂L/∂l_i = (p_i − q_i)/T

Contrastive losses divide by 0.07, distillation by 2 to 10. Forgetting 1/T outside leaves a gradient of the right
direction and the wrong length.
"""

from __future__ import annotations

from gradcheck.catalogue import SOFT, Case, fixed

CASES = (
    Case(
        name="temperature-low",
        reason="Cosines over 0.07, as in contrastive losses: gaps grow to 28.",
        make=fixed([[1.0, 0.5, -1.0, 0.25], [0.0, -0.5, 0.75, 1.0]], [0, 2]),
        loss=("temperature=0.07",),
    ),
    Case(
        name="temperature-high",
        reason="Logits over 4, as in distillation.",
        make=fixed([[8.0, -2.0, 1.0], [0.5, 0.0, -3.0]], [[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]),
        loss=("temperature=4",),
        tags=(SOFT,),
    ),
)
