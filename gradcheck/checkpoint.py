"""What a long run has found so far, in a file that outlives it: after whatever end, the run goes on from there.

The file is lines of JSON, each after the CRC-32 of the rest of its line. The first says which run it is of; every other
one holds what one task found, and is appended when that is found. A last line that was not written to its end is as if
it had never been begun. Nothing that is read is run: only the kinds of facts that the caller names are made of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import io
import json
import os
import time
import types
import typing
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np

from gradcheck import formats, writing
from gradcheck.exceptions import GradcheckError, InputError
from gradcheck.formats import Format

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

_KIND = "gradcheck checkpoint 1"
_SAFE = 1.0
"""Seconds after which what was written is safe from the machine's end, too; from the process's end it always is."""
_LONGEST, _LONGEST_HEAD = 1 << 28, 1 << 22
"""Bytes of a line, and of the first."""
_PLAIN = (bool, int, float, str)


class Nothing:
    """Keeps nothing."""

    def begin(self, run: Callable[[], Mapping[str, str]], kinds: Iterable[type]) -> None:
        """There is nothing to go on from."""

    def map(
        self,
        each: Callable[[Callable[[_Item], _Found], Iterable[_Item]], Iterable[_Found]],
        function: Callable[[_Item], _Found],
        tasks: Iterable[tuple[str, _Item]],
        lasts: Callable[[_Found], bool] = lambda found: True,
    ) -> Iterator[_Found]:
        """What every task finds."""
        return iter(each(function, (item for _, item in tasks)))

    def remove(self) -> None:
        """There is nothing to delete."""


NOTHING = Nothing()


class Checkpoint(Nothing):
    """A file that keeps what tasks have found.

    Attributes:
        lost: why it keeps no more; empty where all is well.

    Args:
        on_known: told how many tasks it holds, where it holds some.

    Raises:
        InputError: where it cannot be read or written, is another file, or is in use.
    """

    def __init__(self, path: str, on_known: Callable[[int], None] = lambda count: None) -> None:
        self.path, self.lost, self._on_known = path, "", on_known
        self._places: dict[str, int] = {}
        self._roots: tuple[type, ...] = ()
        self._kinds: dict[str, type] = {}
        self._stream: BinaryIO | None = None
        self._end: io.FileIO | None = None
        self._synced = time.monotonic()
        if not os.path.basename(path):
            raise InputError(f"'{path}' names no file; a checkpoint needs one")
        # a link is followed once: at the end it is its target that is deleted
        self._target = os.path.realpath(path)
        if not os.path.isdir(folder := os.path.dirname(self._target)):
            raise InputError(f"{path}: there is no folder '{folder}'")
        if os.path.lexists(self._target) and not os.path.isfile(self._target):
            raise InputError(f"{path}: is no plain file, which a checkpoint is; give it another name")

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._stream, self._end):
            if stream is not None:
                stream.close()

    def begin(self, run: Callable[[], Mapping[str, str]], kinds: Iterable[type]) -> None:
        """Opens the file, or makes it.

        Args:
            run: tells what the run's results depend on, by what a reader would call it.
            kinds: of facts that tasks find; those that they are made of are found by themselves.

        Raises:
            InputError: where it is of another run.
        """
        self._roots = tuple(kinds)
        self._kinds, now = _reachable(self._roots), dict(run())
        there = os.path.exists(self._target)
        try:
            if not there or not os.path.getsize(self._target):
                writing.replace(self._target, _line([_KIND, now]), new=not there)
            # what is written is not buffered: it is there, or it is not
            self._end = open(self._target, "ab", buffering=0)  # noqa: SIM115 - both are open as long as this is
            _lock(self._end, self.path)
            self._stream = open(self._target, "rb")  # noqa: SIM115
            self._read(now)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be used ({error.strerror})") from None

    def map(
        self,
        each: Callable[[Callable[[_Item], _Found], Iterable[_Item]], Iterable[_Found]],
        function: Callable[[_Item], _Found],
        tasks: Iterable[tuple[str, _Item]],
        lasts: Callable[[_Found], bool] = lambda found: True,
    ) -> Iterator[_Found]:
        """What every task finds, in order: from the file, or else by `function`, and then the file has it, too.

        Args:
            each: like `map`.
            tasks: each with a name of its own in this run.
            lasts: whether something is kept.
        """
        names: deque[tuple[str, bool]] = deque()

        def missing() -> Iterator[_Item]:
            for name, item in tasks:
                names.append((name, name in self._places))
                if not names[-1][1]:
                    yield item

        for found in each(function, missing()):
            while names[0][1]:
                yield self._known(names.popleft()[0])
            name, _ = names.popleft()
            if lasts(found):
                self._keep(name, found)
            yield found
        while names:
            yield self._known(names.popleft()[0])

    def remove(self) -> None:
        """Deletes the file: the run is at its end."""
        if self._end is None:
            return
        try:
            if os.path.samestat(os.stat(self._target), os.fstat(self._end.fileno())):
                os.unlink(self._target)
        except OSError:
            # in a folder where nothing can be deleted; what is empty is as good as new
            with contextlib.suppress(OSError):
                self._end.truncate(0)

    def _read(self, run: Mapping[str, str]) -> None:
        assert self._stream is not None
        kind, was = self._entry(_LONGEST_HEAD) or ("", None)
        if kind != _KIND or not isinstance(was, dict):
            raise InputError(
                f"{self.path}: is no checkpoint of this version of gradcheck, and is left as it is. Another name "
                "begins a new one"
            )
        apart = [name for name in dict.fromkeys([*was, *run]) if was.get(name) != run.get(name)]
        if apart:
            told = [f"{name} was {_short(was.get(name))}, now {_short(run.get(name))}" for name in apart[:3]]
            more = f" and {len(apart) - 3} more" if len(apart) > 3 else ""
            raise InputError(
                f"{self.path}: is of another run: {'; '.join(told)}{more}. Another name begins a new checkpoint"
            )
        end = self._stream.tell()
        while (entry := self._entry()) is not None:
            name, _ = entry
            self._places[name] = end
            end = self._stream.tell()
        if self._places:
            self._on_known(len(self._places))
        assert self._end is not None
        self._end.truncate(end)

    def _entry(self, longest: int = _LONGEST) -> tuple[str, Any] | None:
        """What the next line holds, by name; None where the file ends, or its last line was not written to the end."""
        assert self._stream is not None
        place = self._stream.tell()
        line = self._stream.readline(longest)
        try:
            if line.endswith(b"\n") and line[:9] == _sum(line[9:-1]):
                match json.loads(line[9:]):
                    case [str() as name, found]:
                        return name, found
                raise InputError(f"{self.path}: its entry at byte {place} cannot be understood")
        except (ValueError, RecursionError):
            pass
        if place and self._stream.read(1):
            raise InputError(f"{self.path}: is damaged at byte {place}, before its end, and is left as it is")
        self._stream.seek(place)
        return None

    def _known(self, name: str) -> Any:
        assert self._stream is not None
        self._stream.seek(self._places[name])
        entry = self._entry()
        try:
            assert entry is not None
            found = _decoded(entry[1], self._kinds)
            if all(isinstance(one, self._roots) for one in (found if isinstance(found, list) else [found])):
                return found
            raise TypeError("no task finds that")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, GradcheckError):
            raise InputError(f"{self.path}: what it holds of {name} cannot be understood") from None

    def _keep(self, name: str, found: object) -> None:
        if self._end is None or self.lost:
            return
        line, place = memoryview(_line([name, _encoded(found)])), os.fstat(self._end.fileno()).st_size
        if len(line) > _LONGEST:
            return
        try:
            while line:
                line = line[self._end.write(line) :]
            if time.monotonic() > self._synced + _SAFE:
                os.fsync(self._end.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            # the run itself is worth more; what is half written would be damage once more is written after it
            self.lost = str(error.strerror)
            with contextlib.suppress(OSError):
                self._end.truncate(place)
            return
        self._places[name] = place


def _short(value: object) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def _line(entry: object) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return _sum(text) + text + b"\n"


def _sum(text: bytes) -> bytes:
    return b"%08x " % zlib.crc32(text)


def _lock(stream: io.FileIO, path: str) -> None:
    """Nobody else's until the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: another run is using it") from None
    except OSError:  # a file system without locks
        pass


def _reachable(kinds: Iterable[type]) -> dict[str, type]:
    """Dataclasses and enumerations, and those that they are made of, by name."""
    found: dict[str, type] = {}
    left: list[Any] = list(kinds)
    while left:
        kind = left.pop()
        left += typing.get_args(kind)
        if not isinstance(kind, type) or kind is Format or kind in found.values():
            continue
        if dataclasses.is_dataclass(kind):
            left += typing.get_type_hints(kind).values()
        elif not issubclass(kind, enum.Enum):
            continue
        assert kind.__name__ not in found, kind
        found[kind.__name__] = kind
    return found


def _encoded(value: Any) -> Any:
    """Facts as JSON: whatever is not plain is a list that begins with its kind."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, enum.Enum):
        return [type(value).__name__, value.value]
    if isinstance(value, int) and value.bit_length() > 64:
        return ["int", hex(value)]  # Python limits the digits of a whole number, but not these
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, Format):
        return ["Format", value.name]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(_encoded, value)]
    if isinstance(value, Mapping):
        return ["dict", *([_encoded(key), _encoded(entry)] for key, entry in value.items())]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.init]
        return [type(value).__name__, {field.name: _encoded(getattr(value, field.name)) for field in fields}]
    raise TypeError(f"a {type(value).__name__} is no fact")


def _decoded(value: Any, kinds: Mapping[str, type]) -> Any:
    if not isinstance(value, list):
        return value
    kind, *content = value
    match kind:
        case "int":
            return int(content[0], 16)
        case "Format":
            return formats.named(content[0])
        case "list":
            return [_decoded(one, kinds) for one in content]
        case "tuple":
            return tuple(_decoded(one, kinds) for one in content)
        case "dict":
            return {_decoded(key, kinds): _decoded(one, kinds) for key, one in content}
    if not dataclasses.is_dataclass(kinds[kind]):
        return kinds[kind](*content)
    (given,) = content
    fields = {name: _decoded(one, kinds) for name, one in given.items()}
    hints = _hints(kinds[kind])
    if not all(_fits(found, hints[name]) for name, found in fields.items()):
        raise TypeError(f"no {kind}")
    return kinds[kind](**fields)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a field is said to have."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is tuple:
        each = (inner[0],) * len(value) if isinstance(value, tuple) and inner[-1] is Ellipsis else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    if kind is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if kind is not None and issubclass(kind, Mapping):
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, types.NoneType if hint is None else hint)
