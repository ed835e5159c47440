"""ignore_index=LABEL: rows with this hard label leave the loss, and their gradient is exactly 0."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from gradcheck.exact import whole
from gradcheck.exceptions import InputError, UsageError
from gradcheck.problem import Stage, Terms


@dataclass(frozen=True, kw_only=True)
class IgnoreIndex:
    """Rows whose label is `label` are ignored."""

    label: int
    name: str = "ignore_index"
    stage: Stage = Stage.ROWS

    @property
    def value(self) -> str:
        """The label."""
        return str(self.label)

    def fold(self, terms: Terms) -> Terms:
        """Takes the rows out and gives them label 0, which nobody reads."""
        if terms.hard is None:
            raise InputError("ignore_index needs hard labels; these are soft")
        kept = terms.hard != self.label
        return dataclasses.replace(terms, kept=terms.kept & kept, hard=np.where(kept, terms.hard, 0))


def parse(text: str) -> IgnoreIndex:
    """The option from its text."""
    try:
        return IgnoreIndex(label=whole(text))
    except ValueError:
        raise UsageError(f"ignore_index is a whole number, not '{text}'") from None
