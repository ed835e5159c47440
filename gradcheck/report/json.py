"""Strict JSON: everything that was measured, for programs."""

from __future__ import annotations

import json

from gradcheck.report import Style, _record
from gradcheck.results import Report


def render(report: Report, style: Style) -> str:
    """One object."""
    return json.dumps(_record.report_record(report), allow_nan=False, indent=2) + "\n"
