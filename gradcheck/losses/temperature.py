"""temperature=T: the logits are divided by T before softmax, z = l/T; after a softcap, where there is one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from gradcheck.formats import Array, Format
from gradcheck.losses import _numbers
from gradcheck.problem import LossOption, Stage, Terms


@dataclass(frozen=True, kw_only=True)
class Temperature(LossOption):
    """T > 0, the exact decimal that is written."""

    text: str
    divisor: Fraction
    name: ClassVar[str] = "temperature"
    stage: ClassVar[Stage] = Stage.LOGITS

    @property
    def value(self) -> str:
        """T."""
        return self.text

    def argument(self, fmt: Format) -> object:
        """T as a number."""
        return _numbers.shortest(self.divisor)

    def idle(self, labels: Array) -> bool:
        """Whether its number changes nothing."""
        return self.divisor == 1

    def fold(self, terms: Terms) -> Terms:
        """Sets T."""
        return dataclasses.replace(terms, temperature=self.divisor)


def parse(text: str) -> Temperature:
    """The option from its text."""
    return Temperature(text=text, divisor=_numbers.decimal("temperature", text, "1e-9", "1e9", positive=True))
