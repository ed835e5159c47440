"""Tab-separated rows of decimal numbers; a header may name a column `labels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from gradcheck import files
from gradcheck.files import _delimited
from gradcheck.formats import Array


def read(stream: BinaryIO, names: Sequence[str]) -> files.Contents:
    """The rows, and the labels where the header names them."""
    return _delimited.read(stream, "\t")


def write(stream: BinaryIO, logits: Array, labels: Array) -> None:
    """A header, then a line for each row."""
    _delimited.write(stream, logits, labels, "\t")
