"""Options that several commands share, as dataclasses that a command takes as one parameter."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import shlex
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradcheck.functions import TIMEOUT

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_JUDGED, _REFERENCE, REPORT = "What is judged, and how", "Reference", "Report"

Logits = Annotated[str | None, typer.Argument(help="A file of logits, or - for standard input.", metavar="LOGITS")]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where logits and labels come from."""

    generate: Annotated[
        str | None,
        typer.Option(help="Random logits instead of a file: normal, uniform, heavy-tailed.", metavar="NAME"),
    ] = None
    case: Annotated[
        list[str] | None,
        typer.Option(
            help="A case of the catalogue instead of a file; repeatable, and a pattern, where several will do.",
            metavar="GLOB",
        ),
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(help="A file, a class number, argmax or argmin. Default: 'labels' in the file.", metavar="WHAT"),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float16, bfloat16, float32 or float64; casts the logits. Default: the file's own.", metavar="DTYPE"
        ),
    ] = None
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help="A loss option, such as reduction=mean or label_smoothing=0.1; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None
    axis: Annotated[
        int | None,
        typer.Option(help="The axis of the classes, where logits have more than two; as --loss axis=N.", metavar="N"),
    ] = None
    input_format: Annotated[
        str | None,
        typer.Option(help="npy, npz, csv, tsv, json, jsonl or safetensors. Default: by suffix.", metavar="NAME"),
    ] = None
    rows: Annotated[
        str | None,
        typer.Option(help="A part of the rows as A:B; with --generate how many to draw.", metavar="A:B"),
    ] = None
    sample: Annotated[int | None, typer.Option(help="Check N rows drawn at random.", metavar="N", min=1)] = None
    classes: Annotated[int | None, typer.Option(help="Classes to draw with --generate. Default: 10.", metavar="N")] = (
        None
    )
    scale: Annotated[
        float | None, typer.Option(help="Scale of the logits with --generate. Default: 1.", metavar="X")
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="Seed of --generate and --sample. Default: 0.", metavar="N", min=0)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Answered(Source):
    """Where logits, labels and a gradient come from."""

    case: Annotated[
        list[str] | None,
        typer.Option(
            help="A case of the catalogue instead of a file; 'gradcheck stability' takes several.", metavar="NAME"
        ),
    ] = None
    gradient: Annotated[
        list[str] | None,
        typer.Option(
            help="A gradient that another program wrote, to be checked; repeatable.",
            rich_help_panel=_JUDGED,
            metavar="FILE",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which cases of the catalogue."""

    case: Annotated[
        list[str] | None,
        typer.Option(help="Cases by name or pattern; repeatable. Default: all but those tagged large.", metavar="GLOB"),
    ] = None
    tag: Annotated[
        list[str] | None,
        typer.Option(
            help="Cases by tag, such as masked, hard or large; repeatable. Default: all but large.", metavar="TAG"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """By what rule is judged, how long code may take, and how fine the reference is."""

    tolerance: Annotated[
        str,
        typer.Option(
            help="stable, ulp:N, rel:X, abs:X, norm:X, allclose:RTOL,ATOL or torch.",
            rich_help_panel=_JUDGED,
            metavar="RULE",
        ),
    ] = "stable"
    ftz: Annotated[
        bool, typer.Option("--ftz", help="Accept flushed subnormals under stable.", rich_help_panel=_JUDGED)
    ] = False
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds that code of your own may take for an answer.", rich_help_panel=_JUDGED, metavar="S"
        ),
    ] = TIMEOUT
    digits: Annotated[
        str,
        typer.Option(help="Working digits of the reference, or auto.", rich_help_panel=_REFERENCE, metavar="N"),
    ] = "auto"
    step: Annotated[
        str,
        typer.Option(
            help="Step of the central difference, such as 2^-20 or 1e-6 (the power of two at or below it), or auto.",
            rich_help_panel=_REFERENCE,
            metavar="H",
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Judging(Rule):
    """What is checked, by what rule, against which reference."""

    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="A built-in form, a framework (torch, jax, …), MODULE:FUNCTION, PATH.py:FUNCTION, or "
            "torch:MODULE:LOSS; repeatable. Default: shifted.",
            rich_help_panel=_JUDGED,
            metavar="NAME",
        ),
    ] = None
    command: Annotated[
        list[str] | None,
        typer.Option(
            help="A program to check, its words with {logits} {labels} {gradient} for the paths; repeatable.",
            rich_help_panel=_JUDGED,
            metavar="TEMPLATE",
        ),
    ] = None
    exchange: Annotated[
        str,
        typer.Option(
            help="The files that a program reads and writes: npy or safetensors.",
            rich_help_panel=_JUDGED,
            metavar="FORMAT",
        ),
    ] = "npy"
    device: Annotated[
        str | None,
        typer.Option(help="The device of a framework, such as cuda:0.", rich_help_panel=_JUDGED, metavar="NAME"),
    ] = None
    repeat: Annotated[
        int,
        typer.Option(
            help="Ask code of your own N times, judge the worst answer, and say how far they differ.",
            rich_help_panel=_JUDGED,
            metavar="N",
            min=1,
        ),
    ] = 1
    top: Annotated[
        int,
        typer.Option(help="Name the N worst components of each result.", rich_help_panel=_JUDGED, metavar="N", min=0),
    ] = 0
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Processes that share the work; the results do not depend on how many there are. Default: 1, with "
            "--scheduler local one for each CPU.",
            rich_help_panel=_JUDGED,
            metavar="N",
            min=1,
            max=1024,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="A dask cluster, as tcp://HOST:PORT, that shares the work instead; local starts one here.",
            rich_help_panel=_JUDGED,
            metavar="URL",
        ),
    ] = None
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Keep what is done in a file, from which the same command goes on after whatever ended it; deleted "
            "at the end.",
            rich_help_panel=_JUDGED,
            metavar="FILE",
        ),
    ] = None
    gradient_dtype: Annotated[
        str | None,
        typer.Option(
            help="The format to judge in. Default: the gradient array's own.",
            rich_help_panel=_JUDGED,
            metavar="DTYPE",
        ),
    ] = None
    order: Annotated[
        int,
        typer.Option(help="Order of the central difference: 2, 4, 6 or 8.", metavar="N", rich_help_panel=_REFERENCE),
    ] = 2
    method: Annotated[
        str,
        typer.Option(
            help="incremental (O(1) a component) or direct (the loss from its definition, O(k)).",
            rich_help_panel=_REFERENCE,
            metavar="NAME",
        ),
    ] = "incremental"
    engine: Annotated[
        str,
        typer.Option(
            help="mpmath, or flint (proved enclosures, faster; needs the extra 'flint').",
            rich_help_panel=_REFERENCE,
            metavar="NAME",
        ),
    ] = "mpmath"


NOT_AGAIN = ("candidate", "command", "jobs", "scheduler", "checkpoint")
"""Options of `Judging` that a command which shows one result again has in another way, or does without."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is done about sizes at which central differences would take hours."""

    screen: Annotated[
        bool | None,
        typer.Option(
            "--screen/--no-screen",
            help="Let the closed form in float64, with its proved error bound, decide what it can before central "
            "differences do. Default: past 2^20 components, in formats narrower than float64.",
            rich_help_panel=_REFERENCE,
        ),
    ] = None
    certify: Annotated[
        int,
        typer.Option(
            help="With --screen, how many components drawn at random get central differences all the same.",
            rich_help_panel=_REFERENCE,
            metavar="N",
            min=0,
        ),
    ] = 1024


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Where what is found goes, and in which shape."""

    format: Annotated[
        str | None,
        typer.Option(
            help="table, concise, markdown, csv, json, jsonl, junit, github, html, svg or png. Default: table on a "
            "terminal, else concise.",
            rich_help_panel=REPORT,
            metavar="FORMAT",
        ),
    ] = None
    output: Annotated[
        str | None,
        typer.Option(
            help="Write the report to a file, without --format in the format of its suffix, or concise.",
            rich_help_panel=REPORT,
            metavar="FILE",
        ),
    ] = None
    report: Annotated[
        list[str] | None,
        typer.Option(help="Another report, as FORMAT=FILE; repeatable.", rich_help_panel=REPORT, metavar="FORMAT=FILE"),
    ] = None
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard output.", rich_help_panel=REPORT)
    ] = False
    color: Annotated[str, typer.Option(help="auto, always or never.", rich_help_panel=REPORT, metavar="WHEN")] = "auto"


@dataclass(frozen=True, kw_only=True)
class Reporting(Writing):
    """What becomes of results that have a verdict."""

    baseline: Annotated[
        str | None,
        typer.Option(
            help="A saved JSON report: fail only on what is worse than there.",
            rich_help_panel=REPORT,
            metavar="RESULTS.json",
        ),
    ] = None
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit 0 whatever the verdicts.", rich_help_panel=REPORT)
    ] = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Explain passing results too, with a histogram of errors.", rich_help_panel=REPORT
        ),
    ] = False
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress bar.", rich_help_panel=REPORT)] = False


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose dataclass parameters are options of their own.

    Typer reads a signature; this one lists the dataclasses' fields in their place.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters
    groups = {name: hints[name] for name in own if dataclasses.is_dataclass(hints[name])}
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        fields = typing.get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=fields[field.name],
            )
            for field in dataclasses.fields(groups[name])
        ]

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        arguments = {
            name: kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
            for name, kind in groups.items()
        }
        command(**arguments, **values)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del flat.__wrapped__
    return flat


def arguments(group: DataclassInstance, *, without: tuple[str, ...] = ()) -> list[str]:
    """The command-line words that give the options in `group` which differ from their defaults."""
    words: list[str] = []
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if value == field.default or field.name in without:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            off = item is False  # of a flag that is neither on nor off by default
            words += [flag] if item is True else [f"--no-{flag[2:]}"] if off else [flag, str(item)]
    return words


def naming(judging: Judging, candidate: str) -> list[str]:
    """The words that name a candidate."""
    return ["--command" if candidate in (judging.command or []) else "--candidate", candidate]


def path(logits: str | None) -> list[str]:
    """The argument that names a file of logits."""
    return [] if logits is None else [f"./{logits}" if logits.startswith("-") else logits]


def command_line(words: list[str]) -> str:
    """The words as a line for a shell; control characters stay visible."""
    return " ".join(["gradcheck", *(_quoted(word) for word in words)])


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(
        char if char.isprintable() and char not in "\\'" else "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
        for char in word
    )
    return f"$'{escaped}'"
