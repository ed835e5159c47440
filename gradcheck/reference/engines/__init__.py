"""Arithmetics in which central differences are evaluated: one file each, behind one interface.

A file defines `CERTIFIED` and `METHODS` (by name, `(*, estimates, plan) -> Differences`).
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np

from gradcheck import plugins
from gradcheck.estimates import Estimates
from gradcheck.exact import Dyadic
from gradcheck.exceptions import MissingExtraError
from gradcheck.formats import Float64, Int64
from gradcheck.problem import Row
from gradcheck.reference.rule import Plan

EVALUATED = 2**14
"""Pairs that are evaluated together."""
SUMMED = 2**14
"""Pairs whose sum is one share; a sum that rounds depends on it, and on nothing else."""

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""The builtin `map`, or one that sends tasks to other processes: they can be pickled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Central differences of some pairs of one row, (n,).

    Attributes:
        high, low, exponent: the value is (high + low)·2^exponent to 104 bits.
        rounding_log2: log2 of the bound on what rounding made of it.
    """

    high: Float64
    low: Float64
    exponent: Int64
    rounding_log2: Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Some pairs of a row, ascending, with what they need to know of the others: see `Row`.

    Attributes:
        top: the largest logit of the row; last: whether its last pair, which has that logit, is among these.
    """

    logits: Float64
    weights: tuple[Fraction, ...]
    weight_of: Int64
    counts: Int64
    top: float
    last: bool
    total_q: Fraction
    scale: Fraction
    zeta: Fraction
    temperature: Fraction
    softcap: Fraction | None
    masked_slope: Fraction

    @classmethod
    def of(cls, row: Row, places: Int64) -> Pairs:
        """The pairs of `row` at some places."""
        weights, weight_of = row.weights, row.weight_of[places]
        if len(weights) > len(places):
            used, weight_of = np.unique(weight_of, return_inverse=True)
            weights = tuple(weights[i] for i in used.tolist())
        return cls(
            logits=row.logits[places],
            weights=weights,
            weight_of=weight_of,
            counts=row.counts[places],
            top=float(row.logits[-1]),
            last=bool(places.size) and int(places[-1]) == len(row.logits) - 1,
            total_q=row.total_q,
            scale=row.scale,
            zeta=row.zeta,
            temperature=row.temperature,
            softcap=row.softcap,
            masked_slope=row.masked_slope,
        )

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    def q(self) -> tuple[Fraction, ...]:
        """Their label weights."""
        return tuple(self.weights[i] for i in self.weight_of.tolist())

    @property
    def others(self) -> list[int]:
        """How many classes share each pair, but for one class of the row's last pair."""
        counts: list[int] = self.counts.tolist()
        if self.last:
            counts[-1] -= 1
        return counts

    @cached_property
    def masked(self) -> int:
        """How many have a logit of -inf: those stand first."""
        return int(np.count_nonzero(self.logits == -np.inf))


class Block(Protocol):
    """Some pairs of a row at one plan. It can be pickled."""

    def share(self) -> Any:
        """Their part of what all pairs of the row have in common."""
        ...

    def evaluate(self, shares: Sequence[Any]) -> Evaluation:
        """Their differences, from the shares of the whole row."""
        ...

    def exact(self, shares: Sequence[Any]) -> list[Dyadic]:
        """The values of the same differences, to all their bits."""
        ...


class Differences(Protocol):
    """Central differences of one row at one plan.

    However the row is cut into blocks, and whichever process evaluates them, the values are the same to the last bit.
    """

    @property
    def estimates(self) -> Estimates:
        """What float64 knows of the row."""
        ...

    def block(self, places: Int64) -> Block:
        """The pairs at some places, ascending."""
        ...

    def loss(self, shares: Sequence[Any]) -> Dyadic:
        """The row's loss to 30 digits or more."""
        ...


class Method(Protocol):
    """A way to take differences."""

    def __call__(self, *, estimates: Estimates, plan: Plan) -> Differences:
        """Those of one row."""
        ...


def evaluate(differences: Differences, places: Int64 | None = None, each: Each = map) -> tuple[list[Any], Evaluation]:
    """The shares of a row, and the differences of its pairs at some places, or of all.

    Args:
        each: maps what is done for each block, where there are several.
    """
    pairs = len(differences.estimates.row.logits)
    whole = _blocks(differences, np.arange(pairs), SUMMED)
    if places is None and SUMMED == EVALUATED:
        # a block that comes back has its exponentials with it, where they can be sent
        shares, blocks = map(list, zip(*_mapped(each, whole)(_summed, whole), strict=True))
    else:
        shares = list(_mapped(each, whole)(_share, whole))
        blocks = _blocks(differences, np.arange(pairs) if places is None else places, EVALUATED)
    found = list(_mapped(each, blocks)(functools.partial(_evaluate, shares=shares), blocks))
    if len(found) == 1:
        return shares, found[0]
    return shares, Evaluation(
        high=np.concatenate([part.high for part in found]),
        low=np.concatenate([part.low for part in found]),
        exponent=np.concatenate([part.exponent for part in found]),
        rounding_log2=np.concatenate([part.rounding_log2 for part in found]),
    )


def exact(differences: Differences, shares: Sequence[Any], places: Int64) -> list[Dyadic]:
    """The values of a row's differences at some places, to all their bits."""
    return [value for block in _blocks(differences, places, EVALUATED) for value in block.exact(shares)]


def _blocks(differences: Differences, places: Int64, size: int) -> list[Block]:
    return [differences.block(places[start : start + size]) for start in range(0, max(len(places), 1), size)]


def _mapped(each: Each, blocks: list[Block]) -> Each:
    return each if len(blocks) > 1 else map


def _share(block: Block) -> Any:
    return block.share()


def _summed(block: Block) -> tuple[Any, Block]:
    return block.share(), block


def _evaluate(block: Block, shares: list[Any]) -> Evaluation:
    return block.evaluate(shares)


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
    parts = [cut(value) for row in rows for value in row]
    high, low, exponent = zip(*parts, strict=True) if parts else ((), (), ())
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
    METHODS: Mapping[str, Method]


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
