"""Standard streams that bear a reader who leaves early, a full disk, and not being there at all."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

from gradcheck.exceptions import InputError


class _Patient(io.FileIO):
    """A file descriptor; what cannot be written any more is written nowhere, so that closing it stays quiet.

    Attributes:
        vital: whether it is an error where it is not closed, and cannot be written all the same.
    """

    vital = True

    def write(self, data: object) -> int:
        """As FileIO does, but a closed pipe is no error."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self.vital and error.errno != errno.EPIPE:
                raise InputError(f"standard output cannot be written ({error.strerror})") from None
            return len(memoryview(data))  # type: ignore[arg-type]


def prepare() -> None:
    """Puts patient streams in the place of the process's own."""
    sys.stdout = _patient(sys.stdout)
    sys.stderr = _patient(sys.stderr, vital=False)


def _patient(stream: TextIO | None, *, vital: bool = True) -> TextIO:
    if stream is None:
        return open(os.devnull, "w")
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # not a stream of the process: a test's, or a caller's
        return stream
    stream.flush()
    raw = _Patient(descriptor, "w", closefd=False)
    raw.vital = vital
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        # a name that the terminal's encoding lacks is shown escaped, not refused
        errors="backslashreplace",
        line_buffering=stream.isatty(),
    )
