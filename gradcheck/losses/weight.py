"""weight=0.3,0.6|FILE|@NAME: class weights w, (k,): a class's label counts w times.

Weights are rounded once to the logits' format. For hard labels a mean divides by the labels' weights, for soft labels
it does not: see `reduction`. An array named `weight` in the file of logits is taken without being asked for.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradcheck.exceptions import InputError
from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.losses._numbers import Numbers, OfNumbers
from gradcheck.problem import LossOption, Stage, Terms

_LEAST, _MOST = 1e-100, 1e100


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight(OfNumbers):
    """Class weights."""

    name: ClassVar[str] = "weight"
    stage: ClassVar[Stage] = Stage.LABELS

    def argument(self, fmt: Format) -> Array:
        """The weights in the format, (k,)."""
        return self._rounded(fmt).astype(fmt.dtype)

    def reordered(self, classes: Int64) -> LossOption:
        """The weights of the classes in another order."""
        return Weight(numbers=self.numbers.reordered(classes))

    def fold(self, terms: Terms) -> Terms:
        """Sets the weights."""
        return dataclasses.replace(terms, weight=self._fitting(self._rounded(terms.format), terms))

    def _rounded(self, fmt: Format) -> Float64:
        return np.atleast_1d(self.numbers.rounded(fmt))

    def _fitting(self, weight: Float64, terms: Terms) -> Float64:
        classes = terms.logits.shape[1:]
        if weight.shape != classes:
            raise self.numbers.refused(f"logits of {classes[0]} classes", str(classes))
        bad = np.flatnonzero(~((weight == 0) | ((weight >= _LEAST) & (weight <= _MOST))))
        if bad.size:
            raise InputError(
                f"weight {weight[bad[0]]:g} of class {int(bad[0])} is neither 0 nor from {_LEAST:g} to {_MOST:g}"
            )
        return weight


def of(numbers: Numbers) -> Weight:
    """The option with its array."""
    return Weight(numbers=numbers)
