"""`gradcheck report`: saved results in any format, judged again, or beside older ones."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from gradcheck.cli import _options, _run


@_options.expanded
def command(
    results: Annotated[str, typer.Argument(help="A report that was saved with --report json=FILE.")],
    tolerance: Annotated[
        str | None,
        typer.Option(help="Judge again: stable, ulp:N, rel:X, abs:X or norm:X. Default: as saved.", metavar="RULE"),
    ] = None,
    *,
    reporting: _options.Reporting,
) -> None:
    """Show saved results again, in any format; with --baseline what got worse, better, is new or gone."""
    from gradcheck import rejudging, tolerances
    from gradcheck import report as reports
    from gradcheck.report import _restored, _saved, _selftest
    from gradcheck.results import Tried

    report = _restored.report(_saved.read(results), results)
    if tolerance is not None:
        rule = tolerances.parse(tolerance)
        report = dataclasses.replace(report, results=tuple(rejudging.again(one, rule) for one in report.results))
    notes = [*report.notes]
    if reporting.baseline is not None:
        notes += _saved.changes(_saved.read(reporting.baseline), report)
    selftest = any(isinstance(result.outcome, Tried) for result in report.results)
    render = _selftest.render if selftest else reports.render
    _run.finish(
        iter(report.results),
        dict(report.settings) | ({} if tolerance is None else {"tolerance": tolerance}),
        reporting,
        notes,
        _run.Rendering(names=reports.names(), render=render),
    )
