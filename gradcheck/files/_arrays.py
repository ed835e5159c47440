"""Reading one NumPy array from a stream whose size is known, believing nothing in its header."""

from __future__ import annotations

import math
import sys
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
    promised = math.prod(shape) * dtype.itemsize
    present = size - stream.tell()
    if promised != present:
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
