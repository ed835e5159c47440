"""Files of logits, labels and gradients: one file here for each file format, named as its suffix.

A file defines `read(stream, names) -> {name: array}`, which may leave out arrays of other names and gives the places of
large ones, and `write(stream, logits, labels)`. A reader says what stands in the file and no more; what a number means
in a floating-point format is decided here, once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, overload

import numpy as np

from gradcheck import formats, plugins, reading, stored, writing
from gradcheck.exact import Texts, parse
from gradcheck.exceptions import InputError, MissingExtraError, UsageError
from gradcheck.files import _arrays
from gradcheck.formats import Array, Format
from gradcheck.stored import Place, Rows, Stored

LONE = ""
"""The name of an array in a file that holds no names."""

Contents = Mapping[str, Array | Texts]
"""Arrays by name, in memory."""

Raw = Array | Texts | Place
"""An array as a reader gives it."""

_MOST_AXES = 32
"""What every NumPy can hold."""
_PER_ROW, _PER_CLASS = 64, 500
"""Bytes that each row takes even where nobody looks at it, and each class of a row that somebody looks at."""

_NAMES = ("logits", "labels", "weight", "gradient")
"""What is read without being asked for; other arrays of a file are left alone."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the classes stand in arrays of any number of axes, whose other axes are rows.

    Attributes:
        shape: of the logits, as they stand in their file.
        axis: of the classes, from 0.
    """

    shape: tuple[int, ...]
    axis: int

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int | None = None) -> Layout:
        """The layout of logits of a shape.

        Raises:
            InputError: where the axis is not there, or has to be said and is not.
        """
        if 0 in shape:
            raise InputError(f"logits have shape {shape}: there is nothing to check")
        if len(shape) < 2:
            if not shape:
                raise InputError("logits have shape (); expected (classes,) or (rows, classes)")
            return cls(shape=shape, axis=0)
        if axis is None and len(shape) > 2:
            raise InputError(
                f"logits have shape {shape}: say which axis holds the classes, --axis 1 as PyTorch and ONNX have it, "
                "or --axis -1"
            )
        axis = -1 if axis is None else axis
        if not -len(shape) <= axis < len(shape):
            raise InputError(f"logits have shape {shape}, and no axis {axis}")
        return cls(shape=shape, axis=axis % len(shape))

    @property
    def outer(self) -> tuple[int, ...]:
        """The shape of the axes that are rows."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def rows(self) -> tuple[int, int]:
        """The shape of the logits as rows, (N, k)."""
        return math.prod(self.outer), self.shape[self.axis]

    @property
    def note(self) -> str | None:
        """How rows are numbered, where there is more to it than one axis."""
        if len(self.shape) < 3:
            return None
        return (
            f"classes are along axis {self.axis} of {self.shape}; rows are counted through the other axes, {self.outer}"
        )

    def arranged(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that `arrange` gives to an array."""
        if len(self.shape) < 2 or shape not in (self.shape, self.outer):
            return shape
        return self.rows if shape == self.shape else self.rows[:1]

    @overload
    def arrange(self, raw: Array) -> Array: ...
    @overload
    def arrange(self, raw: Texts) -> Texts: ...
    def arrange(self, raw: Array | Texts) -> Array | Texts:
        """Arrays of the logits' own shape as (N, k), such of a number for each row as (N,), others as they are."""
        if len(self.shape) < 2 or raw.shape not in (self.shape, self.outer):
            return raw
        array = np.array(raw.cells, dtype=object).reshape(raw.shape) if isinstance(raw, Texts) else raw
        array = np.moveaxis(array, self.axis, -1) if raw.shape == self.shape else array
        array = array.reshape(self.arranged(raw.shape))
        return Texts(cells=array.ravel().tolist(), shape=array.shape) if isinstance(raw, Texts) else array


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """What a file of logits holds; large arrays of rows stay there.

    Attributes:
        logits: (N, k) in the format's dtype.
        labels: (N,) int64 or (N, k) in the format's dtype, if the file has any.
        gradient: (N, k) in a dtype of its own, if the file has one.
        layout: how they stood in the file.
        others: the class weights, if the file has any, and what else was asked for, by name.
        notes: what a reader of the report must know: casts, arrays left alone.
    """

    logits: Rows
    labels: Rows | None
    gradient: Rows | None
    layout: Layout
    others: Contents
    format: Format
    notes: tuple[str, ...]


def names() -> list[str]:
    """The file formats that are read and written."""
    return plugins.names(sys.modules[__name__])


def summary(name: str) -> str:
    """What a file format is, in one sentence."""
    return plugins.documented(sys.modules[__name__], name)[0]


def load(
    path: str,
    *,
    input_format: str | None = None,
    dtype: str | None = None,
    gradient_dtype: str | None = None,
    axis: int | None = None,
    others: Sequence[str] = (),
) -> Loaded:
    """Logits, and what comes with them.

    Args:
        path: a file, or "-" for standard input.
        input_format: one of `names()`; None goes by the suffix.
        dtype: a format's name; casts, or says what bit patterns are.
        gradient_dtype: says what bit patterns of a gradient are.
        axis: of the classes.
        others: names of arrays that are wanted, too.

    Raises:
        InputError: for anything in the file that cannot be logits.
    """
    contents = _read(path, input_format, "--input-format", others)
    with _naming(path):
        raw = _array(contents, "logits")
        layout = Layout.of(raw.shape, axis)
        rows, classes = layout.rows
        reading.require(rows * _PER_ROW + classes * _PER_CLASS, f"a check of {rows:,} rows of {classes:,} classes")
        logits, fmt, note = _floats(raw, layout, "logits", formats.named(dtype) if dtype else None, "--dtype")
        notes = [said for said in (note, layout.note) if said]
        labels = None
        if "labels" in contents:
            labels, note = _labels(contents["labels"], layout, fmt)
            notes += [note] if note else []
        gradient = None
        if "gradient" in contents:
            gradient = _gradient(contents["gradient"], layout, gradient_dtype, fmt)
        found = {
            name: _other(_taken(contents[name], name, layout), name, layout, fmt)
            for name in ("weight", *others)
            if name in contents
        }
        missing = [name for name in others if name not in contents]
        if missing:
            raise InputError(f"holds no array named '{missing[0]}'")
    return Loaded(
        logits=logits,
        labels=labels,
        gradient=gradient,
        layout=layout,
        others=found,
        format=fmt,
        notes=tuple(notes),
    )


def load_labels(path: str, layout: Layout, fmt: Format) -> tuple[Rows, str | None]:
    """Labels for logits of that layout from a file of their own, and a note if they were cast."""
    contents = _read(path, None)
    with _naming(path):
        raw = _array(contents, "labels")
        return _labels(raw, layout, fmt)


def load_gradient(path: str, layout: Layout, dtype: str | None, fmt: Format) -> Rows:
    """A gradient (N, k) from a file, in its own dtype, laid out there as the logits are.

    Args:
        dtype: what its bit patterns are; also the format that its text is read in, in place of `fmt`.
    """
    contents = _read(path, None)
    with _naming(path):
        raw = _array(contents, "gradient")
        return _gradient(raw, layout, dtype, fmt)


def load_other(path: str, name: str, layout: Layout, fmt: Format) -> Array | Texts:
    """An array that a loss option takes, from a file of its own: the lone one there, or that of the option's name.

    Args:
        fmt: the problem's format, which bit patterns are of.
    """
    contents = _read(path, None, others=(name,))
    with _naming(path):
        raw = _taken(_array(contents, name), name, layout)
        if len(raw.shape) == 2 and 1 in raw.shape and raw.shape != layout.rows:
            # a column, or a line, of delimited text
            size = (math.prod(raw.shape),)
            raw = Texts(cells=raw.cells, shape=size) if isinstance(raw, Texts) else raw.reshape(size)
        return _other(raw, name, layout, fmt)


def save(path: Path, logits: Array, labels: Array) -> None:
    """Writes logits and labels in the format of the suffix; a `.npy` file holds the logits alone."""
    module = _module(path.name, None)
    buffer = io.BytesIO()
    module.write(buffer, logits, labels)
    writing.replace(path, buffer.getvalue())


def exchanged() -> list[str]:
    """The file formats in which single arrays go to programs and come back."""
    return ["npy", "safetensors"]


def save_one(path: Path, name: str, array: Array) -> None:
    """Writes a single array in the format of the suffix, one of `exchanged()`."""
    module = _module(path.name, None)
    with open(path, "wb") as stream:
        module.write_one(stream, name, array)


def _read(
    path: str, input_format: str | None, flag: str | None = None, others: Sequence[str] = ()
) -> Mapping[str, Raw]:
    """What the file holds of the arrays that are known or wanted by name.

    Args:
        flag: the option that could have named its format, if there is one.
        others: names that are wanted beside those that are known.
    """
    if path == "-" and flag is None:
        raise UsageError("standard input is for the logits; labels and gradients come from files")
    if path == "-" and input_format is None:
        raise UsageError(f"standard input needs {flag}, one of {', '.join(names())}")
    module = _module(path, input_format, flag)
    try:
        given: BinaryIO = _standard_input() if path == "-" else open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path!r} is no path") from None
    with contextlib.nullcontext() if path == "-" else given, _naming("standard input" if path == "-" else path):
        try:
            # a device has no end, whatever it lets be sought
            plain = path != "-" and stat.S_ISREG(os.fstat(given.fileno()).st_mode)
            stream = given if plain else reading.stream_of(given)
            if not stream.read(1):
                raise InputError("is empty")
            stream.seek(0)
            contents: Mapping[str, Raw] = module.read(stream, (*_NAMES, *others))
            for name, raw in contents.items():
                if len(raw.shape) > _MOST_AXES:
                    raise InputError(f"{name or 'the array'} has {len(raw.shape)} axes; up to {_MOST_AXES} are read")
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror or error})") from None
        except RecursionError:
            raise InputError("nests too deep to be an array of numbers") from None
    return contents


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("standard input is closed")
    return sys.stdin.buffer


def _module(path: str, input_format: str | None, flag: str | None = None) -> ModuleType:
    if input_format is not None:
        return _loaded(input_format)
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in names():
        what = f"the suffix '.{suffix}'" if suffix else "no suffix"
        hint = f" ({flag} names another)" if flag else ""
        raise InputError(f"{path}: {what} names no file format; there are: {', '.join(names())}{hint}")
    return _loaded(suffix)


def _loaded(name: str) -> ModuleType:
    try:
        return plugins.load(sys.modules[__name__], "input format", name)
    except ModuleNotFoundError as missing:
        raise MissingExtraError(f"a .{name} file", name, missing.name or name) from None


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except stored.ChangedError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _array(contents: Mapping[str, Raw], name: str) -> Raw:
    """The array of that name, or the lone one of a file without names."""
    raw = contents.get(name, contents.get(LONE))
    if raw is None:
        raise _arrays.missing(name, contents)
    return raw


def _in_memory(raw: Raw) -> Array | Texts:
    return raw.read() if isinstance(raw, Place) else raw


def _taken(raw: Raw, name: str, layout: Layout) -> Array | Texts:
    """An array that goes with the logits, of which none is larger than they are, in memory."""
    if isinstance(raw, Place) and math.prod(raw.shape) > math.prod(layout.shape):
        raise InputError(f"{name} has shape {raw.shape}, the logits {layout.shape}")
    return _in_memory(raw)


def _floats(raw: Raw, layout: Layout, what: str, wanted: Format | None, flag: str) -> tuple[Rows, Format, str | None]:
    """Rows (N, k) of a format's dtype, and a note if that took a cast; `flag` is the option that says `wanted`."""
    if isinstance(raw, Texts):
        fmt = wanted or formats.named("float64")
        return fmt.parse_array(layout.arrange(raw).cells).reshape(layout.rows), fmt, None
    fmt = _format(raw.dtype, what, wanted, flag)
    rows: Rows
    if isinstance(raw, Place):
        axis = layout.axis if raw.shape == layout.shape else len(raw.shape) - 1
        rows = Stored(place=raw, axis=axis, dtype=raw.dtype)
        became: Rows = dataclasses.replace(rows, dtype=fmt.dtype)
    else:
        rows = layout.arrange(raw).reshape(layout.rows)
        became = stored.become(rows, fmt.dtype)
    if not stored.is_cast(raw.dtype, fmt.dtype):
        return became, fmt, None
    lost = sum(_lost(rows[block], fmt) for block in stored.blocks(rows))
    overflow = f", which made {lost} of them infinite" if lost else ""
    return became, fmt, f"{what} were cast from {raw.dtype} to {fmt.name}{overflow}"


@np.errstate(invalid="ignore")  # a cast of a signalling NaN is called invalid
def _lost(rows: Array, fmt: Format) -> int:
    """How many finite numbers become infinite."""
    finite = np.isfinite(rows.astype(np.float64))
    return int((finite & ~np.isfinite(stored.become(rows, fmt.dtype).astype(np.float64))).sum())


def _format(dtype: np.dtype[Any], what: str, wanted: Format | None, flag: str) -> Format:
    """The format that numbers of a dtype are taken for."""
    own = formats.of_dtype(dtype)
    if stored.is_bits(dtype):
        meant = stored.meant_by(dtype)
        if wanted not in meant:
            found = f"{dtype.itemsize}-byte void" if dtype.kind == "V" else dtype.name
            said = "; ".join(f"if they are {fmt} bit patterns, say {flag} {fmt}" for fmt in meant)
            raise InputError(f"{what}: the numbers are {found}; {said}")
        return wanted
    if own is None and (dtype.kind not in "iu" or wanted is None):
        hint = f"; {flag} casts them" if dtype.kind in "iu" else ""
        raise InputError(f"{what}: the numbers are {dtype}; expected one of {', '.join(formats.FORMATS)}{hint}")
    fmt = wanted or own
    assert fmt is not None  # numbers of another kind have been refused
    return fmt


def _other(raw: Array | Texts, name: str, layout: Layout, fmt: Format) -> Array | Texts:
    """An array of numbers as it stands, but for its layout; bit patterns are the numbers that they stand for."""
    if not isinstance(raw, Texts) and stored.is_bits(raw.dtype):
        # a mask may be of any integers
        bits = stored.bits(raw)
        is_mask = bool(np.isin(bits, (0, 1)).all())
        raw = bits if is_mask else stored.become(raw, _format(raw.dtype, name, fmt, "--dtype").dtype)
    if not isinstance(raw, Texts) and raw.dtype.kind not in "biuf" and formats.of_dtype(raw.dtype) is None:
        raise InputError(f"{name}: the numbers are {raw.dtype}; expected one of {', '.join(formats.FORMATS)}")
    return layout.arrange(raw)


def _gradient(raw: Raw, layout: Layout, dtype: str | None, fmt: Format) -> Rows:
    """A gradient in its own dtype; text is read in `dtype`, or in the problem's format."""
    shape, arranged = layout.rows, layout.arranged(raw.shape)
    if arranged != shape and (1, *arranged) != shape:
        raise InputError(f"the gradient has shape {raw.shape}, the logits {layout.shape}")
    meant = formats.named(dtype) if dtype else None
    if isinstance(raw, Texts):
        meant = meant or fmt
    elif formats.of_dtype(raw.dtype) is not None:
        meant = None
    elif raw.dtype.kind in "iu" and raw.dtype.itemsize != 2:
        raise InputError(f"gradient: the numbers are {raw.dtype}; expected one of {', '.join(formats.FORMATS)}")
    return _floats(raw, layout, "gradient", meant, "--gradient-dtype")[0]


def _labels(raw: Raw, layout: Layout, fmt: Format) -> tuple[Rows, str | None]:
    """Hard labels (N,) as int64, or soft labels (N, k) in the format's dtype, and a note if they were cast."""
    shape, arranged = layout.rows, layout.arranged(raw.shape)
    rows = shape[0]
    # numbers of the logits' own shape are soft labels, whole or not, unless each row has but one
    whole = (arranged != shape or shape == (rows, 1)) and _whole(raw)
    single = arranged in ((), (rows,), (rows, 1))
    if not whole and (arranged == shape or (1, *arranged) == shape):
        values, _, note = _floats(raw, layout, "labels", fmt, "--dtype")
        return values, note
    if not single:
        where = f", with classes along axis {layout.axis}," if len(layout.shape) > 2 else ""
        by_row, soft = (layout.outer, layout.shape) if len(layout.shape) > 1 else ((1,), shape)
        raise InputError(
            f"labels have shape {arranged}; logits of shape {layout.shape}{where} need {by_row} "
            f"(a class for each row) or {soft} (soft labels)"
        )
    if not whole:
        shown = f"'{raw.cells[0][:40]}', …" if isinstance(raw, Texts) else str(raw.dtype)
        raise InputError(f"labels that name the class of each row must be integers, not {shown}")
    raw = _in_memory(raw)
    if isinstance(raw, Texts):
        raw = np.array([int(parse(cell)) for cell in raw.cells], dtype=object)
    if raw.size and not (int(raw.min()) >= -(2**63) and int(raw.max()) < 2**63):
        raise InputError("a label does not fit into 64 bits")
    return raw.reshape(-1).astype(np.int64), None


def _whole(raw: Raw) -> bool:
    """Whether all numbers are whole: for arrays their dtype says so."""
    if not isinstance(raw, Texts):
        return raw.dtype.kind in "iu"
    return all(isinstance(value, Fraction) and value.denominator == 1 for value in map(parse, raw.cells))
