"""A Markdown table, as GitHub renders it."""

from __future__ import annotations

import re

from gradcheck.report import Style, _cells, _sentences
from gradcheck.results import Report


def render(report: Report, style: Style) -> str:
    """The table, what failed, and the summary."""
    columns = _cells.layout(report).columns
    lines = [
        _line([column.title for column in columns]),
        _line(["---:" if column.number else "---" for column in columns]),
    ]
    lines += [_line([_escaped(column.cell(result)) for column in columns]) for result in report.results]
    told = [(result, _sentences.told(result, verbose=style.verbose)) for result in report.results]
    listed = [(result, sentence) for result, sentence in told if sentence or _sentences.top(result)]
    if listed:
        lines.append("")
    for result, sentence in listed:
        title = f"- **{result.verdict.value} {_escaped(_cells.where(result))}**"
        lines.append(f"{title}: {_escaped(sentence)}" if sentence else title)
        if diagnosis := _sentences.diagnosis(result):
            lines.append(f"  - diagnosis: {_escaped(diagnosis)}")
        lines += [f"  {_escaped(line)}" for line in _sentences.top(result)]
    lines += [
        "",
        *(f"Note: {_escaped(note)}\n" for note in report.notes),
        f"**{_sentences.summary(report)}**",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(cell: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", cell)
