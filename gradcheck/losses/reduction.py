"""reduction=none|sum|mean[:weights|:count|:rows]: how the rows' losses become one number.

`none` and `sum` have the same gradient of the summed loss; a mean divides it:

  mean:weights  by the class weights of the labels, added over the rows that are not ignored (PyTorch, ONNX and
                Liger Kernel for hard labels); without weights that is the count
  mean:count    by the rows that are not ignored, whatever their weights (Keras)
  mean:rows     by all rows, ignored or not (PyTorch for soft labels)
  mean          as PyTorch does: mean:weights for hard labels, mean:rows for soft ones

Where there is nothing to divide by, `empty` says what the mean is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from gradcheck.exceptions import InputError, UsageError
from gradcheck.losses import _numbers
from gradcheck.problem import LossOption, Stage, Terms

_VALUES, _RULES = ("none", "sum", "mean"), ("weights", "count", "rows")


@dataclass(frozen=True, kw_only=True)
class Reduction(LossOption):
    """`none`, `sum`, or a mean by a rule; None is PyTorch's."""

    how: str
    rule: str | None = None
    name: ClassVar[str] = "reduction"
    stage: ClassVar[Stage] = Stage.MEAN

    @property
    def value(self) -> str:
        """With its rule, if one is named."""
        return f"{self.how}:{self.rule}" if self.rule else self.how

    def fold(self, terms: Terms) -> Terms:
        """Sets what the sum is divided by."""
        if self.how != "mean":
            return terms
        match self.rule or ("rows" if terms.hard is None else "weights"):
            case "rows":
                divisor = Fraction(terms.rows)
            case "count":
                divisor = Fraction(int(terms.kept.sum()))
            case _ if terms.hard is None:
                raise InputError("reduction=mean:weights needs hard labels; these are soft")
            case _:
                divisor = _label_weights(terms)
        return dataclasses.replace(terms, divisor=divisor)


def _label_weights(terms: Terms) -> Fraction:
    """Σ w_t over the rows that are kept."""
    assert terms.hard is not None
    labels = terms.hard[terms.kept]
    if terms.weight is None:
        return Fraction(len(labels))
    counts = np.bincount(labels, minlength=len(terms.weight)).tolist()
    return sum((Fraction(w) * n for w, n in zip(terms.weight.tolist(), counts, strict=True) if n), Fraction(0))


def parse(text: str) -> Reduction:
    """The option from its text."""
    how, rule = _numbers.ruled("reduction", text, _RULES)
    if how not in _VALUES or (rule and how != "mean"):
        raise UsageError(f"reduction is one of {', '.join(_VALUES)}, or mean:RULE, not '{text[:40]}'")
    return Reduction(how=how, rule=rule)
