"""Rows."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gradcheck.formats import Array, Int64


class Rows(Protocol):
    """Arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def ndim(self) -> int:
        """The number of axes."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the arrays that are read."""
        ...

    def __getitem__(self, rows: slice | Int64, /) -> Array:
        """Some rows, in memory."""
        ...


def rows_of(source: Rows, numbers: Int64) -> Array:
    """Rows by number, ascending, in memory."""
    if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):
        return source[int(numbers[0]) : int(numbers[-1]) + 1]
    return source[numbers]
