"""What belongs to the whole process is one thread's at a time, and no copy of the process is made meanwhile."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


class Turn:
    """A thread's turn, which it may take again while it has it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        if hasattr(os, "register_at_fork"):
            # in a forked process there is nobody who would end the turn of another thread
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
            )

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __call__(self, function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
        """The function, each call of which is a turn."""

        @functools.wraps(function)
        def alone(*arguments: _Given.args, **named: _Given.kwargs) -> _Found:
            with self:
                return function(*arguments, **named)

        return alone


MPMATH = Turn()
"""libmp keeps ln 2 and its like to the most digits that were asked for, the digits and their number one after the
other: a thread that comes between the two takes them for another number."""
