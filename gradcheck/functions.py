"""Functions of the user's own, named as MODULE:FUNCTION or PATH.py:FUNCTION, loaded and called with care."""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gradcheck.exceptions import CrashedError, UsageError

TIMEOUT = 120.0
"""Seconds that an answer may take, where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function, and the name that the user gave it."""

    name: str
    call: Callable[..., Any]
    folder: str | None = None
    """From which it may import even when it is called."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """What it returns.

        Raises:
            CrashedError: for whatever it raises, `SystemExit` included.
        """
        with _crashing(f"{self.name} raised", self.folder):
            return self.call(*arguments, **keywords)


def load(name: str) -> Function:
    """The function that `name` names; a module is looked for in the current folder, too.

    Raises:
        UsageError: where there is no such file, module or function.
        CrashedError: where importing it raises.
    """
    # a Windows path may hold a colon of its own
    where, colon, what = name.rpartition(":")
    if not colon or not where or where.endswith(":") or not what.isidentifier():
        raise UsageError(f"'{name}' should read MODULE:FUNCTION or PATH.py:FUNCTION")
    is_file = where.endswith(".py")
    folder = str(Path(where).resolve().parent) if is_file else os.getcwd()
    with _crashing(f"importing '{where}' raised", folder):
        module = _file(where) if is_file else _module(where)
        found = getattr(module, what, None)
    if not callable(found):
        near = [entry for entry, value in vars(module).items() if not entry.startswith("_") and callable(value)]
        hint = f"; it has {', '.join(near[:8])}" if near else ""
        raise UsageError(f"'{where}' has no function '{what}'{hint}")
    return Function(name=name, call=found, folder=folder)


def file_of(name: str, folder: str) -> Path | None:
    """The file that holds the function that `name` names, as far as that can be told without running anything.

    Args:
        folder: in which paths are relative, and modules are looked for, too.
    """
    where = name.rpartition(":")[0]
    if where.endswith(".py"):
        return Path(folder, where)
    searched: list[str] | None = [folder, *sys.path]
    spec = None
    for end in range(1, where.count(".") + 2):
        spec = importlib.machinery.PathFinder.find_spec(".".join(where.split(".")[:end]), searched)
        searched = None if spec is None else spec.submodule_search_locations
        if searched is None:
            break
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


@contextlib.contextmanager
def _crashing(what: str, folder: str | None) -> Iterator[None]:
    """Runs the user's code: its folder first on the path, its exceptions as crashes."""
    if folder is not None:
        sys.path.insert(0, folder)
    try:
        yield
    except (UsageError, CrashedError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise CrashedError(f"{what} {told(error)}") from error
    finally:
        if folder is not None:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


def _file(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise UsageError(f"there is no file '{path}'")
    # a name of its own, under which dataclasses and pickles find it, and which hides no module
    name = f"_gradcheck_{Path(path).stem}_{abs(hash(str(Path(path).resolve())))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"'{name}' is no module's name; a file is named as PATH.py:FUNCTION")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        # a module that `name` itself imports and that is not there is the module's own fault
        if missing.name and (name == missing.name or name.startswith(f"{missing.name}.")):
            raise UsageError(f"there is no module '{name}'; a file is named as PATH.py:FUNCTION") from None
        raise


def told(error: BaseException) -> str:
    """Kind, message and last line of an exception of the user's code, in one line."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<")
    ]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    try:
        message = " ".join(str(error).split())
    except Exception:  # what the user's code raises may fail to say what it is
        message = ""
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"
