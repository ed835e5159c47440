"""JSON: a list of rows, or an object with `logits` and `labels`; numbers, or strings that hold them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import BinaryIO

from gradcheck import files
from gradcheck.exceptions import InputError
from gradcheck.files import _delimited, _nested
from gradcheck.formats import Array


def read(stream: BinaryIO, names: Sequence[str]) -> files.Contents:
    """The arrays of these names, or the one list."""
    value = _nested.loads(_delimited.decode(stream))
    if isinstance(value, list):
        return {files.LONE: _nested.texts(value, "logits")}
    if not isinstance(value, dict):
        raise InputError("holds a single value; expected a list of rows or an object with 'logits'")
    found = {name: _nested.texts(value[name], name) for name in names if name in value}
    if not found:
        raise InputError(f"holds no 'logits' (it has: {', '.join(sorted(value)[:8]) or 'nothing'})")
    return found


def write(stream: BinaryIO, logits: Array, labels: Array) -> None:
    """An object with both arrays."""
    value = {"logits": _nested.plain(logits), "labels": _nested.plain(labels)}
    stream.write((json.dumps(value, allow_nan=False) + "\n").encode())
