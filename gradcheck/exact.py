"""Exact values: dyadic rationals whose exponent has no limit, and numbers read from text without rounding.

A softmax component at a logit gap of 1e300 is 2^(-1.4e300): no floating-point type and no
`fractions.Fraction` can hold it, a pair of Python integers can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mpmath import libmp

from gradcheck.exceptions import InputError


@dataclass(frozen=True, slots=True)
class Dyadic:
    """The exact number `man`·2^`exp`.

    >>> Dyadic(3, -(10**300)).log2()
    -1e+300
    """

    man: int
    exp: int

    @classmethod
    def from_mpf(cls, raw: tuple[int, int, int, int]) -> Dyadic:
        """Exactly the mpmath number whose raw tuple (sign, man, exp, bitcount) is given; it must be finite."""
        sign, man, exp, _ = raw
        return cls(-int(man) if sign else int(man), int(exp))

    @classmethod
    def from_float(cls, value: float) -> Dyadic:
        """Exactly the finite float."""
        part, exponent = math.frexp(value)
        return cls(int(math.ldexp(part, 53)), exponent - 53)

    def mpf(self) -> tuple[int, int, int, int]:
        """The same value as a raw mpmath tuple."""
        raw: tuple[int, int, int, int] = libmp.from_man_exp(self.man, self.exp)
        return raw

    def __bool__(self) -> bool:
        return self.man != 0

    def __neg__(self) -> Dyadic:
        return Dyadic(-self.man, self.exp)

    def __abs__(self) -> Dyadic:
        return Dyadic(abs(self.man), self.exp)

    def log2(self) -> float:
        """log2 of the magnitude to about 15 digits; -inf for 0, ±inf where float64 cannot hold it."""
        if not self.man:
            return -math.inf
        bits = abs(self.man).bit_length()
        top = abs(self.man) >> max(0, bits - 64)
        try:
            return math.log2(top) + float(self.exp + max(0, bits - 64))
        except OverflowError:
            return math.inf if self.exp > 0 else -math.inf

    def scaled(self, by: Fraction, precision_bits: int) -> Dyadic:
        """self·`by`, truncated to a relative 2^-`precision_bits` where `by` is not dyadic."""
        man = self.man * by.numerator
        denominator = by.denominator
        if denominator & (denominator - 1) == 0:
            return Dyadic(man, self.exp - denominator.bit_length() + 1)
        shift = max(0, precision_bits + denominator.bit_length() - abs(man).bit_length() + 1)
        return Dyadic((man << shift) // denominator, self.exp - shift)


def total(values: Iterable[Dyadic], precision_bits: int = 160) -> Dyadic:
    """Their sum to a relative 2^-`precision_bits` of its largest term, however far apart the exponents lie."""
    return Dyadic.from_mpf(libmp.mpf_sum([value.mpf() for value in values], precision_bits))


def to_fraction(value: Any) -> Fraction:
    """The exact value of an int, a finite float, a Fraction, a Dyadic or an mpmath `mpf`.

    What lies outside 2^±20000 comes back as ±2^±20000, which rounds alike in every format.
    """
    if isinstance(value, Dyadic):
        if value and abs(value.log2()) > _HUGE2:
            size = Fraction(2) ** (_HUGE2 if value.log2() > 0 else -_HUGE2)
            return -size if value.man < 0 else size
        return Fraction(value.man) * Fraction(2) ** value.exp
    if hasattr(value, "_mpf_"):
        return to_fraction(Dyadic.from_mpf(value._mpf_))
    return Fraction(value)


_DECIMAL = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?")
_HEX = re.compile(r"([+-]?)0[xX]([0-9a-fA-F]*)(?:\.([0-9a-fA-F]*))?(?:[pP]([+-]?\d+))?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_SPECIAL = {
    "nan": math.nan,
    "inf": math.inf,
    "+inf": math.inf,
    "-inf": -math.inf,
    "infinity": math.inf,
    "+infinity": math.inf,
    "-infinity": -math.inf,
    "+nan": math.nan,
    "-nan": math.nan,
}

# Beyond these powers every format holds only infinity or zero, so a longer exponent need not be computed.
_HUGE10, _HUGE2 = 5_000, 20_000
_LONGEST = 10_000


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Numbers as they were written, so that each is rounded once, into the format it is meant for."""

    cells: list[str]
    shape: tuple[int, ...]


def is_number(text: str) -> bool:
    """Whether `parse` would take the text."""
    text = text.strip()
    if len(text) > _LONGEST or not text.isascii():
        return False
    match = _DECIMAL.fullmatch(text) or _HEX.fullmatch(text)
    return bool(match and (match[2] or match[3])) or text.lower() in _SPECIAL


def nearest_float64(text: str) -> float:
    """The float64 nearest to `text`, which Python rounds correctly; see `parse` for what text may be."""
    stripped = text.strip()
    match = _DECIMAL.fullmatch(stripped)
    if match and (match[2] or match[3]) and len(stripped) <= _LONGEST and stripped.isascii():
        return float(stripped)
    value = parse(text)
    if isinstance(value, float):
        return value
    try:
        return float.fromhex(stripped)
    except OverflowError:
        return -math.inf if value < 0 else math.inf


def whole(text: str) -> int:
    """The whole number in `text`, which has at most 18 digits, of the plain ten.

    Raises:
        ValueError: for anything else.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(text)
    return int(text)


def nonnegative(text: str) -> float:
    """The finite number >= 0 in `text`, rounded to float64.

    Raises:
        ValueError: for anything else.
    """
    if not is_number(text) or not 0 <= nearest_float64(text) < math.inf:
        raise ValueError(text)
    return nearest_float64(text)


def parse(text: str) -> Fraction | float:
    """The exact value of decimal or hexadecimal `text`, or a float for "nan", "inf", "-inf".

    >>> parse("0.1"), parse("0x1.8p-3"), parse("-inf")
    (Fraction(1, 10), Fraction(3, 16), -inf)

    Values outside 10^±5000 come back as 10^±5000, which rounds alike in every format; text of
    more than 10,000 characters is refused.

    Raises:
        InputError: where `text` is no number.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise InputError(f"a number of {len(text)} characters is longer than the {_LONGEST} that are read")
    if (special := _SPECIAL.get(text.lower())) is not None:
        return special
    match, base = _HEX.fullmatch(text), 16
    if match is None:
        match, base = _DECIMAL.fullmatch(text), 10
    if match is None or not (match[2] or match[3]) or not text.isascii():
        raise InputError(f"'{text if len(text) <= 40 else text[:37] + '...'}' is not a number")
    sign, whole, part, power = match[1], match[2], match[3] or "", match[4] or "0"
    digits = (whole + part).lstrip("0")
    if not digits:
        return Fraction(0)
    # A 4,300-digit exponent would not even convert; nine digits are already far outside.
    power_value = int(power) if len(power) <= 9 else int(power[0] + "999999999" if power[0] in "+-" else "999999999")
    per_digit = 4 if base == 16 else 1
    shift = power_value - per_digit * len(part)
    magnitude = shift + per_digit * len(digits)
    if abs(magnitude) > (_HUGE2 if base == 16 else _HUGE10):
        value = Fraction(10) ** (_HUGE10 if magnitude > 0 else -_HUGE10)
    else:
        mantissa = int(digits, 16) if base == 16 else _int_from_decimal(digits)
        value = Fraction(mantissa) * Fraction(2 if base == 16 else 10) ** shift
    return -value if sign == "-" else value


def _int_from_decimal(digits: str) -> int:
    """int(digits) in pieces: Python refuses more than 4,300 digits at once."""
    value = 0
    for start in range(0, len(digits), 4000):
        piece = digits[start : start + 4000]
        value = value * 10 ** len(piece) + int(piece)
    return value
