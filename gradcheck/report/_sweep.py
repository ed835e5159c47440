"""A sweep as a table, Markdown, CSV or JSON: the V-curves, their bottoms, and the step that the rule picks."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from typing import Any

from gradcheck import text
from gradcheck.exceptions import UnknownNameError
from gradcheck.reference import digits_of
from gradcheck.sweep import DIGITS, FLOAT64, Point, Sweep

NAMES = ("table", "concise", "markdown", "csv", "json")
"""The output formats of a sweep; `concise` is the table, which fits any pipe."""

_EVERY = 4


def render(name: str, sweep: Sweep) -> str:
    """The sweep in one of `NAMES`, ending with a newline.

    Raises:
        UnknownNameError: where there is no such format.
    """
    match name:
        case "csv":
            return _csv(sweep)
        case "json":
            return json.dumps(_record(sweep), allow_nan=False, indent=2) + "\n"
        case "table" | "concise" | "markdown":
            return _pages(sweep, markdown=name == "markdown")
        case _:
            raise UnknownNameError("sweep format", name, NAMES)


def _pages(sweep: Sweep, *, markdown: bool) -> str:
    value = text.exact(sweep.value, 20)
    head = [
        f"{text.name(sweep.case)}, {sweep.format.name}, row {sweep.row}, class {sweep.cls}: exact gradient {value}",
        "",
        "Relative error of the central difference of order 2, by step and arithmetic:",
        "",
    ]
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
    layout = _markdown if markdown else _columns
    return (
        "\n".join(
            [
                *head,
                *layout(v_curve),
                "",
                "The bottom of each curve:",
                "",
                *layout(bottoms),
                "",
                f"The rule picks, for a reference good to 2^-10 ulp of {sweep.format.name}:",
                "",
                *layout(rule),
                "",
                _reading(sweep),
            ]
        )
        + "\n"
    )


def _reading(sweep: Sweep) -> str:
    """What the curves say about checks in double precision, in one sentence."""
    best = min((point for point in sweep.bottoms() if point.arithmetic == FLOAT64), key=lambda point: point.error)
    if best.relative is None:
        return f"The exact gradient is 0; in float64 the best step of any order errs by {text.brief(best.error)}."
    if not math.isfinite(best.relative) or best.relative > 0.1:
        return (
            "In float64 no step gives a single digit of this gradient: a check in double precision "
            "accepts 0 in its place."
        )
    return (
        f"In float64 the best step of any order errs by {text.brief(best.relative)} of this gradient; "
        f"away from it the error only grows."
    )


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---:|' * len(rows[0])}", *lines[1:]]


def _csv(sweep: Sweep) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Point)])
    for point in sweep.points:
        writer.writerow(["" if value is None else value for value in dataclasses.astuple(point)])
    return buffer.getvalue()


def _record(sweep: Sweep) -> dict[str, Any]:
    return {
        "schema_version": 1,
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
                "truncation_ulp": _number(choice.truncation_ulp),
                "rounding_ulp": _number(choice.rounding_ulp),
            }
            for choice in sweep.chosen
        ],
        "points": [{key: _number(value) for key, value in dataclasses.asdict(point).items()} for point in sweep.points],
    }


def _number(value: Any) -> Any:
    return text.plain(value) if isinstance(value, float) and not math.isfinite(value) else value
