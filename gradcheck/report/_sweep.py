"""A sweep as a table, Markdown, CSV or JSON: the V-curves, their bottoms, and the step that the rule picks."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from gradcheck import text
from gradcheck.exceptions import UnknownNameError
from gradcheck.reference import digits_of
from gradcheck.report import _grid
from gradcheck.report._record import SCHEMA_VERSION, number
from gradcheck.sweep import DIGITS, FLOAT64, Point, Sweep

NAMES = ("table", "concise", "markdown", "csv", "json")
"""The output formats of a sweep; `concise` is the table, which fits any pipe."""

_EVERY = 4


def render(name: str, sweeps: Sequence[Sweep]) -> str:
    """The sweeps in one of `NAMES`, ending with a newline.

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
            return "\n".join(_page(sweep, markdown=name == "markdown") for sweep in sweeps)
        case _:
            raise UnknownNameError("sweep format", name, NAMES)


def _page(sweep: Sweep, *, markdown: bool) -> str:
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
    layout = _grid.markdown if markdown else _grid.plain
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
