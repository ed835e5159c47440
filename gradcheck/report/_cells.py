"""The cells that every table shows, formatted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradcheck import text
from gradcheck.reference import digits_of
from gradcheck.report import _sentences
from gradcheck.results import Report, Result, Tried


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its title and the text of its cell."""

    title: str
    cell: Callable[[Result], str]
    number: bool = False


def _metric(name: str) -> Callable[[Result], str]:
    def cell(result: Result) -> str:
        if result.judged is None:
            return text.NOTHING
        extreme = result.judged.measures.extremes[name]
        return text.brief(None if extreme is None else extreme.value)

    return cell


def _worst(result: Result) -> str:
    if result.judged is None or result.judged.decision.worst is None:
        return _sentences.reason(result)
    return _sentences.place(result.judged.decision.worst, result)


def _digits(result: Result) -> str:
    if result.judged is None or result.judged.reference is None:
        return text.NOTHING
    return str(digits_of(result.judged.reference.precision_bits))


def _format(result: Result) -> str:
    if result.format is result.gradient_format:
        return result.format.name
    return f"{result.format.name} > {result.gradient_format.name}"


CASE = Column(title="case", cell=lambda result: text.name(result.case))
FORMAT = Column(title="format", cell=_format)
CANDIDATE = Column(title="candidate", cell=lambda result: text.name(result.candidate))
ABS = Column(title="max abs", cell=_metric("abs"), number=True)
REL = Column(title="max rel", cell=_metric("rel"), number=True)
ULP = Column(title="max ulp", cell=_metric("ulp"), number=True)
BOUND = Column(title="bound", cell=_metric("bound"), number=True)
DIGITS = Column(title="digits", cell=_digits, number=True)
METRICS = (ABS, REL, ULP, BOUND, DIGITS)
"""What is said of every result, whatever the tolerance."""
VERDICT = Column(title="verdict", cell=lambda result: result.verdict.value + (" (known)" if result.known else ""))
WORST = Column(title="worst place", cell=_worst)


def _sign(result: Result) -> str:
    """What is to show a planted mistake."""
    return result.outcome.by or "sound" if isinstance(result.outcome, Tried) else text.NOTHING


def where(result: Result) -> str:
    """Which result it is, in a few words."""
    return " ".join(column.cell(result) for column in head(result))


def head(result: Result) -> tuple[Column, ...]:
    """The columns that tell a result from the others of a report."""
    if result.step is not None:
        return (CASE, FORMAT, STEP, CANDIDATE)
    return (CASE, FORMAT, CANDIDATE, SIGN) if isinstance(result.outcome, Tried) else (CASE, FORMAT, CANDIDATE)


SIGN = Column(title="shown by", cell=_sign)
STEP = Column(title="step", cell=lambda result: result.step.name if result.step else text.NOTHING)
FORMULA = Column(title="formula", cell=lambda result: result.step.formula if result.step else text.NOTHING)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of a table.

    Attributes:
        columns: in their order.
        dropped: those that make room in a narrow terminal, the first one first.
    """

    columns: tuple[Column, ...]
    dropped: tuple[Column, ...]


def layout(report: Report) -> Layout:
    """The table that suits the results: of gradients, or of the derivation's steps."""

    def alike(*columns: Column) -> Iterator[Column]:
        # a column that tells one result from another stays
        return (column for column in columns if len({column.cell(result) for result in report.results}) <= 1)

    if any(result.step for result in report.results):
        return Layout(
            columns=(CASE, FORMAT, STEP, FORMULA, CANDIDATE, REL, ULP, BOUND, VERDICT, WORST),
            dropped=(REL, *alike(CASE, FORMAT, CANDIDATE), WORST, ULP, FORMULA),
        )
    return Layout(
        columns=(CASE, FORMAT, CANDIDATE, ABS, REL, ULP, BOUND, DIGITS, VERDICT, WORST),
        dropped=(DIGITS, ABS, REL, *alike(CANDIDATE, FORMAT), WORST, *alike(CASE)),
    )
