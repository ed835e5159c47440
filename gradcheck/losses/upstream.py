"""upstream=NUMBER|0.5,2|FILE|@NAME: the gradient that comes from above, and multiplies this one.

A single number is taken as the exact decimal that is written; an array has one number for each row, (N,), each rounded
once to the logits' format. A scaled loss, a sample's weight and the gradient of a loss that goes on after the
cross-entropy are all of this kind.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from gradcheck.exceptions import InputError
from gradcheck.formats import Format, Int64
from gradcheck.losses._numbers import Numbers, OfNumbers
from gradcheck.problem import LossOption, Stage, Terms

_LEAST, _MOST = 1e-100, 1e100


@dataclass(frozen=True, kw_only=True, eq=False)
class Upstream(OfNumbers):
    """One number, or one for each row."""

    name: ClassVar[str] = "upstream"
    stage: ClassVar[Stage] = Stage.ABOVE

    whole: bool = True
    """Whether the numbers are as they were given, and not some of them: then one is for all rows."""

    @property
    def _single(self) -> bool:
        return self.whole and self.numbers.shape in ((), (1,))

    def argument(self, fmt: Format) -> object:
        """A number, or an array in the format, (N,)."""
        return float(self._exact()) if self._single else self.numbers.rounded(fmt).astype(fmt.dtype)

    def take(self, rows: Int64) -> LossOption:
        """Of one number for each row, some."""
        return self if self._single else Upstream(numbers=self.numbers.take(rows), whole=False)

    def fold(self, terms: Terms) -> Terms:
        """Sets the factor of each row."""
        if self._single:
            return dataclasses.replace(terms, upstream=(self._exact(),) * terms.rows)
        if self.numbers.shape != (terms.rows,):
            raise self.numbers.refused(f"{terms.rows} rows", f"a single number or ({terms.rows},)")
        found = self.numbers.rounded(terms.format)
        size = np.abs(found)
        bad = np.flatnonzero(~((size == 0) | ((size >= _LEAST) & (size <= _MOST))))
        if bad.size:
            raise InputError(f"upstream {found[bad[0]]:g} of row {int(bad[0])} is {_RANGE}")
        return dataclasses.replace(terms, upstream=tuple(map(Fraction, found.tolist())))

    def _exact(self) -> Fraction:
        value = self.numbers.exact
        if value and not Fraction(_LEAST) <= abs(value) <= Fraction(_MOST):
            shown = f"{float(value):g}" if abs(value) <= _FLOAT else "of more than 1e300"
            raise InputError(f"upstream {shown} is {_RANGE}")
        return value


_FLOAT = 10**300
_RANGE = f"neither 0 nor of a size from {_LEAST:g} to {_MOST:g}"


def of(numbers: Numbers) -> Upstream:
    """The option with its numbers."""
    return Upstream(numbers=numbers)
