"""One self-contained page: sortable results, a picture for each, a matrix of all; needs the extra 'report'."""

from __future__ import annotations

from typing import Any

from gradcheck import text
from gradcheck.reference import digits_of
from gradcheck.report import Style, _cells, _page, _pictures, _sentences
from gradcheck.results import Report, Result, Verdict

NEEDS = _page.NEEDS
_OPEN = 20
"""Results that did not pass which are shown open at first, at most."""


def render(report: Report, style: Style) -> str:
    """The page."""
    columns = _cells.layout(report).columns
    wrong = [number for number, result in enumerate(report.results) if result.verdict is not Verdict.PASS]
    return _page.render(
        "report.html.j2",
        version=report.version,
        summary=_sentences.summary(report),
        counts=[(verdict.value, count) for verdict, count in report.summary.items() if count],
        notes=[text.name(note) for note in report.notes],
        matrix=_pictures.matrix(report),
        columns=columns,
        results=[_shown(result) for result in report.results],
        opened=set(wrong[:_OPEN]),
        settings=[
            (text.name(name), text.name(str(value)))
            for name, value in report.settings.items()
            if value not in (None, [])
        ],
        reference=_reference(report),
    )


def _shown(result: Result) -> dict[str, Any]:
    return {
        "result": result,
        "verdict": result.verdict.value,
        "where": _cells.where(result),
        "reason": _sentences.reason(result),
        "diagnosis": _sentences.diagnosis(result),
        "top": _sentences.top(result),
        "again": text.name(result.again),
        "numbers": [(column.title, column.cell(result)) for column in _cells.METRICS],
        "picture": _pictures.profile(result),
    }


def _reference(report: Report) -> list[str]:
    """How the references were made, a line for each way."""
    found: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
    for result in report.results:
        if result.judged is not None and (facts := result.judged.reference) is not None:
            way = (facts.engine, facts.method, facts.order)
            found.setdefault(way, []).append((digits_of(facts.precision_bits), facts.uncertainty_ulp))
    return [
        f"{engine}, {method}, central differences of order {order}: {min(n for n, _ in each)} to "
        f"{max(n for n, _ in each)} digits, uncertain by at most {text.brief(max(size for _, size in each))} ulp"
        for (engine, method, order), each in found.items()
    ]
