"""One row in the format itself: what a program that follows the derivation has in its hands at each step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradcheck.formats import Array, Format, Int64, named


@dataclass(frozen=True, kw_only=True, eq=False)
class Forward:
    """Everything that follows from one row of logits, element by element in the format, sums in its accumulator.

    Attributes:
        logits: (k,); labels: yᵢ, (k,); both in the format's dtype.
        given: a softmax of the user's own in place of the one made here, (k,).
    """

    format: Format
    logits: Array
    labels: Array
    given: Array | None = None

    @cached_property
    def shifted(self) -> Array:
        """l − max l."""
        return np.asarray(self.logits - self.logits.max())

    @cached_property
    def exps(self) -> Array:
        """exp(l − max l)."""
        return np.asarray(np.exp(self.shifted))

    @cached_property
    def total(self) -> Array:
        """Σ exp(l − max l), in the accumulator's dtype."""
        return np.asarray(self.sum(self.exps))

    @cached_property
    def softmax(self) -> Array:
        """ŷ."""
        return self.rounded(self.exps / self.total) if self.given is None else self.given

    @cached_property
    def total_label(self) -> Array:
        """W = Σ y, in the accumulator's dtype."""
        return self.sum(self.labels)

    def sum(self, terms: Array) -> Array:
        """Σ over the last axis, in the accumulator's dtype."""
        return np.asarray(np.sum(terms, axis=-1, dtype=named(self.format.accumulator).dtype))

    def rounded(self, values: Array) -> Array:
        """Values of the accumulator's dtype in the format's."""
        return np.asarray(values, dtype=self.format.dtype)

    def same(self, columns: Int64) -> Array:
        """δᵢₙ for each column n, (C, k)."""
        return np.asarray(np.arange(len(self.logits)) == columns[:, None], dtype=self.format.dtype)

    # --- the formulas ------------------------------------------------------------------------------------------

    def logarithm(self) -> Array:
        """1/x at x = Σ exp(l − max l), (1,)."""
        return self.rounded(1 / self.total)[None]

    def quotient(self, columns: Int64) -> Array:
        """(f'g − f g')/g² with f = exp(lᵢ), g = Σ exp(l), as functions of lₙ, (C, k)."""
        f, g = self.exps, self.total
        df, dg = f * self.same(columns), self.exps[columns][:, None]
        return self.rounded((df * g - f * dg) / (g * g))

    def chain(self) -> Array:
        """f'(g)·g' with f = log, g = Σ exp(l), as functions of lₙ, (k,)."""
        return self.rounded((1 / self.total) * self.exps)

    def diagonal(self) -> Array:
        """ŷᵢ(1 − ŷᵢ), (k,)."""
        y = self.softmax
        return np.asarray(y * (y.dtype.type(1) - y))

    def off_diagonal(self, columns: Int64) -> Array:
        """−ŷᵢ·ŷₙ, (C, k); at i = n it means nothing."""
        y = self.softmax
        return np.asarray(-y * y[columns][:, None])

    def jacobian(self, columns: Int64) -> Array:
        """ŷᵢ(δᵢₙ − ŷₙ), (C, k)."""
        y = self.softmax
        return np.asarray(y * (self.same(columns) - y[columns][:, None]))

    def output_loss(self) -> Array:
        """−yᵢ/ŷᵢ, (k,)."""
        return np.asarray(-self.labels / self.softmax)

    def loss_sum(self, columns: Int64) -> Array:
        """Σᵢ ∂Lᵢ/∂lₙ with ∂Lᵢ/∂lₙ = yᵢ(ŷₙ − δᵢₙ), (C,)."""
        y = self.softmax
        return self.rounded(self.sum(self.labels * (y[columns][:, None] - self.same(columns))))

    def chain_sum(self, columns: Int64) -> Array:
        """Σᵢ −yᵢ/ŷᵢ · ŷᵢ(δᵢₙ − ŷₙ), (C,)."""
        return self.rounded(self.sum(self.output_loss() * self.jacobian(columns)))

    def hessian(self, columns: Int64) -> Array:
        """W·(δᵢₙ ŷᵢ − ŷᵢ ŷₙ), (C, k)."""
        y = self.softmax
        return self.rounded(self.total_label * (self.same(columns) * y - y * y[columns][:, None]))
