"""The self-contained HTML page: jinja2 templates, every name escaped, nothing fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcheck.report import _pictures

if TYPE_CHECKING:
    from jinja2 import Environment

NEEDS = ("jinja2", "report")
_WIDTH, _HEIGHT = 640.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 12.0, 10.0, 44.0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Curves in pixels: ticks as (place, words), series as (name, mark, index, points)."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    series: tuple[tuple[str, str, int, tuple[tuple[float, float], ...]], ...]


def drawing(curves: _pictures.Curves) -> Drawing:
    """Curves laid out for a page."""
    points = [point for series in curves.series for point in series.points]
    ends = [_pictures.span(points, axis, log) for axis, log in ((0, curves.log_x), (1, True))]

    def place(value: float, axis: int) -> float:
        log = axis == 1 or curves.log_x
        low, high = (math.log10(end) for end in ends[axis]) if log else ends[axis]
        part = ((math.log10(value) if log else value) - low) / (high - low)
        if axis == 0:
            return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)
        return round(_HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM), 1)

    def marked(axis: int, log: bool) -> tuple[tuple[float, str], ...]:
        low, high = ends[axis]
        return tuple(
            (place(value, axis), said) for value, said in _pictures.ticks(low, high, log) if low <= value <= high
        )

    return Drawing(
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        top=_TOP,
        bottom=_HEIGHT - _BOTTOM,
        x_ticks=marked(0, curves.log_x),
        y_ticks=marked(1, True),
        series=tuple(
            (one.name, one.mark, number, tuple((place(x, 0), place(y, 1)) for x, y in one.points))
            for number, one in enumerate(curves.series)
            if one.points
        ),
    )


def render(template: str, **facts: Any) -> str:
    """A page from its template."""
    page: str = _environment().get_template(template).render(**facts)
    return page


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "_templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["drawing"] = drawing
    return environment
