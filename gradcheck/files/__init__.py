"""Files of logits, labels and gradients: one file here for each file format, named as its suffix.

A file defines `read(stream) -> {name: array}` and `write(stream, logits, labels)`. A reader says what stands in the
file and no more; what a number means in a floating-point format is decided here, once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from gradcheck import formats, plugins, writing
from gradcheck.exact import parse
from gradcheck.exceptions import InputError, UsageError
from gradcheck.formats import Array, Format

LONE = ""
"""The name of an array in a file that holds no names."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Numbers as they were written, so that each is rounded once, into the format it is meant for."""

    cells: list[str]
    shape: tuple[int, ...]


Contents = Mapping[str, Array | Texts]


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """What a file of logits holds.

    Attributes:
        logits: (N, k) in the format's dtype.
        labels: (N,) int64 or (N, k) in the format's dtype, if the file has any.
        gradient: (N, k) in a dtype of its own, if the file has one.
        notes: what a reader of the report must know: casts, arrays left alone.
    """

    logits: Array
    labels: Array | None
    gradient: Array | None
    format: Format
    notes: tuple[str, ...]


def names() -> list[str]:
    """The file formats that are read and written."""
    return plugins.names(sys.modules[__name__])


def summary(name: str) -> str:
    """What a file format is, in one sentence."""
    return plugins.summary(plugins.load(sys.modules[__name__], "input format", name))


def load(
    path: str, *, input_format: str | None = None, dtype: str | None = None, gradient_dtype: str | None = None
) -> Loaded:
    """Logits, and what comes with them.

    Args:
        path: a file, or "-" for standard input.
        input_format: one of `names()`; None goes by the suffix.
        dtype: a format's name; casts, or says what bit patterns are.
        gradient_dtype: says what bit patterns of a gradient are.

    Raises:
        InputError: for anything in the file that cannot be logits.
    """
    contents = _read(path, input_format, "--input-format")
    with _naming(path):
        raw = _array(contents, "logits")
        if "weight" in contents:
            raise InputError("holds class weights ('weight'), and weighted losses are not supported yet")
        logits, fmt, note = _floats(raw, "logits", formats.named(dtype) if dtype else None, "--dtype")
        notes = [note] if note else []
        if logits.ndim == 1:
            logits = logits[None, :]
        if logits.ndim != 2:
            raise InputError(f"logits have shape {logits.shape}; expected (classes,) or (rows, classes)")
        if 0 in logits.shape:
            raise InputError(f"logits have shape {logits.shape}: there is nothing to check")
        labels = None
        if "labels" in contents:
            labels, note = _labels(contents["labels"], logits.shape, fmt)
            notes += [note] if note else []
        gradient = None
        if "gradient" in contents:
            gradient = _gradient(contents["gradient"], logits.shape, gradient_dtype, fmt)
    return Loaded(logits=logits, labels=labels, gradient=gradient, format=fmt, notes=tuple(notes))


def load_labels(path: str, shape: tuple[int, ...], fmt: Format) -> tuple[Array, str | None]:
    """Labels for logits of `shape` from a file of their own, and a note if they were cast."""
    contents = _read(path, None)
    with _naming(path):
        raw = _array(contents, "labels")
        return _labels(raw, shape, fmt)


def load_gradient(path: str, shape: tuple[int, ...], dtype: str | None, fmt: Format) -> Array:
    """A gradient of `shape` from a file, in its own dtype.

    Args:
        dtype: what its bit patterns are; also the format that its text is read in, in place of `fmt`.
    """
    contents = _read(path, None)
    with _naming(path):
        raw = _array(contents, "gradient")
        return _gradient(raw, shape, dtype, fmt)


def save(path: Path, logits: Array, labels: Array) -> None:
    """Writes logits and labels in the format of the suffix; a `.npy` file holds the logits alone."""
    module = _module(path.name, None)
    buffer = io.BytesIO()
    module.write(buffer, logits, labels)
    writing.replace(path, buffer.getvalue())


def _read(path: str, input_format: str | None, flag: str | None = None) -> Contents:
    """What the file holds; `flag` is the option that could have named its format, if there is one."""
    if path == "-" and flag is None:
        raise UsageError("standard input is for the logits; labels and gradients come from files")
    if path == "-" and input_format is None:
        raise UsageError(f"standard input needs {flag}, one of {', '.join(names())}")
    module = _module(path, input_format, flag)
    try:
        stream: BinaryIO = io.BytesIO(_standard_input()) if path == "-" else open(path, "rb")  # noqa: SIM115
        if not stream.seekable():
            with stream:
                stream = io.BytesIO(stream.read())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path!r} is no path") from None
    with stream, _naming("standard input" if path == "-" else path):
        try:
            if not stream.read(1):
                raise InputError("is empty")
            stream.seek(0)
            contents: Contents = module.read(stream)
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror or error})") from None
        except RecursionError:
            raise InputError("nests too deep to be an array of numbers") from None
    return contents


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise InputError("standard input is closed")
    return sys.stdin.buffer.read()


def _module(path: str, input_format: str | None, flag: str | None = None) -> ModuleType:
    here = sys.modules[__name__]
    if input_format is not None:
        return plugins.load(here, "input format", input_format)
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in names():
        what = f"the suffix '.{suffix}'" if suffix else "no suffix"
        hint = f" ({flag} names another)" if flag else ""
        raise InputError(f"{path}: {what} names no file format; there are: {', '.join(names())}{hint}")
    return plugins.load(here, "input format", suffix)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _array(contents: Contents, name: str) -> Array | Texts:
    """The array of that name, or the lone one of a file without names."""
    raw = contents.get(name, contents.get(LONE))
    if raw is None:
        raise InputError(f"holds no array named '{name}' (it has: {', '.join(sorted(contents)[:8]) or 'nothing'})")
    return raw


def _floats(raw: Array | Texts, what: str, wanted: Format | None, flag: str) -> tuple[Array, Format, str | None]:
    """An array of a format's dtype, and a note if that took a cast; `flag` is the option that says `wanted`."""
    if isinstance(raw, Texts):
        meant = wanted or formats.named("float64")
        return meant.parse_array(raw.cells).reshape(raw.shape), meant, None
    void = raw.dtype.kind == "V" and raw.dtype.names is None and raw.dtype.itemsize == 2
    if void or (raw.dtype.kind, raw.dtype.itemsize) == ("u", 2):
        # NumPy names no bfloat16: to .npy it is a 2-byte void, to others its bit patterns are integers
        if wanted is None or wanted.dtype.kind != "V":
            found = "2-byte void" if void else "uint16"
            raise InputError(f"{what}: the numbers are {found}; if they are bfloat16 bit patterns, say {flag} bfloat16")
        bits = raw.view(np.uint16) if void else raw.astype(np.uint16)
        return np.asarray(bits, order="C").view(wanted.dtype), wanted, None
    own = formats.of_dtype(raw.dtype)
    if own is None and (raw.dtype.kind not in "iu" or wanted is None):
        hint = f"; {flag} casts them" if raw.dtype.kind in "iu" else ""
        raise InputError(f"{what}: the numbers are {raw.dtype}; expected one of {', '.join(formats.FORMATS)}{hint}")
    fmt = wanted or own
    assert fmt is not None  # an array of another kind has been refused
    if own is fmt:
        return np.asarray(raw, dtype=fmt.dtype, order="C"), fmt, None
    exact = raw.astype(np.float64)
    cast = fmt.round_array(exact)
    lost = int((np.isfinite(exact) & ~np.isfinite(cast.astype(np.float64))).sum())
    overflow = f", which made {lost} of them infinite" if lost else ""
    return cast, fmt, f"{what} were cast from {raw.dtype} to {fmt.name}{overflow}"


def _gradient(raw: Array | Texts, shape: tuple[int, ...], dtype: str | None, fmt: Format) -> Array:
    """A gradient in its own dtype; text is read in `dtype`, or in the problem's format."""
    flag = "--gradient-dtype"
    meant = formats.named(dtype) if dtype else None
    if isinstance(raw, Texts):
        gradient = _floats(raw, "gradient", meant or fmt, flag)[0]
    elif formats.of_dtype(raw.dtype) is None and raw.dtype.kind in "iu" and raw.dtype.itemsize != 2:
        raise InputError(f"gradient: the numbers are {raw.dtype}; expected one of {', '.join(formats.FORMATS)}")
    else:
        gradient = _floats(raw, "gradient", meant if formats.of_dtype(raw.dtype) is None else None, flag)[0]
    if gradient.shape == shape[1:] and shape[0] == 1:
        gradient = gradient[None, :]
    if gradient.shape != shape:
        raise InputError(f"the gradient has shape {gradient.shape}, the logits {shape}")
    return gradient


def _labels(raw: Array | Texts, shape: tuple[int, ...], fmt: Format) -> tuple[Array, str | None]:
    """Hard labels (N,) as int64, or soft labels (N, k) in the format's dtype, and a note if they were cast."""
    rows = shape[0]
    # numbers of the logits' own shape are soft labels, whole or not, unless each row has but one
    whole = (raw.shape != shape or shape == (rows, 1)) and _whole(raw)
    by_row = raw.shape in ((), (rows,), (rows, 1))
    if not whole and (raw.shape == shape or (rows == 1 and raw.shape == shape[1:])):
        values, _, note = _floats(raw, "labels", fmt, "--dtype")
        return values.reshape(shape), note
    if not by_row:
        raise InputError(
            f"labels have shape {raw.shape}; logits of shape {shape} need ({rows},) (a class for each row) "
            f"or {shape} (soft labels)"
        )
    if not whole:
        shown = f"'{raw.cells[0][:40]}', …" if isinstance(raw, Texts) else str(raw.dtype)
        raise InputError(f"labels that name the class of each row must be integers, not {shown}")
    if isinstance(raw, Texts):
        raw = np.array([int(parse(cell)) for cell in raw.cells], dtype=object)
    if raw.size and not (int(raw.min()) >= -(2**63) and int(raw.max()) < 2**63):
        raise InputError("a label does not fit into 64 bits")
    return raw.reshape(-1).astype(np.int64), None


def _whole(raw: Array | Texts) -> bool:
    """Whether all numbers are whole: for arrays their dtype says so."""
    if not isinstance(raw, Texts):
        return raw.dtype.kind in "iu"
    return all(isinstance(value, Fraction) and value.denominator == 1 for value in map(parse, raw.cells))
