"""One step of the derivation at length: formula, both values and their difference, component by component."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gradcheck import text
from gradcheck.derivation import Derivation, Study
from gradcheck.exceptions import UnknownNameError
from gradcheck.metrics import Comparison
from gradcheck.report import _cells, _grid, _record, _sentences
from gradcheck.results import Result

NAMES = ("table", "concise", "markdown", "csv", "json")
"""The output formats of a step at length; `concise` is the table."""

_SMALL = 8
"""Classes up to which a matrix is shown as one."""
_LISTED = 16


def sampling(steps: Derivation) -> list[str]:
    """What a reader must know of the rows and logits that were looked at."""
    said, rows = [], len(steps.rows)
    if rows and len(steps.columns[0]) < steps.classes:
        said.append(
            f"{steps.classes:,} classes: steps that go by logits are checked at {len(steps.columns[0])} of the logits"
            " in each row"
        )
    if rows and len(steps.matrix_rows) < rows:
        said.append(f"matrices are checked in {len(steps.matrix_rows)} of {rows} rows")
    for count, why in (
        (steps.undefined_rows, "undefined (NaN or inf)"),
        (steps.infinite_loss_rows, "of infinite loss"),
        (steps.ignored_rows, "ignored by the loss"),
    ):
        if count:
            said.append(f"{text.count(count, 'row')} {why} left out")
    return [f"{text.name(steps.case)}: {note}" for note in said]


def render(name: str, studies: Sequence[Study], notes: Sequence[str]) -> str:
    """The steps in one of `NAMES`, ending with a newline.

    Raises:
        UnknownNameError: where there is no such format.
    """
    match name:
        case "csv":
            return _csv(studies)
        case "json":
            record = {"schema_version": _record.SCHEMA_VERSION, "notes": list(notes)}
            steps = [_record.result_record(one.result) | {"components": list(_components(one))} for one in studies]
            return json.dumps(record | {"steps": steps}, allow_nan=False, indent=2) + "\n"
        case "table" | "concise" | "markdown":
            layout = _grid.markdown if name == "markdown" else _grid.plain
            pages = ["\n".join(_page(study, layout)).rstrip() for study in studies]
            said = "\n".join(f"note: {note}" for note in notes)
            return "\n\n".join([*pages, *([said] if said else [])]) + "\n"
        case _:
            raise UnknownNameError("format of a step", name, NAMES)


def _page(study: Study, layout: _grid.Layout) -> Iterator[str]:
    result, comparison = study.result, study.comparison
    assert result.step is not None
    yield f"{result.step.name}: {result.step.formula}"
    yield f"{_cells.where(result)}: {result.verdict.value}, {_sentences.reason(result)}"
    if comparison is None or study.of_bound is None:
        return
    yield ""
    if result.step.logits is not None and result.classes <= _SMALL:
        yield from _matrices(result, comparison, result.step.logits, layout)
        return
    places = np.argwhere(comparison.judged)
    if len(places) > _LISTED:
        yield f"the {_LISTED} nearest to their bound, or furthest past it, of {len(places):,}:"
        worst = np.argsort(-study.of_bound[comparison.judged], kind="stable")[:_LISTED]
        places = places[worst]
    lines = [["place", "formula", "difference", "off by", "ulp", "of bound"]]
    for row, cls in places.tolist():
        sizes = (array[row, cls] for array in (comparison.absolute, comparison.ulps, study.of_bound))
        lines.append(
            [
                _sentences.address(result, row, cls),
                _attempt(result, comparison, row, cls),
                _exact(result, comparison, row, cls),
                *(text.brief(float(size)) for size in sizes),
            ]
        )
    yield from layout(lines)


def _matrices(result: Result, comparison: Comparison, logits: tuple[int, ...], layout: _grid.Layout) -> Iterator[str]:
    """For each row of the problem: the formula's matrix, the differences', and how far they are apart."""
    numbers = [result.row_number(row) for row in range(len(logits))]
    tables: dict[str, Callable[[int, int], str]] = {
        "by the formula; class i downward, logit n across:": lambda row, cls: _attempt(result, comparison, row, cls),
        "by central differences:": lambda row, cls: _exact(result, comparison, row, cls),
        "apart by, in ulp:": lambda row, cls: text.brief(float(comparison.ulps[row, cls])),
    }
    for number in dict.fromkeys(numbers):
        rows = [row for row, other in enumerate(numbers) if other == number]
        for title, cell in tables.items():
            yield f"row {number}, {title}"
            yield ""
            lines = [["", *(f"n = {logits[row]}" for row in rows)]]
            for cls in range(result.classes):
                cells = (cell(row, cls) if comparison.judged[row, cls] else text.NOTHING for row in rows)
                lines.append([f"i = {cls}", *cells])
            yield from layout(lines)
            yield ""


def _attempt(result: Result, comparison: Comparison, row: int, cls: int) -> str:
    return text.candidate(float(comparison.candidate[row, cls]), result.gradient_format)


def _exact(result: Result, comparison: Comparison, row: int, cls: int) -> str:
    values = comparison.values
    uncertainty = values.in_ulps_at(values.uncertainty, (row, cls))
    return text.reference(comparison.exact.exact(row, cls), result.gradient_format, uncertainty)


def _components(study: Study) -> Iterator[dict[str, Any]]:
    """Every component that was judged, as JSON holds it."""
    comparison, result = study.comparison, study.result
    if comparison is None or study.of_bound is None or result.step is None:
        return
    for row, cls in np.argwhere(comparison.judged).tolist():
        yield {
            "row": result.row_number(row),
            "class": cls if result.step.by_class else None,
            "logit": None if result.step.logits is None else result.step.logits[row],
            "itself": bool(result.step.values and result.step.values[row]),
            "candidate": text.plain(float(comparison.candidate[row, cls])),
            "reference": text.exact(comparison.exact.exact(row, cls)),
            "uncertainty_ulp": _record.number(comparison.values.in_ulps_at(comparison.values.uncertainty, (row, cls))),
            "ulp": _record.number(float(comparison.ulps[row, cls])),
            "bound": _record.number(float(study.of_bound[row, cls])),
        }


def _csv(studies: Sequence[Study]) -> str:
    buffer = io.StringIO()
    fields = [
        "case",
        "step",
        "row",
        "class",
        "logit",
        "itself",
        "candidate",
        "reference",
        "uncertainty_ulp",
        "ulp",
        "bound",
    ]
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    for study in studies:
        name = study.result.step and study.result.step.name
        for component in _components(study):
            writer.writerow({"case": text.name(study.result.case), "step": name} | component)
    return buffer.getvalue()
