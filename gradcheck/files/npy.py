"""NumPy's .npy: one array, the logits."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from gradcheck import files, stored
from gradcheck.files import _arrays
from gradcheck.formats import Array


def read(stream: BinaryIO, names: Sequence[str]) -> Mapping[str, files.Raw]:
    """The file's one array."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    header = _arrays.read_header(stream, size)
    file = stored.home(stream, header.size)
    return {files.LONE: header.place(file) if file else _arrays.read_numbers(stream, header)}


def write(stream: BinaryIO, logits: Array, labels: Array) -> None:
    """The logits; labels have no place in a .npy file."""
    _arrays.write_array(stream, logits)


def write_one(stream: BinaryIO, name: str, array: Array) -> None:
    """A single array, without its name."""
    _arrays.write_array(stream, array)
