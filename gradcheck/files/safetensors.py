"""safetensors: named arrays, bfloat16 among them (needs the extra `safetensors`)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import safetensors
from safetensors.numpy import save

from gradcheck import files, reading, stored
from gradcheck.exceptions import InputError
from gradcheck.files import _arrays
from gradcheck.formats import FORMATS, Array
from gradcheck.stored import Place

_DTYPES: dict[str, np.dtype[Any]] = {
    # F64, BF16: the names of the formats, cut short
    **{name.upper().replace("FLOAT", "F"): fmt.dtype for name, fmt in FORMATS.items()},
    **{f"I{size}": np.dtype(f"int{size}") for size in (8, 16, 32, 64)},
    **{f"U{size}": np.dtype(f"uint{size}") for size in (8, 16, 32, 64)},
    "BOOL": np.dtype(np.bool_),
}


def read(stream: BinaryIO, names: Sequence[str]) -> Mapping[str, files.Raw]:
    """The arrays of these names, or the only one."""
    found, start = _header(stream)
    arrays = {name: _array(stream, name, found[name], start) for name in names if name in found}
    if not arrays and len(found) == 1:
        ((name, held),) = found.items()
        return {files.LONE: _array(stream, name, held, start)}
    if not arrays:
        raise _arrays.missing(names[0], found)
    return arrays


def _header(stream: BinaryIO) -> tuple[dict[str, Any], int]:
    """What the header says of each array, after the library has found it true, and where the numbers start."""
    file = stored.home(stream, stream.seek(0, io.SEEK_END))
    stream.seek(0)
    try:
        if file:
            with safetensors.safe_open(file.path, "numpy"):
                pass
        else:
            safetensors.deserialize(stream.read())  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise InputError(f"is no readable safetensors file ({error})") from None
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    # a name that stands there twice is one array to this reader and another to the next
    found = json.loads(stream.read(length), object_pairs_hook=reading.without_duplicates)
    found.pop("__metadata__", None)
    return found, 8 + length


def _array(stream: BinaryIO, name: str, held: Mapping[str, Any], start: int) -> Array | Place:
    dtype = _DTYPES.get(held["dtype"])
    shape, offset = tuple(held["shape"]), start + held["data_offsets"][0]
    if dtype is None:
        raise InputError(f"'{name}' is {held['dtype']}; expected one of {', '.join(_DTYPES)}")
    size = math.prod(shape) * dtype.itemsize
    file = stored.home(stream, size)
    if file:
        return Place(file=file, offset=offset, dtype=dtype, shape=shape, order="C")
    stream.seek(offset)
    return _arrays.shaped(np.frombuffer(stream.read(size), dtype=dtype), shape)


def write(stream: BinaryIO, logits: Array, labels: Array) -> None:
    """Both arrays."""
    stream.write(save({"logits": np.ascontiguousarray(logits), "labels": np.ascontiguousarray(labels)}))


def write_one(stream: BinaryIO, name: str, array: Array) -> None:
    """A single array."""
    stream.write(save({name: np.ascontiguousarray(array)}))
