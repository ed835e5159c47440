"""What a sound evaluation of each step may err by, as `stable` has it for gradients; docs/derivation.md derives it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradcheck.estimates import Estimates
from gradcheck.formats import Float64, Int64
from gradcheck.reference.values import Values
from gradcheck.tolerances import least, softmax_error


@dataclass(frozen=True, kw_only=True, eq=False)
class Roundings:
    """Of one row.

    Attributes:
        values: the exact ones, (R, c).
        flush: whether flushed subnormals are accepted.
    """

    values: Values
    estimates: Estimates
    flush: bool

    def plain(self, roundings: float) -> Float64:
        """A few roundings of the value itself: c·u·|g| + λ."""
        return roundings * self._u * self.values.size + self._least

    def of_softmax(self, roundings: float) -> Float64:
        """A value that is proportional to ŷᵢ, (1, k): (r + c·u)·|g| + 2λ."""
        return (self._relative + roundings * self._u) * self.values.size + 2 * self._least

    def diagonal(self) -> Float64:
        """ŷᵢ(1 − ŷᵢ), (1, k): an error of ŷ weighs |1 − 2ŷ| <= 1, so r·ŷᵢ + 4u·|g| + 2λ."""
        return self._relative * self._softmax() + 4 * self._u * self.values.size + 2 * self._least

    def matrix(self, columns: Int64, weight: float) -> Float64:
        """W·ŷᵢ(δᵢₙ − ŷₙ), (C, k): (rᵢ + rₙ + 12u)·|g| + δᵢₙ·W·ŷᵢ(rᵢ + 12u) + 4λ."""
        relative, few = self._relative, 12 * self._u
        same = np.arange(len(relative)) == columns[:, None]
        across = (relative + relative[columns][:, None] + few) * self.values.size
        along = np.where(same, weight * self._softmax() * (relative + few), 0.0)
        return across + along + 4 * max(1.0, weight) * self._least

    @property
    def _u(self) -> float:
        return self.values.format.unit_roundoff

    @property
    def _relative(self) -> Float64:
        """r: the relative error that each ŷᵢ may have, (k,)."""
        return softmax_error(self.estimates, self.values.format)[self.estimates.row.inverse]

    def _softmax(self) -> Float64:
        """ŷ in units, (R, k)."""
        p_log2 = self.estimates.p_log2[self.estimates.row.inverse]
        return np.exp2(np.minimum(p_log2 - self.values.unit_log2, 1000.0))

    @property
    def _least(self) -> Float64:
        """λ in units."""
        return least(self.values, flush=self.flush)
