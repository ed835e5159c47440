"""Reading one NumPy array from a stream whose size is known, believing nothing in its header."""

from __future__ import annotations

import math
from typing import BinaryIO

import numpy as np

from gradcheck.exceptions import InputError
from gradcheck.formats import Array

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_array(stream: BinaryIO, size: int, what: str = "the array") -> Array:
    """The array that `stream` holds from its start to its end, `size` bytes on.

    Raises:
        InputError: where the header is none, promises another size than there is, or holds Python objects.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise InputError(f"{what} has a .npy header of version {version}; 1.0 and 2.0 are read")
        shape, fortran, dtype = _HEADERS[version](stream)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError, OverflowError):
        raise InputError(f"{what} has no valid .npy header") from None
    if dtype.hasobject:
        raise InputError(f"{what} holds Python objects (a pickle), which are never loaded")
    if dtype.names is not None or dtype.subdtype is not None:
        raise InputError(f"{what} is a structured array; expected plain numbers")
    promised = math.prod(shape) * dtype.itemsize
    present = size - stream.tell()
    if min(shape, default=0) < 0 or promised != present:
        raise InputError(
            f"the header of {what} promises shape {shape} of {dtype}, {promised} bytes; there are {present}"
        )
    data = stream.read(promised)
    if len(data) != promised:
        raise InputError(f"{what} ends after {len(data)} of {promised} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def write_array(stream: BinaryIO, array: Array) -> None:
    """The array in .npy format; bfloat16 is written as 2-byte void, which is all that the format offers."""
    np.lib.format.write_array(stream, array, allow_pickle=False)
