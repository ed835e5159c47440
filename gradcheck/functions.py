"""Functions of the user's own, named as MODULE:FUNCTION or PATH.py:FUNCTION, loaded and called with care."""

from __future__ import annotations

import contextlib
import importlib
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


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function, and the name that the user gave it."""

    name: str
    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """What it returns; what it prints goes to standard error.

        Raises:
            CrashedError: for whatever it raises, `SystemExit` included.
        """
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return self.call(*arguments)
        except (Exception, SystemExit) as error:
            raise CrashedError(f"{self.name} raised {_told(error)}") from error


def load(name: str) -> Function:
    """The function that `name` names; a module is looked for in the current folder, too.

    Raises:
        UsageError: where there is no such file, module or function.
        CrashedError: where importing it raises.
    """
    # a Windows path may hold a colon of its own
    where, colon, what = name.rpartition(":")
    if not colon or not where or not what.isidentifier():
        raise UsageError(f"'{name}' should read MODULE:FUNCTION or PATH.py:FUNCTION")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = _file(where) if where.endswith(".py") else _module(where)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise CrashedError(f"importing '{where}' raised {_told(error)}") from error
    found = getattr(module, what, None)
    if not callable(found):
        near = [entry for entry in vars(module) if not entry.startswith("_") and callable(getattr(module, entry))]
        hint = f"; it has {', '.join(near[:8])}" if near else ""
        raise UsageError(f"'{where}' has no function '{what}'{hint}")
    return Function(name=name, call=found)


def _file(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise UsageError(f"there is no file '{path}'")
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _importable(str(Path(path).resolve().parent)):
        spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    with _importable(os.getcwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as missing:
            # a module that `name` itself imports and that is not there is the module's own fault
            if missing.name and (name == missing.name or name.startswith(f"{missing.name}.")):
                raise UsageError(f"there is no module '{name}'; a file is named as PATH.py:FUNCTION") from None
            raise
        except (ValueError, TypeError):
            raise UsageError(f"'{name}' is no module's name") from None


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    """The folder before all others on the path, for what the user's file imports from beside it."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _told(error: BaseException) -> str:
    """Kind, message and last line of an exception, in one line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"
