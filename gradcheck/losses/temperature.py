"""temperature=T: the logits are divided by T before softmax, z = l/T; after a softcap, where there is one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from gradcheck.formats import Array
from gradcheck.losses import _numbers
from gradcheck.problem import Stage, Terms


@dataclass(frozen=True, kw_only=True)
class Temperature(_numbers.OfNumber):
    """T > 0, the exact decimal that is written."""

    name: ClassVar[str] = "temperature"
    stage: ClassVar[Stage] = Stage.LOGITS

    def idle(self, labels: Array) -> bool:
        """Whether its number changes nothing."""
        return self.number == 1

    def fold(self, terms: Terms) -> Terms:
        """Sets T."""
        return dataclasses.replace(terms, temperature=self.number)


def parse(text: str) -> Temperature:
    """The option from its text."""
    return Temperature(text=text, number=_numbers.decimal("temperature", text, "1e-9", "1e9", positive=True))
