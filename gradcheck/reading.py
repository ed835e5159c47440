"""Files that are read whole, and how much memory there is for what is made of them: asked before it is taken.

A system that promises more memory than it has ends whoever takes it at its word, without a sentence.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from gradcheck.exceptions import InputError

STREAM = 1 << 30
"""Bytes of a stream that has no size: standard input, a pipe, a device."""
_SMALL = 1 << 28
"""Bytes that are taken without asking."""
_BLOCK = 1 << 20
_PARTS = 64
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_PIECE = re.compile(
    rf"""(?P<key>(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_PARTS},}})"""
    r"""|\"{3}(?:[^\\"]|\\.|\"(?!""))*+\"{3}|'{3}(?:[^']|'(?!''))*+'{3}"""
    r"""|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|\#[^\n]*+""",
    re.DOTALL,
)
"""A key of very many parts, or what is none whatever it looks like: text in quotes, a comment."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container says what it may take."""


def require(size: int, what: str) -> None:
    """Asks for so many bytes of memory.

    Raises:
        InputError: where there are fewer.
    """
    if size <= _SMALL:
        return
    there = available()
    if there is not None and size > there:
        raise InputError(f"{what} would take {_told(size)} of memory, and there are {_told(there)}")


def available() -> int | None:
    """Bytes that can still be taken; None where the system does not say."""
    found = []
    for line in _lines("/proc/meminfo"):
        name, _, amount = line.partition(":")
        if name in ("MemAvailable", "SwapFree"):
            found.append(int(amount.split()[0]) << 10)
    there = [sum(found)] if found else []
    there += [int(line) for path in _LIMITS for line in _lines(path) if line.isdecimal()]
    return min(there, default=None)


def content(path: str | Path, most: int) -> bytes:
    """What a plain file holds.

    Raises:
        InputError: where it is something else, or larger than `most`.
        OSError: where it cannot be read.
    """
    # a pipe that nobody writes to would be waited for, without end
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{path}: is no plain file")
    with open(path, "rb") as stream:
        try:
            return stream_of(stream, most).getvalue()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def stream_of(stream: BinaryIO, most: int = STREAM) -> io.BytesIO:
    """All that comes from a stream, in memory.

    Raises:
        InputError: where it is more than `most` bytes.
    """
    held = io.BytesIO()
    while block := stream.read(_BLOCK):
        held.write(block)
        if held.tell() > most:
            raise InputError(f"is longer than the {_told(most)} that are read")
    held.seek(0)
    return held


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What JSON makes an object of.

    Raises:
        InputError: where a key stands there twice, of which readers take one or the other.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"names the key '{key[:40]}' twice")
        found[key] = value
    return found


def toml(text: str, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """The table in a text.

    Raises:
        ValueError: where it is no TOML, or has a key of very many parts, which take their number's square of memory.
        RecursionError: where it nests too deep.
    """
    for found in _PIECE.finditer(text):
        if found["key"] is not None:
            raise ValueError(f"line {text.count(chr(10), 0, found.start()) + 1} has a key of more than {_PARTS} parts")
    return tomllib.loads(text, parse_float=parse_float)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []


def _told(size: int) -> str:
    if size < 1 << 30:
        return f"{max(1, size >> 20)} MiB"
    return f"{size / (1 << 30):,.0f} GiB" if size < 1 << 60 else "more than 2^30 GiB"
