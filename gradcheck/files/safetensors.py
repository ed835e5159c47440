"""safetensors: named arrays, bfloat16 among them (needs the extra `safetensors`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
import safetensors
from safetensors.numpy import save

from gradcheck import files
from gradcheck.exceptions import InputError
from gradcheck.formats import Array, named

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": named("bfloat16").dtype,
    **{f"I{size}": np.dtype(f"int{size}") for size in (8, 16, 32, 64)},
    **{f"U{size}": np.dtype(f"uint{size}") for size in (8, 16, 32, 64)},
    "BOOL": np.dtype(np.bool_),
}


def read(stream: BinaryIO, names: Sequence[str]) -> files.Contents:
    """The arrays of these names, or the only one."""
    try:
        found = dict(safetensors.deserialize(stream.read()))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise InputError(f"is no readable safetensors file ({error})") from None
    arrays = {name: _array(name, found[name]) for name in names if name in found}
    if not arrays and len(found) == 1:
        ((name, held),) = found.items()
        return {files.LONE: _array(name, held)}
    if not arrays:
        raise InputError(f"holds no array named '{names[0]}' (it has: {', '.join(sorted(found)[:8]) or 'nothing'})")
    return arrays


def _array(name: str, held: Mapping[str, object]) -> Array:
    dtype, shape, data = _DTYPES.get(str(held["dtype"])), held["shape"], held["data"]
    if dtype is None:
        raise InputError(f"'{name}' is {held['dtype']}; expected one of {', '.join(_DTYPES)}")
    assert isinstance(shape, list)
    return np.frombuffer(data, dtype=dtype).reshape(shape)  # type: ignore[call-overload, no-any-return]


def write(stream: BinaryIO, logits: Array, labels: Array) -> None:
    """Both arrays."""
    stream.write(save({"logits": np.ascontiguousarray(logits), "labels": np.ascontiguousarray(labels)}))


def write_one(stream: BinaryIO, name: str, array: Array) -> None:
    """A single array."""
    stream.write(save({name: np.ascontiguousarray(array)}))
