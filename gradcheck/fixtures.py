"""Fixtures: problems with their exact gradients frozen, in files that people read and review.

A file NAME.gradcheck.toml holds entries. Numbers are decimal strings, each rounded once from its exact value; large
problems keep their arrays in an .npz beside the file, whose sha256 the entry holds. A digest over what is exact in an
entry tells values that were frozen from values that were edited.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import tomlkit
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gradcheck import candidates, formats, losses, reading, reference, text, writing
from gradcheck.estimates import Estimates, Known, estimate
from gradcheck.exact import Dyadic, is_number, parse
from gradcheck.exceptions import InputError, UsageError, visible
from gradcheck.files import npz
from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Reference, Settings
from gradcheck.reference.engines import cut_each
from gradcheck.reference.values import Values, spread_rows, values_in_units

SUFFIX = ".gradcheck.toml"
SCHEMA_VERSION = 1
LARGE = 2**10
"""Components from which the arrays of a fixture go into a file of their own."""
_TARGET_BITS, _KEPT_BITS = 60, 40
"""G: values are derived to 2^-60 ulp and kept to 2^-40, so that no noise stands in what is kept."""
_LONGEST, _LONGEST_ARRAYS = 1 << 26, 1 << 30
"""Bytes of a fixture file, and of one with arrays."""
_MOST_UNCERTAIN = 1e-6
"""Ulps past which a value is not exact enough to be frozen."""

_APART = re.compile(r"[\\/:\0]")
"""What parts a path on some system, and so may not stand in a file's name on any."""

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""As TOML has them; Python's may have more digits than it writes."""
Number = Annotated[str | Whole, Field(description="a decimal or hexadecimal number, nan, inf or -inf")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Arrays(_Model):
    file: str = Field(description="an .npz file in the fixture's own folder")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def _known_format(name: str) -> str:
    if name not in formats.FORMATS:
        raise ValueError(f"there are {', '.join(formats.FORMATS)}")
    return name


class _Entry(_Model):
    name: str = Field(min_length=1, max_length=200)
    format: Annotated[str, AfterValidator(_known_format), Field(json_schema_extra={"enum": [*formats.FORMATS]})]
    why: str = Field("", description="why this fixture exists")
    tolerance: str = "stable"
    candidate: list[str] = Field([candidates.DEFAULT], description="built-in candidates that are checked")
    loss: dict[str, str | Whole] = Field({}, description="loss options, as --loss KEY=VALUE")
    labels: list[int] | list[list[Number]] | None = Field(None, description="classes (N,), or soft labels (N, k)")
    logits: list[list[Number]] | None = Field(None, description="(N, k)")
    expected: list[list[Number]] | None = Field(None, description="the exact gradient, row by row, (N, k)")
    arrays: _Arrays | None = Field(None, description="in place of labels, logits and expected")
    uncertainty_ulp: str | None = Field(None, description="how far an expected value may be off, in ulps")
    digest: str | None = Field(None, pattern="^sha256:[0-9a-f]{64}$")


class _File(_Model):
    schema_version: Literal[1]
    entries: Whole = Field(description="how many fixtures follow, so that a file that was cut off is found out")
    fixture: list[_Entry]


def schema() -> dict[str, Any]:
    """The JSON schema of a fixture file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_File.model_json_schema()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Frozen:
    """The exact gradient that a fixture holds, (N, k).

    Attributes:
        exact: one value, to all its digits.
    """

    values: Values
    judged: NDArray[np.bool_]
    exact: Callable[[int, int], Dyadic]
    estimates: Sequence[Estimates | None]

    at_once = None

    def spread(self, function: Callable[[Known, Values], Float64]) -> Float64:
        """See `ExactGradient`."""

        def of_pairs(row: int) -> Values:
            estimates = self.estimates[row]
            assert estimates is not None
            return self.values.each(lambda _, array: array[row, estimates.row.stand_ins])

        return spread_rows(self.estimates, of_pairs, function, self.values.high.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """Frozen values as they stand in a file, (high + low)·2^exponent to 104 bits, (N, k).

    Attributes:
        exact: one of them, to all its digits.
        undefined: where `nan` stands, (N, k).
        uncertainty_ulp: how far each may be off, in ulps of the problem's format.
    """

    high: Float64
    low: Float64
    exponent: Int64
    exact: Callable[[int, int], Dyadic]
    undefined: NDArray[np.bool_]
    uncertainty_ulp: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Fixture:
    """One entry of a fixture file.

    Attributes:
        path: the file; index: the entry's place in it.
        expected: None where nothing has been frozen yet.
        edited: whether the entry is not as it was recorded: its digest is another, or missing.
    """

    path: Path
    index: int
    name: str
    why: str
    problem: Problem
    tolerance: str
    candidates: tuple[str, ...]
    expected: Expected | None
    edited: bool

    @property
    def title(self) -> str:
        """`file::name`, as pytest writes it."""
        return f"{self.path}::{self.name}"

    def frozen(self, fmt: Format) -> Frozen:
        """The frozen values, for a gradient that is judged in `fmt`."""
        assert self.expected is not None
        own, problem, held = self.problem.format, self.problem, self.expected
        magnitude = np.where(held.high == 0, own.emin, np.frexp(held.high)[1] - 1 + held.exponent)
        ulp_log2 = np.maximum(magnitude, own.emin) - own.precision + 1
        # the zeros of ignored rows are exact
        ignored = (problem.status == RowStatus.IGNORED)[:, None]
        error_log2 = np.where(ignored, -np.inf, ulp_log2 + math.log2(held.uncertainty_ulp))
        values = values_in_units(fmt, held.high, held.low, held.exponent, error_log2)
        return Frozen(
            values=values,
            judged=(problem.status != RowStatus.UNDEFINED)[:, None],
            exact=held.exact,
            estimates=[None if row is None else estimate(row) for row in problem.distinct],
        )


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A frozen value that central differences do not confirm."""

    row: int
    cls: int
    frozen: Dyadic | float
    derived: Dyadic | float


def derive(problem: Problem) -> Reference:
    """The gradient that a fixture freezes, by central differences."""
    return reference.compute(problem, problem.format, Settings(target_bits=_TARGET_BITS))


def mismatches(fixture: Fixture, derived: Reference) -> list[Mismatch]:
    """Every frozen value that lies further from the derived one than their uncertainties allow."""
    frozen = fixture.frozen(fixture.problem.format).values
    exact = derived.values
    shift = (frozen.unit_log2 - exact.unit_log2).astype(np.int32)
    with np.errstate(all="ignore"):
        apart = np.abs((np.ldexp(frozen.high, shift) - exact.high) + (np.ldexp(frozen.low, shift) - exact.low))
        allowed = np.ldexp(frozen.uncertainty, shift) + exact.uncertainty
        # what overflows is past every value that there can be
        wrong = ~((apart <= allowed) & np.isfinite(apart)) & np.broadcast_to(derived.judged, apart.shape)
    assert fixture.expected is not None
    held = fixture.expected
    # nan stands where a row is undefined, and nowhere else
    wrong |= held.undefined == derived.judged
    return [
        Mismatch(
            row=row,
            cls=cls,
            frozen=math.nan if held.undefined[row, cls] else held.exact(row, cls),
            derived=derived.exact(row, cls) if derived.judged[row, 0] else math.nan,
        )
        for row, cls in np.argwhere(wrong).tolist()
    ]


# --- reading -------------------------------------------------------------------------------------------------------


def find(paths: Iterable[str]) -> list[Path]:
    """The fixture files that paths name: files themselves, folders for all that lie below them.

    Raises:
        InputError: for a path that is not there, is no fixture file, or holds none.
    """
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            below = sorted(path.rglob(f"*{SUFFIX}"))
            if not below:
                raise InputError(f"{name}: there are no files *{SUFFIX} in this folder")
            found += below
        elif not path.exists():
            raise InputError(f"{name}: there is no such file")
        elif not path.name.endswith(SUFFIX):
            raise InputError(f"{name}: a fixture file is named *{SUFFIX}")
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def load(path: Path) -> list[Fixture]:
    """The entries of a fixture file.

    Raises:
        InputError: where the file, or something in it, is not as it must be; with the line where it stands.
    """
    return _fixtures(path, _content(path))


def _fixtures(path: Path, content: str) -> list[Fixture]:
    return [_fixture(path, content, index, entry) for index, entry in enumerate(_parsed(path, content).fixture)]


def _content(path: Path) -> str:
    try:
        return reading.content(path, _LONGEST).decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text (byte {error.start})") from None


def _parsed(path: Path, content: str) -> _File:
    if content.startswith("\ufeff"):
        raise InputError(f"{path}: begins with a byte order mark; save it as plain UTF-8")
    try:
        table = reading.toml(content, parse_float=str)
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: is no TOML: {error}") from None
    try:
        parsed = _File.model_validate(table)
    except pydantic.ValidationError as errors:
        first = errors.errors(include_url=False)[0]
        raise InputError(f"{path}{_at(content, first['loc'])}: {_told(first)}") from None
    if parsed.entries != len(parsed.fixture):
        raise InputError(
            f"{path}: says that it has {parsed.entries} entries and has {len(parsed.fixture)}: "
            "it was cut off, or an entry was added or taken out by hand"
        )
    seen: set[tuple[str, str]] = set()
    for index, entry in enumerate(parsed.fixture):
        where = f"{path}{_at(content, ('fixture', index, 'name'))}: '{visible(entry.name)}'"
        if not entry.name.isprintable() or re.search(r"::|[\[\]]", entry.name):
            raise InputError(f"{where}: a name holds no '::', no brackets, no control characters")
        if (entry.name, entry.format) in seen:
            raise InputError(f"{where} stands there twice")
        seen.add((entry.name, entry.format))
    return parsed


def _told(error: Any) -> str:
    names = [part for part in error["loc"] if isinstance(part, str)]
    where = ".".join(name for name in names if name != "fixture") or names[-1]
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key '{names[-1]}'"
        case "missing":
            return f"'{names[-1]}' is missing"
        case _:
            return f"{where}: {error['msg']}"


def _at(content: str, place: tuple[int | str, ...]) -> str:
    """`, line N` of a key, as far as it can be found in the text."""
    lines = content.splitlines()
    start, keys = 0, [part for part in place if isinstance(part, str) and part != "fixture"]
    if len(place) > 1 and place[0] == "fixture" and isinstance(place[1], int):
        heads = [n for n, line in enumerate(lines) if re.match(r"\s*\[\[\s*fixture\s*\]\]", line)]
        start = heads[place[1]] if place[1] < len(heads) else 0
    for key in reversed(keys):
        # one that cannot be made to go back: lines are other people's
        pattern = re.compile(rf"""(?:^|[{{,])\s*["']?{re.escape(key)}["']?\s*=""")
        for n in range(start, len(lines)):
            if pattern.search(lines[n]):
                return f", line {n + 1}"
    return f", line {start + 1}" if start else ""


def _fixture(path: Path, content: str, index: int, entry: _Entry) -> Fixture:
    def wrong(key: str, why: str) -> InputError:
        return InputError(f"{path}{_at(content, ('fixture', index, key))}: '{entry.name}': {why}")

    fmt = formats.named(entry.format)
    try:
        if entry.arrays is not None:
            if entry.logits is not None or entry.labels is not None or entry.expected is not None:
                raise InputError("arrays stand in place of logits, labels and expected, not beside them")
            logits, labels, expected = _arrays(path, entry.arrays, fmt, entry.uncertainty_ulp)
        else:
            if entry.logits is None or entry.labels is None:
                raise InputError(f"'{'logits' if entry.logits is None else 'labels'}' is missing")
            logits = _matrix(entry.logits, "logits", fmt)
            labels = _labels(entry.labels, fmt)
            expected = None if entry.expected is None else _expected(entry.expected, entry.uncertainty_ulp)
        options = losses.parse(f"{key}={value}" for key, value in entry.loss.items())
        problem = Problem(logits=logits, labels=labels, format=fmt, loss=options)
        if expected is not None and expected.high.shape != logits.shape:
            raise InputError(f"expected has shape {expected.high.shape}, the logits {logits.shape}")
    except (InputError, UsageError) as error:
        blamed = next((key for key in _Entry.model_fields if re.search(rf"\b{key}\b", str(error))), "logits")
        raise wrong(blamed, str(error)) from None
    for name in entry.candidate:
        if ":" in name:
            raise wrong("candidate", f"'{name}' is code, which no fixture runs; --candidate on the command line does")
    return Fixture(
        path=path,
        index=index,
        name=entry.name,
        why=entry.why,
        problem=problem,
        tolerance=entry.tolerance,
        candidates=tuple(entry.candidate),
        expected=expected,
        edited=expected is not None and entry.digest != _digest(entry),
    )


def _matrix(rows: Sequence[Sequence[str | int]], what: str, fmt: Format) -> Array:
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise InputError(f"{what} has rows of {' and '.join(map(str, sorted(widths)))} numbers")
    cells = [str(cell) for row in rows for cell in row]
    for cell in cells:
        if not is_number(cell):
            raise InputError(f"{what}: '{cell[:40]}' is no number")
    return fmt.parse_array(cells).reshape(len(rows), -1) if cells else np.zeros((len(rows), 0), fmt.dtype)


def _labels(labels: list[int] | list[list[str | int]], fmt: Format) -> Array:
    if any(isinstance(label, list) for label in labels):
        return _matrix(labels, "labels", fmt)  # type: ignore[arg-type]
    try:
        return np.array(labels, dtype=np.int64)
    except OverflowError:
        raise InputError("labels: a class does not fit into 64 bits") from None


def _expected(rows: Sequence[Sequence[str | int]], uncertainty: str | None) -> Expected:
    if uncertainty is None:
        raise InputError("'uncertainty_ulp' is missing")
    widths = {len(row) for row in rows}
    if len(widths) != 1 or widths == {0}:
        raise InputError("expected has rows of different length" if len(widths) > 1 else "expected holds nothing")
    exact = [[_dyadic(str(cell)) for cell in row] for row in rows]
    high, low, exponent = cut_each(exact)
    return Expected(
        high=high,
        low=low,
        exponent=exponent,
        exact=lambda row, cls: exact[row][cls],
        undefined=np.array([[str(cell).strip().lower().endswith("nan") for cell in row] for row in rows]),
        uncertainty_ulp=_uncertainty(uncertainty),
    )


def _dyadic(cell: str) -> Dyadic:
    """The exact value of a decimal to 2^-300 of it; NaN, where a row is undefined, as 0, which nobody reads."""
    value = parse(cell)
    if isinstance(value, float):
        if not math.isnan(value):
            raise InputError(f"expected: '{cell}' is no gradient")
        return Dyadic(0, 0)
    return Dyadic(1, 0).scaled(value, 300)


def _uncertainty(cell: str) -> float:
    value = parse(cell) if is_number(cell) else math.nan
    if not (isinstance(value, Fraction) and 0 < value <= Fraction(_MOST_UNCERTAIN) and float(value)):
        raise InputError(f"uncertainty_ulp: '{cell[:40]}' is no number above 0 and up to {_MOST_UNCERTAIN:g}")
    return float(value)


def _digest(entry: _Entry) -> str:
    """A digest over what is exact in an entry, however it is laid out."""
    exact = entry.model_dump(include={"format", "loss", "labels", "logits", "expected", "arrays", "uncertainty_ulp"})
    return "sha256:" + hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()


def _arrays(path: Path, arrays: _Arrays, fmt: Format, uncertainty: str | None) -> tuple[Array, Array, Expected | None]:
    folder = path.resolve().parent
    target = folder / arrays.file
    # a link may lead anywhere
    plain = not _APART.search(arrays.file) and arrays.file.endswith(".npz")
    if not plain or Path(os.path.realpath(target)).parent != folder:
        raise InputError(f"arrays.file: '{arrays.file}' is no .npz file in the fixture's own folder")
    try:
        content = reading.content(target, _LONGEST_ARRAYS)
    except OSError as error:
        raise InputError(f"arrays: {target}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != arrays.sha256:
        raise InputError(
            f"arrays: {target}: is not the file that the fixture was recorded with (its sha256 is another)"
        )
    found = npz.read(io.BytesIO(content), ("logits", "labels", *_PARTS))
    held = _held(fmt)
    kinds = {
        "logits": (held, 2),
        **dict.fromkeys(_PARTS[:2], (np.dtype(np.float64), 2)),
        _PARTS[2]: (np.dtype(np.int64), 2),
    }
    for name, (dtype, axes) in kinds.items():
        if name in found and (found[name].dtype != dtype or found[name].ndim != axes):
            raise InputError(f"arrays: {target}: '{name}' is {found[name].dtype} with {found[name].ndim} axes")
    if "logits" not in found or "labels" not in found:
        raise InputError(f"arrays: {target}: holds no '{'labels' if 'logits' in found else 'logits'}'")
    labels = found["labels"]
    if labels.dtype not in (np.dtype(np.int64), held) or labels.ndim != (1 if labels.dtype == np.int64 else 2):
        raise InputError(f"arrays: {target}: 'labels' is {labels.dtype} with {labels.ndim} axes")
    logits = found["logits"].view(fmt.dtype)
    labels = labels if labels.ndim == 1 else labels.view(fmt.dtype)
    if not all(part in found for part in _PARTS):
        return logits, labels, None
    if uncertainty is None:
        raise InputError("'uncertainty_ulp' is missing")
    high, low, exponent = (found[part] for part in _PARTS)
    undefined = np.isnan(high)
    high = np.where(undefined, 0.0, high)
    if not (high.shape == low.shape == exponent.shape and np.isfinite(high).all() and np.isfinite(low).all()):
        raise InputError(f"arrays: {target}: the expected values are no numbers, or of different shapes")
    if (np.abs(exponent) > 2**31).any():
        raise InputError(f"arrays: {target}: an exponent is out of range")
    return (
        logits,
        labels,
        Expected(
            high=high,
            low=low,
            exponent=exponent,
            exact=lambda row, cls: _joined(float(high[row, cls]), float(low[row, cls]), int(exponent[row, cls])),
            undefined=undefined,
            uncertainty_ulp=_uncertainty(uncertainty),
        ),
    )


_PARTS = ("expected_high", "expected_low", "expected_exponent")
"""A frozen value is (high + low)·2^exponent."""


def _held(fmt: Format) -> np.dtype[Any]:
    """As which an archive holds a format's numbers: where NumPy has no name for it, as their bit patterns."""
    return formats.bits(fmt.dtype) if fmt.nameless else fmt.dtype


def _joined(high: float, low: float, exponent: int) -> Dyadic:
    value = Fraction(high) + Fraction(low)
    return Dyadic(value.numerator, exponent - value.denominator.bit_length() + 1)


# --- writing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """What a new fixture is made from."""

    name: str
    problem: Problem
    why: str = ""
    tolerance: str = "stable"
    candidates: tuple[str, ...] = (candidates.DEFAULT,)


def record(path: Path, new: Sequence[Recorded], *, append: bool = False) -> None:
    """Freezes problems into a fixture file, a new one unless they are to be appended.

    Raises:
        InputError: where the file is there, or lacks, or has an entry of that name and format, or cannot be written.
    """
    if not path.name.endswith(SUFFIX):
        raise InputError(f"{path}: a fixture file is named *{SUFFIX}")
    if path.exists() and not append:
        raise InputError(f"{path}: is there already; --append adds to it, 'gradcheck fixtures update' renews it")
    was = _content(path) if append and path.exists() else None
    document = tomlkit.parse(was) if was is not None else tomlkit.document()
    if was is None:
        document["schema_version"] = SCHEMA_VERSION
        document["entries"] = 0
        document["fixture"] = tomlkit.aot()
    else:
        _parsed(path, was)
    taken = {(str(entry["name"]), str(entry["format"])) for entry in document["fixture"]}
    arrays: dict[Path, bytes] = {}
    before = len(document["fixture"])
    for one in new:
        if (one.name, one.problem.format.name) in taken:
            raise InputError(f"{path}: has an entry '{one.name}' in {one.problem.format.name} already")
        taken.add((one.name, one.problem.format.name))
        document["fixture"].append(_table(path, one, arrays))
    document["entries"] = len(document["fixture"])
    # what stood there before keeps its digest, which may tell that it was edited
    _seal(path, document, range(before, len(document["fixture"])))
    content = document.as_string()
    # a blank line before each new entry; they stand last
    headers = [found.start() for found in re.finditer(r"(?m)^\[\[fixture\]\]$", content)]
    for at in reversed(headers[-len(new) :]):
        if content[at - 2 : at] != "\n\n":
            content = f"{content[:at]}\n{content[at:]}"
    _put(path, content, arrays, was)


def _put(path: Path, content: str, arrays: Mapping[Path, bytes], was: str | None) -> None:
    """Puts a file in its place after the arrays that it names; where that fails, those that nobody names go again."""
    made = [target for target in arrays if not target.exists()]
    try:
        for target, held in arrays.items():
            writing.replace(target, held)
        writing.replace(path, content.encode(), was=None if was is None else was.encode(), new=was is None)
    except BaseException:
        # it may have been put there all the same, or by another program
        with contextlib.suppress(InputError, ValueError):
            named = _array_files(_content(path)) if path.exists() else set()
            for target in made:
                if target.name not in named:
                    target.unlink(missing_ok=True)
        raise


def _table(path: Path, new: Recorded, arrays: dict[Path, bytes]) -> Any:
    problem, derived = new.problem, derive(new.problem)
    table = tomlkit.table()
    table["name"], table["format"] = new.name, problem.format.name
    if new.why:
        table["why"] = visible(new.why)
    table["tolerance"], table["candidate"] = new.tolerance, list(new.candidates)
    if problem.loss:
        table["loss"] = tomlkit.inline_table()
        table["loss"].update({option.name: option.in_full for option in problem.loss})
    if problem.rows * problem.classes > LARGE:
        table["arrays"] = _apart(path, problem, derived, arrays)
    else:
        table["labels"] = problem.labels.tolist() if problem.labels.ndim == 1 else _rows(problem.labels, problem.format)
        table["logits"] = _rows(problem.logits, problem.format)
        table["expected"] = _expected_rows(derived)
    table["uncertainty_ulp"] = _least_uncertainty(derived)
    return table


def _rows(array: Array, fmt: Format) -> Any:
    return _nested([[text.candidate(float(x), fmt) for x in row] for row in array])


def _nested(rows: Sequence[Sequence[str]]) -> Any:
    """An array of arrays, one row a line."""
    nested = tomlkit.array()
    nested.extend([list(row) for row in rows])
    return nested.multiline(True)


def _expected_rows(derived: Reference) -> Any:
    rows, classes = derived.values.high.shape
    return _nested([[_frozen(derived, row, cls) for cls in range(classes)] for row in range(rows)])


def _frozen(derived: Reference, row: int, cls: int) -> str:
    """A derived value in as many digits as its uncertainty of 2^-40 ulp makes worth keeping."""
    fmt = derived.values.format
    if derived.rows[row] is None:
        return "0.0" if derived.judged[row, 0] else "nan"
    if not derived.values.resolved[row, cls]:
        return "0.0"
    return text.decimal(derived.exact(row, cls), math.ceil((fmt.precision + _KEPT_BITS) * math.log10(2)) + 1)


def _least_uncertainty(derived: Reference) -> str:
    """In ulps: the values' own, that of their decimal digits, and a factor of 2 for the side of a power of 2."""
    own = float(derived.values.in_ulps(derived.values.uncertainty).max())
    return text.brief(2.1 * (own + 2.0**-_KEPT_BITS))


def _apart(path: Path, problem: Problem, derived: Reference, arrays: dict[Path, bytes]) -> Any:
    """The arrays for a file of their own, named after what it holds, so that no other entry's is written over.

    Args:
        arrays: what is to be written, to which they are added.
    """
    labels, held = problem.labels, _held(problem.format)
    high, low, exponent = cut_each([derived.exact_row(row) for row in range(problem.rows)])
    # 0 where the value cannot be told from it, nan where there is none
    high = np.where(derived.values.resolved, high, 0.0)
    high, low = np.where(derived.judged, high, np.nan), np.where(derived.values.resolved, low, 0.0)
    stream = io.BytesIO()
    npz.write_named(
        stream,
        {
            "logits": problem.logits.view(held),
            "labels": labels.view(held) if labels.ndim == 2 else labels,
            **dict(zip(_PARTS, (high, low, exponent), strict=True)),
        },
        compressed=True,
    )
    sha256 = hashlib.sha256(stream.getvalue()).hexdigest()
    home = path.resolve()
    stem = home.parent / _APART.sub("-", home.name.removesuffix(SUFFIX))
    target = Path(f"{stem}-{sha256[:12]}.npz")
    if target.exists() and target.read_bytes() != stream.getvalue():
        # somebody has edited it: until the fixture names the new one, it is the one that it names
        target = Path(f"{stem}-{sha256}.npz")
    arrays[target] = stream.getvalue()
    table = tomlkit.inline_table()
    table.update({"file": target.name, "sha256": sha256})
    return table


def _seal(path: Path, document: Any, which: Iterable[int]) -> None:
    """Writes the digests of some entries."""
    parsed = _parsed(path, document.as_string())
    for index in which:
        table, digest = document["fixture"][index], _digest(parsed.fixture[index])
        if table.get("digest") != digest:
            table["digest"] = digest


@dataclass(frozen=True, kw_only=True)
class Update:
    """What an update would make of a file: its new text, and how that differs line by line; both may be unchanged."""

    path: Path
    was: str
    text: str
    arrays: Mapping[Path, bytes]

    @property
    def diff(self) -> str:
        """A unified diff."""
        was, now = (part.splitlines(keepends=True) for part in (self.was, self.text))
        return "".join(difflib.unified_diff(was, now, str(self.path), str(self.path)))

    def write(self) -> None:
        """Puts it in the file's place.

        Raises:
            InputError: where the file has changed since it was read, or cannot be written.
        """
        if self.text == self.was:
            return
        _put(self.path, self.text, self.arrays, self.was)
        folder = self.path.resolve().parent
        for name in _array_files(self.was) - _array_files(self.text):
            (folder / name).unlink(missing_ok=True)


def update(path: Path) -> Update:
    """A fixture file with its values derived again; comments, layout, and digits that hold stay as they are.

    Raises:
        InputError: where the file cannot be read, or has lost entries.
    """
    was = _content(path)
    found = _fixtures(path, was)
    document = tomlkit.parse(was)
    arrays: dict[Path, bytes] = {}
    for fixture in found:
        table, derived = document["fixture"][fixture.index], derive(fixture.problem)
        wrong = None if fixture.expected is None else mismatches(fixture, derived)
        if wrong == []:
            continue
        if "arrays" in table:
            table["arrays"] = _apart(path, fixture.problem, derived, arrays)
        elif wrong is None:
            table["expected"] = _expected_rows(derived)
        else:
            for one in wrong:
                table["expected"][one.row][one.cls] = _frozen(derived, one.row, one.cls)
        uncertainty = _least_uncertainty(derived)
        if table.get("uncertainty_ulp") != uncertainty:
            table["uncertainty_ulp"] = uncertainty
    _seal(path, document, range(len(document["fixture"])))
    return Update(path=path, was=was, text=document.as_string(), arrays=arrays)


def _array_files(content: str) -> set[str]:
    """The files of arrays that a fixture file names."""
    entries = reading.toml(content, parse_float=str).get("fixture", [])
    return {entry["arrays"]["file"] for entry in entries if "arrays" in entry}
