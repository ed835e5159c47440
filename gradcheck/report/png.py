"""One picture as PNG: all results at a glance, or the profile of a single one; needs the extra 'plot'."""

from __future__ import annotations

from gradcheck.report import Style, _figure
from gradcheck.results import Report

NEEDS = _figure.NEEDS


def render(report: Report, style: Style) -> bytes:
    """The picture."""
    return _figure.draw(_figure.of_report(report), "png")
