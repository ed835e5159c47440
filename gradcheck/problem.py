"""The problem: all that defines one check, validated once, and its loss in canonical terms.

Every loss option folds into four terms per row. With z = f(l) the transformed logits, S = Σ exp(z_j), lse = log S:

    L = s · [ W·lse − Σ_j q_j z_j + ζ·lse² ],      W = Σ_j q_j
    ∂L/∂l_i = s · f'(l_i) · [ (W + 2ζ·lse)·p_i − q_i ],      p = softmax(z)

The reference, the built-in candidates and the tolerance read the terms; none of them knows an option's name.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gradcheck.exceptions import InputError
from gradcheck.formats import Array, Float64, Format, Int64

_HEAVIEST = 1e290
"""Label weight of a row past which products with it overflow."""


class RowStatus(enum.IntEnum):
    """What a row can be judged on."""

    JUDGED = 0
    IGNORED = 1
    """Left out by `ignore_index`: its gradient is exactly 0, whatever its logits hold."""
    UNDEFINED = 2
    """NaN, +inf or nothing but -inf among the logits: no loss, no gradient, nothing to judge."""


class Stage(enum.IntEnum):
    """When an option folds into the terms: options compose in this order, whatever order they are given in."""

    ROWS = 1
    LABELS = 2
    LOGITS = 3
    SCALE = 4


class LossOption(Protocol):
    """One loss option with its value."""

    @property
    def name(self) -> str:
        """The option's public name."""
        ...

    @property
    def value(self) -> str:
        """Its value as the user would write it."""
        ...

    @property
    def stage(self) -> Stage:
        """When it folds."""
        ...

    def fold(self, terms: Terms) -> Terms:
        """The terms with this option taken in. Raises InputError where it does not apply."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The canonical loss of one row, where each distinct (logit, label weight) pair stands once.

    Attributes:
        logits: the m distinct pairs' logits, exact, ascending.
        weights: the distinct label weights, exact, in no order; one may be that of no pair.
        weight_of: which of them each pair has, (m,).
        counts: how many classes share each pair, (m,).
        inverse: the pair of each class, (k,).
    """

    logits: Float64
    weights: tuple[Fraction, ...]
    weight_of: Int64
    counts: Int64
    inverse: Int64
    scale: Fraction = Fraction(1)
    zeta: Fraction = Fraction(0)
    temperature: Fraction = Fraction(1)
    softcap: Fraction | None = None

    @property
    def classes(self) -> int:
        """k, the number of classes."""
        return len(self.inverse)

    @cached_property
    def stand_ins(self) -> Int64:
        """The first class of each pair, which stands for all that share it, (m,)."""
        return np.unique(self.inverse, return_index=True)[1].astype(np.int64)

    @cached_property
    def q(self) -> tuple[Fraction, ...]:
        """The pairs' label weights, exact."""
        return tuple(self.weights[i] for i in self.weight_of.tolist())

    @cached_property
    def q_estimate(self) -> Float64:
        """The pairs' label weights in float64, (m,)."""
        return np.array([float(weight) for weight in self.weights])[self.weight_of]

    @cached_property
    def total_q(self) -> Fraction:
        """W = Σ q over all classes."""
        return sum(
            (weight * n for weight, n in zip(self.weights, self._classes_of, strict=True) if weight), Fraction(0)
        )

    @cached_property
    def one_hot(self) -> bool:
        """Whether a single class carries label weight and ζ = 0: then the truncation bound is relative."""
        carrying = sum(n for weight, n in zip(self.weights, self._classes_of, strict=True) if weight)
        return not self.zeta and carrying == 1

    @property
    def infinite_loss(self) -> bool:
        """Whether a class with label weight has logit -inf."""
        return bool((self.q_estimate[self.logits == -np.inf] != 0).any())

    @cached_property
    def _classes_of(self) -> list[int]:
        """How many classes have each label weight."""
        # whole numbers below 2^53, which float64 sums exactly
        sums = np.bincount(self.weight_of, self.counts, minlength=len(self.weights))
        return [int(n) for n in sums.tolist()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """The canonical loss of a whole problem; options replace fields of it.

    Attributes:
        logits: (N, k), in the problem's dtype.
        hard: class of each row, (N,), or None.
        soft: label weights, (N, k), exact in float64, or None; one of the two is given.
        kept: rows that are not ignored, (N,).
        scale: s, the same for every row.
        empty_loss: the loss where no row is kept.
    """

    logits: Array
    hard: Int64 | None
    soft: Float64 | None
    kept: NDArray[np.bool_]
    scale: Fraction = Fraction(1)
    empty_loss: float = 0.0
    zeta: Fraction = Fraction(0)
    temperature: Fraction = Fraction(1)
    softcap: Fraction | None = None

    def take(self, rows: Int64) -> Terms:
        """The same loss, of which only some rows are looked at: their share of a mean does not change."""
        return dataclasses.replace(
            self,
            logits=self.logits[rows],
            hard=None if self.hard is None else self.hard[rows],
            soft=None if self.soft is None else self.soft[rows],
            kept=self.kept[rows],
        )

    def row(self, n: int) -> Row:
        """Row `n`; its logits must be defined."""
        if self.soft is not None:
            # a complex number is a pair that np.unique sorts; adding 0 makes -0 and 0 the same logit
            logits = self.logits[n].astype(np.float64) + 0.0
            pairs, inverse, counts = np.unique(logits + 1j * self.soft[n], return_inverse=True, return_counts=True)
            values = pairs.real.copy()
            weights, weight_of = np.unique(pairs.imag, return_inverse=True)
        else:
            assert self.hard is not None
            values, inverse, counts = _distinct(self.logits[n])
            label = int(self.hard[n])
            place = int(inverse[label])
            if counts[place] > 1:
                # the label's class leaves those that share its logit, for a pair of its own behind theirs
                counts[place] -= 1
                place += 1
                values, counts = np.insert(values, place, values[place - 1]), np.insert(counts, place, 1)
                inverse += inverse >= place
                inverse[label] = place
            weights, weight_of = np.array([0.0, 1.0]), np.zeros(len(values), dtype=np.int64)
            weight_of[place] = 1
        return Row(
            logits=values,
            weights=tuple(Fraction(weight) for weight in weights.tolist()),
            weight_of=weight_of.reshape(-1).astype(np.int64),
            counts=counts,
            inverse=inverse.reshape(-1),
            scale=self.scale,
            zeta=self.zeta,
            temperature=self.temperature,
            softcap=self.softcap,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Logits, labels, loss options and format.

    Attributes:
        logits: (N, k) in the format's dtype; read-only.
        labels: hard labels (N,) as int64, or soft labels (N, k) in the format's dtype; read-only.
        loss: the loss options, at most one of a name.

    Raises:
        InputError: where shapes, types or label values cannot be a problem.
    """

    logits: Array
    labels: Array
    format: Format
    loss: tuple[LossOption, ...] = ()

    def __post_init__(self) -> None:
        logits, labels = self.logits, self.labels
        if logits.dtype != self.format.dtype:
            raise InputError(f"logits are {logits.dtype}, the problem is {self.format.name}")
        if logits.ndim != 2 or 0 in logits.shape:
            raise InputError(f"logits have shape {logits.shape}; expected (rows, classes), neither of them 0")
        if labels.shape == logits.shape[:1]:
            if labels.dtype != np.int64:
                raise InputError(
                    f"labels of shape {labels.shape} name classes and must be integers, not {labels.dtype}"
                )
        elif labels.shape != logits.shape:
            raise InputError(
                f"labels have shape {labels.shape}; logits of shape {logits.shape} need {logits.shape[:1]} "
                f"(a class for each row) or {logits.shape} (soft labels)"
            )
        elif labels.dtype != self.format.dtype:
            raise InputError(f"soft labels are {labels.dtype}, the problem is {self.format.name}")
        names = [option.name for option in self.loss]
        if len(set(names)) != len(names):
            raise InputError(f"a loss option is given twice: {', '.join(names)}")
        for name, array in (("logits", logits), ("labels", labels)):
            view = array.view()  # the caller's own array stays writeable
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        _ = self.terms  # folds and validates the labels now, where the cause is still known

    @cached_property
    def digest(self) -> str:
        """Tells this problem from others: over logits, labels, loss and format."""
        described = [self.format.name, *sorted(f"{option.name}={option.value}" for option in self.loss)]
        found = hashlib.sha256("\n".join([*described, str(self.logits.shape)]).encode())
        for array in (self.logits, self.labels):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:32]

    def take(self, rows: Int64) -> Problem:
        """Some rows of the problem, by number; under a mean each keeps its share of the whole."""
        part = dataclasses.replace(self, logits=self.logits[rows], labels=self.labels[rows])
        part.__dict__["terms"] = self.terms.take(rows)
        return part

    @property
    def rows(self) -> int:
        """N."""
        return int(self.logits.shape[0])

    @property
    def classes(self) -> int:
        """k."""
        return int(self.logits.shape[1])

    @cached_property
    def terms(self) -> Terms:
        """The loss in canonical terms; labels of ignored rows are 0."""
        is_hard = self.labels.ndim == 1
        terms = Terms(
            logits=self.logits,
            hard=self.labels if is_hard else None,
            soft=None if is_hard else self.labels.astype(np.float64),
            kept=np.ones(self.rows, dtype=np.bool_),
        )
        for option in sorted(self.loss, key=lambda option: option.stage):
            terms = option.fold(terms)
        _check_labels(terms)
        return terms

    @cached_property
    def status(self) -> Int64:
        """The `RowStatus` of each row, (N,); ignored wins over undefined."""
        logits = self.terms.logits
        # NaN is not below infinity
        defined = (logits < np.inf).all(axis=1) & (logits > -np.inf).any(axis=1)
        status = np.where(defined, RowStatus.JUDGED, RowStatus.UNDEFINED)
        return np.where(self.terms.kept, status, RowStatus.IGNORED).astype(np.int64)

    @cached_property
    def distinct(self) -> tuple[Row | None, ...]:
        """Each row in canonical terms; None where it is ignored or undefined."""
        return tuple(self.terms.row(n) if status == RowStatus.JUDGED else None for n, status in enumerate(self.status))


_FEW = 2**12
"""Logits of a row up to which sorting them is quicker than counting bit patterns."""


def _distinct(logits: Array) -> tuple[Float64, Int64, Int64]:
    """The distinct values, ascending, of which -0 and 0 are one; which each logit is; how many logits each is."""
    if logits.itemsize > 2 or logits.size <= _FEW:
        values, inverse, counts = np.unique(logits.astype(np.float64) + 0.0, return_inverse=True, return_counts=True)
        return values, inverse, counts
    # 16 bits have 65,536 patterns: to count them is quicker than to sort
    bits = logits.view(np.uint16)
    found = np.bincount(bits, minlength=2**16)
    patterns = np.flatnonzero(found != 0)
    own = patterns.astype(np.uint16).view(logits.dtype).astype(np.float64) + 0.0
    values, place = np.unique(own, return_inverse=True)
    place_of = np.zeros(2**16, dtype=np.int64)
    place_of[patterns] = place
    return values, place_of.take(bits), np.bincount(place, found[patterns]).astype(np.int64)


def _check_labels(terms: Terms) -> None:
    classes = terms.logits.shape[1]
    if terms.hard is not None:
        bad = np.flatnonzero(terms.kept & ((terms.hard < 0) | (terms.hard >= classes)))
        if bad.size:
            row, label = int(bad[0]), int(terms.hard[bad[0]])
            hint = f"; rows to leave out need --loss ignore_index={label}" if label < 0 else ""
            more = f" ({bad.size} rows have such a label)" if bad.size > 1 else ""
            raise InputError(f"label {label} of row {row} is outside 0…{classes - 1}{more}{hint}")
    elif terms.soft is not None:
        places = np.argwhere(~(np.isfinite(terms.soft) & (terms.soft >= 0)))
        if places.size:
            row, cls = (int(i) for i in places[0])
            raise InputError(
                f"soft label {terms.soft[row, cls]:g} of row {row}, class {cls} is not a finite number >= 0"
            )
        with np.errstate(over="ignore"):
            heavy = np.flatnonzero(terms.soft.sum(axis=1) > _HEAVIEST)
        if heavy.size:
            raise InputError(f"soft labels of row {int(heavy[0])} sum to more than {_HEAVIEST:g}")
