"""The true class loses by a gap: its gradient is close to −1, and a clipped probability answers 0."""

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
        name="losing-underflow",
        reason="The true class underflows: the gradient is -1 and 1, but -y/p on the way to it is infinite or 0/0.",
        make=fixed([[0.0, 1000.0, -1000.0]], [0]),
    ),
)
