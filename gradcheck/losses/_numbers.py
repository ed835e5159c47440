"""What loss options are made from: exact decimals, arrays, and a value with the rule of a library."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from gradcheck import formats
from gradcheck.exact import Texts, is_number, parse
from gradcheck.exceptions import InputError, UsageError
from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.problem import LossOption

Read = Callable[[str, str], Array | Texts]
"""From an option's name, and a file's path or @NAME, to an array."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """An array that an option takes, with the exact numbers that were given.

    Attributes:
        name: the option's.
        value: as the user wrote it.
    """

    name: str
    value: str
    array: Array | Texts

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    def rounded(self, fmt: Format) -> Float64:
        """The numbers, each rounded once to the format."""
        if isinstance(self.array, Texts):
            return fmt.parse_array(self.array.cells).astype(np.float64).reshape(self.shape)
        if self.array.dtype == fmt.dtype:
            return self.array.astype(np.float64)
        return fmt.round_array(self._float64()).astype(np.float64)

    @property
    def exact(self) -> Fraction:
        """The only number, without rounding.

        Raises:
            InputError: where it is not finite.
        """
        found = parse(self.array.cells[0]) if isinstance(self.array, Texts) else self._float64().item()
        try:
            return Fraction(found)
        except (ValueError, OverflowError):
            raise InputError(f"{self.name}: {found} is not finite") from None

    @property
    def in_full(self) -> str:
        """Every number in text: commas between those of a row, semicolons between rows."""
        cells = (
            self.array.cells if isinstance(self.array, Texts) else [repr(x) for x in self._float64().ravel().tolist()]
        )
        width = self.shape[-1] if self.shape else 1
        return ";".join(",".join(cells[at : at + width]) for at in range(0, len(cells), width))

    def take(self, rows: Int64) -> Numbers:
        """Some rows of a matrix, or some numbers of a list that has one for each row."""
        return self._each(lambda array: array[rows])

    def reordered(self, classes: Int64) -> Numbers:
        """Another order of the classes, which stand along the last axis."""
        return self._each(lambda array: array[..., classes])

    def _each(self, change: Callable[[Array], Array]) -> Numbers:
        if isinstance(self.array, Texts):
            array = change(np.array(self.array.cells, dtype=object).reshape(self.shape))
            return dataclasses.replace(self, array=Texts(cells=array.ravel().tolist(), shape=array.shape))
        return dataclasses.replace(self, array=change(self.array))

    def refused(self, what: str, wanted: str) -> InputError:
        """What to raise where the shape is another."""
        return InputError(f"{self.name} has shape {self.shape}; {what} need {wanted}")

    def _float64(self) -> Float64:
        assert not isinstance(self.array, Texts)
        if self.array.dtype.kind not in "biuf" and formats.of_dtype(self.array.dtype) is None:
            raise InputError(f"{self.name}: the numbers are {self.array.dtype}")
        return self.array.astype(np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class OfNumbers(LossOption):
    """An option whose value is an array."""

    numbers: Numbers

    @property
    def value(self) -> str:
        """The list, file or name that was given."""
        return self.numbers.value

    @property
    def in_full(self) -> str:
        """All its numbers."""
        return self.numbers.in_full


@dataclass(frozen=True, kw_only=True)
class OfNumber(LossOption):
    """An option whose value is an exact number, and perhaps the rule of a library.

    Attributes:
        text: the number as it was written.
        rule: None where none was named; `usual` is the one that is meant then.
    """

    text: str
    number: Fraction
    rule: str | None = None
    usual: ClassVar[str | None] = None

    @property
    def value(self) -> str:
        """The number, with its rule if one is named."""
        return f"{self.text}:{self.rule}" if self.rule else self.text

    def argument(self, fmt: Format) -> object:
        """The number, or the whole text where it follows another rule than the usual one."""
        usual = self.rule in (None, self.usual)
        whole = self.number.denominator == 1
        return self.value if not usual else int(self.number) if whole else float(self.number)


def inline(text: str) -> Texts | None:
    """The numbers in `0.3,0.6` or `1,0;0,1`, or None where that is no list of numbers.

    Raises:
        UsageError: where its rows differ in length.
    """
    if not text:
        raise UsageError("a list of numbers, a file or @NAME is expected")
    rows = [row.split(",") for row in text.split(";")]
    if not all(is_number(cell) for row in rows for cell in row):
        return None
    if len({len(row) for row in rows}) > 1:
        raise UsageError(f"'{text[:40]}' has rows of different length")
    cells = [cell.strip() for row in rows for cell in row]
    if ";" in text:
        return Texts(cells=cells, shape=(len(rows), len(rows[0])))
    return Texts(cells=cells, shape=(len(cells),))


def no_files(name: str, text: str) -> Array | Texts:
    """Where nothing is read from files, text that is no list of numbers is a mistake."""
    raise UsageError(f"'{text[:40]}' is no list of numbers")


def decimal(name: str, text: str, least: str = "0", most: str = "1e100", *, positive: bool = False) -> Fraction:
    """The exact number in `text`, from `least` to `most`; above 0, or 0 and then from `least`.

    Raises:
        UsageError: for anything else.
    """
    try:
        found = parse(text)
    except InputError:
        found = float("nan")
    smallest, largest = Fraction(parse(least)), Fraction(parse(most))
    inside = isinstance(found, Fraction) and smallest <= found <= largest
    if inside or (found == 0 and not positive):
        assert isinstance(found, Fraction)
        return found
    range_ = f"from {least} to {most}" if positive or least == "0" else f"0, or from {least} to {most}"
    raise UsageError(f"{name} is a number {range_}, not '{text[:40]}'")


def ruled(name: str, text: str, rules: Iterable[str]) -> tuple[str, str | None]:
    """The value and the rule in VALUE:RULE, or None where no rule is named.

    Raises:
        UsageError: for a rule that there is not.
    """
    value, colon, rule = re.sub(r"\s", "", text).partition(":")
    if colon and rule not in rules:
        raise UsageError(
            f"{name} has the rules {', '.join(rules)}, as in {name}={value or 'VALUE'}:{next(iter(rules))}"
        )
    return value, rule if colon else None
