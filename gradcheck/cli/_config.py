"""Settings in pyproject.toml: defaults of options, which the command line overrides."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradcheck.cli import derive
from gradcheck.exceptions import UnknownNameError, UsageError

_PIECES = (field.name for field in dataclasses.fields(derive.Pieces))
_REFUSED = {
    **dict.fromkeys(("candidate", "command", *_PIECES), "would run code"),
    **dict.fromkeys(("output", "report", "checkpoint"), "would write files"),
    "scheduler": "would have others run code, and run what they answer",
    "exit_zero": "would hide what fails",
}
"""What a file in some folder must not do unasked."""


def defaults(command: Any) -> dict[str, Any]:
    """What `[tool.gradcheck]` of the nearest pyproject.toml says, for each command that has such an option.

    Args:
        command: the group of all commands.

    Raises:
        UsageError: for a file that is no TOML, an option that no command has, or one that it must not set.
    """
    found = _nearest()
    if found is None:
        return {}
    path, table = found
    known = {str(parameter.name) for leaf in _leaves(command) for parameter in leaf.params}
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in _REFUSED:
            raise UsageError(
                f"{path}: [tool.gradcheck] {key} {_REFUSED[name]}, which only the command line may ask for"
            )
        if name not in known:
            raise UnknownNameError(f"option in [tool.gradcheck] of {path},", key, known)
        if not isinstance(value, str | int | float | list):
            raise UsageError(
                f"{path}: [tool.gradcheck] {key} is neither text, a number, true or false, nor a list of them"
            )
        values[name] = value
    return _of(command, values)


def _of(command: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Nested by command, as the command line takes it; what is one value for many is a list of one."""
    if hasattr(command, "commands"):
        return {name: _of(inner, values) for name, inner in command.commands.items()}
    own = {parameter.name: parameter for parameter in command.params if parameter.name in values}
    return {
        name: [values[name]] if parameter.multiple and not isinstance(values[name], list) else values[name]
        for name, parameter in own.items()
    }


def _leaves(command: Any) -> Iterator[Any]:
    if hasattr(command, "commands"):
        for inner in command.commands.values():
            yield from _leaves(inner)
    else:
        yield command


def _nearest() -> tuple[Path, dict[str, Any]] | None:
    """The nearest pyproject.toml, upwards from the current folder, and what it says of gradcheck."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        path = folder / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            with path.open("rb") as stream:
                table = tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
            raise UsageError(f"{path}: cannot be read as TOML ({error})") from None
        tool = table.get("tool", {})
        own = tool.get("gradcheck", {}) if isinstance(tool, dict) else {}
        if not isinstance(own, dict):
            raise UsageError(f"{path}: tool.gradcheck is no table")
        return path, own
    return None
