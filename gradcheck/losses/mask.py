"""mask=1,0,1|FILE|@NAME: classes with 0 leave the problem: no term in S, no label weight, gradient exactly 0.

One number for each class, (k,), or for each class of each row, (N, k); @NAME is an array in the file of logits.
Smoothing spreads over the classes that are left. A hard label of a masked class is refused; a soft label there is
dropped.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradcheck.exceptions import InputError, RowError
from gradcheck.formats import Format, Int64, named
from gradcheck.losses._numbers import Numbers, OfNumbers
from gradcheck.problem import LossOption, Stage, Terms


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask(OfNumbers):
    """The classes that are left."""

    name: ClassVar[str] = "mask"
    stage: ClassVar[Stage] = Stage.CLASSES

    def argument(self, fmt: Format) -> NDArray[np.bool_]:
        """True where a class is left, (k,) or (N, k)."""
        found = self.numbers.rounded(named("float64"))
        if not np.isin(found, (0.0, 1.0)).all():
            raise InputError("mask holds numbers that are neither 0 nor 1")
        return np.asarray(found != 0)

    def take(self, rows: Int64) -> LossOption:
        """Of a mask for each row, some rows."""
        return Mask(numbers=self.numbers.take(rows)) if len(self.numbers.shape) == 2 else self

    def reordered(self, classes: Int64) -> LossOption:
        """The mask of the classes in another order."""
        return Mask(numbers=self.numbers.reordered(classes))

    def fold(self, terms: Terms) -> Terms:
        """Makes the logits of the others -inf, and their labels weigh nothing."""
        mask, shape = self.argument(terms.format), terms.logits.shape
        if mask.shape not in (shape, shape[1:]):
            raise self.numbers.refused(f"logits of shape {shape}", f"{shape[1:]} or {shape}")
        mask = np.broadcast_to(mask, shape)
        if terms.hard is not None:
            bad = np.flatnonzero(terms.kept & ~mask[np.arange(terms.rows), terms.hard])
            if bad.size:
                label = int(terms.hard[bad[0]])
                raise RowError(f"the mask takes out class {label}, the label of row {{row}}", int(bad[0]))
        masked = np.where(mask, terms.logits, terms.logits.dtype.type(-np.inf))
        return dataclasses.replace(terms, logits=masked, mask=mask)


def of(numbers: Numbers) -> Mask:
    """The option with its array."""
    return Mask(numbers=numbers)
