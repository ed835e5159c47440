"""The child: makes one implementation, and answers requests. Its own streams are the user's code's to print to."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from gradcheck.exceptions import CrashedError, MissingExtraError, NotApplicableError, UsageError
from gradcheck.functions import told
from gradcheck.processes._wire import BrokenError, receive, send


def main() -> None:
    """Serves until the parent is gone."""
    # what is cached of a file goes by its size and the second of its change: code that was just mended is another
    sys.dont_write_bytecode = True
    threading.Thread(target=_die_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # what the user's code reads is nothing, and what it prints goes to standard error, from C as well
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # which keeps nothing back
    implementation: Callable[..., dict[str, Any]] | None = None
    own = os.getpid()
    while True:
        try:
            request = receive(requests)
        except BrokenError:
            return
        try:
            if implementation is None:
                module = importlib.import_module(request["module"])
                implementation = module.implementation(**request["arguments"])
                answer: dict[str, Any] = {"ready": True}
            else:
                answer = implementation(**request)
        except BaseException as error:
            answer = _failure(error)
        if os.getpid() != own:
            os._exit(0)  # a copy that the user's code has made of this process
        try:
            send(answers, answer)
        except BrokenPipeError:
            os._exit(0)  # nobody is there to hear it


def _failure(error: BaseException) -> dict[str, Any]:
    match error:
        case NotApplicableError():
            return {"skipped": str(error)}
        case UsageError():
            return {"usage": str(error)}
        case MissingExtraError():
            return {"missing": error.package, "extra": error.extra}
        case CrashedError():
            return {"crashed": str(error)}
        case _:
            return {"crashed": told(error)}


def _die_with_parent(alive: int) -> None:
    os.read(alive, 1)  # returns when the parent's end is closed
    os._exit(1)
