"""The selftest as one table: what is planted × what shows it, by format. Other output formats list the results."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from gradcheck import report as reports
from gradcheck import text
from gradcheck.formats import FORMATS
from gradcheck.report import Style, _cells, _grid, _sentences
from gradcheck.results import Report, Result, Tried, Verdict

_TABLES = ("table", "concise", "markdown")
_WORDS = 3
"""Columns of words, before those of numbers."""
_CASE, _FAILED = "case", "cases failed"


def render(name: str, report: Report, style: Style) -> str | bytes:
    """The table in the formats that show one, else the results as they are; ends with a newline.

    Raises:
        UnknownNameError: where there is no such format.
    """
    if name not in _TABLES:
        return reports.render(name, report, style)
    if name == "markdown":
        lines = _page(report, lambda rows: _grid.markdown(rows, _WORDS))
    else:
        lines = _fitting(report, style.width)
    for result in report.results:
        if result.verdict is not Verdict.PASS or style.verbose:
            lines.append(f"{_sentences.word(result)} {_cells.where(result)}: {_sentences.reason(result)}")
            if result.verdict is not Verdict.PASS:
                lines.append(f"     again: {result.again}")
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join([*lines, _sentences.summary(report)]) + "\n"


def _fitting(report: Report, width: int | None) -> list[str]:
    """The widest table that fits; the narrowest may wrap."""
    for dropped in ((), (_FAILED,), (_FAILED, _CASE)):
        lines = _page(report, functools.partial(_plain, dropped=dropped))
        if width is None or max(map(len, lines)) <= width:
            break
    if dropped:
        lines.append(f"left out at {width} columns: {', '.join(dropped)} (--format markdown or json shows all)")
    return lines


def _plain(rows: Sequence[Sequence[str]], dropped: Sequence[str]) -> list[str]:
    return _grid.plain(_without(rows, dropped), _WORDS - (_CASE in dropped))


def _without(rows: Sequence[Sequence[str]], dropped: Iterable[str]) -> list[list[str]]:
    kept = [n for n, title in enumerate(rows[0]) if title not in dropped]
    shown = [[row[n] for n in kept] for row in rows]
    # what cannot be told apart any more is one
    first = {tuple(row[:2]): row for row in reversed(shown)}
    return shown if _CASE not in dropped else [row for row in shown if row is first[tuple(row[:2])]]


def _page(report: Report, layout: _grid.Layout) -> list[str]:
    """Two tables: mistakes, how far past their limit; sound variants, how near to it."""
    lines: list[str] = []
    for wrong, title in ((True, "mistake"), (False, "sound variant")):
        rows = _rows(report, wrong=wrong)
        if rows:
            kinds = [name for name in FORMATS if any(result.format.name == name for result in report.results)]
            head = [title, "shown by" if wrong else "judged by", _CASE, *kinds, _FAILED]
            lines += [*layout([head, *(row(kinds) for row in rows)]), ""]
    return lines


class _Line:
    """One line of a table: a sign of a mistake, or a sound variant, in every format."""

    def __init__(self, first: Result) -> None:
        self.first = first
        self.results: dict[str, Result] = {}

    def __call__(self, kinds: Sequence[str]) -> list[str]:
        tried = self.first.outcome
        assert isinstance(tried, Tried)
        case = self.first.case if tried.by else text.NOTHING
        counts = [len(result.outcome.caught) for result in self.results.values() if isinstance(result.outcome, Tried)]
        least, most = min(counts), max(counts)
        failed = str(least) if least == most else f"{least} to {most}"
        cells = [_size(self.results[kind]) if kind in self.results else text.NOTHING for kind in kinds]
        return [self.first.candidate, tried.by or self.first.tolerance, case, *cells, failed]


def _rows(report: Report, *, wrong: bool) -> list[_Line]:
    found: dict[tuple[str, str, str], _Line] = {}
    for result in report.results:
        if isinstance(result.outcome, Tried) and bool(result.outcome.by) == wrong:
            key = (result.candidate, result.outcome.by, result.case if wrong else "")
            found.setdefault(key, _Line(result)).results[result.format.name] = result
    # what shows a mistake in some formats only stands with the rest of it
    names = list(dict.fromkeys(name for name, _, _ in found))
    return sorted(found.values(), key=lambda line: names.index(line.first.candidate))


def _size(result: Result) -> str:
    """How far past its limit, or how near to it; what has no size is told in a word."""
    tried = result.outcome
    assert isinstance(tried, Tried)
    if result.verdict is not Verdict.PASS:
        return _sentences.word(result)
    if tried.judged is None:
        return text.NOTHING
    if tried.by == "total":
        return text.brief(tried.judged.measures.total)
    if tried.by in ("", result.tolerance):
        worst = tried.judged.decision.worst
        return text.brief(0.0 if worst is None else worst.value)
    return "yes"
