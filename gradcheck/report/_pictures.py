"""Pictures as facts: curves over axes, and matrices of cells. Pages and image files draw the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradcheck import profiles, text
from gradcheck.report import _cells, _sentences
from gradcheck.results import Report, Result, Tried, Verdict
from gradcheck.sweep import FLOAT64, Point, Sweep

_FLOOR = 0.01
"""Ulps below which an error is drawn at the foot of a profile."""

_CEILING = 1e300
"""What is drawn at most: an axis needs room beyond it."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind.

    Attributes:
        mark: dot, square, or line.
        points: (x, y), each finite, and positive where the axis is logarithmic.
    """

    name: str
    mark: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Series over one pair of axes, the vertical one logarithmic.

    Attributes:
        log_x: whether the horizontal axis is, too.
        told: the picture in words.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    told: str
    log_x: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: its verdict, what is written there, the number of the result that it stands for, and how full it is.

    Attributes:
        full: error over limit, at most 1.
    """

    verdict: str
    said: str
    result: int
    full: float


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Results by two of their names; a cell is None where there is no result."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    told: str


def profile(result: Result) -> Curves | None:
    """The errors of one result by distance below the maximum; None where there are none to show."""
    judged = result.judged
    if judged is None or not judged.profile.points:
        return None
    points = judged.profile.points
    sizes = [point.ulp for point in points if math.isfinite(point.ulp)]
    limits = [point.bound_ulp for point in points if math.isfinite(point.bound_ulp)]
    top = max([*sizes, *limits, 1.0])
    beyond = min(top, _CEILING / 10) * 10

    def shown(ulp: float) -> float:
        return min(max(ulp, _FLOOR), _CEILING) if math.isfinite(ulp) else beyond

    others, true = ([point for point in points if point.true == kind] for kind in (False, True))

    def errors(kind: Sequence[profiles.Point]) -> tuple[tuple[float, float], ...]:
        return tuple((point.gap, shown(point.ulp)) for point in kind)

    def bounds(kind: Sequence[profiles.Point]) -> tuple[tuple[float, float], ...]:
        return tuple((point.gap, shown(point.bound_ulp)) for point in kind)

    past = sum(not point.ulp <= point.bound_ulp for point in points)
    worst = max(points, key=lambda point: point.ulp if math.isfinite(point.ulp) else math.inf)
    lost = sum(not math.isfinite(point.ulp) for point in points)
    told = (
        f"The worst errors of {text.count(len(points), 'slice')} of the distance below the row's maximum: up to "
        f"{text.brief(worst.ulp)} ulp at {text.brief(worst.gap)} below it, where a sound algorithm stays within "
        f"{text.brief(worst.bound_ulp)}; {past or 'none'} past the bound."
    )
    if lost:
        told += f" {lost} of them not finite, drawn at the top."
    return Curves(
        title="Error against distance below the row's maximum",
        x="distance below the maximum, δ",
        y="error, ulp",
        series=(
            Series(name="bound", mark="line", points=bounds(others)),
            Series(
                name="bound at the true class",
                mark="line",
                points=bounds(true),
            ),
            Series(name="other classes", mark="dot", points=errors(others)),
            Series(name="true class", mark="square", points=errors(true)),
        ),
        told=told,
    )


def _error(point: Point) -> float:
    """The error of a difference, relative where the gradient is not 0."""
    return point.error if point.relative is None else point.relative


def v_curves(sweep: Sweep) -> Curves:
    """The error of a central difference against its step, in each arithmetic, order 2."""
    by_arithmetic: dict[str, list[tuple[float, float]]] = {FLOAT64: []}
    for point in sweep.points:
        size = _error(point)
        if point.method == "2" and 1 / _CEILING < size < _CEILING:
            by_arithmetic.setdefault(point.arithmetic, []).append((2.0**point.step_log2, size))
    best = [point for point in sweep.bottoms() if point.method == "2"]
    lowest = ", ".join(f"{point.arithmetic} {text.brief(_error(point))}" for point in best)
    return Curves(
        title=f"{text.name(sweep.case)}, {sweep.format.name}, row {sweep.row}, class {sweep.cls}",
        x="step h",
        y="error" if sweep.points and sweep.points[0].relative is None else "relative error",
        series=tuple(
            Series(name=name, mark="line", points=tuple(sorted(points))) for name, points in by_arithmetic.items()
        ),
        told=f"The error of the central difference of order 2 against its step; the least of each curve: {lowest}.",
        log_x=True,
    )


def matrix(report: Report) -> Matrix | None:
    """What was checked against who was checked; None where that is a single row."""
    results = report.results
    rows = list(dict.fromkeys(map(_row, results)))
    columns = list(dict.fromkeys(map(_column, results)))
    if len(rows) < 2:
        return None
    cells: dict[tuple[str, str], Cell] = {}
    for number, result in enumerate(results):
        place = (_row(result), _column(result))
        if place not in cells or result.verdict is not Verdict.PASS:
            cells[place] = _cell(number, result)
    worst = sum(result.verdict is not Verdict.PASS for result in results)
    corner = "step" if results[0].step else "planted" if isinstance(results[0].outcome, Tried) else "case"
    return Matrix(
        title="Verdict, and the largest error over its limit",
        corner=corner,
        columns=tuple(columns),
        rows=tuple((row, tuple(cells.get((row, column)) for column in columns)) for row in rows),
        told=f"Each cell has the largest error over its limit; {worst} of {len(results):,} did not pass.",
    )


def _row(result: Result) -> str:
    if result.step is not None:
        return f"{text.name(result.case)} {result.step.name}" if result.case else result.step.name
    if isinstance(result.outcome, Tried):
        return f"{text.name(result.candidate)}, {result.outcome.by or 'sound'}, {text.name(result.case)}"
    return text.name(result.case)


def _column(result: Result) -> str:
    kind = _cells.FORMAT.cell(result)
    return kind if isinstance(result.outcome, Tried) else f"{text.name(result.candidate)} {kind}"


def _cell(number: int, result: Result) -> Cell:
    worst = None if result.judged is None else result.judged.decision.worst
    size = math.nan if worst is None else worst.value
    return Cell(
        verdict=result.verdict.value,
        said=f"{_sentences.word(result)} {text.NOTHING if worst is None else text.brief(size)}",
        result=number,
        full=min(size, 1.0) if size >= 0 and not (isinstance(result.outcome, Tried) and result.outcome.by) else 0.0,
    )


def ticks(low: float, high: float, log: bool) -> list[tuple[float, str]]:
    """Where an axis is marked, with what is written there: powers of ten, or round numbers."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = max(1, math.ceil((last - first) / 7))
        return [(10.0**n, f"1e{n}" if abs(n) > 3 else f"{10.0**n:g}") for n in range(first, last + 1, every)]
    span = high - low or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    return [(step * n, f"{step * n:g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def span(points: Iterable[tuple[float, float]], axis: int, log: bool) -> tuple[float, float]:
    """The ends of an axis that holds all the points."""
    found: Sequence[float] = [point[axis] for point in points] or [1.0]
    low, high = min(found), max(found)
    if log:
        first = math.floor(math.log10(low))
        return 10.0**first, 10.0 ** max(math.ceil(math.log10(high)), first + 1)
    return min(low, 0.0), high if high > low else low + 1.0
