"""Large arrays that stay in their files: their rows are read when they are asked for."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np

from gradcheck import formats, reading
from gradcheck.exceptions import InputError
from gradcheck.formats import Array, Format, Int64

LARGE = 1 << 24
"""Arrays of so many bytes, and of more, stay in their files."""


class ChangedError(InputError):
    """A file that is no longer as it was when it was opened; the message names it."""


class Rows(Protocol):
    """A 2-d array of which rows are taken: NumPy's own, and `Stored`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy has it."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows that are taken."""

    @property
    def size(self) -> int:
        """The number of components."""

    @property
    def ndim(self) -> int:
        """The number of axes."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Int64, /) -> Array: ...


class _Temporary:
    """A file of our own, deleted when nothing in this process holds this any more, at the latest at its exit."""

    def __init__(self, path: str) -> None:
        self.delete = weakref.finalize(self, _delete, path, os.getpid())

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # the file stays this process's: others read it and leave it
        return type(None), ()


def _delete(path: str, owner: int) -> None:
    # a forked child inherits the finalizer
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that can be opened again, here and in other processes, and must be as it was.

    Attributes:
        path: absolute.
        name: what messages call it.
        size: in bytes, when it was opened first; `changed` likewise.
        changed: when it was written last, in nanoseconds.
        keeper: what deletes it, where it is our own.
    """

    path: str
    name: str
    size: int
    changed: int
    keeper: _Temporary | None = None

    @contextmanager
    def opened(self) -> Iterator[io.FileIO]:
        """The file, checked before it is read and after.

        Raises:
            ChangedError: where it is not what it was.
        """
        try:
            with open(self.path, "rb", buffering=0) as stream:
                self._check(stream)
                yield stream
                self._check(stream)
        except OSError as error:
            raise ChangedError(f"{self.name}: can no longer be read ({error.strerror or error})") from None

    def fill(self, stream: io.FileIO, offset: int, out: memoryview) -> None:
        """Fills bytes with what the file holds from `offset` on."""
        # plain reads: pages of a mapped file stay in memory, and kill the process where the file is cut
        stream.seek(offset)
        while out:
            count = stream.readinto(out)
            if not count:
                raise self._cut(stream.tell())
            out = out[count:]

    def _check(self, stream: io.FileIO) -> None:
        now = os.fstat(stream.fileno())
        if now.st_size < self.size:
            raise self._cut(now.st_size)
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            raise ChangedError(f"{self.name}: has changed since it was opened; run again when nobody writes to it")

    def _cut(self, end: int) -> ChangedError:
        return ChangedError(f"{self.name}: ends after {end} of {self.size} bytes: it has changed since it was opened")


def home(stream: BinaryIO, size: int) -> File | None:
    """The file in which an array of `size` bytes stays, or None where it is to be read into memory.

    Args:
        stream: what is being read: a file has a path, other streams have none.
    """
    if size < LARGE or not isinstance(stream, io.BufferedReader) or not isinstance(stream.name, str):
        return None
    status = os.fstat(stream.fileno())
    # the links of /dev/stdin and /proc mean another file in another process
    path = os.path.realpath(stream.name)
    try:
        again = os.path.samestat(os.stat(path), status)
    except OSError:
        return None
    if not again or not stat.S_ISREG(status.st_mode):
        return None
    return File(path=path, name=stream.name, size=status.st_size, changed=status.st_mtime_ns)


def unpack(blocks: Iterable[bytes], size: int, name: str) -> File:
    """A temporary file of these bytes, which lives as long as something in this process holds it.

    Args:
        size: how many there are, for which there must be room: a disk that is full harms others, too.
        name: of the file that they come from.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise _no_room(folder, f"it takes {size:,} bytes, and {free:,} are free")
    descriptor, path = tempfile.mkstemp(prefix="gradcheck-", dir=folder)
    keeper = _Temporary(path)
    try:
        with open(descriptor, "wb") as stream:
            stream.writelines(blocks)
            stream.flush()
            status = os.fstat(descriptor)
    except BaseException as error:
        keeper.delete()
        if isinstance(error, OSError):
            raise _no_room(os.path.dirname(path), str(error.strerror or error)) from None
        raise
    return File(path=path, name=name, size=status.st_size, changed=status.st_mtime_ns, keeper=keeper)


def _no_room(folder: str, why: str) -> InputError:
    return InputError(
        f"cannot be unpacked into {folder} ({why}); TMPDIR names another folder, and an archive made without "
        "compression is read where it lies"
    )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where raw numbers lie in a file.

    Attributes:
        offset: of the first, in bytes.
        dtype: as which they are written.
        shape: as which they are written, of any number of axes.
        order: of the axes: "C" where neighbours along the last one are neighbours in the file, "F" along the first.
    """

    file: File
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    def read(self) -> Array:
        """All of them, into memory.

        Raises:
            ChangedError: where the file is not what it was.
            InputError: where there is no memory for them.
        """
        reading.require(math.prod(self.shape) * self.dtype.itemsize, f"an array of shape {self.shape}")
        flat = np.empty(math.prod(self.shape), self.dtype)
        with self.file.opened() as stream:
            self.file.fill(stream, self.offset, _bytes(flat))
        return flat.reshape(self.shape, order=self.order)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An array (N, k) that lies in a file; `stored[a:b]` and `stored[numbers]` are arrays in memory of those rows.

    Attributes:
        axis: of the classes in the file, from 0; rows are counted through the others.
        dtype: of the rows that are taken: what is in the file becomes that (see `become`).
        shipped: whether somebody who needs rows cannot read the file, and must be sent them.
    """

    place: Place
    axis: int
    dtype: np.dtype[Any]
    shipped: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(N, k)."""
        return math.prod(self._outer), self.place.shape[self.axis]

    @property
    def size(self) -> int:
        """The number of components."""
        return math.prod(self.place.shape)

    @property
    def ndim(self) -> int:
        """Two, rows and classes."""
        return 2

    @property
    def _outer(self) -> tuple[int, ...]:
        return self.place.shape[: self.axis] + self.place.shape[self.axis + 1 :]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int64, /) -> Array:
        runs = self._runs(rows)
        raw = np.empty((sum(stop - start for start, stop in runs), self.shape[1]), self.place.dtype)
        width = self._width
        with self.place.file.opened() as stream:
            done = 0
            for start, stop in runs:
                out = raw[done : done + stop - start]
                if width is None:
                    self._gather(stream, start, out)
                else:
                    self._read(stream, width, start, out)
                done += stop - start
        return become(raw, self.dtype)

    @property
    def _width(self) -> int | None:
        """How many rows share a slab (classes, rows), where the file is one slab behind another; otherwise None."""
        shape, axis = self.place.shape, self.axis
        if self.place.order == "F" and len(shape) < 3:
            # with two axes at most, that is the other one's array turned over
            shape, axis = shape[::-1], len(shape) - 1 - axis
        elif self.place.order == "F":
            return None
        return math.prod(shape[axis + 1 :])

    def _runs(self, rows: slice | Int64) -> list[tuple[int, int]]:
        """The rows as runs of neighbours, each with its first and the one behind its last."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return [(start, max(start, stop))]
            rows = np.arange(start, stop, step)
        if rows.dtype.kind not in "iu":
            raise TypeError(f"rows are taken by a slice or by their numbers, not by {rows.dtype}")
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"there are {len(self)} rows; {rows.min()} to {rows.max()} were asked for")
        rows = rows % len(self)
        firsts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        counts = np.diff(firsts, append=len(rows))
        return [(row, row + count) for row, count in zip(rows[firsts].tolist(), counts.tolist(), strict=True)]

    def _read(self, stream: io.FileIO, width: int, start: int, out: Array) -> None:
        """Fills `out` with the rows from `start` on, of which `width` make a slab."""
        place, classes = self.place, self.shape[1]
        length, done = place.dtype.itemsize, 0
        if width == 1:
            place.file.fill(stream, place.offset + start * classes * length, _bytes(out))
            return
        while done < len(out):
            slab, column = divmod(start + done, width)
            count = min(len(out) - done, width - column)
            part = np.empty((classes, count), place.dtype)
            first, left = place.offset + (slab * classes * width + column) * length, _bytes(part)
            if count == width:
                place.file.fill(stream, first, left)
            else:
                for number in range(classes):
                    piece = left[number * count * length : (number + 1) * count * length]
                    place.file.fill(stream, first + number * width * length, piece)
            out[done : done + count] = part.T
            done += count

    def _gather(self, stream: io.FileIO, start: int, out: Array) -> None:
        """Fills `out` with the rows from `start` on, from a map of the file that lasts no longer than this call."""
        place = self.place
        mapped = np.memmap(
            stream, dtype=place.dtype, mode="r", offset=place.offset, shape=place.shape, order=place.order
        )
        numbers = np.unravel_index(np.arange(start, start + len(out)), self._outer)
        out[:] = np.moveaxis(mapped, self.axis, -1)[numbers]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some rows of an array, in memory, which are taken by the numbers that they have in it.

    Attributes:
        numbers: ascending; held: those rows.
        shape: of the whole array.
    """

    numbers: Int64
    held: Array
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows."""
        return self.held.dtype

    @property
    def size(self) -> int:
        """The number of components of the whole array."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int64, /) -> Array:
        wanted = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        places = np.searchsorted(self.numbers, wanted)
        if not np.array_equal(self.numbers.take(places, mode="clip"), wanted):
            raise IndexError("rows were asked for that are not in this part")
        return rows_of(self.held, places)


def part(source: Rows, numbers: Int64) -> Rows:
    """What somebody else needs in order to take these rows, ascending: the file's name, where they can read it."""
    if isinstance(source, Stored) and not source.shipped:
        return source
    return Part(numbers=numbers, held=rows_of(source, numbers), shape=source.shape)


def seen(source: Rows, sees: Callable[[File], bool]) -> Rows:
    """The array, marked as one to be shipped where somebody does not see its file."""
    if isinstance(source, Stored) and not sees(source.place.file):
        return dataclasses.replace(source, shipped=True)
    return source


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def is_bits(dtype: np.dtype[Any]) -> bool:
    """Whether numbers may be bit patterns."""
    # NumPy names no bfloat16: to .npy it is a 2-byte void, to others its bit patterns are integers; of a single byte
    # integers are numbers
    plain = dtype.names is None and (dtype.kind == "V" or (dtype.kind == "u" and dtype.itemsize == 2))
    return plain and formats.of_dtype(dtype) is None and bool(meant_by(dtype))


def meant_by(dtype: np.dtype[Any]) -> list[Format]:
    """The formats whose bit patterns have that size."""
    return [fmt for fmt in formats.FORMATS.values() if fmt.nameless and fmt.dtype.itemsize == dtype.itemsize]


def bits(raw: Array) -> Array:
    """Bit patterns as whole numbers."""
    unsigned = formats.bits(raw.dtype)
    return raw.view(unsigned) if raw.dtype.kind == "V" else raw.astype(unsigned)


def is_cast(dtype: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether numbers have to be rounded to become those of another dtype."""
    return not is_bits(dtype) and dtype.newbyteorder("=") != wanted


def become(raw: Array, dtype: np.dtype[Any]) -> Array:
    """Raw numbers as a C-contiguous array of a dtype: their bits, themselves, or each of them rounded once."""
    if is_bits(raw.dtype) and raw.dtype != dtype:
        return np.asarray(bits(raw), order="C").view(dtype)
    fmt = formats.of_dtype(dtype)
    if fmt is not None and is_cast(raw.dtype, dtype):
        return fmt.round_array(raw)
    return np.asarray(raw, dtype=dtype, order="C")


def blocks(rows: Rows, components: int = 1 << 17) -> Iterator[slice]:
    """All rows in blocks of about so many components, one row at least."""
    step = max(1, components * len(rows) // max(1, rows.size))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))


def rows_of(source: Rows, numbers: Int64) -> Array:
    """Rows by number, ascending, in memory."""
    if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):
        return source[int(numbers[0]) : int(numbers[-1]) + 1]
    return source[numbers]
