"""Numbers become text here and nowhere else."""

from __future__ import annotations

import math

from mpmath import libmp

from gradcheck.exact import Dyadic
from gradcheck.exceptions import visible
from gradcheck.formats import Format
from gradcheck.locks import MPMATH

NOTHING = "-"


def brief(x: float | None) -> str:
    """A metric with three digits: never rounded to 0, and `-` where there is none."""
    if x is None:
        return NOTHING
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else plain(x)
    return f"{x:.3g}"


def plain(x: float) -> str:
    """All digits of a float: nan, inf, -inf, or the shortest text that reads back as `x`."""
    if math.isnan(x):
        return "nan"
    return repr(x)


def exact(value: Dyadic | float, digits: int = 34) -> str:
    """`digits` significant decimal digits of an exact value."""
    if isinstance(value, float):
        return plain(value)
    return _decimal(value, digits, strip_zeros=False) if value else "0.0"


def decimal(value: Dyadic | float, digits: int) -> str:
    """At most `digits` significant decimal digits of an exact value, without zeros at the end."""
    if isinstance(value, float):
        return plain(value)
    return _decimal(value, digits, strip_zeros=True) if value else "0.0"


def reference(value: Dyadic, fmt: Format, uncertainty_ulp: float = 0.0) -> str:
    """An exact value with a few digits more than the format can tell; far below it, its power of ten alone."""
    magnitude = value.log2() * math.log10(2)
    if not value:
        return f"0 ± {brief(uncertainty_ulp)} ulp" if uncertainty_ulp else "0"
    if abs(magnitude) > 9999:
        size = "infinity" if math.isinf(magnitude) else f"{abs(magnitude):.4g}"
        return f"{'-' if value.man < 0 else ''}10^{'-' if magnitude < 0 else ''}{size}"
    return _decimal(value, math.ceil(fmt.precision * math.log10(2)) + 3, strip_zeros=True).removesuffix(".0")


def _decimal(value: Dyadic, digits: int, *, strip_zeros: bool) -> str:
    """mpmath's decimal text, its exponent with two digits as Python and NumPy write it."""
    with MPMATH:
        text: str = libmp.to_str(value.mpf(), digits, strip_zeros=strip_zeros)
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:]:0>2}" if e else mantissa


def candidate(x: float, fmt: Format) -> str:
    """A value of a format in the fewest digits that tell it apart there."""
    return str(fmt.dtype.type(x)) if fmt.round(x) == x or x != x else plain(x)


def hexadecimal(x: float) -> str:
    """A float in C's hexadecimal notation without trailing zeros."""
    if not math.isfinite(x):
        return plain(x)
    mantissa, _, power = x.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{power}" if "." in mantissa else x.hex()


def power_of_two(log2: int) -> str:
    """2^`log2`."""
    return f"2^{log2}"


def count(n: int, thing: str) -> str:
    """`n` things, in the plural where it takes one."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def xml(text: str) -> str:
    """A text that XML can hold: control characters made visible, and what is no character of Unicode's."""
    return "".join(char if char in "\n\t" or char.isprintable() else visible(char) for char in text)


def name(text: str) -> str:
    """A name that came from outside, its control characters made visible."""
    return visible(text)
