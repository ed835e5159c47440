"""The steps of the derivation, one after another: formula, its evaluation in the format, and its differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradcheck.derivation._bounds import Roundings
from gradcheck.derivation._exact import Difference, ExactRow
from gradcheck.derivation._forward import Forward
from gradcheck.formats import Array, Float64, Int64

Differences = list[list[Difference]]


@dataclass(frozen=True, kw_only=True)
class Local:
    """A step of one row, which is differenced by an input of its own.

    Attributes:
        piece: the option that takes its place.
        by_column: whether it has a value for each class and each looked-at logit, (C, k); else one for each class,
            (1, k), or one for the row, (1, 1).
        attempt: the formula in the format, of the shape of `exact`.
        exact: its central differences; the last argument is one class of each (logit, label) pair.
        bound: what a sound evaluation may err by, in units; the last argument is Σ y.
        off_diagonal: whether i = n is left out.
        divides: whether it divides by ŷ, which may underflow.
    """

    name: str
    formula: str
    attempt: Callable[[Forward, Int64], Array]
    exact: Callable[[ExactRow, Forward, Int64, list[int]], Differences]
    bound: Callable[[Roundings, Int64, float], Float64]
    piece: str | None = None
    by_column: bool = False
    by_class: bool = True
    off_diagonal: bool = False
    divides: bool = False


@dataclass(frozen=True, kw_only=True)
class Total:
    """A step that ends in the gradient of the loss; its reference is the program's own.

    Attributes:
        attempt: the formula at the looked-at logits, (C,); None where a program has it for the whole batch at once.
        mean: whether the loss is the mean over the rows.
        more_roundings: what the formula may round beside the `stable` bound, as a multiple of u·(A·p + |q|).
    """

    name: str
    formula: str
    attempt: Callable[[Forward, Int64], Array] | None
    by_column: ClassVar[bool] = False
    piece: str | None = None
    mean: bool = False
    more_roundings: int = 0
    divides: bool = False


def _each(difference: Callable[[ExactRow, int], Difference]) -> Callable[..., Differences]:
    return lambda row, forward, columns, classes: [[difference(row, i) for i in classes]]


def _columns(differences: Callable[[ExactRow, int], list[Difference]]) -> Callable[..., Differences]:
    return lambda row, forward, columns, classes: [differences(row, n) for n in columns.tolist()]


def _matrix(rounding: Roundings, columns: Int64, total_q: float) -> Float64:
    """The bound of a matrix of softmax's own, which no label weighs."""
    return rounding.matrix(columns, 1.0)


def _exponential(row: ExactRow, forward: Forward, columns: Int64, classes: list[int]) -> Differences:
    return [[row.exponential(float(forward.shifted[i])) for i in classes]]


def _logarithm(row: ExactRow, forward: Forward, columns: Int64, classes: list[int]) -> Differences:
    return [[row.logarithm(float(forward.total))]]


STEPS: tuple[Local | Total, ...] = (
    Local(
        name="exponential",
        formula="d eˣ/dx = eˣ",
        attempt=lambda forward, columns: forward.exps[None],
        exact=_exponential,
        # vectorised exponentials err by up to 2.5 ulp, which is 5u
        bound=lambda rounding, columns, total_q: rounding.plain(8),
    ),
    Local(
        name="logarithm",
        formula="d log x/dx = 1/x",
        attempt=lambda forward, columns: forward.logarithm()[None],
        exact=_logarithm,
        bound=lambda rounding, columns, total_q: rounding.plain(4),
        by_class=False,
    ),
    Local(
        name="quotient-rule",
        formula="(f/g)' = (f'g − f g')/g²",
        attempt=lambda forward, columns: forward.quotient(columns),
        exact=_columns(ExactRow.softmax),
        bound=_matrix,
        by_column=True,
    ),
    Local(
        name="chain-rule",
        formula="(f∘g)' = f'(g)·g'",
        attempt=lambda forward, columns: forward.chain()[None],
        exact=_each(ExactRow.log_total),
        bound=lambda rounding, columns, total_q: rounding.of_softmax(8),
    ),
    Local(
        name="softmax-diagonal",
        formula="∂ŷᵢ/∂lᵢ = ŷᵢ(1 − ŷᵢ)",
        attempt=lambda forward, columns: forward.diagonal()[None],
        exact=_each(ExactRow.softmax_diagonal),
        bound=lambda rounding, columns, total_q: rounding.diagonal(),
        piece="softmax",
    ),
    Local(
        name="softmax-off-diagonal",
        formula="∂ŷᵢ/∂lₙ = −ŷᵢ·ŷₙ, i ≠ n",
        attempt=lambda forward, columns: forward.off_diagonal(columns),
        exact=_columns(ExactRow.softmax),
        bound=_matrix,
        piece="softmax",
        by_column=True,
        off_diagonal=True,
    ),
    Local(
        name="softmax-jacobian",
        formula="∂ŷᵢ/∂lₙ = ŷᵢ(δᵢₙ − ŷₙ)",
        attempt=lambda forward, columns: forward.jacobian(columns),
        exact=_columns(ExactRow.softmax),
        bound=_matrix,
        piece="softmax-jacobian",
        by_column=True,
    ),
    Local(
        name="output-loss",
        formula="∂Lᵢ/∂ŷᵢ = −yᵢ/ŷᵢ",
        attempt=lambda forward, columns: forward.output_loss()[None],
        exact=_each(ExactRow.output_loss),
        bound=lambda rounding, columns, total_q: rounding.of_softmax(4),
        piece="loss-gradient",
        divides=True,
    ),
    Total(
        name="loss-sum",
        formula="∂L/∂lₙ = Σᵢ ∂Lᵢ/∂lₙ",
        attempt=Forward.loss_sum,
    ),
    Total(
        name="chain-sum",
        formula="∂L/∂lₙ = Σᵢ ∂Lᵢ/∂ŷᵢ·∂ŷᵢ/∂lₙ",
        attempt=Forward.chain_sum,
        more_roundings=8,
        divides=True,
    ),
    Total(
        name="fused",
        formula="∂L/∂lₙ = ŷₙ·Σᵢyᵢ − yₙ",
        attempt=None,
        piece="fused",
    ),
    Local(
        name="hessian",
        formula="∂²L/∂lᵢ∂lₙ = Σy·(δᵢₙŷᵢ − ŷᵢŷₙ)",
        attempt=lambda forward, columns: forward.hessian(columns),
        exact=_columns(ExactRow.hessian),
        bound=Roundings.matrix,
        by_column=True,
    ),
    Total(
        name="batch-mean",
        formula="∂(Σ L/N)/∂lₙ = (ŷₙ·Σᵢyᵢ − yₙ)/N",
        attempt=None,
        piece="batch-mean",
        mean=True,
    ),
)
"""In the order of the derivation; docs/derivation.md writes it out."""

NAMES = tuple(step.name for step in STEPS)


def underflows(step: Local | Total, forward: Forward, columns: Int64) -> tuple[int, int]:
    """How many ŷ are 0, and how many factors of the step's products lie below the normal range."""
    if not step.divides:
        return 0, 0
    y, least = forward.softmax.astype(np.float64), forward.format.smallest_normal
    thin = int(((y < least) & (y > 0)).sum())
    if isinstance(step, Total):
        # of the products ŷᵢ(δᵢₙ − ŷₙ), those that are multiplied by a label
        products = np.abs(forward.jacobian(columns).astype(np.float64))
        present = (y > 0) & (y[columns][:, None] > 0) & (forward.labels != 0)
        thin += int(((products < least) & present).sum())
    return int((y == 0).sum()), thin
