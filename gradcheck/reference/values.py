"""Exact values with their uncertainty, counted in units, so that vectorised arithmetic neither underflows nor rounds.

A value's unit is its ulp in the gradient format, but never below 2^-600: the largest errors of the tiniest values would
overflow float64 in ulps of 2^-1074.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from gradcheck.estimates import Estimates, Known, RowsEstimates
from gradcheck.exact import Dyadic
from gradcheck.formats import Float64, Format, Int64

SMALLEST_UNIT_LOG2 = -600
_SHOWS_ULP = 2.0**-9
"""Uncertainty, in ulps, past which values are no longer as sharp as central differences."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Values:
    """Values of any shape; every array has that shape, or one that broadcasts to it.

    Attributes:
        high, low: the value is (high + low)·2^unit_log2.
        ulp_log2, ulp_most_log2: log2 of its ulp in the format. Where the uncertainty leaves open on which side of a
            power of two the value lies, the smaller one and the larger one, else the same.
        uncertainty: bound on the error of high + low, in units.
        rough: whether float64's own are among them, of which metrics say no more than is certain.
    """

    format: Format
    high: Float64
    low: Float64
    ulp_log2: Int64
    ulp_most_log2: Int64
    unit_log2: Int64
    uncertainty: Float64
    rough: bool = False

    @cached_property
    def size(self) -> Float64:
        """The magnitude, in units."""
        return np.abs(self.high)

    @cached_property
    def resolved(self) -> NDArray[np.bool_]:
        """Whether a value can be told from 0."""
        return self.size > self.uncertainty

    def in_ulps(self, amounts: Float64) -> Float64:
        """Amounts in units as ulps (the smaller, where two are possible, or the larger); inf past 2^1024 of them."""
        with np.errstate(over="ignore"):
            return np.ldexp(amounts, (self.unit_log2 - self._measuring_ulp_log2).astype(np.int32))

    @property
    def _measuring_ulp_log2(self) -> Int64:
        return self.ulp_most_log2 if self.rough else self.ulp_log2

    def certain(self, errors: Float64) -> Float64:
        """Errors in units, without what the values themselves may be off by where that shows."""
        if not self.rough:
            return errors
        shows = (self.in_ulps(self.uncertainty) > _SHOWS_ULP) & np.isfinite(errors)
        return np.where(shows, np.maximum(errors - self.uncertainty, 0.0), errors) if shows.any() else errors

    @property
    def measuring_size(self) -> Float64:
        """The magnitude that relative errors are relative to, in units."""
        return self.size + self.uncertainty if self.rough else self.size

    def in_ulps_at(self, amounts: Float64, place: tuple[int, ...]) -> float:
        """One of `in_ulps`, without the others."""
        shape = self.ulp_log2.shape
        amount, unit_log2 = (np.broadcast_to(array, shape)[place] for array in (amounts, self.unit_log2))
        with np.errstate(over="ignore"):
            return float(np.ldexp(amount, int(unit_log2 - self._measuring_ulp_log2[place])))

    def each(self, change: Callable[[str, Any], Any]) -> Values:
        """The values whose arrays are `change(name, array)`: some of them, or spread over more places."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("format", "rough")]
        return Values(format=self.format, **{name: change(name, getattr(self, name)) for name in names})


class Exact(Protocol):
    """What a candidate is compared with."""

    @property
    def values(self) -> Values:
        """The values, (N, k)."""
        ...

    @property
    def judged(self) -> NDArray[np.bool_]:
        """False where nothing is to be judged, of a shape that broadcasts to (N, k)."""
        ...

    def exact(self, row: int, cls: int) -> Dyadic:
        """One value, to all its digits."""
        ...


class ExactGradient(Exact, Protocol):
    """The exact gradient of a problem, made or frozen."""

    @property
    def estimates(self) -> Sequence[Estimates | None]:
        """What float64 knows of each row, (N,); None where a row has no gradient."""
        ...

    @property
    def at_once(self) -> RowsEstimates | None:
        """The same of all rows together, where that is what the values are made from."""
        ...

    def spread(self, function: Callable[[Known, Values], Float64]) -> Float64:
        """A function of what float64 knows of a row and of its values, for every component, (N, k).

        It is 0 in rows that have no gradient.
        """
        ...

    def __hash__(self) -> int:
        """By identity: what follows from it is made once."""
        ...


_Followed = TypeVar("_Followed")


def following(function: Callable[[Any, bool], _Followed]) -> Callable[[Any, bool], _Followed]:
    """What follows from exact values and a flag, made once, and kept for as long as they are."""
    known: WeakKeyDictionary[Any, dict[bool, _Followed]] = WeakKeyDictionary()

    @functools.wraps(function)
    def once(exact: Any, flush: bool) -> _Followed:
        found = known.setdefault(exact, {})
        if flush not in found:
            found[flush] = function(exact, flush)
        return found[flush]

    return once


def spread_rows(
    estimates: Sequence[Estimates | None],
    of_pairs: Callable[[int], Values],
    function: Callable[[Known, Values], Float64],
    classes: int,
) -> Float64:
    """`ExactGradient.spread`, row by row; `of_pairs` gives a row's values, one for each distinct pair."""
    found = np.zeros((len(estimates), classes))
    for n, known in enumerate(estimates):
        if known is not None:
            found[n] = function(known, of_pairs(n))[known.row.inverse]
    return found


def nothing(fmt: Format, shape: tuple[int, ...]) -> Values:
    """Zeros, exactly known."""
    unit_log2 = max(fmt.subnormal_log2, SMALLEST_UNIT_LOG2)
    return Values(
        format=fmt,
        high=np.zeros(shape),
        low=np.zeros(shape),
        ulp_log2=np.full(shape, fmt.subnormal_log2),
        ulp_most_log2=np.full(shape, fmt.subnormal_log2),
        unit_log2=np.full(shape, unit_log2),
        uncertainty=np.zeros(shape),
    )


@np.errstate(all="ignore")
def values_in_units(
    fmt: Format,
    high: Float64,
    low: Float64,
    exponent: Int64,
    error_log2: Float64,
    smallest_unit_log2: int = SMALLEST_UNIT_LOG2,
) -> Values:
    """(high + low)·2^exponent, off by at most 2^error_log2, in units, with what is known of the ulps.

    Args:
        smallest_unit_log2: a larger one leaves room for larger errors.
    """
    magnitude = np.frexp(high)[1] - 1 + exponent
    own_log2 = np.where(high == 0, fmt.emin, np.maximum(magnitude, fmt.emin)) - fmt.precision + 1
    unit_log2 = np.maximum(own_log2, smallest_unit_log2)
    shift = np.minimum(np.maximum(exponent - unit_log2, -3000), 3000).astype(np.int32)
    high, low = np.ldexp(high, shift), np.ldexp(low, shift)
    size = np.abs(high)
    # high + low drops what lies 2^-104 below the value, or 2^-1000 below the unit
    error = np.exp2(np.minimum(np.maximum(error_log2 - unit_log2, -1000), 1024))
    uncertainty = np.where(np.isneginf(error_log2), 0.0, error) + size * 2.0**-104
    # Does the interval reach the powers of two around the value? Their distance is exact, the rest is small
    exponent = np.where(size > 0, np.frexp(size)[1] - 1, -(10**6))
    beyond = low * np.sign(high)
    under = (size - np.ldexp(1.0, exponent)) + beyond < uncertainty
    over = (np.ldexp(2.0, exponent) - size) - beyond <= uncertainty
    least, most = size - uncertainty, np.minimum(size + uncertainty, np.finfo(np.float64).max)
    lowest = np.where(under, np.where(least > 0, np.minimum(np.frexp(least)[1] - 1, exponent - 1), -(10**6)), exponent)
    reached = np.where(most > 0, np.frexp(most)[1] - 1, -(10**6))
    highest = np.where(over, np.maximum(reached, exponent + 1), exponent)
    ulp_log2, ulp_most_log2 = (
        np.maximum(bound + unit_log2, fmt.emin) - fmt.precision + 1 for bound in (lowest, highest)
    )
    return Values(
        format=fmt,
        high=high,
        low=low,
        ulp_log2=ulp_log2,
        ulp_most_log2=ulp_most_log2,
        unit_log2=unit_log2,
        uncertainty=uncertainty,
    )
