"""Settings in pyproject.toml: defaults of options, which the command line overrides."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradcheck import reading
from gradcheck.cli import derive
from gradcheck.exceptions import InputError, UnknownNameError, UsageError

_PIECES = (field.name for field in dataclasses.fields(derive.Pieces))
_REFUSED = {
    **dict.fromkeys(("candidate", "command", *_PIECES), "would run code"),
    **dict.fromkeys(("output", "report", "checkpoint", "append"), "would write files"),
    **dict.fromkeys(("gradient", "result"), "would read files"),
    "scheduler": "would have others run code, and run what they answer",
    **dict.fromkeys(("exit_zero", "baseline"), "would hide what fails"),
}
"""What a file in some folder must not do unasked."""
_LONGEST = 1 << 24
"""Bytes of a file of settings."""


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
    known = {str(option.name) for leaf in _leaves(command) for option in _options(leaf)}
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        why = _REFUSED.get(name) or ("would read files" if _names_file(name, value) else None)
        if why is not None:
            raise UsageError(f"{path}: [tool.gradcheck] {key} {why}, which only the command line may ask for")
        if name not in known:
            raise UnknownNameError(f"option in [tool.gradcheck] of {path},", key, known, "gradcheck COMMAND --help")
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
    own = {option.name: option for option in _options(command) if option.name in values}
    return {
        name: [values[name]] if parameter.multiple and not isinstance(values[name], list) else values[name]
        for name, parameter in own.items()
    }


def _options(command: Any) -> list[Any]:
    """What begins with dashes: arguments, which name files, are for the command line."""
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


def _names_file(option: str, value: Any) -> bool:
    """Whether an option that may name a file does: what is read is shown where it is not what was expected."""
    if option == "labels":
        return value not in ("argmax", "argmin") and not re.fullmatch(r"[+-]?\d+", str(value), re.ASCII)
    if option == "loss":
        from gradcheck import losses

        return losses.ask(map(str, value if isinstance(value, list) else [value])).names_file
    return False


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
            table = reading.toml(reading.content(path, _LONGEST).decode("utf-8"))
        except InputError as error:
            raise UsageError(str(error)) from None
        except (ValueError, OSError, RecursionError) as error:
            raise UsageError(f"{path}: cannot be read as TOML ({error})") from None
        tool = table.get("tool", {})
        own = tool.get("gradcheck", {}) if isinstance(tool, dict) else {}
        if not isinstance(own, dict):
            raise UsageError(f"{path}: tool.gradcheck is no table")
        return path, own
    return None
