"""`gradcheck report`: saved results in any format, judged again, or beside older ones."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from gradcheck.cli import _options, _run
from gradcheck.exceptions import InputError


@_options.expanded
def command(
    results: Annotated[
        str, typer.Argument(help="A report that was saved with --report json=FILE.", metavar="RESULTS.json")
    ],
    tolerance: Annotated[
        str | None,
        typer.Option(help="Judge again: stable, ulp:N, rel:X, abs:X or norm:X. Default: as saved.", metavar="RULE"),
    ] = None,
    *,
    reporting: _options.Reporting,
) -> None:
    """Show saved results again, in any format; with --baseline what got worse, better, is new or gone."""
    from gradcheck import exits, rejudging, tolerances
    from gradcheck import report as reports
    from gradcheck.report import _restored, _saved, _selftest
    from gradcheck.results import Report, Tried

    rule = None if tolerance is None else tolerances.parse(tolerance)

    def read(path: str) -> Report:
        report = _restored.report(_saved.read(path), path)
        if rule is None:
            return report
        return dataclasses.replace(report, results=tuple(rejudging.again(one, rule) for one in report.results))

    report = read(results)
    kinds = {isinstance(result.outcome, Tried) for result in report.results}
    if len(kinds) == 2:
        raise InputError(f"{results}: holds results of a selftest beside others")
    notes, worse = [*report.notes], False
    if reporting.baseline is not None:
        changes = _saved.changes(read(reporting.baseline), report)
        notes += changes.lines
        worse = changes.worse
    settings = dict(report.settings) | ({} if rule is None else {"tolerance": str(rule)})
    render = _selftest.render if kinds == {True} else reports.render
    shown = dataclasses.replace(report, settings=settings, notes=tuple(notes))
    targets = _run.targets(reporting, reports.names())
    _run.write(lambda name, style: render(name, shown, style), reporting, targets)
    code = _run.exit_code(shown) if reporting.baseline is None else exits.DISAGREES if worse else 0
    raise typer.Exit(0 if reporting.exit_zero else code)
