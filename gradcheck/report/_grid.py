"""Cells in rows and columns, for reports that are not one line a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Layout = Callable[[Sequence[Sequence[str]]], list[str]]


def plain(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Lines in which every column is as wide as its widest cell.

    Args:
        left: how many columns, from the first, hold words and not numbers.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        aligned = [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(cells)]
        lines.append("  ".join(aligned).rstrip())
    return lines


def markdown(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """The lines of a Markdown table, the first row its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---|' * left}{'---:|' * (len(rows[0]) - left)}", *lines[1:]]
