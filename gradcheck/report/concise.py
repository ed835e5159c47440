"""Plain lines: one a result, whatever the width, for pipes and logs."""

from __future__ import annotations

from gradcheck.report import Style, _cells, _sentences
from gradcheck.results import Report, Verdict


def render(report: Report, style: Style) -> str:
    """`VERDICT case format candidate metric=value …`, then what failed and how to see it again."""
    lines = []
    for result in report.results:
        head = [column.cell(result) for column in (_cells.VERDICT, *_cells.head(result))]
        metrics = [f"{column.title.replace(' ', '_')}={column.cell(result)}" for column in _cells.METRICS]
        lines.append("  ".join([*head, *metrics]))
        if result.verdict is Verdict.PASS:
            lines[-1] += f"  {_cells.WORST.cell(result)}"
        if sentence := _sentences.told(result, verbose=style.verbose):
            lines.append(f"    {sentence}")
        if diagnosis := _sentences.diagnosis(result):
            lines.append(f"    diagnosis: {diagnosis}")
        lines += [f"    {line}" for line in _sentences.top(result)]
        lines += [f"    {line}" for line in _sentences.histogram(result) if style.verbose]
        if result.verdict is not Verdict.PASS and result.again:
            lines.append(f"    again: {result.again}")
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join([*lines, _sentences.summary(report)]) + "\n"
