"""Logits and labels of any size, of which a few rows are in memory at a time, and the loss that they go through."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradcheck.exceptions import RowError
from gradcheck.formats import Array, Format, Int64
from gradcheck.problem import (
    LossOption,
    Problem,
    Stage,
    Terms,
    Whole,
    check_names,
    check_shapes,
    digest_of,
    folded,
    leaf_of,
    leaf_rows,
)
from gradcheck.stored import File, Rows, Stored, part, rows_of, seen

_READ = 1 << 20
"""Components that are read at once where nothing but their bytes is of interest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What problems are cut from.

    Attributes:
        logits: (N, k), in the format's dtype; labels: hard (N,), or soft (N, k) in the format's dtype.
        loss: the loss options, at most one of a name.
        chosen: the numbers of the rows to look at, ascending; None for all. The others count in a mean.

    Raises:
        InputError: where shapes, types or hard labels cannot be a problem; what is wrong with a row is found when it is
            cut out.
    """

    logits: Rows
    labels: Rows
    format: Format
    loss: tuple[LossOption, ...] = ()
    chosen: Int64 | None = None

    def __post_init__(self) -> None:
        check_shapes(self.logits, self.labels, self.format)
        check_names(self.loss)
        _ = self._whole

    @classmethod
    def of(cls, problem: Problem) -> Batch:
        """A problem that is in memory."""
        return cls(logits=problem.logits, labels=problem.labels, format=problem.format, loss=problem.loss)

    @property
    def rows(self) -> int:
        """How many rows there are to look at."""
        return self.logits.shape[0] if self.chosen is None else len(self.chosen)

    @property
    def classes(self) -> int:
        """k."""
        return self.logits.shape[1]

    @property
    def size(self) -> int:
        """How many components there are."""
        return self.rows * self.classes

    @property
    def kept(self) -> Int64:
        """Which of the rows are not ignored."""
        return np.flatnonzero(self._whole.kept[self.numbers(slice(None))])

    def numbers(self, rows: slice) -> Int64:
        """The numbers that some of the rows have in the input."""
        return np.arange(self.logits.shape[0])[rows] if self.chosen is None else self.chosen[rows]

    def take(self, rows: Int64) -> Batch:
        """Some of the rows; under a mean each keeps its share of the whole."""
        return dataclasses.replace(self, chosen=rows if self.chosen is None else self.chosen[rows])

    def seen_by(self, sees: Callable[[File], bool]) -> Batch:
        """The batch, whose rows are sent where somebody does not see a file of it."""
        return dataclasses.replace(self, logits=seen(self.logits, sees), labels=seen(self.labels, sees))

    def cut(self, numbers: Int64) -> Cut:
        """Rows, by their numbers in the input, as something that a worker process can be sent."""
        logits, labels = (part(array, numbers) for array in (self.logits, self.labels))
        loss = tuple(option.take(numbers) for option in self.loss)
        return Cut(logits=logits, labels=labels, format=self.format, loss=loss, whole=Whole.of(self._whole, numbers))

    def problem(self, numbers: Int64) -> Problem:
        """Rows, by their numbers in the input, in memory."""
        return self.cut(numbers).problem()

    def digest(self, each: Each = map) -> str:
        """Tells this batch from others, as a problem's digest does."""
        numbers = self.numbers(slice(None))
        loss = self.loss if self.chosen is None else tuple(option.take(numbers) for option in self.loss)
        arrays = (self.logits, self.labels)
        content: Iterable[Array | bytes]
        if leaf_rows(self.rows, self.classes) >= self.rows:
            content = (rows_of(array, numbers) for array in arrays)
        else:
            content = leaves(arrays, numbers, each)
        whole = Whole.of(self._whole, numbers)
        return digest_of(self.format, loss, (self.rows, self.classes), content, part_of=whole)

    @cached_property
    def _whole(self) -> Terms:
        """The terms, of which nothing is right that goes by class: those are looked at row by row."""
        stub = np.broadcast_to(np.zeros((), self.format.dtype), self.logits.shape)
        soft = np.broadcast_to(np.zeros(()), self.logits.shape)
        options = [option for option in self.loss if option.stage is not Stage.CLASSES]
        return folded(stub, self.labels[:] if self.labels.ndim == 1 else soft, options)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """Rows of a batch, not yet read."""

    logits: Rows
    labels: Rows
    format: Format
    loss: tuple[LossOption, ...]
    whole: Whole

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.whole.numbers)

    def pieces(self, rows: int) -> Iterator[Cut]:
        """The same in pieces of so many rows, one at least."""
        for places in pieces(np.arange(self.rows), rows):
            loss = tuple(option.take(places) for option in self.loss)
            whole = dataclasses.replace(self.whole, numbers=self.whole.numbers[places])
            yield dataclasses.replace(self, loss=loss, whole=whole)

    def problem(self) -> Problem:
        """The rows as a part of the whole, in memory."""
        logits, labels = (rows_of(array, self.whole.numbers) for array in (self.logits, self.labels))
        try:
            found = Problem(logits=logits, labels=labels, format=self.format, loss=self.loss)
        except RowError as error:
            raise error.numbered(self.whole.numbers.tolist()) from None
        return found.within(self.whole)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Leaf:
    """The same rows of several arrays, not yet read."""

    arrays: tuple[Rows, ...]
    numbers: Int64

    def digest(self) -> bytes:
        return leaf_of(
            rows_of(array, some) for array in self.arrays for some in pieces(self.numbers, _READ // self.classes)
        )

    @property
    def classes(self) -> int:
        return self.arrays[0].shape[1]


Each = Callable[[Callable[[_Leaf], bytes], Iterable[_Leaf]], Iterable[bytes]]
"""Like `map`; it may share the reading of files among processes."""


def leaves(arrays: Sequence[Rows], numbers: Int64, each: Each = map) -> Iterable[bytes]:
    """Digests of rows of some arrays, by number, ascending: of so many at a time as `leaf_rows` says.

    Args:
        arrays: the first one is (N, k).
    """
    wide = [array for array in arrays if array.ndim == 2]
    # what would have to be sent is read here
    shared = all(isinstance(array, Stored) and not array.shipped for array in wide)
    tasks = (
        _Leaf(arrays=tuple(part(array, some) for array in arrays), numbers=some)
        for some in pieces(numbers, leaf_rows(len(numbers), arrays[0].shape[1]))
    )
    return (each if shared else map)(_Leaf.digest, tasks)


def pieces(numbers: Int64, rows: int) -> Iterator[Int64]:
    """Row numbers in pieces of so many, one at least."""
    for first in range(0, len(numbers), max(1, rows)):
        yield numbers[first : first + max(1, rows)]
