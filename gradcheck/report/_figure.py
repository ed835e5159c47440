"""Pictures as SVG and PNG files, by matplotlib; nothing in them tells when they were made."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradcheck.exceptions import UsageError
from gradcheck.report import _pictures
from gradcheck.results import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEEDS = ("matplotlib", "plot")
_PROFILES, _CELLS = 8, 4000
"""How many profiles, or cells of a matrix, one file may hold."""
_NAME, _TITLE = 40, 80
"""Characters of a name, and of a title, past which its middle is left out."""
_MARKS: dict[str, dict[str, Any]] = {
    "dot": {"marker": "o", "linestyle": "none", "markersize": 4},
    "square": {"marker": "s", "linestyle": "none", "markersize": 5},
}
_LINES = ("--", ":", "-", "-.", (0, (4, 1, 1, 1, 1, 1)))
_COLORS = {"pass": "#57c06b", "fail": "#e5534b"}
_WIDTH, _HEIGHT = 8.0, 4.5
_LINE, _COLUMN = 0.28, 1.6


def of_report(report: Report) -> list[_pictures.Curves | _pictures.Matrix]:
    """The one picture of a report: the matrix of all results, or the profile of a single one.

    Raises:
        UsageError: where there is none.
    """
    found = _pictures.matrix(report)
    if found is not None:
        if len(found.rows) * len(found.columns) > _CELLS:
            raise UsageError("the results are too many for one picture: html has them all")
        return [found]
    profiles = [curves for result in report.results if (curves := _pictures.profile(result))]
    if not profiles:
        raise UsageError("there is nothing to draw: no gradient was judged")
    if len(profiles) > _PROFILES:
        raise UsageError(f"{len(profiles)} pictures are too many for one file: html has one for each result")
    return list(profiles)


def draw(pictures: Sequence[_pictures.Curves | _pictures.Matrix], form: str) -> bytes:
    """Pictures below one another, as `svg` or `png`."""
    import matplotlib
    from matplotlib.figure import Figure

    widths, heights = zip(*map(_size, pictures), strict=True)
    # identifiers are the same every time
    with matplotlib.rc_context({"svg.hashsalt": "gradcheck", "svg.fonttype": "none"}):
        figure = Figure(figsize=(max(widths), sum(heights)), layout="constrained")
        axes = figure.subplots(len(pictures), 1, squeeze=False, height_ratios=heights)
        for place, picture in zip(axes[:, 0], pictures, strict=True):
            if isinstance(picture, _pictures.Curves):
                _curves(place, picture)
            else:
                _matrix(place, picture)
        buffer = io.BytesIO()
        metadata = {"Date": None, "Title": pictures[0].title, "Description": pictures[0].told} if form == "svg" else {}
        figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _size(picture: _pictures.Curves | _pictures.Matrix) -> tuple[float, float]:
    """Width and height, in inches."""
    if isinstance(picture, _pictures.Curves):
        return _WIDTH, _HEIGHT
    return 3.5 + _COLUMN * len(picture.columns), 1.5 + _LINE * len(picture.rows)


def _plain(name: str, most: int = _NAME) -> str:
    """A name that leaves room for the picture, and in which a dollar sign begins no formula."""
    short = name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 :]}"
    return short.replace("$", r"\$")


def _curves(axes: Axes, picture: _pictures.Curves) -> None:
    for number, series in enumerate(picture.series):
        if series.points:
            look = _MARKS.get(series.mark, {"linestyle": _LINES[number % len(_LINES)]})
            axes.plot(*zip(*series.points, strict=True), label=series.name, **look)
    axes.set_yscale("log")
    if picture.log_x:
        axes.set_xscale("log", base=2)
    axes.set(title=_plain(picture.title, _TITLE), xlabel=picture.x, ylabel=picture.y)
    axes.grid(alpha=0.3)
    axes.legend()


def _matrix(axes: Axes, picture: _pictures.Matrix) -> None:
    axes.set(title=picture.title, xlim=(0, len(picture.columns)), ylim=(len(picture.rows), 0))
    axes.set_xticks([n + 0.5 for n in range(len(picture.columns))], [*map(_plain, picture.columns)])
    axes.set_yticks([n + 0.5 for n in range(len(picture.rows))], [_plain(name) for name, _ in picture.rows])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    for row, (_, cells) in enumerate(picture.rows):
        for column, cell in enumerate(cells):
            if cell is None:
                continue
            alpha = 0.15 + 0.5 * cell.full
            axes.axvspan(
                column,
                column + 1,
                1 - (row + 1) / len(picture.rows),
                1 - row / len(picture.rows),
                color=_COLORS.get(cell.verdict, "#e3b341"),
                alpha=alpha,
                linewidth=0,
            )
            axes.text(column + 0.5, row + 0.5, cell.said, ha="center", va="center", fontsize=8)
