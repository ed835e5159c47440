"""`gradcheck selftest`: known mistakes are planted, and each must be caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from gradcheck.cli import _options, _run

if TYPE_CHECKING:
    from gradcheck.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried(_options.Selection):
    """Which cases beside those that a mistake is planted in."""

    case: Annotated[
        list[str] | None,
        typer.Option(
            help="Cases by name or pattern, to try beside those that a mistake is planted in; repeatable. Default: all "
            "but those tagged large.",
            metavar="GLOB",
        ),
    ] = None


@_options.expanded
def command(
    mistake: Annotated[
        list[str] | None,
        typer.Option(help="Mistakes and sound variants by name or pattern; repeatable. Default: all.", metavar="GLOB"),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float16, bfloat16, float32, float64; repeatable. Default: all four.", metavar="DTYPE"),
    ] = None,
    *,
    selection: Tried,
    reporting: _options.Reporting,
) -> None:
    """Plant known mistakes and show that each is caught, and that sound variants are not."""
    from gradcheck import catalogue, formats, mistakes, report, selftest
    from gradcheck.report import _selftest

    planted = mistakes.select(mistake or [])
    kinds = [formats.named(name) for name in dict.fromkeys(dtype or formats.FORMATS)]
    cases = catalogue.select(selection.case or [], selection.tag or [])
    notes = [
        f"{one.name} shows in {', '.join(one.formats)} alone"
        for one in planted
        if mistake and one.signs and not {fmt.name for fmt in kinds} & set(one.formats)
    ]

    def results() -> Iterator[Result]:
        with _run.Ticker(selftest.steps(planted, kinds, cases), reporting) as tick:
            for result in selftest.run(planted, kinds, cases, tick):
                words = ["selftest", "--mistake", result.candidate, "--dtype", result.format.name]
                yield dataclasses.replace(
                    result, again=_options.command_line([*words, *_options.arguments(selection), "--verbose"])
                )

    described = {"mistake": mistake, "dtype": [fmt.name for fmt in kinds]} | dataclasses.asdict(selection)
    rendering = _run.Rendering(names=report.names(), render=_selftest.render)
    _run.finish(results(), described, reporting, notes, rendering)
