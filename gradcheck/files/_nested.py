"""Nested lists of numbers in JSON, each number kept as the text that was written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gradcheck.exact import Texts
from gradcheck.exceptions import InputError
from gradcheck.files import _arrays
from gradcheck.formats import Array


def loads(text: str, first_line: int = 1) -> Any:
    """JSON with its numbers as text; its first line is the `first_line`th of the file.

    Raises:
        InputError: for text that is no JSON, or names a key twice.
    """
    try:
        return json.loads(
            text, parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_without_duplicates
        )
    except json.JSONDecodeError as error:
        raise InputError(
            f"is no JSON (line {first_line + error.lineno - 1}, column {error.colno}: {error.msg})"
        ) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise InputError(f"names the key '{twice[:40]}' twice")
    return found


def texts(value: Any, name: str) -> Texts:
    """A nested list of numbers, or of strings that are numbers, as an array of text.

    Raises:
        InputError: where it is ragged or holds anything else.
    """
    if isinstance(value, str):
        return Texts(cells=[value], shape=())
    if not isinstance(value, list):
        raise InputError(f"'{name}' holds {_kind(value)} where a number or a list is expected")
    if not any(isinstance(item, list) for item in value):
        for place, item in enumerate(value):
            if not isinstance(item, str):
                raise InputError(f"'{name}' holds {_kind(item)} at place {place} where a number is expected")
        return Texts(cells=value, shape=(len(value),))
    rows = [texts(item, name) for item in value]
    for place, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise InputError(f"'{name}' is ragged: row {place} has shape {row.shape}, row 0 {rows[0].shape}")
    shape = (len(rows), *rows[0].shape)
    _arrays.check_axes(shape, f"'{name}'")
    return Texts(cells=[cell for row in rows for cell in row.cells], shape=shape)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(type(value), "text")


def plain(array: Array) -> Any:
    """Nested lists that JSON can hold: non-finite numbers as strings."""
    if array.dtype.kind == "i":
        return array.tolist()
    values = array.astype(np.float64)
    if values.ndim > 1:
        return [plain(row) for row in values]
    return [value if np.isfinite(value) else str(value) for value in values.tolist()]
