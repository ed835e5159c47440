"""reduction=none|sum|mean: how the rows' losses become one number.

`mean` divides by the rows that are not ignored for hard labels, by all rows for soft labels, as PyTorch does.
Where every row is ignored the mean is 0/0: the loss is NaN and the gradient 0 (PyTorch's convention).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction

from gradcheck.exceptions import UsageError
from gradcheck.problem import Stage, Terms

_VALUES = ("none", "sum", "mean")


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """`none` and `sum` have the same gradient of the summed loss; `mean` divides it by the rows that count."""

    value: str
    name: str = "reduction"
    stage: Stage = Stage.SCALE

    def fold(self, terms: Terms) -> Terms:
        """Sets the scale."""
        if self.value != "mean":
            return terms
        rows = int(terms.kept.sum()) if terms.hard is not None else len(terms.kept)
        return dataclasses.replace(terms, scale=terms.scale / Fraction(max(rows, 1)), empty_loss=math.nan)


def parse(text: str) -> Reduction:
    """The option from its text."""
    if text not in _VALUES:
        raise UsageError(f"reduction is one of {', '.join(_VALUES)}, not '{text}'")
    return Reduction(value=text)
