"""The part of docs/cli.md that is made of the commands themselves: what each takes, as `--help` says it.

It is read off the tree of commands, not off the rendered help, whose look depends on terminal and version of typer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from gradcheck.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->\n"
_NOT_OURS = {"help", "install_completion", "show_completion"}
"""What typer adds, each version in its own way."""


def generated() -> str:
    """What stands between the two markers."""
    return "\n".join(line for _, command, words in commands() for line in _section(command, words))


def commands() -> list[tuple[str, Any, tuple[str, ...]]]:
    """The name, the command and the words of the program, of its groups and of all that they hold."""
    return [(" ".join(words), command, words) for command, words in _walk(typer.main.get_command(app), ("gradcheck",))]


def parameters(command: Any) -> list[Any]:
    """What a command takes, without what typer adds."""
    return [one for one in command.params if one.name not in _NOT_OURS and not getattr(one, "hidden", False)]


def with_part(text: str, part: str) -> str:
    """The page with another part between the markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin, "the page has no place for the options"
    assert end, "the place for the options has no end"
    return f"{head}{begin}{part}{end}{tail}"


def renew(page: Path = PAGE) -> None:
    """Writes what is generated into the page."""
    page.write_text(with_part(page.read_text(encoding="utf-8"), generated()), encoding="utf-8")


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    yield command, words
    for name, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, (*words, name))


def _section(command: Any, words: tuple[str, ...]) -> Iterator[str]:
    yield f"### {' '.join(words)}\n"
    yield f"`{_usage(command, words)}`\n"
    yield f"{_prose(command.help)}\n"
    panels: dict[str | None, list[Any]] = {}
    for one in parameters(command):
        panels.setdefault(one.rich_help_panel, []).append(one)
    for panel, members in panels.items():
        yield f"| {_prose(panel or '')} | default | |\n|---|---|---|"
        yield from (f"| {_name(one)} | {_default(one)} | {_prose(one.help or '')} |" for one in members)
        yield ""


def _usage(command: Any, words: tuple[str, ...]) -> str:
    taken = [one for one in command.params if one.param_type_name == "argument"]
    inner = ["COMMAND [ARGS]..."] if hasattr(command, "commands") else []
    return " ".join([*words, "[OPTIONS]", *(_argument(one) for one in taken), *inner])


def _argument(argument: Any) -> str:
    name = _value(argument)
    return name if argument.required else f"[{name}]"


def _value(parameter: Any) -> str:
    """What stands for the value."""
    return str(parameter.metavar or parameter.name.upper())


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`"
    words = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return f"`{words}`" if parameter.is_flag else f"`{words} {_value(parameter)}`{' …' if parameter.multiple else ''}"


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if value is False or value in (None, "") else f"`{value}`"


def _prose(text: str) -> str:
    """A text as Markdown, on one line of a table."""
    for mark in "\\|*<[":
        text = text.replace(mark, f"\\{mark}")
    return text
