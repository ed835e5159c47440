"""Folders whose files are their public names: listed without importing them, imported one by one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from gradcheck.exceptions import UnknownNameError


def names(folder: ModuleType) -> list[str]:
    """The public names in a package: its modules that do not begin with an underscore, sorted."""
    return list(_names(folder))


@cache
def _names(folder: ModuleType) -> tuple[str, ...]:
    # read once: some names are asked for again with every row
    return tuple(sorted(found.name for found in pkgutil.iter_modules(folder.__path__) if found.name[0] != "_"))


def load(folder: ModuleType, kind: str, name: str) -> ModuleType:
    """The module that bears the public name `name`.

    Raises:
        UnknownNameError: where there is none; `kind` says what was looked for.
    """
    known = names(folder)
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return importlib.import_module(f"{folder.__name__}.{name}")


def summary(module: ModuleType) -> str:
    """The first sentence of a module's docstring."""
    return (module.__doc__ or "").strip().split("\n", 1)[0].rstrip(".")


def story(module: ModuleType) -> str:
    """The rest of a module's docstring."""
    return (module.__doc__ or "").strip().partition("\n")[2].strip("\n")
