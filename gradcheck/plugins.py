"""Folders whose files are their public names: listed without importing them, imported one by one."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from gradcheck.exceptions import UnknownNameError

_Named = TypeVar("_Named")


def names(folder: ModuleType) -> list[str]:
    """The public names in a package: its modules that do not begin with an underscore, sorted."""
    return list(_names(folder))


@cache
def _names(folder: ModuleType) -> tuple[str, ...]:
    # read once: some names are asked for again with every row
    found = pkgutil.iter_modules(folder.__path__)
    return tuple(sorted(module.name for module in found if module.name[0] != "_" and not module.ispkg))


def load(folder: ModuleType, kind: str, name: str) -> ModuleType:
    """The module that bears the public name `name`.

    Raises:
        UnknownNameError: where there is none; `kind` says what was looked for.
    """
    known = names(folder)
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return importlib.import_module(f"{folder.__name__}.{name}")


def matching(kind: str, known: Mapping[str, _Named], globs: Iterable[str]) -> dict[str, _Named]:
    """What bears a name that matches any of the shell-style patterns, in its order; all where there is no pattern.

    Raises:
        UnknownNameError: for a pattern that matches nothing; `kind` says what was looked for.
    """
    patterns = list(globs)
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise UnknownNameError(kind, pattern, known)
    return {
        name: one
        for name, one in known.items()
        if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def documented(folder: ModuleType, name: str) -> tuple[str, str]:
    """The first sentence of a module's docstring, and the rest, without importing it: its package may not be there."""
    module = importlib.util.find_spec(f"{folder.__name__}.{name}")
    assert module is not None
    assert module.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(module.origin).read_text(encoding="utf-8"))) or ""
    first, _, rest = docstring.strip().partition("\n")
    return first.rstrip("."), rest.strip("\n")
