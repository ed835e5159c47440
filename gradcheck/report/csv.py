"""CSV: one line a result with all digits, for spreadsheets."""

from __future__ import annotations

import csv
import io
from typing import Any

from gradcheck import text
from gradcheck.exact import is_number
from gradcheck.report import Style, _record
from gradcheck.results import Report

_FIELDS = (
    "case", "step", "candidate", "dtype", "gradient_dtype", "rows", "classes", "tolerance", "verdict",
    "max_abs", "max_rel", "max_ulp", "max_bound", "norm", "loss_value", "failed", "judged",
    "undefined_rows", "nonfinite", "total", "flushed", "wrong_sign",
)  # fmt: skip
_NESTED = {
    "tried": ("by", "shown", "cases"),
    "worst": ("row", "class", "candidate", "reference", "ulp"),
    "reference": ("method", "step", "digits", "uncertainty_ulp"),
    "diagnosis": ("cause", "evidence", "fix"),
}


def render(report: Report, style: Style) -> str:
    """A header, then a line a result."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [*_FIELDS, *(f"{outer}_{inner}" for outer, fields in _NESTED.items() for inner in fields), "reason"]
    )
    for result in report.results:
        record = _record.result_record(result)
        cells: list[Any] = [record.get(field) for field in _FIELDS]
        for outer, fields in _NESTED.items():
            nested = record.get(outer) or {}
            cells += [nested.get(inner) for inner in fields]
        writer.writerow([*map(_safe, cells), _safe(record["reason"])])
    return buffer.getvalue()


def _safe(cell: Any) -> Any:
    """A name that a spreadsheet would run as a formula gets an apostrophe; numbers stay numbers."""
    if not isinstance(cell, str) or is_number(cell):
        return cell
    return text.name(f"'{cell}" if cell[:1] in "=+-@" else cell)
