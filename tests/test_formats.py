"""Formats as values, against the standards' published constants and exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcheck.exact import Dyadic, parse
from gradcheck.exceptions import InputError, UnknownNameError
from gradcheck.formats import FORMATS, Format, named
from tests.conftest import EVERY_FORMAT

each_format = pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)


@pytest.mark.parametrize(
    ("name", "largest", "normal", "subnormal", "unit"),
    [
        ("float16", 65504.0, 2.0**-14, 2.0**-24, 2.0**-11),
        ("bfloat16", 3.3895313892515355e38, 2.0**-126, 2.0**-133, 2.0**-8),
        ("float32", 3.4028234663852886e38, 2.0**-126, 2.0**-149, 2.0**-24),
        ("float64", 1.7976931348623157e308, 2.0**-1022, 5e-324, 2.0**-53),
    ],
)
def test_published_constants(name: str, largest: float, normal: float, subnormal: float, unit: float) -> None:
    fmt = named(name)
    assert (fmt.max, fmt.smallest_normal, fmt.smallest_subnormal, fmt.unit_roundoff) == (
        largest,
        normal,
        subnormal,
        unit,
    )


@each_format
def test_constants_agree_with_the_dtype(fmt: Format) -> None:
    info: Any = ml_dtypes.finfo(fmt.dtype)  # type: ignore[no-untyped-call]
    assert float(info.max) == fmt.max
    assert float(info.smallest_normal) == fmt.smallest_normal
    assert float(info.smallest_subnormal) == fmt.smallest_subnormal


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        # by way of float64 this would round to the tie 1.00390625, and from there to 1
        ("bfloat16", "1.00390625000000000000001", 1.0078125),
        ("bfloat16", "1.00390625", 1.0),
        ("float16", "65519.999999999999999999", 65504.0),
        ("float16", "65520", math.inf),
        ("float32", "1.000000059604644775390625000000001", 1.0000001192092896),
        ("float32", "16777217", 16777216.0),
        ("float64", "9007199254740993", 9007199254740992.0),
        ("float64", "2.4703282292062327208e-324", 0.0),
        ("float64", "2.4703282292062328e-324", 5e-324),
        ("float64", "1e400", math.inf),
        ("float64", "-1e-999999999999999999999", 0.0),
        ("float64", "1e999999999999999999999", math.inf),
        ("float32", "0x1.000001p0", 1.0),
        ("float32", "-0x1.0000010000000000000000001p0", -1.0000001192092896),
        ("float64", "-Infinity", -math.inf),
        ("float64", "0x1p1024", math.inf),
        ("float64", "-0x1.fffffffffffff8p1023", -math.inf),
        ("float64", "0x1p-99999999999999999999", 0.0),
    ],
)
def test_text_is_rounded_once(name: str, text: str, expected: float) -> None:
    fmt = named(name)
    assert fmt.round(text) == expected
    assert float(fmt.parse_array([text])[0]) == expected


@each_format
@given(numerator=st.integers(-(10**12), 10**12), power=st.integers(-400, 400))
def test_rounding_is_nearest_even(fmt: Format, numerator: int, power: int) -> None:
    value = Fraction(numerator) * Fraction(2) ** power * Fraction(1, 3)
    rounded = fmt.round(value)
    if math.isinf(rounded):
        assert abs(value) >= Fraction(fmt.max) + Fraction(2) ** (fmt.emax - fmt.precision)
        return
    assert float(np.array(rounded, dtype=np.float64).astype(fmt.dtype)) == rounded
    error = abs(Fraction(rounded) - value)
    for other in (fmt.next_up(rounded), fmt.next_down(rounded)):
        if math.isfinite(other):
            assert error <= abs(Fraction(other) - value)


@each_format
@given(x=st.floats(allow_nan=False))
def test_arrays_and_scalars_round_alike(fmt: Format, x: float) -> None:
    assert float(fmt.round_array(np.array([x]))[0]) == fmt.round(x)


@each_format
@given(x=st.floats(allow_nan=False, allow_infinity=False), digits=st.integers(1, 40))
def test_text_near_a_midpoint(fmt: Format, x: float, digits: int) -> None:
    """parse_array goes by way of float64 where that is safe; the exact way must agree."""
    value = fmt.round(x)
    up = fmt.next_up(value)
    if not (math.isfinite(value) and math.isfinite(up)):
        return
    middle = (Fraction(value) + Fraction(up)) / 2
    with mpmath.workdps(1200):
        text = mpmath.nstr(mpmath.mpf(middle.numerator) / middle.denominator, 1150, min_fixed=0, max_fixed=0)
    for shown in (text, text.replace("e", "1e") if "e" in text else text + "1", text[: digits + 2]):
        try:
            parse(shown)
        except InputError:
            continue
        assert float(fmt.parse_array([shown])[0]) == fmt.round(shown)


@each_format
def test_ulp_and_neighbours(fmt: Format) -> None:
    one = 2.0 ** (1 - fmt.precision)
    assert fmt.ulp(1.0) == one
    assert fmt.ulp(-1.5) == one
    assert fmt.ulp(math.nextafter(1.0, 0.0)) == one / 2
    assert fmt.ulp(0.0) == fmt.smallest_subnormal
    assert fmt.ulp(fmt.smallest_normal / 4) == fmt.smallest_subnormal
    assert fmt.next_up(1.0) == 1 + one
    assert fmt.next_down(1.0) == 1 - one / 2
    assert fmt.next_up(0.0) == fmt.smallest_subnormal
    assert fmt.next_up(fmt.max) == math.inf
    assert fmt.ulp_log2(np.array([1.0, 0.0])).tolist() == [1 - fmt.precision, fmt.subnormal_log2]


def test_exact_values_of_every_kind() -> None:
    fmt = named("float32")
    third = fmt.round(Fraction(1, 3))
    assert third == float(np.float32(1 / 3))
    with mpmath.workprec(200):
        assert fmt.round(mpmath.mpf(1) / 3) == third
    assert fmt.round(Dyadic(3, -1)) == 1.5
    assert fmt.round(7) == 7.0
    assert math.copysign(1, fmt.round(-0.0)) == -1
    assert math.isnan(fmt.round("nan"))


@pytest.mark.parametrize("text", ["", "abc", "1_000", "1.2.3", "0x", "1e", "٣", "--1", "1" * 10_001, "0x1.8q3"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_long_numbers_are_read_exactly() -> None:
    text = "1" + "0" * 5000 + "1"
    assert parse(text + "e-5001") == Fraction(10**5001 + 1, 10**5001)


def test_names() -> None:
    assert named("float32") is FORMATS["float32"]
    with pytest.raises(UnknownNameError, match="did you mean 'float32'"):
        named("flaot32")


@pytest.mark.parametrize(
    "source",
    [np.array([0x7D01], np.uint16).view(np.float16), np.array([0x7F800001], np.uint32).view(np.float32)],
    ids=lambda source: source.dtype.name,
)
@each_format
def test_a_signalling_nan_is_rounded_without_a_warning(source: Any, fmt: Format) -> None:
    assert math.isnan(float(fmt.round_array(source)[0]))
