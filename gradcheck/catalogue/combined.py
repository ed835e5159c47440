"""Options together: each is right by itself, and the order in which they meet is not.

    z = c·tanh(l/c)/T,    q = w∘((1 − ε)·y + ε/K),    s = upstream/Σ_kept w_t,    ∂L/∂l = s·f'·[(W + 2λ·lse)·p − q]

The cap comes before the temperature, lse is that of the transformed logits, a mean counts the weights of kept rows
alone, and a gradient from above multiplies what the mean has divided.
"""

from __future__ import annotations

from gradcheck.catalogue import SOFT, Case, fixed

_ROWS = [[1.0, 2.0, 3.0], [0.5, 0.0, -0.5], [3.0, -1.0, 0.0], [0.25, 0.5, 1.0]]
_HARD = [2, 0, 1, 1]
_SPREAD = [[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.0, 1.0, 0.0], [0.25, 0.5, 0.25]]
_WEIGHT = "weight=0.25,1,4"

CASES = (
    Case(
        name="combined-weight-ignored",
        reason="Class weights and an ignored row: its weight is no part of the mean's divisor.",
        make=fixed(_ROWS, [2, -100, 1, 0]),
        loss=(_WEIGHT, "ignore_index=-100", "reduction=mean"),
    ),
    Case(
        name="combined-weight-soft",
        reason="Class weights on soft labels: W is the weighted sum of a row's labels.",
        make=fixed(_ROWS, _SPREAD),
        loss=(_WEIGHT,),
        tags=(SOFT,),
    ),
    Case(
        name="combined-smoothing-soft",
        reason="Smoothing of soft labels, over a mean.",
        make=fixed(_ROWS, _SPREAD),
        loss=("label_smoothing=0.2", "reduction=mean"),
        tags=(SOFT,),
    ),
    Case(
        name="combined-smoothing-z-loss",
        reason="Smoothing and a z-loss: both are in the gradient.",
        make=fixed(_ROWS, _HARD),
        loss=("label_smoothing=0.1", "z_loss=0.05"),
    ),
    Case(
        name="combined-softcap-z-loss",
        reason="A softcap and a z-loss: lse is that of the capped logits.",
        make=fixed([[25.0, 20.0, -3.0], [-20.0, 1.0, 12.0]], [1, 2]),
        loss=("softcap=15", "z_loss=0.05"),
    ),
    Case(
        name="combined-softcap-temperature",
        reason="A softcap and a temperature: capped first, divided afterwards.",
        make=fixed([[12.0, 9.0, -3.0], [-10.0, 1.0, 8.0]], [1, 2]),
        loss=("softcap=15", "temperature=0.5"),
    ),
    Case(
        name="combined-upstream-mean",
        reason="A gradient from above for each row, under a mean: both multiply.",
        make=fixed(_ROWS, _HARD),
        loss=("upstream=1,-2,0.5,4", "reduction=mean"),
    ),
    Case(
        name="combined-smoothing-others",
        reason="Smoothing over the other classes alone, as Megatron and fairseq do, with class weights.",
        make=fixed(_ROWS, _HARD),
        loss=("label_smoothing=0.3:others", _WEIGHT),
    ),
)
