"""Arithmetics in which central differences are evaluated: one file each, behind one interface.

A file defines `CERTIFIED` and `METHODS` (by name, `(estimates, plan) -> Evaluation`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from gradcheck import plugins
from gradcheck.estimates import Estimates
from gradcheck.exact import Dyadic
from gradcheck.exceptions import MissingExtraError
from gradcheck.formats import Float64, Int64
from gradcheck.reference.rule import Plan


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Central differences of one row, one for each distinct pair, (m,).

    Attributes:
        high, low, exponent: the value is (high + low)·2^exponent to 104 bits.
        rounding_log2: log2 of the bound on what rounding made of it.
        exact: the value to all its bits, by index.
        loss: the row's loss to 30 digits or more.
    """

    high: Float64
    low: Float64
    exponent: Int64
    rounding_log2: Float64
    exact: Callable[[int], Dyadic]
    loss: Callable[[], Dyadic]


_FARTHEST_LOG2 = 2**30
"""Powers of two beyond count as this one: every format holds 0 or nothing there, and 32 bits hold their sums."""


def cut(value: Dyadic) -> tuple[float, float, int]:
    """An exact value as (high + low)·2^exponent: its first 53 bits, the next 53, and the power of two."""
    size = abs(value.man)
    dropped = max(0, size.bit_length() - 53)
    head = size >> dropped
    tail = size - (head << dropped)
    rest = max(0, tail.bit_length() - 53)
    sign = -1.0 if value.man < 0 else 1.0
    low = math.ldexp(float(tail >> rest), max(rest - dropped, -1000))
    return sign * float(head), sign * low, min(max(value.exp + dropped, -_FARTHEST_LOG2), _FARTHEST_LOG2)


def cut_each(rows: Sequence[Sequence[Dyadic]]) -> tuple[Float64, Float64, Int64]:
    """Rows of exact values, all of one length, as three arrays (R, c): see `cut`."""
    shape = (len(rows), -1)
    high, low, exponent = zip(*(cut(value) for row in rows for value in row), strict=True)
    return (
        np.array(high).reshape(shape),
        np.array(low).reshape(shape),
        np.array(exponent, dtype=np.int64).reshape(shape),
    )


class Engine(Protocol):
    """What a file of this folder defines.

    Attributes:
        CERTIFIED: whether `rounding_log2` is a proved enclosure.
    """

    CERTIFIED: bool
    METHODS: Mapping[str, Callable[[Estimates, Plan], Evaluation]]


def names() -> list[str]:
    """The engines, whether their packages are installed or not."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> Engine:
    """An engine by name.

    Raises:
        UnknownNameError: where there is none.
        MissingExtraError: where its package is not installed.
    """
    try:
        return cast(Engine, plugins.load(sys.modules[__name__], "engine", name))
    except ModuleNotFoundError as missing:
        raise MissingExtraError(f"--engine {name}", name, missing.name or name) from None


def summary(name: str) -> str:
    """What an engine is, in one sentence, without importing it: its package may not be there."""
    return plugins.documented(sys.modules[__name__], name)[0]
