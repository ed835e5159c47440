"""Tolerances: what a candidate's error may be. Each carries its unit; none grows with the size of the array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradcheck.estimates import Estimates, in_units
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import FORMATS, Float64, Format, Int64
from gradcheck.reference import Reference


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """What a tolerance allows each component, in the reference's units, (N, k).

    Attributes:
        units: the largest error that passes.
        slope: how much `units` moves for each unit that the reference moves.
    """

    units: Float64
    slope: float = 0.0


class Tolerance(Protocol):
    """A rule that turns errors into a verdict."""

    @property
    def metric(self) -> str:
        """The metric that it judges by."""
        ...

    def limits(self, reference: Reference) -> Limits:
        """What it allows."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stable:
    """`stable`: as good as a sound algorithm in this format can be. See `stable_bound`."""

    flush: bool = False
    """Whether flushed subnormals are accepted."""
    metric: str = "bound"

    def limits(self, reference: Reference) -> Limits:
        """The bound B of every component."""
        return Limits(units=stable_bound(reference, flush=self.flush))

    def __str__(self) -> str:
        return "stable"


@dataclass(frozen=True, kw_only=True)
class Ulp:
    """`ulp:N`: at most N units in the last place of the exact value."""

    most: float
    metric: str = "ulp"

    def limits(self, reference: Reference) -> Limits:
        """N everywhere."""
        return Limits(units=np.ldexp(self.most, (reference.ulp_log2 - reference.unit_log2).astype(np.int32)))

    def __str__(self) -> str:
        return f"ulp:{self.most:.17g}"


@dataclass(frozen=True, kw_only=True)
class Relative:
    """`rel:X`: at most X·|g|, component by component."""

    most: float
    metric: str = "rel"

    def limits(self, reference: Reference) -> Limits:
        """X·|g|."""
        return Limits(units=self.most * np.abs(reference.high), slope=self.most)

    def __str__(self) -> str:
        return f"rel:{self.most:.17g}"


@dataclass(frozen=True, kw_only=True)
class Absolute:
    """`abs:X`: at most X."""

    most: float
    metric: str = "abs"

    def limits(self, reference: Reference) -> Limits:
        """X everywhere."""
        return Limits(units=_from_value(self.most, reference))

    def __str__(self) -> str:
        return f"abs:{self.most:.17g}"


@dataclass(frozen=True, kw_only=True)
class Norm:
    """`norm:X`: a row's largest error is at most X times its largest exact component."""

    most: float
    metric: str = "norm"

    def limits(self, reference: Reference) -> Limits:
        """X·max|g| of the row."""
        top = reference.unit_log2.max(axis=1, keepdims=True)
        shift = (reference.unit_log2 - top).astype(np.int32)
        largest = np.ldexp(np.abs(reference.high), shift).max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            return Limits(units=np.ldexp(self.most * largest, -shift), slope=self.most)

    def __str__(self) -> str:
        return f"norm:{self.most:.17g}"


@dataclass(frozen=True, kw_only=True)
class AllClose:
    """`allclose:RTOL,ATOL`: NumPy's rule, |c − g| <= ATOL + RTOL·|g|."""

    rtol: float
    atol: float
    metric: str = "allclose"

    def limits(self, reference: Reference) -> Limits:
        """ATOL + RTOL·|g|."""
        return Limits(units=_from_value(self.atol, reference) + self.rtol * np.abs(reference.high), slope=self.rtol)

    def __str__(self) -> str:
        return f"allclose:{self.rtol:.17g},{self.atol:.17g}"


@dataclass(frozen=True, kw_only=True)
class Torch:
    """`torch`: the defaults of torch.testing.assert_close for the gradient's format."""

    metric: str = "allclose"

    def limits(self, reference: Reference) -> Limits:
        """`allclose` with the format's own pair."""
        rtol, atol = reference.format.assert_close
        return AllClose(rtol=rtol, atol=atol).limits(reference)

    def __str__(self) -> str:
        return "torch"


NAMES = {
    "stable": "every |c − g| is within the bound that a backward-stable algorithm meets (the default)",
    "ulp:N": "every error is at most N units in the last place of the exact value",
    "rel:X": "every |c − g| <= X·|g|",
    "abs:X": "every |c − g| <= X",
    "norm:X": "in every row max|c − g| <= X·max|g|",
    "allclose:RTOL,ATOL": "every |c − g| <= ATOL + RTOL·|g|, NumPy's rule",
    "torch": "torch.testing.assert_close with its defaults for the format (rtol, atol): "
    + ", ".join(f"{row.name} {row.assert_close[0]:g}, {row.assert_close[1]:g}" for row in FORMATS.values()),
}
"""The tolerances, as a user writes them."""


def parse(text: str, *, flush: bool = False) -> Tolerance:
    """A tolerance from its text.

    Raises:
        UsageError: for an unknown name, or a number that is missing, negative or not finite.
    """
    name, _, value = text.partition(":")
    match name:
        case "stable" | "torch" if ":" in text:
            raise UsageError(f"tolerance '{name}' takes no number")
        case "stable":
            return Stable(flush=flush)
        case "torch":
            return Torch()
        case "ulp":
            return Ulp(most=_number(text, value))
        case "rel":
            return Relative(most=_number(text, value))
        case "abs":
            return Absolute(most=_number(text, value))
        case "norm":
            return Norm(most=_number(text, value))
        case "allclose":
            rtol, comma, atol = value.partition(",")
            if not comma:
                raise UsageError(f"tolerance '{text}' should read allclose:RTOL,ATOL")
            return AllClose(rtol=_number(text, rtol), atol=_number(text, atol))
        case _:
            raise UnknownNameError("tolerance", text, NAMES)


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise UsageError(f"tolerance '{text}' needs a finite number >= 0 after the colon, such as ulp:4 or rel:1e-6")
    return number


def _from_value(value: float, reference: Reference) -> Float64:
    return in_units(np.full(reference.high.shape, value), reference.unit_log2)


def stable_bound(reference: Reference, *, flush: bool = False) -> Float64:
    """B of every component in the reference's units, (N, k); 0 in ignored and undefined rows.

        B = s·φ·{ p·[ A·( u·(3δ + 2·ln S₀ + 8 + t) + 4·√k·u_acc ) + ε·max(w)·k·u_acc ] + 4u·|q| }
            + [softcap only] (s/T)·4u·|G|  +  2u·|g|  +  λ·max(1, s·A·max φ)

    Rounding of the shift and of log p after Blanchard, Higham & Higham, IMA J. Numer. Anal. 41(4), 2021 (here
    componentwise); sums after Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019. docs/numerics.md derives it.
    """
    bound = np.zeros(reference.high.shape)
    for n, (row, inverse) in enumerate(zip(reference.rows, reference.inverse, strict=True)):
        if row is not None and inverse is not None:
            bound[n] = _bound(row.estimates, reference.format, row.high, row.unit_log2, flush)[inverse]
    return bound


def _bound(e: Estimates, fmt: Format, gradient: Float64, unit_log2: Int64, flush: bool) -> Float64:
    u = fmt.unit_roundoff
    u_sum = min(u, 2.0**-24)
    classes = e.row.classes
    plain = e.row.softcap is None and e.row.temperature == 1
    finite = np.where(np.isfinite(e.z), e.z, 0.0)
    transformed = 0.0 if plain else 2 * (np.abs(finite) + np.abs(finite).max())
    with np.errstate(over="ignore", under="ignore"):
        softmax = (
            e.weight * (u * (3 * e.delta + 2 * e.log_sum + 8 + transformed) + 4 * math.sqrt(classes) * u_sum)
            + float(e.row.uniform_mass) * classes * u_sum
        )
        bound = e.scale * e.slope * e.p_in_units(unit_log2) * softmax
        bound += e.scale * e.slope * 4 * u * in_units(np.abs(e.q), unit_log2)
        if e.row.softcap is not None:
            bound += e.scale / e.temperature * 4 * u * in_units(np.abs(e.inner), unit_log2)
        bound += 2 * u * np.abs(gradient)
        smallest = fmt.smallest_normal if flush else fmt.smallest_subnormal
        slope = float(np.abs(e.slope).max())
        bound += in_units(np.full(len(e.z), smallest), unit_log2) * max(1.0, e.scale * e.weight * slope)
    return bound
