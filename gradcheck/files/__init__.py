"""Files of logits, labels and gradients: one file here for each file format, named as its suffix.

A file defines `read(stream) -> {name: array}` and `write(stream, logits, labels)`. A reader says what stands in the
file and no more; what a number means in a floating-point format is decided here, once.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from gradcheck import formats, plugins
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


def load(path: str, *, input_format: str | None = None, dtype: str | None = None) -> Loaded:
    """Logits, and what comes with them.

    Args:
        path: a file, or "-" for standard input.
        input_format: one of `names()`; None goes by the suffix.
        dtype: a format's name; casts, or says what bit patterns are.

    Raises:
        InputError: for anything in the file that cannot be logits.
    """
    contents = _read(path, input_format)
    with _naming(path):
        raw = contents.get("logits", contents.get(LONE))
        if raw is None:
            raise InputError(f"holds no array named 'logits' (it has: {_listed(contents)})")
        if "weight" in contents:
            raise InputError("holds class weights ('weight'), and weighted losses are not supported yet")
        logits, fmt, note = _floats(raw, "logits", dtype)
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
            gradient = _gradient(contents["gradient"], logits.shape, dtype)
    return Loaded(logits=logits, labels=labels, gradient=gradient, format=fmt, notes=tuple(notes))


def load_labels(path: str, shape: tuple[int, ...], fmt: Format) -> tuple[Array, str | None]:
    """Labels for logits of `shape` from a file of their own, and a note if they were cast."""
    contents = _read(path, None)
    with _naming(path):
        raw = contents.get("labels", contents.get(LONE))
        if raw is None:
            raise InputError(f"holds no array named 'labels' (it has: {_listed(contents)})")
        return _labels(raw, shape, fmt)


def load_gradient(path: str, shape: tuple[int, ...], dtype: str | None) -> Array:
    """A gradient of `shape` from a file, in its own dtype (`dtype` for text and bit patterns)."""
    contents = _read(path, None)
    with _naming(path):
        raw = contents.get("gradient", contents.get(LONE))
        if raw is None:
            raise InputError(f"holds no array named 'gradient' (it has: {_listed(contents)})")
        return _gradient(raw, shape, dtype)


def save(path: Path, logits: Array, labels: Array) -> None:
    """Writes logits and labels in the format of the suffix; a `.npy` file holds the logits alone."""
    module = _module(path.name, None)
    buffer = io.BytesIO()
    module.write(buffer, logits, labels)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _read(path: str, input_format: str | None) -> Contents:
    if path == "-" and input_format is None:
        raise UsageError(f"standard input needs --input-format, one of {', '.join(names())}")
    module = _module(path, input_format)
    try:
        stream: BinaryIO = io.BytesIO(sys.stdin.buffer.read()) if path == "-" else open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
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


def _module(path: str, input_format: str | None) -> ModuleType:
    here = sys.modules[__name__]
    if input_format is not None:
        return plugins.load(here, "input format", input_format)
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in names():
        what = f"the suffix '.{suffix}'" if suffix else "no suffix"
        raise InputError(f"{path}: {what} names no file format; there are: {', '.join(names())} (--input-format)")
    return plugins.load(here, "input format", suffix)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _listed(contents: Contents) -> str:
    return ", ".join(sorted(name for name in contents)[:8]) or "nothing"


def _floats(raw: Array | Texts, what: str, dtype: str | None) -> tuple[Array, Format, str | None]:
    """An array of a format's dtype, and a note if that took a cast."""
    wanted = formats.named(dtype) if dtype else None
    if isinstance(raw, Texts):
        meant = wanted or formats.named("float64")
        return meant.parse_array(raw.cells).reshape(raw.shape), meant, None
    if (raw.dtype.kind == "V" and raw.dtype.names is None and raw.dtype.itemsize == 2) or raw.dtype == np.uint16:
        kind = "2-byte void" if raw.dtype.kind == "V" else "uint16"
        if wanted is None or wanted.dtype.itemsize != 2:
            raise InputError(f"{what} are {kind}: if these are bfloat16 bit patterns, say --dtype bfloat16")
        return np.ascontiguousarray(raw).view(np.uint16).view(wanted.dtype), wanted, None
    found = formats.of_dtype(raw.dtype)
    if found is None and (raw.dtype.kind not in "iu" or wanted is None):
        hint = "; --dtype casts them" if raw.dtype.kind in "iu" else ""
        raise InputError(f"{what} are {raw.dtype}; expected one of {', '.join(formats.FORMATS)}{hint}")
    fmt = wanted or found
    assert fmt is not None  # an array of another kind has been refused
    if found is fmt:
        return np.ascontiguousarray(raw, dtype=fmt.dtype), fmt, None
    return fmt.round_array(raw.astype(np.float64)), fmt, f"{what} were cast from {raw.dtype} to {fmt.name}"


def _gradient(raw: Array | Texts, shape: tuple[int, ...], dtype: str | None) -> Array:
    """A gradient in its own dtype; text, and bit patterns, are read in the dtype that is asked for."""
    own = dtype if isinstance(raw, Texts) or raw.dtype.kind in "Vu" else None
    gradient = _floats(raw, "gradient", own)[0]
    if gradient.shape == shape[1:] and shape[0] == 1:
        gradient = gradient[None, :]
    if gradient.shape != shape:
        raise InputError(f"the gradient has shape {gradient.shape}, the logits {shape}")
    return gradient


def _labels(raw: Array | Texts, shape: tuple[int, ...], fmt: Format) -> tuple[Array, str | None]:
    """Hard labels (N,) as int64, or soft labels (N, k) in the format's dtype, and a note if they were cast."""
    rows, classes = shape
    if isinstance(raw, Texts):
        values = [parse(cell) for cell in raw.cells]
        whole = all(isinstance(value, Fraction) and value.denominator == 1 for value in values)
        if whole and raw.shape in ((), (rows,), (rows, 1)) and raw.shape != shape:
            return _hard(np.array([int(value) for value in values], dtype=object), rows), None
        return fmt.parse_array(raw.cells).reshape(_soft_shape(raw.shape, shape)), None
    if raw.dtype.kind in "iu" and raw.shape != shape:
        if raw.size != rows or raw.ndim > 1:
            raise InputError(f"labels have shape {raw.shape}; {rows} rows of logits need ({rows},)")
        return _hard(raw, rows), None
    if raw.dtype.kind == "f" and raw.shape == (rows,) and (rows, classes) != (1, rows):
        raise InputError(f"labels of shape {raw.shape} name classes and must be integers, not {raw.dtype}")
    soft, _, note = _floats(raw, "labels", fmt.name)
    return soft.reshape(_soft_shape(soft.shape, shape)), note


def _hard(values: Array, rows: int) -> Array:
    if values.size and not (int(values.min()) >= -(2**63) and int(values.max()) < 2**63):
        raise InputError("a label does not fit into 64 bits")
    return values.reshape(rows).astype(np.int64)


def _soft_shape(found: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(found) != math.prod(shape) or (found != shape and found != shape[1:]):
        raise InputError(
            f"labels have shape {found}; logits of shape {shape} need ({shape[0]},) (a class for each row) "
            f"or {shape} (soft labels)"
        )
    return shape
