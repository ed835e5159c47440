"""z_loss=LAMBDA[:count]: adds λ·lse² to the loss of each row, where lse = log Σ exp(z).

It goes through the same reduction as the cross-entropy. With `count` a mean of it is over the rows that are not
ignored, whatever the class weights (Liger Kernel): that matters only where weights make the cross-entropy's mean
another.
λ is taken as the exact decimal that is written.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from gradcheck.formats import Array
from gradcheck.losses import _numbers
from gradcheck.problem import Stage, Terms

_RULES = ("count",)


@dataclass(frozen=True, kw_only=True)
class ZLoss(_numbers.OfNumber):
    """λ, and the rule of its mean."""

    name: ClassVar[str] = "z_loss"
    stage: ClassVar[Stage] = Stage.EXTRA

    def idle(self, labels: Array) -> bool:
        """Whether its number changes nothing."""
        return not self.number

    def fold(self, terms: Terms) -> Terms:
        """Sets ζ."""
        count = int(terms.kept.sum())
        zeta = self.number
        if self.rule == "count" and terms.divisor is not None and count:
            zeta = zeta * terms.divisor / count
        return dataclasses.replace(terms, zeta=zeta)


def parse(text: str) -> ZLoss:
    """The option from its text."""
    value, rule = _numbers.ruled("z_loss", text, _RULES)
    return ZLoss(text=value, number=_numbers.decimal("z_loss", value, "1e-100"), rule=rule)
