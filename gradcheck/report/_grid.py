"""Cells in rows and columns, for reports that are not one line a result."""

from __future__ import annotations

from collections.abc import Sequence


def plain(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which every column is as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, the first row its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---:|' * len(rows[0])}", *lines[1:]]
