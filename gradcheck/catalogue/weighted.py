"""Class weights: they scale the rows, and under a mean its denominator, too.

    q = w∘((1 − ε)·y + ε/K),    W = Σ q,    ∂L/∂l_i = s·(W·p_i − q_i),    s = 1/Σ_n w_{t_n}

With hard labels a mean divides by the weights of the labels (PyTorch, ONNX, Liger), not by a count. Under smoothing the
weights multiply the uniform part, too: W is not w_t then.
"""

from __future__ import annotations

from gradcheck.catalogue import Case, fixed

_ROWS = [[1.0, 2.0, 3.0], [0.5, 0.0, -0.5], [3.0, -1.0, 0.0]]
_WEIGHT = "weight=0.25,1,4"

CASES = (
    Case(
        name="weighted-sum",
        reason="Weights of 1/4, 1 and 4 on the labels' classes.",
        make=fixed(_ROWS, [2, 0, 1]),
        loss=(_WEIGHT,),
    ),
    Case(
        name="weighted-mean",
        reason="A mean that divides by the labels' weights, 4.5 for three rows, and not by their number.",
        make=fixed(_ROWS, [2, 0, 0]),
        loss=(_WEIGHT, "reduction=mean"),
        sources=("pytorch/pytorch#61309",),
    ),
    Case(
        name="weighted-smoothing",
        reason="Weights and smoothing: the uniform part is weighted class by class.",
        make=fixed(_ROWS, [2, 0, 1]),
        loss=(_WEIGHT, "label_smoothing=0.3", "reduction=mean"),
        sources=("pytorch/pytorch#61309",),
    ),
    Case(
        name="weighted-zero",
        reason="A row whose label has weight 0: its gradient is exactly 0, and it counts for nothing in the mean.",
        make=fixed(_ROWS, [2, 0, 1]),
        loss=("weight=0,1,4", "reduction=mean"),
    ),
    Case(
        name="weighted-nothing",
        reason="Every label has weight 0: 0/0, which Keras and empty=zero call 0.",
        make=fixed(_ROWS, [0, 0, 0]),
        loss=("weight=0,1,4", "reduction=mean", "empty=zero"),
        sources=("pytorch/pytorch#70348",),
    ),
)
