"""`gradcheck sweep`: the error of a central difference against its step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from gradcheck.cli import _options, _run
from gradcheck.exceptions import UsageError


@dataclass(frozen=True, kw_only=True)
class Drawing(_options.Writing):
    """Where the errors go, and in which shape."""

    format: Annotated[
        str | None,
        typer.Option(
            help="table, concise, markdown, csv, json, html, svg or png. Default: table on a terminal, else concise.",
            rich_help_panel=_options.REPORT,
            metavar="FORMAT",
        ),
    ] = None


@_options.expanded
def command(
    logits: _options.Logits = None,
    row: Annotated[int, typer.Option(help="The row to look at.", metavar="N", min=0)] = 0,
    cls: Annotated[
        int | None,
        typer.Option("--class", help="The class to look at. Default: that of the label.", metavar="C", min=0),
    ] = None,
    engine: Annotated[str, typer.Option(help="mpmath, or flint (needs the extra 'flint').", metavar="NAME")] = "mpmath",
    *,
    source: _options.Source,
    drawing: Drawing,
) -> None:
    """Show the error of the central difference against step size, precision and order, for one component."""
    from gradcheck.cli import _source
    from gradcheck.report import _sweep
    from gradcheck.sweep import sweep

    if source.sample or (source.rows and not source.generate):
        raise UsageError("sweep looks at one row: --row N, --class C")
    targets = _run.targets(drawing, _sweep.NAMES)
    found = []
    for name, problem, notes in _source.load_each(logits, source):
        _run.tell(notes)
        found.append(sweep(problem, case=name, row=row, cls=cls, engine=engine))
    _run.write(lambda form, style: _sweep.render(form, found), drawing, targets)
