"""JSON Lines: one row a line, a list of logits or an object with `logits` and `labels`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

from gradcheck import files
from gradcheck.exceptions import InputError
from gradcheck.files import _delimited, _nested
from gradcheck.formats import Array


def read(stream: BinaryIO, names: Sequence[str]) -> files.Contents:
    """The rows' arrays by name."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(_delimited.decode(stream).split("\n"), start=1):
        if not line.strip():
            continue
        value = _nested.loads(line, first_line=number)
        row = {"logits": value} if isinstance(value, list) else value
        if not isinstance(row, dict) or "logits" not in row:
            raise InputError(f"line {number} is neither a list of logits nor an object with 'logits'")
        if "weight" in row:
            raise InputError(f"line {number} holds 'weight'; class weights belong to the whole file")
        for name in names:
            if name in row:
                columns.setdefault(name, []).append(row[name])
        count += 1
    for name, column in columns.items():
        if len(column) != count:
            raise InputError(f"only {len(column)} of {count} lines hold '{name}'")
    if not columns:
        raise InputError("holds no rows")
    return {name: _nested.texts(column, name) for name, column in columns.items()}


def write(stream: BinaryIO, logits: Array, labels: Array) -> None:
    """An object a line."""
    for row, label in zip(_nested.plain(logits), _nested.plain(labels), strict=True):
        stream.write((json.dumps({"logits": row, "labels": label}, allow_nan=False) + "\n").encode())
