"""empty=nan|zero|zero-if-ignored: what a mean over nothing is: every row is ignored, or the weights add up to 0.

nan              the loss is NaN (the default: PyTorch and ONNX). Ignored rows have gradient 0 all the same; of rows
                 that are kept, with weights that add up to 0, the gradient is 0/0: nothing can be said of it
zero             loss and gradient are 0 (Keras)
zero-if-ignored  0 where every row is ignored, 0/0 where the weights add up to 0 (Liger Kernel)
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from gradcheck.exceptions import UsageError
from gradcheck.problem import LossOption, Stage, Terms

_VALUES = ("nan", "zero", "zero-if-ignored")


@dataclass(frozen=True, kw_only=True)
class Empty(LossOption):
    """The convention for 0/0."""

    convention: str
    name: ClassVar[str] = "empty"
    stage: ClassVar[Stage] = Stage.MEAN

    @property
    def value(self) -> str:
        """Its name."""
        return self.convention

    def fold(self, terms: Terms) -> Terms:
        """Sets the mean over nothing."""
        zero = self.convention == "zero" or (self.convention == "zero-if-ignored" and not terms.kept.any())
        return dataclasses.replace(terms, empty=0.0 if zero else math.nan)


def parse(text: str) -> Empty:
    """The option from its text."""
    if text not in _VALUES:
        raise UsageError(f"empty is one of {', '.join(_VALUES)}, not '{text[:40]}'")
    return Empty(convention=text)
