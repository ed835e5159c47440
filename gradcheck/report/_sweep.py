"""A sweep as a table, Markdown, CSV or JSON: the V-curves, their bottoms, and the step that the rule picks."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from gradcheck import __version__, text
from gradcheck.exceptions import UnknownNameError
from gradcheck.reference import digits_of
from gradcheck.report import _figure, _grid, _page, _pictures
from gradcheck.report._record import SCHEMA_VERSION, number
from gradcheck.sweep import DIGITS, FLOAT64, Point, Sweep

NAMES = ("table", "concise", "markdown", "csv", "json", "html", "svg", "png")
"""The output formats of a sweep; `concise` is the table, which fits any pipe."""

_EVERY = 4


def render(name: str, sweeps: Sequence[Sweep]) -> str | bytes:
    """The sweeps in one of `NAMES`; text ends with a newline.

    Raises:
        UnknownNameError: where there is no such format.
    """
    match name:
        case "csv":
            return _csv(sweeps)
        case "json":
            record = {"schema_version": SCHEMA_VERSION, "sweeps": [_record(sweep) for sweep in sweeps]}
            return json.dumps(record, allow_nan=False, indent=2) + "\n"
        case "table" | "concise" | "markdown":
            return "\n".join(_listed(sweep, markdown=name == "markdown") for sweep in sweeps)
        case "html":
            return _page.render("sweep.html.j2", version=__version__, sweeps=[_shown(sweep) for sweep in sweeps])
        case "svg" | "png":
            return _figure.draw([_pictures.v_curves(sweep) for sweep in sweeps], name)
        case _:
            raise UnknownNameError("sweep format", name, NAMES)


_Table = list[list[str]]


def _tables(sweep: Sweep) -> list[tuple[str, _Table]]:
    """What each table shows, and its cells, the first row its head."""
    arithmetics = [FLOAT64, *(f"{digits} digits" for digits in DIGITS)]
    curves = {(point.arithmetic, point.method, point.step_log2): point for point in sweep.points}
    steps = sorted({point.step_log2 for point in sweep.points}, reverse=True)[::_EVERY]
    v_curve = [["step", *arithmetics]]
    for step in steps:
        cells = [curves.get((arithmetic, "2", step)) for arithmetic in arithmetics]
        v_curve.append([text.power_of_two(step), *(text.brief(None if c is None else c.relative) for c in cells)])
    bottoms = [["arithmetic", "order", "best step", "error", "relative", "ulp"]]
    for point in sweep.bottoms():
        errors = (point.error, point.relative, point.error_ulp)
        bottoms.append(
            [point.arithmetic, point.method, text.power_of_two(point.step_log2), *(text.brief(x) for x in errors)]
        )
    rule = [["order", "step", "digits", "truncation, ulp", "rounding, ulp"]]
    for choice in sweep.chosen:
        plan, parts = choice.plan, (choice.truncation_ulp, choice.rounding_ulp)
        digits = str(digits_of(plan.precision_bits))
        row = [str(plan.stencil.order), text.power_of_two(plan.step_log2), digits]
        rule.append([*row, *map(text.brief, parts)])
    return [
        ("Relative error of the central difference of order 2, by step and arithmetic:", v_curve),
        ("The bottom of each curve:", bottoms),
        (f"The rule picks, for a reference good to 2^-10 ulp of {sweep.format.name}:", rule),
    ]


def _title(sweep: Sweep) -> str:
    value = text.exact(sweep.value, 20)
    where = f"row {sweep.row}, class {sweep.cls}"
    return f"{text.name(sweep.case)}, {sweep.format.name}, {where}: exact gradient {value}"


def _listed(sweep: Sweep, *, markdown: bool) -> str:
    layout = _grid.markdown if markdown else _grid.plain
    lines = [_title(sweep), ""]
    for said, table in _tables(sweep):
        lines += [said, "", *layout(table), ""]
    return "\n".join([*lines, _reading(sweep)]) + "\n"


def _shown(sweep: Sweep) -> dict[str, Any]:
    return {
        "title": _title(sweep),
        "curves": _pictures.v_curves(sweep),
        "reading": _reading(sweep),
        "tables": [(said.removesuffix(":"), {"head": head, "rows": rows}) for said, (head, *rows) in _tables(sweep)],
    }


def _reading(sweep: Sweep) -> str:
    """What the curves say about checks in double precision, in one sentence."""
    best = min((point for point in sweep.bottoms() if point.arithmetic == FLOAT64), key=lambda point: point.error)
    if best.relative is None:
        return f"The exact gradient is 0; in float64 the best step of any order errs by {text.brief(best.error)}."
    if not math.isfinite(best.relative) or best.relative > 0.1:
        return (
            "In float64 no step of lse − l_y gives a single digit of this gradient: a check that takes such "
            "differences accepts 0 in its place."
        )
    return (
        f"In float64 the best step of any order errs by {text.brief(best.relative)} of this gradient; "
        f"away from it the error only grows."
    )


def _csv(sweeps: Sequence[Sweep]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["case", "row", "class", *(field.name for field in dataclasses.fields(Point))])
    for sweep in sweeps:
        place = [text.name(sweep.case), sweep.row, sweep.cls]
        for point in sweep.points:
            writer.writerow([*place, *("" if value is None else value for value in dataclasses.astuple(point))])
    return buffer.getvalue()


def _record(sweep: Sweep) -> dict[str, Any]:
    return {
        "case": sweep.case,
        "dtype": sweep.format.name,
        "row": sweep.row,
        "class": sweep.cls,
        "gradient": text.exact(sweep.value),
        "rule": [
            {
                "order": choice.plan.stencil.order,
                "step": text.power_of_two(choice.plan.step_log2),
                "digits": digits_of(choice.plan.precision_bits),
                "precision_bits": choice.plan.precision_bits,
                "truncation_ulp": number(choice.truncation_ulp),
                "rounding_ulp": number(choice.rounding_ulp),
            }
            for choice in sweep.chosen
        ],
        "points": [
            {
                key: number(value) if isinstance(value, float) else value
                for key, value in dataclasses.asdict(point).items()
            }
            for point in sweep.points
        ],
    }
