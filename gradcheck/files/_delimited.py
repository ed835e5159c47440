"""Rows of decimal numbers, one example a line; a header may name a column `labels`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from gradcheck import files, reading
from gradcheck.exact import Texts, is_number
from gradcheck.exceptions import InputError
from gradcheck.formats import Array

_PER_BYTE, _PER_NUMBER = 3, 150
"""Bytes of memory for a byte of text, and for a number in it: what the text, its lines and its cells take at once."""
_LONG = 1 << 20


def read(stream: BinaryIO, delimiter: str) -> files.Contents:
    """The numbers as text; the column `labels`, where the first line names one, apart."""
    text = decode(stream)
    try:
        lines = [(n, row) for n, row in _numbered(text, delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"cannot be read as delimited text ({error})") from None
    if not lines:
        raise InputError("holds no rows")
    header: list[str] = []
    if not any(is_number(cell) for cell in lines[0][1]):
        header = [cell.strip() for cell in lines.pop(0)[1]]
        _check_header(header)
        if not lines:
            raise InputError("holds a header and no rows")
    width = len(header) or len(lines[0][1])
    for number, row in lines:
        if len(row) != width:
            raise InputError(f"line {number} has {len(row)} cells where {width} are expected")
        for column, cell in enumerate(row):
            if not is_number(cell):
                hint = "; cells are separated by ';', not by the comma that is expected" if ";" in cell else ""
                raise InputError(f"line {number}, column {column + 1}: '{_short(cell)}' is not a number{hint}")
    rows = [row for _, row in lines]
    if "labels" not in header:
        return {files.LONE: _texts(rows)}
    at = header.index("labels")
    labels = Texts(cells=[row[at] for row in rows], shape=(len(rows),))
    rest = [row[:at] + row[at + 1 :] for row in rows]
    return {"labels": labels} if width == 1 else {files.LONE: _texts(rest), "labels": labels}


def write(stream: BinaryIO, logits: Array, labels: Array, delimiter: str) -> None:
    """A line for each row, with a header where hard labels go along; soft labels have no column here."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
    hard = labels.ndim == 1
    if hard:
        writer.writerow([*(f"class_{i}" for i in range(logits.shape[1])), "labels"])
    else:
        raise InputError("soft labels do not fit into delimited text; write .npz or .json")
    for row, label in zip(logits.astype(np.float64).tolist(), labels.tolist(), strict=True):
        writer.writerow([*(repr(value) for value in row), label])
    stream.write(buffer.getvalue().encode())


def decode(stream: BinaryIO) -> str:
    """The stream's text.

    Raises:
        InputError: where it is not UTF-8, or there is no memory for its numbers.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    reading.require(_PER_BYTE * size, "the text")
    try:
        text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start})") from None
    if size > _LONG:
        numbers = sum(map(text.count, ",\t\n"))
        reading.require(_PER_BYTE * size + _PER_NUMBER * numbers, f"a text of up to {numbers:,} numbers")
    return text


def _check_header(header: list[str]) -> None:
    if header.count("labels") > 1:
        raise InputError("names two columns 'labels'")
    for column, name in enumerate(header, start=1):
        if not name:
            raise InputError(f"column {column} has no name; an index column has no place among logits")
        if name != "labels" and name.lower() in ("label", "labels"):
            raise InputError(f"column {column} is named '{name}'; labels are expected under the name 'labels'")


def _numbered(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    reader = csv.reader(io.StringIO(lines), delimiter=delimiter, strict=True)
    for row in reader:
        if row:
            yield reader.line_num, row


def _short(cell: str) -> str:
    return cell if len(cell) <= 40 else cell[:37] + "..."


def _texts(rows: list[list[str]]) -> Texts:
    return Texts(cells=[cell for row in rows for cell in row], shape=(len(rows), len(rows[0])))
