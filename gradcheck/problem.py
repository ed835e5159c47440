"""The problem: all that defines one check, validated once, and its loss in canonical terms.

Every loss option folds into four terms per row. With z = f(l) the transformed logits, S = Σ exp(z_j), lse = log S:

    L = s · [ W·lse − Σ_j q_j z_j + ζ·lse² ],      W = Σ_j q_j
    ∂L/∂l_i = s · f'(l_i) · [ (W + 2ζ·lse)·p_i − q_i ],      p = softmax(z)

where z = c·tanh(l/c)/T, q = w∘(keep·y + spread) and s is the gradient from above over what a mean divides by.
The reference, the built-in candidates and the tolerance read the terms; none of them knows an option's name.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradcheck import formats
from gradcheck.exceptions import InputError, RowError
from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.stored import Rows

_HEAVIEST = 1e290
"""Label weight of a row, with its scale, past which products with it overflow."""
_LEAF, _LEAVES = 1 << 22, 1 << 14
"""Components past which a digest is one of the digests of parts, which processes can share; and most of those."""
_FARTHEST, _FARTHEST_SQUARE = 1e300, 1e140
"""Transformed logits past which differences of them overflow, or their squares."""


class RowStatus(enum.IntEnum):
    """What a row can be judged on."""

    JUDGED = 0
    IGNORED = 1
    """Left out by `ignore_index`: its gradient is exactly 0, whatever its logits hold."""
    UNDEFINED = 2
    """NaN, +inf or nothing but -inf among the logits: no loss, no gradient, nothing to judge."""


class Stage(enum.IntEnum):
    """When an option folds into the terms: options compose in this order, whatever order they are given in."""

    LAYOUT = 0
    """Nothing to fold: how the arrays were laid out, or conventions that other options carry."""
    ROWS = 1
    """Which rows count."""
    CLASSES = 2
    """Which classes there are."""
    LABELS = 3
    """What each class's label weighs."""
    LOGITS = 4
    """What becomes of the logits before softmax."""
    MEAN = 5
    """How the rows become one number."""
    EXTRA = 6
    """What is added to the cross-entropy, and goes through the same mean."""
    ABOVE = 7
    """What the loss is multiplied by."""


class LossOption(abc.ABC):
    """One loss option with its value.

    Attributes:
        name: its public name.
        stage: when it folds.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]

    @property
    @abc.abstractmethod
    def value(self) -> str:
        """Its value as the user would write it."""

    @abc.abstractmethod
    def fold(self, terms: Terms) -> Terms:
        """The terms with this option taken in. Raises InputError where it does not apply."""

    @property
    def in_full(self) -> str:
        """Its value with nothing left in other files."""
        return self.value

    def argument(self, fmt: Format) -> object:
        """Its value as a function of the user's own gets it: a number, an array in the format, or text."""
        return self.value

    def idle(self, labels: Array) -> bool:
        """Whether it leaves the loss with these labels as it is."""
        return False

    @property
    def pinned(self) -> tuple[int, ...]:
        """Labels whose number means something, so that no class may take it or leave it."""
        return ()

    def take(self, rows: Int64) -> LossOption:
        """The option where only some rows are left, or all in another order."""
        return self

    def reordered(self, classes: Int64) -> LossOption:
        """The option where the classes stand in another order."""
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The canonical loss of one row, where each distinct (logit, label weight) pair stands once.

    A gradient from above may be negative; the label weights and ζ bear its sign then, and `scale` its size.

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
    def infinite_loss(self) -> float:
        """±inf where a class with label weight has logit -inf, else 0."""
        masked = self.q_estimate[self.logits == -np.inf]
        heaviest = float(masked[np.argmax(np.abs(masked))]) if masked.size and self.scale else 0.0
        return math.copysign(math.inf, heaviest) if heaviest else 0.0

    @cached_property
    def vanishing(self) -> NDArray[np.bool_]:
        """The pairs whose gradient is exactly 0, whatever the logits of the others are, (m,)."""
        weightless = np.array([not weight for weight in self.weights])[self.weight_of]
        masked = self.logits == -np.inf
        found: NDArray[np.bool_] = masked & (weightless | (not self.masked_slope))
        if not self.scale:
            return np.ones_like(found)
        if not self.zeta:
            if not self.total_q:
                found = found | weightless
            if self.counts[~masked].sum() == 1 and self.q[int(np.argmin(masked))] == self.total_q:
                found = found | ~masked  # p is 1
        return found

    @property
    def masked_slope(self) -> Fraction:
        """f' at a logit of -inf: 1/T; a softcap is flat there, and such a logit stays a mask under it."""
        return 1 / self.temperature if self.softcap is None else Fraction(0)

    @cached_property
    def _classes_of(self) -> list[int]:
        """How many classes have each label weight."""
        # whole numbers below 2^53, which float64 sums exactly
        sums = np.bincount(self.weight_of, self.counts, minlength=len(self.weights))
        return [int(n) for n in sums.tolist()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """The canonical loss of a whole problem; options replace fields of it.

    Label weights are q = w∘(keep·y + spread), and 0 where a class is masked.

    Attributes:
        logits: (N, k), in the problem's dtype; -inf where a class is masked.
        hard: class of each row, (N,), or None.
        soft: labels y, (N, k), exact in float64, or None; one of the two is given.
        kept: rows that are not ignored, (N,).
        mask: which classes are part of each row, (N, k), or None for all.
        weight: w of each class, (k,), exact in float64, or None for 1.
        keep, spread: one of each for every row.
        divisor: what a mean divides the sum by; None for a sum.
        empty: the mean over nothing, where the divisor is 0: NaN or 0.
        upstream: the gradient from above, one for every row.
    """

    logits: Array
    hard: Int64 | None
    soft: Float64 | None
    kept: NDArray[np.bool_]
    keep: tuple[Fraction, ...]
    spread: tuple[Fraction, ...]
    upstream: tuple[Fraction, ...]
    mask: NDArray[np.bool_] | None = None
    weight: Float64 | None = None
    divisor: Fraction | None = None
    empty: float = math.nan
    zeta: Fraction = Fraction(0)
    temperature: Fraction = Fraction(1)
    softcap: Fraction | None = None

    @property
    def rows(self) -> int:
        """N."""
        return len(self.logits)

    @property
    def format(self) -> Format:
        """The format of the logits."""
        found = formats.of_dtype(self.logits.dtype)
        assert found is not None
        return found

    @cached_property
    def plain_labels(self) -> bool:
        """Whether the labels are classes, each of which carries all the weight of its row."""
        return self.hard is not None and not any(self.spread)

    @property
    def undefined(self) -> bool:
        """Whether the mean is 0/0 and has no value: no row that is kept has a gradient then."""
        return self.divisor == 0 and math.isnan(self.empty)

    @property
    def empty_loss(self) -> float:
        """The loss where no row is kept."""
        return self.empty if self.divisor == 0 else 0.0

    def scale(self, n: int) -> Fraction:
        """s of a row."""
        if self.divisor is None:
            return self.upstream[n]
        return self.upstream[n] / self.divisor if self.divisor else Fraction(0)

    def label_weights(self) -> Float64:
        """q in float64, (N, k), for whoever wants all of it at once."""
        keep, spread = (np.array([float(value) for value in values])[:, None] for values in (self.keep, self.spread))
        if self.soft is not None:
            q = keep * self.soft + spread
        else:
            q = np.repeat(spread, self.logits.shape[1], axis=1)
            # their sum rounded once: keep may be negative
            own = [float(one + other) for one, other in zip(self.keep, self.spread, strict=True)]
            q[np.arange(self.rows), self.hard] = own
        if self.weight is not None:
            q *= self.weight
        return q if self.mask is None else np.where(self.mask, q, 0.0)

    def row(self, n: int) -> Row:
        """Row `n`; its logits must be defined."""
        sign = -1 if self.upstream[n] < 0 else 1
        if self.plain_labels:
            values, inverse, counts, weight_of = self._one_label(n)
            weights: tuple[Fraction, ...] = (Fraction(0), self._label_weight(n))
        else:
            codes, weights = self._label_codes(n)
            # a complex number is a pair that np.unique sorts; adding 0 makes -0 and 0 the same logit
            logits = self.logits[n].astype(np.float64) + 0.0
            pairs, inverse, counts = np.unique(logits + 1j * codes, return_inverse=True, return_counts=True)
            values, weight_of = pairs.real.copy(), pairs.imag.astype(np.int64)
        return Row(
            logits=values,
            weights=weights if sign > 0 else tuple(-weight for weight in weights),
            weight_of=weight_of,
            counts=counts,
            inverse=inverse.reshape(-1),
            scale=abs(self.scale(n)),
            zeta=self.zeta * sign,
            temperature=self.temperature,
            softcap=self.softcap,
        )

    def _one_label(self, n: int) -> tuple[Float64, Int64, Int64, Int64]:
        """A row's distinct logits, where the label's class has a pair of its own: see `Row`."""
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
        weight_of = np.zeros(len(values), dtype=np.int64)
        weight_of[place] = 1
        return values, inverse, counts, weight_of

    def _label_codes(self, n: int) -> tuple[Int64, tuple[Fraction, ...]]:
        """Which of the distinct label weights each class has, (k,), and what they are."""
        classes = self.logits.shape[1]
        if self.soft is not None:
            labels = self.soft[n] + 0.0
        else:
            assert self.hard is not None
            labels = np.zeros(classes)
            labels[self.hard[n]] = 1.0
        weight = np.ones(classes) if self.weight is None else self.weight
        if self.mask is not None:
            weight = np.where(self.mask[n], weight, 0.0)
        pairs, inverse = np.unique(labels + 1j * weight, return_inverse=True)
        found: dict[Fraction, int] = {}
        code_of = [
            found.setdefault((self.keep[n] * Fraction(y) + self.spread[n]) * Fraction(w), len(found))
            for y, w in zip(pairs.real.tolist(), pairs.imag.tolist(), strict=True)
        ]
        return np.array(code_of, dtype=np.int64)[inverse.reshape(-1)], tuple(found)

    def _label_weight(self, n: int) -> Fraction:
        """q of the label's class, where it carries all the weight of its row."""
        assert self.hard is not None
        return self.keep[n] * (1 if self.weight is None else Fraction(float(self.weight[self.hard[n]])))


@dataclass(frozen=True, kw_only=True, eq=False)
class Whole:
    """What rows have from the problem that they are a part of: their share of its mean is that of the whole.

    Attributes:
        divisor, empty, zeta: as its terms have them.
        rows: how many it has.
        numbers: which of them these are, (N,).
    """

    divisor: Fraction | None
    empty: float
    zeta: Fraction
    rows: int
    numbers: Int64

    @classmethod
    def of(cls, terms: Terms, numbers: Int64) -> Whole:
        """What some rows have from a problem of these terms."""
        return cls(divisor=terms.divisor, empty=terms.empty, zeta=terms.zeta, rows=terms.rows, numbers=numbers)


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
        check_shapes(logits, labels, self.format)
        check_names(self.loss)
        for name, array in (("logits", logits), ("labels", labels)):
            view = array.view()  # the caller's own array stays writeable
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        _ = self.terms  # folds and validates the labels now, where the cause is still known

    @cached_property
    def digest(self) -> str:
        """Tells this problem from others: over logits, labels, loss and format."""
        content: Iterable[Array | bytes] = (self.logits, self.labels)
        step = leaf_rows(self.rows, self.classes)
        if step < self.rows:
            parts = (slice(first, first + step) for first in range(0, self.rows, step))
            content = (leaf_of((self.logits[part], self.labels[part])) for part in parts)
        return digest_of(self.format, self.loss, self.logits.shape, content, part_of=self.whole)

    @cached_property
    def whole(self) -> Whole:
        """What the rows are a part of: this problem itself, unless it was cut from another."""
        return Whole.of(self.terms, np.arange(self.rows))

    def take(self, rows: Int64) -> Problem:
        """Some rows of the problem, by number; under a mean each keeps its share of the whole."""
        return self.alone(rows).within(self._whole_of(rows))

    def within(self, whole: Whole) -> Problem:
        """These rows as a part of a whole."""
        terms = self.terms
        part = dataclasses.replace(self)
        part.__dict__["whole"] = whole
        part.__dict__["terms"] = dataclasses.replace(terms, divisor=whole.divisor, empty=whole.empty, zeta=whole.zeta)
        return part

    def _whole_of(self, rows: Int64) -> Whole:
        return dataclasses.replace(self.whole, numbers=self.whole.numbers[rows])

    def alone(self, rows: Int64) -> Problem:
        """Some rows as a problem of their own: a mean is theirs."""
        loss = tuple(option.take(rows) for option in self.loss)
        return dataclasses.replace(self, logits=self.logits[rows], labels=self.labels[rows], loss=loss)

    def reordered(self, rows: Int64, classes: Int64) -> Problem:
        """The same problem, its rows and classes in another order: class i is the one that was `classes`[i]."""
        labels = self.labels[rows]
        if labels.ndim == 2:
            labels = labels[:, classes]
        else:
            place = np.empty(self.classes, dtype=np.int64)
            place[classes] = np.arange(self.classes)
            inside = (labels >= 0) & (labels < self.classes)
            labels = np.where(inside, place[np.where(inside, labels, 0)], labels)
        return dataclasses.replace(
            self,
            logits=np.ascontiguousarray(self.logits[rows][:, classes]),
            labels=np.ascontiguousarray(labels),
            loss=tuple(option.take(rows).reordered(classes) for option in self.loss),
        ).within(self._whole_of(rows))

    @cached_property
    def share(self) -> Fraction:
        """What a mean over these rows alone counts in that of the problem that they are a part of."""
        if self.terms.divisor is None:
            return Fraction(1)
        alone = dataclasses.replace(self).terms.divisor
        if not self.terms.divisor:
            return Fraction(1)
        return (alone or Fraction(0)) / self.terms.divisor

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
        terms = folded(self.logits, self.labels, self.loss)
        _check_soft_labels(terms)
        _check_sizes(terms)
        return terms

    @cached_property
    def status(self) -> Int64:
        """The `RowStatus` of each row, (N,); ignored wins over undefined."""
        logits = self.terms.logits
        # NaN is not below infinity
        defined = (logits < np.inf).all(axis=1) & (logits > -np.inf).any(axis=1) & (not self.terms.undefined)
        status = np.where(defined, RowStatus.JUDGED, RowStatus.UNDEFINED)
        return np.where(self.terms.kept, status, RowStatus.IGNORED).astype(np.int64)

    @cached_property
    def infinite_loss_rows(self) -> int:
        """How many rows have a loss of ±inf."""
        masked = np.flatnonzero((self.terms.logits == -np.inf).any(axis=1) & (self.status == RowStatus.JUDGED))
        return sum(bool(self.terms.row(n).infinite_loss) for n in masked.tolist())

    @cached_property
    def distinct(self) -> tuple[Row | None, ...]:
        """Each row in canonical terms; None where it is ignored or undefined."""
        return tuple(self.terms.row(n) if status == RowStatus.JUDGED else None for n, status in enumerate(self.status))


def check_names(loss: Sequence[LossOption]) -> None:
    """That there is at most one option of a name.

    Raises:
        InputError: where there are more.
    """
    names = [option.name for option in loss]
    if len(set(names)) != len(names):
        raise InputError(f"a loss option is given twice: {', '.join(names)}")


def digest_of(
    fmt: Format,
    loss: Sequence[LossOption],
    shape: tuple[int, ...],
    content: Iterable[Array | bytes],
    *,
    part_of: Whole,
) -> str:
    """What tells problems apart: over the format, the loss, and logits and labels.

    Args:
        content: logits and labels themselves, or the digests of parts of so many rows as `leaf_rows` says.
        part_of: what the rows have from others that are not here.
    """
    described = [fmt.name, *sorted(f"{option.name}={option.in_full}" for option in loss), str(shape)]
    if part_of.rows != shape[0]:
        described.append(f"{part_of.divisor} {part_of.empty} {part_of.zeta}")
    found = hashlib.sha256("\n".join(described).encode())
    for part in content:
        found.update(part if isinstance(part, bytes) else _bits(part))
    return found.hexdigest()[:32]


def leaf_rows(rows: int, classes: int) -> int:
    """How many rows make a part of which a digest is taken."""
    part = max(1, _LEAF // classes)
    return part * max(1, math.ceil(rows / part / _LEAVES))


def leaf_of(arrays: Iterable[Array]) -> bytes:
    """The digest of arrays, as a part of a larger one."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(_bits(array))
    return found.digest()


def _bits(array: Array) -> memoryview:
    return np.ascontiguousarray(array).view(np.uint8).data


def check_shapes(logits: Rows, labels: Rows, fmt: Format) -> None:
    """That these are logits (N, k), and labels (N,) or (N, k).

    Raises:
        InputError: where they are not.
    """
    if logits.dtype != fmt.dtype:
        raise InputError(f"logits are {logits.dtype}, the problem is {fmt.name}")
    if logits.ndim != 2 or 0 in logits.shape:
        raise InputError(f"logits have shape {logits.shape}; expected (rows, classes), neither of them 0")
    if labels.shape == logits.shape[:1]:
        if labels.dtype != np.int64:
            raise InputError(f"labels of shape {labels.shape} name classes and must be integers, not {labels.dtype}")
    elif labels.shape != logits.shape:
        raise InputError(
            f"labels have shape {labels.shape}; logits of shape {logits.shape} need {logits.shape[:1]} "
            f"(a class for each row) or {logits.shape} (soft labels)"
        )
    elif labels.dtype != fmt.dtype:
        raise InputError(f"soft labels are {labels.dtype}, the problem is {fmt.name}")


def folded(logits: Array, labels: Array, loss: Sequence[LossOption]) -> Terms:
    """The terms of a loss; labels of ignored rows are 0.

    Raises:
        InputError: where labels or options do not apply.
    """
    is_hard = labels.ndim == 1
    rows = len(logits)
    terms = Terms(
        logits=logits,
        hard=labels if is_hard else None,
        soft=None if is_hard else labels.astype(np.float64, copy=False),
        kept=np.ones(rows, dtype=np.bool_),
        keep=(Fraction(1),) * rows,
        spread=(Fraction(0),) * rows,
        upstream=(Fraction(1),) * rows,
    )
    in_order = sorted(loss, key=lambda option: option.stage)
    for option in in_order:
        if option.stage <= Stage.ROWS:
            terms = option.fold(terms)
    _check_hard_labels(terms)  # what follows reads them
    for option in in_order:
        if option.stage > Stage.ROWS:
            terms = option.fold(terms)
    return terms


_FEW = 2**12
"""Logits of a row up to which sorting them is quicker than counting bit patterns."""


def _distinct(logits: Array) -> tuple[Float64, Int64, Int64]:
    """The distinct values, ascending, of which -0 and 0 are one; which each logit is; how many logits each is."""
    if logits.itemsize > 2 or logits.size <= _FEW:
        values, inverse, counts = np.unique(logits.astype(np.float64) + 0.0, return_inverse=True, return_counts=True)
        return values, inverse, counts
    # 16 bits have 65,536 patterns, 8 bits 256: to count them is quicker than to sort
    unsigned = formats.bits(logits.dtype)
    bits = logits.view(unsigned)
    found = np.bincount(bits, minlength=2 ** (8 * logits.itemsize))
    patterns = np.flatnonzero(found != 0)
    own = patterns.astype(unsigned).view(logits.dtype).astype(np.float64) + 0.0
    values, place = np.unique(own, return_inverse=True)
    place_of = np.zeros(len(found), dtype=np.int64)
    place_of[patterns] = place
    return values, place_of.take(bits), np.bincount(place, found[patterns]).astype(np.int64)


def _check_hard_labels(terms: Terms) -> None:
    classes = terms.logits.shape[1]
    if terms.hard is not None:
        bad = np.flatnonzero(terms.kept & ((terms.hard < 0) | (terms.hard >= classes)))
        if bad.size:
            row, label = int(bad[0]), int(terms.hard[bad[0]])
            hint = f"; rows to leave out need --loss ignore_index={label}" if label < 0 else ""
            more = f" ({bad.size} rows have such a label)" if bad.size > 1 else ""
            raise RowError(f"label {label} of row {{row}} is outside 0…{classes - 1}{more}{hint}", row)


def _check_soft_labels(terms: Terms) -> None:
    if terms.soft is not None:
        places = np.argwhere(~(np.isfinite(terms.soft) & (terms.soft >= 0)))
        if places.size:
            row, cls = (int(i) for i in places[0])
            raise RowError(
                f"soft label {terms.soft[row, cls]:g} of row {{row}}, class {cls} is not a finite number >= 0", row
            )


def _check_sizes(terms: Terms) -> None:
    """Float64 estimates of everything must neither overflow nor underflow."""
    with np.errstate(all="ignore"):
        if terms.soft is not None and not terms.undefined:
            heavy = np.flatnonzero(terms.soft.sum(axis=1) > _HEAVIEST)
            if heavy.size:
                raise RowError(f"soft labels of row {{row}} sum to more than {_HEAVIEST:g}", int(heavy[0]))
        plain = terms.temperature == 1 and not terms.zeta
        if plain and terms.weight is None and all(factor == 1 for factor in terms.upstream):
            return
        logits = terms.logits.astype(np.float64)
        largest = np.where(np.isfinite(logits), np.abs(logits), 0.0).max(axis=1)
        if terms.softcap is None:
            far = np.flatnonzero((largest / float(terms.temperature) > _FARTHEST) & terms.kept)
            if far.size and terms.temperature != 1:
                row = int(far[0])
                raise RowError(
                    f"a logit of row {{row}}, {largest[row]:g}, overflows when divided by the temperature", row
                )
            square = np.flatnonzero((largest / float(terms.temperature) > _FARTHEST_SQUARE) & terms.kept)
            if square.size and terms.zeta:
                row = int(square[0])
                raise RowError(f"a logit of row {{row}}, {largest[row]:g}, overflows when the z-loss squares it", row)
        heaviest = 1.0 if terms.soft is None else float(terms.soft.sum(axis=1).max())
        heaviest *= 1.0 if terms.weight is None else float(terms.weight.max())
        reach = largest if terms.softcap is None else float(terms.softcap)
        if terms.zeta:
            heaviest = heaviest + abs(float(terms.zeta)) * 2 * (1 + reach / float(terms.temperature) + len(logits[0]))
        above = np.abs([float(factor) for factor in terms.upstream])
        sizes = heaviest * np.maximum(above, 1) / min(1.0, float(terms.temperature), float(terms.divisor or 1))
        heavy = np.flatnonzero(~(sizes <= _HEAVIEST) & terms.kept)
        if heavy.size:
            raise RowError(
                f"labels, weights, z-loss and upstream of row {{row}} multiply to more than {_HEAVIEST:g}",
                int(heavy[0]),
            )
