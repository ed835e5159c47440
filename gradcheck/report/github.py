"""Annotations of a GitHub workflow, worst first, and a summary of the step where GitHub has a place for one."""

from __future__ import annotations

import math

from gradcheck.report import Style, _cells, _sentences
from gradcheck.results import Judged, Report, Result, Verdict

SUMMARY = "markdown"
"""What goes to the file that GITHUB_STEP_SUMMARY names."""

MOST = 10
"""GitHub shows no more annotations of a kind in one step."""


def render(report: Report, style: Style) -> str:
    """An `::error` or `::warning` line for each result that does not pass, then the summary."""
    wrong = [result for result in report.results if result.verdict is not Verdict.PASS]
    wrong.sort(key=_badness, reverse=True)
    lines = [_annotation(result) for result in wrong[:MOST]]
    if len(wrong) > MOST:
        lines.append(f"{len(wrong) - MOST} more are in the report, not annotated")
    return "\n".join([*lines, _sentences.summary(report)]) + "\n"


def _badness(result: Result) -> tuple[int, float]:
    rank = {Verdict.FAIL: 3, Verdict.CRASHED: 2, Verdict.INCONCLUSIVE: 1}.get(result.verdict, 0)
    worst = result.outcome.decision.worst if isinstance(result.outcome, Judged) else None
    return (0 if result.known else rank, math.inf if worst is None else worst.value)


def _annotation(result: Result) -> str:
    kind = "notice" if result.known or result.verdict is Verdict.SKIPPED else "error"
    title = f"gradcheck: {_cells.where(result)}, {_cells.VERDICT.cell(result)}"
    path, fixture, _ = result.case.rpartition("::")
    properties = [f"title={_escaped(title, ':,')}"]
    if fixture:
        properties.insert(0, f"file={_escaped(path, ':,')}")
    diagnosis = _sentences.diagnosis(result)
    message = _sentences.reason(result) + (f"\ndiagnosis: {diagnosis}" if diagnosis else "")
    message += f"\nagain: {result.again}" if result.again else ""
    return f"::{kind} {','.join(properties)}::{_escaped(message)}"


def _escaped(value: str, more: str = "") -> str:
    """As the workflow commands ask for it: their own delimiters as percent codes."""
    for char in "%\r\n" + more:
        value = value.replace(char, f"%{ord(char):02X}")
    return value
