"""The derivation of ŷ − y, step by step: each formula in the format against a central difference of its own input.

A step is judged alone. Its formula is evaluated on what a sound program has in its hands at that point, so that what
is wrong in one step is not seen in another; a piece of the user's own takes the place of one step only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradcheck import candidates, formats, reference
from gradcheck.derivation._bounds import Roundings
from gradcheck.derivation._exact import ExactRow, precision, values_of
from gradcheck.derivation._forward import Forward
from gradcheck.derivation._steps import NAMES, STEPS, Local, Total, underflows
from gradcheck.estimates import estimate, in_units
from gradcheck.exact import Dyadic
from gradcheck.exceptions import CrashedError, InputError, UnknownNameError
from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.functions import Function
from gradcheck.losses import reduction
from gradcheck.metrics import Comparison, decide, measure, ratio
from gradcheck.problem import Problem, RowStatus, Stage
from gradcheck.reference import Reference, Settings
from gradcheck.reference.values import Values
from gradcheck.results import Crashed, Judged, Outcome, ReferenceFacts, Result, Skipped, StepFacts, verdict_of
from gradcheck.tolerances import Tolerance, stable_bound

__all__ = ["NAMES", "PIECES", "STEPS", "WHOLE", "Derivation", "Study", "beyond"]

WHOLE = 64
"""Classes up to which every column of a matrix is looked at."""
_ROW_ENTRIES, _ENTRIES = 2**12, 2**16
"""Entries of a matrix that are looked at beyond, in one row and in all."""
_FEWEST = 4
"""Logits that are looked at in a row of however many classes: the label's, the largest, the first, the last."""
_TARGET_BITS = 40
"""G of the reference of the steps that end in the gradient, so that none of them stays undecided."""
_BUILT_IN = "built-in"
_OTHER = (Stage.CLASSES, Stage.LABELS, Stage.LOGITS, Stage.EXTRA, Stage.ABOVE)
"""Stages of a loss option that make the loss another than plain cross-entropy."""

PIECES = tuple(dict.fromkeys(step.piece for step in STEPS if step.piece))
"""What functions of the user's own may take the place of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """One step: its result, and all that it was judged on, for whoever shows it at length.

    Attributes:
        of_bound: each component's error over what a sound evaluation may err by. Both are None where there was
            nothing to judge.
    """

    result: Result
    comparison: Comparison | None = None
    of_bound: Float64 | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """Exact values gathered from several rows of a problem, (R, c)."""

    values: Values
    judged: NDArray[np.bool_]
    exact: Callable[[int, int], Dyadic]


def beyond(problem: Problem) -> list[str]:
    """The names of the loss options that make the loss another than the one that is derived."""
    return [option.name for option in problem.loss if option.stage in _OTHER]


class Derivation:
    """The steps on a problem's rows; those that are ignored, undefined or have an infinite loss are left out.

    Args:
        pieces: functions of the user's own, by the names in PIECES.
        digits, step_log2: the user's own precision and step of the differences; None lets the format decide.
        flush: whether flushed subnormals are accepted.
        seed: draws the columns of matrices with more than WHOLE classes.

    Raises:
        InputError: where the loss is another than plain cross-entropy.
        UsageError: where digits or step are out of range.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        case: str,
        tolerance: Tolerance,
        pieces: Mapping[str, Function],
        digits: int | None = None,
        step_log2: int | None = None,
        flush: bool = False,
        seed: int = 0,
    ) -> None:
        if other := beyond(problem):
            raise InputError(f"the derivation is that of plain cross-entropy, not with {', '.join(other)}")
        for piece in pieces:
            if piece not in PIECES:
                raise UnknownNameError("piece", piece, PIECES)
        self.case, self._tolerance, self._pieces, self._flush = case, tolerance, pieces, flush
        self._settings = Settings(digits=digits, step_log2=step_log2, target_bits=_TARGET_BITS)
        defined = [n for n, row in enumerate(problem.distinct) if row is not None]
        infinite = {n for n in defined if (row := problem.distinct[n]) is not None and row.infinite_loss}
        self.rows = np.array([n for n in defined if n not in infinite], dtype=np.int64)
        self.undefined_rows = int((problem.status == RowStatus.UNDEFINED).sum())
        self.infinite_loss_rows = len(infinite)
        self.ignored_rows = int((problem.status == RowStatus.IGNORED).sum())
        self._format, self.classes, self._in_input = problem.format, problem.classes, problem.whole.numbers
        count = len(self.rows)
        if count:
            kept = problem.take(self.rows)
            self._plain = Problem(logits=kept.logits, labels=kept.labels, format=problem.format)
            self.columns = _columns(self._plain, seed)
            entries = self.classes * len(self.columns[0])
            most = max(1, _ENTRIES // entries)
            # the rows whose matrices are looked at, evenly spread
            self.matrix_rows = np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
        self._forwards: dict[int, Forward] = {}
        self._exact: dict[tuple[str, int], ExactRow] = {}
        self._references: dict[tuple[str, bool], Reference] = {}

    def studies(self, names: tuple[str, ...] = NAMES) -> Iterator[Study]:
        """The steps of these names, in the derivation's order."""
        for step in STEPS:
            if step.name in names:
                yield self._study(step)

    @np.errstate(all="ignore")
    def _study(self, step: Local | Total) -> Study:
        piece = self._pieces.get(step.piece or "")
        facts = StepFacts(name=step.name, formula=step.formula)
        if not len(self.rows):
            return Study(
                result=self._result(
                    piece,
                    facts,
                    self._format,
                    Skipped(reason="there is no row to look at: all are ignored, undefined, or of infinite loss"),
                )
            )
        if self.classes == 1 and isinstance(step, Local) and step.off_diagonal:
            return Study(result=self._result(piece, facts, self._format, Skipped(reason="there is one class only")))
        try:
            attempts = self._local(step, piece) if isinstance(step, Local) else self._total(step, piece)
            fmt = _common_format(attempts, piece)
        except CrashedError as crash:
            return Study(result=self._result(piece, facts, self._format, Crashed(reason=str(crash))))
        numbers = self._numbers(step)
        # of the user's own softmax the values are judged, too: with two classes ŷ and 1 − ŷ have the same derivatives
        itself = piece is not None and step.piece == "softmax" and isinstance(step, Local) and not step.by_column
        if isinstance(step, Local):
            table, bound, used = self._differences(step, fmt, numbers, itself=itself)
        else:
            table, bound, used = self._gradient(step, fmt)
        comparison = Comparison(table, np.concatenate(attempts))
        decision = decide(comparison, self._tolerance.limits(table.values, bound))
        outcome = Judged(
            verdict=verdict_of(decision),
            measures=dataclasses.replace(
                measure(comparison, bound),
                undefined_rows=self.undefined_rows,
                infinite_loss_rows=self.infinite_loss_rows,
            ),
            decision=decision,
            reference=used,
            loss=None,
        )
        repeats = [len(self.columns[n]) if step.by_column else 2 if itself else 1 for n in numbers.tolist()]
        zeros, thin = (
            sum(found)
            for found in zip(
                *(underflows(step, self._forward(n), self.columns[n]) for n in numbers.tolist()), strict=True
            )
        )
        facts = dataclasses.replace(
            facts,
            logits=tuple(np.concatenate([self.columns[n] for n in numbers]).tolist()) if step.by_column else None,
            columns=len(self.columns[0]) if step.by_column or (isinstance(step, Total) and step.attempt) else None,
            by_class=isinstance(step, Total) or step.by_class,
            values=tuple([False, True] * len(numbers)) if itself else None,
            beyond=_beyond(table),
            zeros=zeros if piece is None else 0,
            thin=thin if piece is None else 0,
        )
        result = self._result(piece, facts, fmt, outcome, rows=len(numbers), repeated=np.repeat(numbers, repeats))
        return Study(result=result, comparison=comparison, of_bound=ratio(comparison.errors, bound))

    # --- the formulas in the format --------------------------------------------------------------------------------

    def _numbers(self, step: Local | Total) -> Int64:
        """The rows that a step looks at."""
        return self.matrix_rows if step.by_column else np.arange(len(self.rows))

    def _forward(self, n: int) -> Forward:
        if n not in self._forwards:
            labels = self._plain.labels[n]
            if self._plain.labels.ndim == 1:
                labels = (np.arange(self.classes) == labels).astype(self._format.dtype)
            self._forwards[n] = Forward(format=self._format, logits=self._plain.logits[n], labels=labels)
        return self._forwards[n]

    def _local(self, step: Local, piece: Function | None) -> list[Array]:
        """The formula on every row that the step looks at, (R, c) each."""
        found = []
        for n in self._numbers(step).tolist():
            forward, columns = self._forward(n), self.columns[n]
            if piece is None:
                found.append(step.attempt(forward, columns))
                continue
            logits = self._plain.logits[n].copy()
            k = self.classes
            match step.piece:
                case "softmax":
                    given = _array(piece, (k,), logits)
                    derived = step.attempt(dataclasses.replace(forward, given=given), columns)
                    found.append(derived if step.by_column else np.concatenate([derived, given[None]]))
                case "softmax-jacobian":
                    found.append(_array(piece, (k, k), logits)[:, columns].T)
                case _:
                    found.append(_array(piece, (k,), logits, self._label(n))[None])
        return found

    def _total(self, step: Total, piece: Function | None) -> list[Array]:
        """The formula on every row, (1, k) each; 0 at logits that are not looked at."""
        if step.attempt is not None:
            found = []
            for n, columns in enumerate(self.columns):
                row = np.zeros((1, self.classes), dtype=self._format.dtype)
                row[0, columns] = step.attempt(self._forward(n), columns)
                found.append(row)
            return found
        problem = self._problem(step)
        if piece is None:
            return [candidates.load(candidates.DEFAULT).gradient(problem)]
        if step.mean:
            return [_array(piece, problem.logits.shape, problem.logits.copy(), problem.labels.copy())]
        rows = range(problem.rows)
        return [_array(piece, (self.classes,), problem.logits[n].copy(), self._label(n))[None] for n in rows]

    def _label(self, n: int) -> int | Array:
        """A row's label as a function of the user's own takes it: a class, or soft labels (k,)."""
        labels = self._plain.labels[n]
        return int(labels) if self._plain.labels.ndim == 1 else labels.copy()

    def _problem(self, step: Total) -> Problem:
        return dataclasses.replace(self._plain, loss=(reduction.parse("mean"),)) if step.mean else self._plain

    # --- the exact values --------------------------------------------------------------------------------------------

    def _differences(
        self, step: Local, fmt: Format, numbers: Int64, *, itself: bool
    ) -> tuple[_Table, Float64, ReferenceFacts]:
        blocks, digits, bounds, judged, used = [], [], [], [], []
        for n in numbers.tolist():
            pairs = self._plain.distinct[n]
            assert pairs is not None
            columns, exact = self.columns[n], self._row(n, fmt)
            stand_ins = pairs.stand_ins.tolist()
            found = step.exact(exact, self._forward(n), columns, stand_ins)
            if itself:
                found.append([exact.probability(i) for i in stand_ins])
            values, rows = values_of(fmt, found, exact.precision)
            if step.by_class and not step.by_column:
                values, rows = (
                    _spread(values, pairs.inverse),
                    [[row[i] for i in pairs.inverse.tolist()] for row in rows],
                )
            rounding = Roundings(values=values, estimates=exact.estimates, flush=self._flush)
            blocks.append(values)
            digits += rows
            limit = step.bound(rounding, columns, float(pairs.total_q))
            bounds.append(np.concatenate([limit[:1], rounding.of_softmax(4)[1:]]) if itself else limit)
            mask = np.ones(values.high.shape, dtype=np.bool_)
            if step.off_diagonal:
                mask &= np.arange(self.classes) != columns[:, None]
            judged.append(mask)
            used.append(exact.precision)
        values = blocks[0].each(lambda name, _: np.concatenate([getattr(block, name) for block in blocks]))
        table = _Table(values=values, judged=np.concatenate(judged), exact=lambda row, cls: digits[row][cls])
        facts = _facts(values, min(one.step_log2 for one in used), max(one.bits for one in used))
        return table, np.concatenate(bounds), facts

    def _row(self, n: int, fmt: Format) -> ExactRow:
        if (fmt.name, n) not in self._exact:
            pairs = self._plain.distinct[n]
            assert pairs is not None
            estimates = estimate(pairs)
            used = precision(estimates, fmt, self._settings)
            self._exact[fmt.name, n] = ExactRow(estimates, used)
        return self._exact[fmt.name, n]

    def _gradient(self, step: Total, fmt: Format) -> tuple[_Table, Float64, ReferenceFacts]:
        if (fmt.name, step.mean) not in self._references:
            self._references[fmt.name, step.mean] = reference.compute(self._problem(step), fmt, self._settings)
        exact = self._references[fmt.name, step.mean]
        bound = stable_bound(exact, flush=self._flush).copy()
        judged = np.ones(bound.shape, dtype=np.bool_)
        if step.attempt is not None:
            for n, columns in enumerate(self.columns):
                judged[n] = np.isin(np.arange(self.classes), columns)
        if step.more_roundings:
            for n, row in enumerate(exact.rows):
                assert row is not None  # rows without a gradient have been left out
                e, unit_log2 = row.estimates, row.values.unit_log2
                more = e.weight * e.p_in_units(unit_log2) + in_units(np.abs(e.q), unit_log2)
                bound[n] += step.more_roundings * fmt.unit_roundoff * more[row.inverse]
        table = _Table(values=exact.values, judged=judged, exact=exact.exact)
        plans = exact.plans
        steps, bits = [plan.step_log2 for plan in plans], [plan.precision_bits for plan in plans]
        return table, bound, _facts(exact.values, min(steps), max(bits))

    def _result(
        self,
        piece: Function | None,
        facts: StepFacts,
        fmt: Format,
        outcome: Outcome,
        rows: int = 0,
        repeated: Int64 | None = None,
    ) -> Result:
        numbers = None if repeated is None else tuple(self._in_input[self.rows[repeated]].tolist())
        return Result(
            case=self.case,
            candidate=_BUILT_IN if piece is None else piece.name,
            format=self._format,
            gradient_format=fmt,
            loss={},
            rows=rows,
            classes=self.classes,
            tolerance=str(self._tolerance),
            outcome=outcome,
            row_numbers=numbers,
            step=facts,
            digest=self._plain.digest if len(self.rows) else "",
        )


def _beyond(table: _Table) -> int:
    """How many exact values the format's largest does not reach."""
    fmt, values = table.values.format, table.values
    with np.errstate(divide="ignore"):
        beyond = np.log2(values.size) + values.unit_log2 > math.log2(fmt.max)
    return int((beyond & np.broadcast_to(table.judged, beyond.shape)).sum())


def _spread(values: Values, inverse: Int64) -> Values:
    """From distinct pairs to classes."""
    return values.each(lambda _, array: array.take(inverse, axis=1))


def _facts(values: Values, step_log2: int, bits: int) -> ReferenceFacts:
    return ReferenceFacts(
        engine="mpmath",
        method="incremental",
        order=2,
        step_log2=step_log2,
        precision_bits=bits,
        uncertainty_ulp=float(values.in_ulps(values.uncertainty).max()),
        certified=False,
        evaluations=1,
    )


def _columns(problem: Problem, seed: int) -> list[Int64]:
    """The logits by which matrices are differenced, row by row: all, or those that matter and some drawn at random."""
    k = problem.classes
    if k <= WHOLE:
        return [np.arange(k)] * problem.rows
    count = max(_FEWEST, _ROW_ENTRIES // k)
    rng = np.random.default_rng(seed)
    found = []
    for n in range(problem.rows):
        logits, labels = problem.logits[n].astype(np.float64), problem.labels[n]
        label = int(labels) if problem.labels.ndim == 1 else int(np.argmax(labels))
        first = [label, int(np.argmax(logits)), k - 1, 0]
        order = np.array(first + rng.permutation(k).tolist())
        places = np.sort(np.unique(order, return_index=True)[1])
        found.append(np.sort(order[places[:count]]))
    return found


def _array(piece: Function, shape: tuple[int, ...], *arguments: object) -> Array:
    """What a function of the user's own returns, as an array of one of the formats and the shape that is due.

    Raises:
        CrashedError: where it raises, or returns something else.
    """
    array = candidates.array_of(piece.name, piece(*arguments))
    if array.shape != shape:
        raise CrashedError(f"{piece.name} returned shape {array.shape}; expected {shape}")
    return array


def _common_format(attempts: list[Array], piece: Function | None) -> Format:
    """The format that all rows share."""
    dtypes = {array.dtype for array in attempts}
    if len(dtypes) > 1:
        raise CrashedError(f"{piece and piece.name} returned {' and '.join(sorted(map(str, dtypes)))} by turns")
    fmt = formats.of_dtype(dtypes.pop())
    assert fmt is not None  # each array has been looked at
    return fmt
