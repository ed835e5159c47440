"""The user's own code in a child process: what hangs, dies or prints there harms nothing but its own answer.

A child imports one module, makes an implementation of it, and answers requests until its parent is gone. A request is
a dictionary of numbers, texts, arrays and such dictionaries; so is an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

from gradcheck.exceptions import CrashedError, MissingExtraError, NotApplicableError, UsageError
from gradcheck.functions import TIMEOUT
from gradcheck.processes._ends import end, ending
from gradcheck.processes._wire import BrokenError, receive, send

__all__ = ["Process", "broken", "end", "ending"]

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from gradcheck.processes import child; child.main()"
"""The child finds modules where its parent does."""


def broken(name: str) -> CrashedError:
    """What to raise where something comes back that is no answer."""
    return CrashedError(f"{name} has broken the process that it runs in: what came back is no answer")


class Process:
    """An implementation in a child, which is started again after it has died.

    Args:
        name: what the user calls it.
        module: defines `implementation(**arguments)`, which returns a function of keywords.
        timeout: seconds that a start, or an answer, may take.
        folder: in which it runs; None is this process's own.

    Raises:
        UsageError: where there is no such implementation.
        MissingExtraError: where it needs a package that is not installed.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Mapping[str, Any],
        timeout: float = TIMEOUT,
        folder: str | None = None,
    ) -> None:
        self.name, self._module, self._arguments, self._timeout = name, module, dict(arguments), timeout
        self._folder = folder
        self._child: _Child | None = None
        self._unusable = ""
        self._lock = threading.Lock()
        try:
            self._start()
        except CrashedError as crash:
            # what cannot even be imported will not be better the next time
            self._unusable = str(crash)

    def __call__(self, **request: Any) -> dict[str, Any]:
        """The answer.

        Raises:
            CrashedError: where the code raises, dies, or takes too long.
            NotApplicableError: where it has no answer to this.
        """
        if self._unusable:
            raise CrashedError(self._unusable)
        with self._lock:
            if self._child is None:
                self._start()
            return self._exchange(request)

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _start(self) -> None:
        try:
            self._child = _Child(self._folder)
        except FileNotFoundError:
            raise CrashedError(f"{self.name} cannot be run in '{self._folder}': there is no such folder here") from None
        self._exchange({"module": self._module, "arguments": self._arguments})

    def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        child = self._child
        assert child is not None
        try:
            answer = child.ask(request, self._timeout)
        except BaseException as error:
            # whatever happened, what it would still say would be the answer to another question
            self.close()
            if isinstance(error, TimeoutError):
                raise CrashedError(f"{self.name} gave no answer within {self._timeout:g} s and was stopped") from None
            if isinstance(error, BrokenError):
                raise CrashedError(f"{self.name} {ending(child.code, 'ended its process')}") from None
            raise
        match answer:
            case {"crashed": str(why)}:
                raise CrashedError(why)
            case {"skipped": str(why)}:
                raise NotApplicableError(why)
            case {"usage": str(why)}:
                raise UsageError(why)
            case {"missing": str(package), "extra": str(extra)}:
                raise MissingExtraError(self.name, extra, package)
            case {} if not answer:
                self.close()
                raise broken(self.name)
        return answer


class _Child:
    """A running child: what is written to it, what it answers."""

    def __init__(self, folder: str | None) -> None:
        # the child ends when the writing end closes, whatever its code is doing
        alive, self._life = os.pipe()
        self._popen = subprocess.Popen(
            # without -P it would look for json in the current folder first, where other people's files may lie
            [sys.executable, "-P", "-c", _START, str(alive), json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            pass_fds=(alive,),
            start_new_session=True,  # Ctrl-C is the parent's to answer
        )
        os.close(alive)
        self._answers: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
        assert self._popen.stdout is not None
        threading.Thread(target=_read, args=(self._popen.stdout, self._answers), daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self._popen, self._life)

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Its answer.

        Raises:
            TimeoutError: where there is none in time.
            BrokenError: where it has died.
        """
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):  # a dead child is told by what it does not answer
            send(cast(BinaryIO, self._popen.stdin), request)
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(answer, Exception):
            with contextlib.suppress(subprocess.TimeoutExpired):  # so that its exit code is its own
                self._popen.wait(timeout=5)
            raise answer
        return answer

    def end(self) -> None:
        """Kills it, if it is still there."""
        self._finalizer()

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal."""
        return self._popen.returncode


def _read(stream: BinaryIO, answers: queue.SimpleQueue[dict[str, Any] | Exception]) -> None:
    try:
        while True:
            answers.put(receive(stream))
    except Exception as error:
        answers.put(error if isinstance(error, BrokenError) else BrokenError(str(error)))
    finally:
        stream.close()


def _end(popen: subprocess.Popen[bytes], life: int) -> None:
    end(popen)
    os.close(life)
    assert popen.stdin is not None
    with contextlib.suppress(OSError):
        popen.stdin.close()
