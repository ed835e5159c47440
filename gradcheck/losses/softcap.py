"""softcap=C: the logits are capped before softmax, z = c·tanh(l/c), as Gemma does; before a temperature divides.

A logit of -inf is a mask, and stays one under the cap: its gradient is 0.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from gradcheck.formats import Format
from gradcheck.losses import _numbers
from gradcheck.problem import LossOption, Stage, Terms


@dataclass(frozen=True, kw_only=True)
class Softcap(LossOption):
    """c > 0, the exact decimal that is written."""

    text: str
    cap: Fraction
    name: ClassVar[str] = "softcap"
    stage: ClassVar[Stage] = Stage.LOGITS

    @property
    def value(self) -> str:
        """The cap."""
        return self.text

    def argument(self, fmt: Format) -> object:
        """c as a number."""
        return _numbers.shortest(self.cap)

    def fold(self, terms: Terms) -> Terms:
        """Sets c."""
        return dataclasses.replace(terms, softcap=self.cap)


def parse(text: str) -> Softcap:
    """The option from its text."""
    return Softcap(text=text, cap=_numbers.decimal("softcap", text, "1e-9", "1e9", positive=True))
