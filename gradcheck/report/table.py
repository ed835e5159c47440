"""A table for terminals; it drops columns before it would cut a digit, and says which."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradcheck import text
from gradcheck.report import Style, _cells, _sentences, concise
from gradcheck.results import Report, Verdict

_WORST_WIDTH = 30
_PADDING = 2
_UNLIMITED = 100_000
_COLORS = {Verdict.PASS: "green", Verdict.FAIL: "bold red"}


def render(report: Report, style: Style) -> str:
    """The table, then what did not pass with its reason, then the summary."""
    width = style.width or _UNLIMITED
    columns, dropped = _fitting(report, width)
    if not columns:
        # not even what tells the results apart fits beside figures and verdict: lines may wrap, a table would cut
        return concise.render(report, style)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, _PADDING, 0, 0), show_edge=False)
    for column in columns:
        last = column is _cells.WORST
        table.add_column(column.title, justify="right" if column.number else "left", no_wrap=not last, overflow="fold")
    for result in report.results:
        color = _COLORS.get(result.verdict, "yellow")
        table.add_row(
            *(Text(column.cell(result), style=color if column is _cells.VERDICT else "") for column in columns)
        )
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=style.color,
        color_system="standard" if style.color else None,
        highlight=False,
        markup=False,
        soft_wrap=False,
        legacy_windows=False,
    )
    if report.results:
        console.print(table)
    if dropped:
        titles = ", ".join(column.title for column in dropped)
        console.print(Text(f"left out at {width} columns: {titles} (--format concise or json shows all)"))
    for result in report.results:
        if sentence := _sentences.told(result, verbose=style.verbose):
            color = _COLORS.get(result.verdict, "yellow")
            console.print(Text.assemble((result.verdict.value, color), f" {_cells.where(result)}: {sentence}"))
        if diagnosis := _sentences.diagnosis(result):
            console.print(Text(f"     diagnosis: {diagnosis}"))
        named = _sentences.top(result)
        if named and not sentence:
            console.print(Text(f"{result.verdict.value} {_cells.where(result)}:"))
        for line in (*named, *(_sentences.histogram(result) if style.verbose else ())):
            console.print(Text(f"     {line}"))
        if result.verdict is not Verdict.PASS and result.again:
            console.print(Text(f"     again: {result.again}"), soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"note: {text.name(note)}"))
    console.print(Text(_sentences.summary(report), style="bold"))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _fitting(report: Report, width: int) -> tuple[list[_cells.Column], list[_cells.Column]]:
    """The columns that fit, none where the narrowest table does not, and those that had to go."""
    layout = _cells.layout(report)
    natural = {
        column.title: max([len(column.title), *(len(column.cell(result)) for result in report.results)])
        for column in layout.columns
    }
    natural[_cells.WORST.title] = min(natural[_cells.WORST.title], _WORST_WIDTH)
    columns = list(layout.columns)
    dropped: list[_cells.Column] = []
    for column in (*layout.dropped, None):
        if sum(natural[kept.title] + _PADDING for kept in columns) <= width:
            return columns, dropped
        if column is not None:
            columns.remove(column)
            dropped.append(column)
    return [], dropped
