"""One NumPy array in a stream whose size is known, of whose header nothing is believed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

from gradcheck import formats, reading
from gradcheck.exceptions import InputError
from gradcheck.formats import Array
from gradcheck.stored import File, Place

_LONGEST = 1 << 16
"""Bytes of a header, of which the numbers' type and shape take some hundred."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands before the numbers.

    Attributes:
        length: of the header itself, in bytes.
        size: of the numbers, in bytes.
    """

    length: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    size: int

    def place(self, file: File, start: int = 0) -> Place:
        """Where the numbers lie in a file, the header of which starts there."""
        return Place(file=file, offset=start + self.length, dtype=self.dtype, shape=self.shape, order=self.order)


def read_header(stream: BinaryIO, size: int, what: str = "the array") -> Header:
    """The header of the array that `stream` holds from its start to its end, `size` bytes on.

    Raises:
        InputError: where the header is none, promises another size than there is, or holds Python objects.
    """
    try:
        version = np.lib.format.read_magic(stream)
        reader = _HEADERS.get(version)
        if reader is not None:
            _check_length(stream, version)
            shape, fortran, dtype = reader(stream)
    except (OSError, MemoryError):
        raise
    except Exception:
        # The header is a Python literal: what NumPy's parser raises for a broken one has no end
        raise InputError(f"{what} has no valid .npy header") from None
    if reader is None:
        raise InputError(f"{what} has a .npy header of version {version}; 1.0 and 2.0 are read")
    if any(type(n) is not int or not 0 <= n <= sys.maxsize for n in shape) or not dtype.itemsize:
        raise InputError(f"{what} has no valid .npy header: shape {shape} of {dtype}")
    if dtype.hasobject:
        raise InputError(f"{what} holds Python objects (a pickle), which are never loaded")
    if dtype.names is not None or dtype.subdtype is not None:
        raise InputError(f"{what} is a structured array; expected plain numbers")
    promised = math.prod(shape) * dtype.itemsize
    length = stream.tell()
    present = size - length
    if promised != present:
        raise InputError(
            f"the header of {what} promises shape {shape} of {dtype}, {promised} bytes; there are {present}"
        )
    return Header(length=length, dtype=dtype, shape=shape, order="F" if fortran else "C", size=promised)


def _check_length(stream: BinaryIO, version: tuple[int, int]) -> None:
    """Looks at the length of a header, which NumPy would take memory for."""
    start = stream.tell()
    length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if length > _LONGEST:
        raise ValueError(length)
    stream.seek(start)


def read_numbers(stream: BinaryIO, header: Header, what: str = "the array") -> Array:
    """The numbers that follow a header.

    Raises:
        InputError: where there are fewer.
    """
    reading.require(header.size, what)
    data = stream.read(header.size)
    check_end(len(data), header, what)
    return shaped(np.frombuffer(data, dtype=header.dtype), header.shape, header.order)


def shaped(flat: Array, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> Array:
    """Numbers in the shape that a header gives them.

    Raises:
        InputError: where NumPy has no such arrays: of too many axes, or nothing along one and too much along others.
    """
    try:
        return flat.reshape(shape, order=order)
    except ValueError:
        shown = shape if len(shape) <= 8 else f"of {len(shape)} axes"
        raise InputError(f"the shape {shown} is none that an array can have") from None


def check_end(size: int, header: Header, what: str) -> None:
    """Refuses an array of which only so many bytes of numbers have come."""
    if size != header.size:
        raise InputError(f"{what} ends after {size} of {header.size} bytes")


def missing(name: str, there: Iterable[str]) -> InputError:
    """What to raise where a file has no array of that name, with the names that it has."""
    return InputError(f"holds no array named '{name}' (it has: {', '.join(sorted(there)[:8]) or 'nothing'})")


def write_array(stream: BinaryIO, array: Array) -> None:
    """The array in .npy format; a dtype that is none of NumPy's own, as bfloat16, becomes void: it has nothing else."""
    fmt = formats.of_dtype(array.dtype)
    if fmt is not None and fmt.nameless:
        # some dtypes would name themselves in the header, and NumPy knows no such names
        array = array.view(f"V{array.dtype.itemsize}")
    np.lib.format.write_array(stream, array, allow_pickle=False)
