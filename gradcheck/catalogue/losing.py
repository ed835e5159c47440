"""The true class loses by a gap: its gradient is close to −1, and a clipped probability answers 0.

    ∂L/∂l_t = p_t − 1 → −1,    ∂L/∂l_max → 1

Losses that take the logarithm of a probability guard it: clipped to [1e-7, 1 − 1e-7] it has derivative 0 there, and an
ε added inside the logarithm scales the row by p_t/(p_t + ε). Both leave such a row, the one that is most wrong, without
the gradient that would mend it. One that divides by p_t gives −y/p·p, that is inf·0.
"""

from __future__ import annotations

from gradcheck.catalogue import Case, fixed


def _case(text: str) -> Case:
    gap = float(text)
    return Case(
        name=f"losing-gap-{text}",
        reason=f"The true class trails by {text}: the loss is large and the gradient -1 and +1, never 0.",
        make=fixed([[gap, 0.0, 1.0], [-gap, 0.0, -1.0]], [1, 0]),
    )


CASES = (
    *(_case(text) for text in ("18", "100", "1e4", "1e38")),
    Case(
        name="losing-one-in-1e8",
        reason="The true class has probability 1e-8: an epsilon of 1e-6 in the logarithm takes 99% of the gradient.",
        make=fixed([[18.42, 0.0, -1.0], [0.0, 18.42, 2.0]], [1, 0]),
    ),
    Case(
        name="losing-underflow",
        reason="The true class underflows: the gradient is -1 and 1, but -y/p on the way to it is infinite or 0/0.",
        make=fixed([[0.0, 1000.0, -1000.0]], [0]),
    ),
)
