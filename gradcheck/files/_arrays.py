"""One NumPy array in a stream whose size is known, of whose header nothing is believed."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

from gradcheck.exceptions import InputError
from gradcheck.formats import Array
from gradcheck.stored import File, Place

_AXES = 32
"""As many as an array of NumPy 1 has; that of NumPy 2 has 64, but no file should be read here and refused there."""
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
            shape, fortran, dtype = reader(stream)
    except OSError:
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
    check_axes(shape, what)
    promised = math.prod(shape) * dtype.itemsize
    length = stream.tell()
    present = size - length
    if promised != present:
        raise InputError(
            f"the header of {what} promises shape {shape} of {dtype}, {promised} bytes; there are {present}"
        )
    return Header(length=length, dtype=dtype, shape=shape, order="F" if fortran else "C", size=promised)


def read_numbers(stream: BinaryIO, header: Header, what: str = "the array") -> Array:
    """The numbers that follow a header.

    Raises:
        InputError: where there are fewer.
    """
    data = stream.read(header.size)
    check_end(len(data), header, what)
    return np.frombuffer(data, dtype=header.dtype).reshape(header.shape, order=header.order)


def check_axes(shape: Sequence[int], what: str) -> None:
    """Refuses an array of more axes than NumPy has."""
    if len(shape) > _AXES:
        raise InputError(f"{what} has more than {_AXES} axes")


def check_end(size: int, header: Header, what: str) -> None:
    """Refuses an array of which only so many bytes of numbers have come."""
    if size != header.size:
        raise InputError(f"{what} ends after {size} of {header.size} bytes")


def write_array(stream: BinaryIO, array: Array) -> None:
    """The array in .npy format; bfloat16 is written as 2-byte void, which is all that the format offers."""
    np.lib.format.write_array(stream, array, allow_pickle=False)
