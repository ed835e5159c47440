"""axis=N: which axis of the logits holds the classes, where they have more than two; the others are rows.

PyTorch and ONNX have it at 1, (N, C, d1, …), most others at -1. It says how the arrays of a file are laid out, and
changes no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradcheck.exact import whole
from gradcheck.exceptions import UsageError
from gradcheck.problem import LossOption, Stage, Terms


@dataclass(frozen=True, kw_only=True)
class Axis(LossOption):
    """The axis of the classes."""

    number: int
    name: ClassVar[str] = "axis"
    stage: ClassVar[Stage] = Stage.LAYOUT

    @property
    def value(self) -> str:
        """Its number."""
        return str(self.number)

    def fold(self, terms: Terms) -> Terms:
        """Nothing: the rows of a problem have been laid out before."""
        return terms


def parse(text: str) -> Axis:
    """The option from its text."""
    try:
        return Axis(number=whole(text))
    except ValueError:
        raise UsageError(f"axis is a whole number, not '{text[:40]}'") from None
