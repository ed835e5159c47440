"""JSON Lines: the settings on the first line, then a result a line."""

from __future__ import annotations

import json

from gradcheck.report import Style, _record
from gradcheck.results import Report


def render(report: Report, style: Style) -> str:
    """One object a line."""
    records = [_record.head(report), *(_record.result_record(result) for result in report.results)]
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
