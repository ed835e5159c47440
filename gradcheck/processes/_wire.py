"""Messages between a parent and its child: JSON, then the bytes of the arrays that it names. Nothing is unpickled."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from gradcheck import formats
from gradcheck.formats import Array

_LENGTH = struct.Struct("<Q")
_PLAIN = {name: np.dtype(name) for name in ("int64", "bool")}


class BrokenError(Exception):
    """The other side is gone, or says what no side would say."""


def send(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Writes a message."""
    arrays: list[Array] = []
    header = json.dumps(_plain(message, arrays)).encode()
    stream.write(_LENGTH.pack(len(header)) + header)
    for array in arrays:
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any]:
    """Reads a message.

    Raises:
        BrokenError: where the stream ends.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    found: dict[str, Any] = _whole(json.loads(_exactly(stream, length)), stream)
    return found


def _plain(value: Any, arrays: list[Array]) -> Any:
    """What JSON can hold; arrays are gathered, to follow in the same order."""
    if isinstance(value, Mapping):
        return {key: _plain(held, arrays) for key, held in value.items()}
    if isinstance(value, np.ndarray):
        arrays.append(value)
        own = formats.of_dtype(value.dtype)
        return {"array": own.name if own else value.dtype.name, "shape": list(value.shape)}
    if isinstance(value, list | tuple):
        return [_plain(held, arrays) for held in value]
    return value


def _whole(value: Any, stream: BinaryIO) -> Any:
    match value:
        case {"array": str(name), "shape": list(shape)}:
            dtype = _PLAIN.get(name) or formats.named(name).dtype
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            return np.frombuffer(bytearray(_exactly(stream, size)), dtype=dtype).reshape(shape)
        case dict():
            return {key: _whole(held, stream) for key, held in value.items()}
        case list():
            return [_whole(held, stream) for held in value]
    return value


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise BrokenError("the stream has ended")
    return data
