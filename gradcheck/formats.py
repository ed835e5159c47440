"""Floating-point formats as values. Another format is one more row of `FORMATS`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gradcheck.exact import nearest_float64, parse, to_fraction
from gradcheck.exceptions import UnknownNameError

Array = NDArray[Any]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Format:
    """A binary floating-point format with subnormals.

    Attributes:
        precision: bits of the significand, the implicit one included.
        emax: exponent of the largest finite value, which lies in [2^emax, 2^(emax+1)).
        dtype: the NumPy dtype that holds it.
        wider: name of the next wider format; None where NumPy has none everywhere.
        accumulator: name of the format in which sums over classes are made.
        assert_close: (rtol, atol) of `torch.testing.assert_close` for this format.
    """

    name: str
    precision: int
    emax: int
    dtype: np.dtype[Any]
    wider: str | None
    accumulator: str
    assert_close: tuple[float, float]

    @property
    def nameless(self) -> bool:
        """Whether NumPy itself has no such dtype, so that files and other libraries are given its bit patterns."""
        return self.dtype.isbuiltin != 1

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value."""
        return 1 - self.emax

    @property
    def unit_roundoff(self) -> float:
        """u = 2^-p, the largest relative error of one rounding to nearest."""
        return math.ldexp(1.0, -self.precision)

    @property
    def subnormal_log2(self) -> int:
        """log2 of the smallest subnormal value λ."""
        return self.emin - self.precision + 1

    @property
    def smallest_subnormal(self) -> float:
        """λ, the smallest positive value."""
        return math.ldexp(1.0, self.subnormal_log2)

    @property
    def smallest_normal(self) -> float:
        """2^emin."""
        return math.ldexp(1.0, self.emin)

    def least(self, *, flush: bool) -> float:
        """λ, what may be lost of any value; where flushed subnormals are accepted the smallest normal one."""
        return self.smallest_normal if flush else self.smallest_subnormal

    @property
    def max(self) -> float:
        """The largest finite value."""
        return math.ldexp(2.0 - math.ldexp(1.0, 1 - self.precision), self.emax)

    def ulp_log2(self, x: Float64 | float) -> Int64:
        """log2 of the unit in the last place of finite values `x`: 2^(max(e, emin) - p + 1) for 2^e <= |x| < 2^(e+1).

        Goldberg's definition ("What every computer scientist should know…", 1991), floored at λ.
        """
        bits = np.asarray(x, dtype=np.float64).view(np.int64)
        # of 0, and of what float64 holds as subnormal, the exponent field says -1023, which is below every emin
        field = np.asarray(bits >> 52)
        field &= 0x7FF
        np.maximum(field, self.emin + 1023, out=field)
        field += 1 - self.precision - 1023
        return field

    def ulp(self, x: float) -> float:
        """The unit in the last place of the finite value `x`.

        >>> named("float16").ulp(1.0), named("float16").ulp(0.999)
        (0.0009765625, 0.00048828125)
        """
        return math.ldexp(1.0, int(self.ulp_log2(x)))

    def round(self, value: Any) -> float:
        """`value` rounded once, to nearest with ties to even, as the float that equals it.

        >>> named("bfloat16").round("0.1")
        0.10009765625
        >>> named("bfloat16").round(257), named("bfloat16").round("257.000000000000000000001")
        (256.0, 258.0)
        >>> named("float16").round(65519), named("float16").round(65520)
        (65504.0, inf)

        Args:
            value: decimal or hexadecimal text, int, float, Fraction, Dyadic or mpmath `mpf`; all are exact.

        Raises:
            InputError: for text that is no number.
        """
        exact = parse(value) if isinstance(value, str) else value
        if isinstance(exact, float) and not math.isfinite(exact):
            return exact
        fraction = to_fraction(exact)
        if not fraction:
            return math.copysign(0.0, exact) if isinstance(exact, float) else 0.0
        size = abs(fraction)
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        if size < Fraction(2) ** exponent:
            exponent -= 1
        quantum_log2 = max(exponent, self.emin) - self.precision + 1
        units = round(size / Fraction(2) ** quantum_log2)
        if units and units.bit_length() + quantum_log2 - 1 > self.emax:
            rounded = math.inf
        else:
            rounded = math.ldexp(units, quantum_log2)
        return -rounded if fraction < 0 else rounded

    @np.errstate(over="ignore", invalid="ignore")  # a cast of a signalling NaN is called invalid
    def round_array(self, values: Array) -> Array:
        """`values` that float64 holds, of any shape, rounded once into this format's dtype.

        (ml_dtypes' own cast rounds twice.)
        """
        values = np.asarray(values, dtype=np.float64)
        finite = np.where(np.isfinite(values), values, 0.0)
        quantum = self.ulp_log2(finite).astype(np.int32)
        rounded = np.ldexp(np.rint(np.ldexp(finite, -quantum)), quantum)
        rounded = np.where(np.abs(rounded) > self.max, np.copysign(np.inf, rounded), rounded)
        return np.where(np.isfinite(values), rounded, values).astype(self.dtype)

    def parse_array(self, texts: list[str]) -> Array:
        """Numbers in text, each rounded once from its exact value, as a 1-d array of this format's dtype."""
        nearest = np.array([nearest_float64(text) for text in texts], dtype=np.float64)
        finite = np.where(np.isfinite(nearest), nearest, 0.0)
        # Rounding by way of float64 can go wrong only where float64 lands midway between two values of the format
        units = np.ldexp(finite, -self.ulp_log2(finite).astype(np.int32))
        for place in np.flatnonzero(np.abs(units - np.rint(units)) == 0.5).tolist():
            nearest[place] = self.round(texts[place])
        return self.round_array(nearest)

    def next_up(self, x: float) -> float:
        """The next larger value of the format.

        >>> named("bfloat16").next_up(1.0)
        1.0078125
        """
        return self._next(x, math.inf)

    def next_down(self, x: float) -> float:
        """The next smaller value of the format."""
        return self._next(x, -math.inf)

    def _next(self, x: float, towards: float) -> float:
        with np.errstate(over="ignore", under="ignore"):
            return float(np.nextafter(np.array(x, self.dtype), np.array(towards, self.dtype)))

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        # a format is one of the table's rows, in a worker process too
        return named, (self.name,)


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            name="float16",
            precision=11,
            emax=15,
            dtype=np.dtype(np.float16),
            wider="float32",
            accumulator="float32",
            assert_close=(1e-3, 1e-5),
        ),
        Format(
            name="bfloat16",
            precision=8,
            emax=127,
            dtype=np.dtype(ml_dtypes.bfloat16),
            wider="float32",
            accumulator="float32",
            assert_close=(1.6e-2, 1e-5),
        ),
        Format(
            name="float32",
            precision=24,
            emax=127,
            dtype=np.dtype(np.float32),
            wider="float64",
            accumulator="float32",
            assert_close=(1.3e-6, 1e-5),
        ),
        Format(
            name="float64",
            precision=53,
            emax=1023,
            dtype=np.dtype(np.float64),
            wider=None,
            accumulator="float64",
            assert_close=(1e-7, 1e-7),
        ),
    )
}


def bits(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The whole numbers that a dtype's bit patterns are."""
    return np.dtype(f"u{dtype.itemsize}")


def named(name: str) -> Format:
    """The format called `name`.

    Raises:
        UnknownNameError: where there is none.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise UnknownNameError("dtype", name, FORMATS) from None


def of_dtype(dtype: np.dtype[Any]) -> Format | None:
    """The format that `dtype` holds, or None."""
    native = dtype.newbyteorder("=")
    return next((row for row in FORMATS.values() if row.dtype == native), None)
