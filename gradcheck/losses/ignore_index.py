"""ignore_index=LABEL: rows with this hard label leave the loss, and their gradient is exactly 0."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradcheck.exact import whole
from gradcheck.exceptions import InputError, UsageError
from gradcheck.formats import Array, Format
from gradcheck.problem import LossOption, Stage, Terms


@dataclass(frozen=True, kw_only=True)
class IgnoreIndex(LossOption):
    """Rows whose label is `label` are ignored.

    Attributes:
        hard_only: whether soft labels are left alone, as by a library whose default it is, and not refused.
    """

    label: int
    hard_only: bool = False
    name: ClassVar[str] = "ignore_index"
    stage: ClassVar[Stage] = Stage.ROWS

    @property
    def value(self) -> str:
        """The label."""
        return str(self.label)

    def argument(self, fmt: Format) -> int:
        """The label."""
        return self.label

    def idle(self, labels: Array) -> bool:
        """Whether no row has that label."""
        return labels.ndim == 2 or not bool((labels == self.label).any())

    @property
    def pinned(self) -> tuple[int, ...]:
        """The label."""
        return (self.label,)

    def fold(self, terms: Terms) -> Terms:
        """Takes the rows out and gives them label 0, which nobody reads."""
        if terms.hard is None:
            if self.hard_only:
                return terms
            raise InputError("ignore_index needs hard labels; these are soft")
        kept = terms.hard != self.label
        return dataclasses.replace(terms, kept=terms.kept & kept, hard=np.where(kept, terms.hard, 0))


def parse(text: str) -> IgnoreIndex:
    """The option from its text."""
    try:
        return IgnoreIndex(label=whole(text))
    except ValueError:
        raise UsageError(f"ignore_index is a whole number, not '{text[:40]}'") from None
