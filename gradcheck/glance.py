"""A look at rows that are most likely right: a tenth of the passes that it takes to measure whatever may be wrong.

Rows of a dump are alike: the plain loss, hard labels, and a gradient that a sound algorithm made. Of those that are
seen to be of that kind, all there is to say is that nothing is wrong and where the errors are largest; every other row
is left to `checking`, with `screening.ClosedForm`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradcheck import formats
from gradcheck.checking import How
from gradcheck.estimates import scales
from gradcheck.exact import Dyadic
from gradcheck.formats import Array, Float64, Format, Int64
from gradcheck.metrics import Decision, Extreme, Measures, shared_rounding
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference.rule import TARGET_BITS
from gradcheck.results import Judged, Verdict
from gradcheck.tolerances import Stable, grown, plain_bound

_AT_ONCE = 1 << 15
"""Components that are looked at together: their arrays stay in a processor's cache."""
_OF_LIMIT = 0.99
"""Of its bound an error may be so much here: what float64 may err by is below 2^-20 of any narrower format's bound."""
_UNCERTAINTY_ULP = 2.0**-16
"""What float64 may err by there, in ulps of any narrower format."""


@dataclass
class _Largest:
    """The largest value of a metric so far, where it stands, and what is due there."""

    value: float = -1.0
    row: int = 0
    cls: int = 0
    due: float = 0.0

    def see(self, values: Float64, due: Float64, rows: Int64, classes: Int64 | int) -> None:
        """Values of rows (R, c), from a class on; or (R, 1), each of a class of its own."""
        most = float(values.max())
        if math.isnan(most):  # of one row, which is not to hide the others
            values = np.where(np.isnan(values), -1.0, values)
            most = float(values.max())
        if most > self.value:
            row, column = divmod(int(values.argmax()), values.shape[1])
            cls = column + (classes if isinstance(classes, int) else int(classes[row]))
            self.value, self.row, self.cls, self.due = most, int(rows[row]), cls, float(due[row, column])


@dataclass
class _Seen:
    """What was seen of some rows."""

    metrics: dict[str, _Largest] = field(
        default_factory=lambda: {name: _Largest() for name in ("abs", "rel", "ulp", "norm", "bound")}
    )
    total: float = 0.0


def possible(problem: Problem, gradient: Array, how: How) -> bool:
    """Whether there may be rows of this kind."""
    terms, fmt = problem.terms, formats.of_dtype(gradient.dtype)
    plain = terms.plain_labels and terms.softcap is None and terms.temperature == 1 and not terms.zeta
    known = fmt is not None and fmt.wider is not None and how.gradient_format in (None, fmt)
    whole = gradient.shape == problem.logits.shape and terms.mask is None
    return plain and known and whole and isinstance(how.tolerance, Stable) and not how.top


@np.errstate(all="ignore")
def glance(problem: Problem, gradient: Array, *, flush: bool) -> tuple[Judged | None, Int64]:
    """What is seen of the rows that are plainly right, and the numbers of the others.

    Args:
        gradient: (N, k), in the format that it is judged in.
        flush: whether flushed subnormals are accepted.
    """
    terms, fmt = problem.terms, formats.of_dtype(gradient.dtype)
    assert fmt is not None
    assert terms.hard is not None
    weight = np.ones((problem.rows, 1)) if terms.weight is None else terms.weight[terms.hard][:, None]
    size, sign = scales(terms)
    scale = np.broadcast_to(size * sign, weight.shape)
    chosen = np.flatnonzero((problem.status == RowStatus.JUDGED) & (scale * weight > 0)[:, 0])
    right, seen = np.zeros(problem.rows, dtype=np.bool_), _Seen()
    step = max(1, _AT_ONCE // problem.classes)
    for rows in (chosen[first : first + step] for first in range(0, len(chosen), step)):
        block = _Block(
            logits=problem.logits[rows].astype(np.float64, order="C"),
            gradient=gradient[rows].astype(np.float64, order="C"),
            labels=terms.hard[rows],
            weight=weight[rows],
            scale=scale[rows],
            format=fmt,
            flush=flush,
        )
        right[rows] = block.look(seen, rows)
    others = np.flatnonzero(~right)
    if len(others) == problem.rows:
        return None, others
    extremes: dict[str, Extreme | None] = {name: _extreme(found, gradient, fmt) for name, found in seen.metrics.items()}
    decision = Decision(
        failed=0,
        judged=int(right.sum()) * problem.classes,
        undecided_rows=[],
        worst=extremes["bound"],
        limit_ulps=math.nan,
    )
    measures = Measures(extremes=extremes, nonfinite=0, wrong_sign=0, flushed=0, total=seen.total)
    return Judged(verdict=Verdict.PASS, measures=measures, decision=decision, reference=None, loss=None), others


def _extreme(found: _Largest, gradient: Array, fmt: Format) -> Extreme:
    candidate = float(gradient[found.row, found.cls])
    return Extreme(
        value=found.value,
        row=found.row,
        cls=found.cls,
        candidate=candidate,
        reference=Dyadic.from_float(found.due),
        uncertainty_ulp=_UNCERTAINTY_ULP,
        ulp=abs(candidate - found.due) / fmt.ulp(found.due),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """Some rows, (R, k), of weight w and scale s each, (R, 1)."""

    logits: Array
    gradient: Array
    labels: Int64
    weight: Float64
    scale: Float64
    format: Format
    flush: bool

    def look(self, seen: _Seen, rows: Int64) -> NDArray[np.bool_]:
        """Which rows are plainly right, (R,); the largest errors go to `seen`, by the rows' own numbers.

        The closed form, s·w·(p − y), is that of `estimates.estimate_rows`, the bound that of `tolerances.stable_bound`.
        """
        logits, gradient = self.logits, self.gradient
        count, classes = logits.shape
        each, at = np.arange(count), (np.arange(count), self.labels)
        top = logits.argmax(axis=1)
        largest, e = logits[each, top][:, None], np.empty((count, classes))
        for some in _columns(count, classes):
            np.exp(np.subtract(logits[:, some], largest, out=e[:, some]), out=e[:, some])
        e[each, top] = 0.0
        others = e.sum(axis=1, keepdims=True)
        e[each, top] = 1.0
        own = e[at]
        e[at] = 0.0
        widest = e.max(axis=1, keepdims=True) / (1 + others)
        e[at] = own

        heavy, log_sum = self.scale * self.weight, np.log1p(others)
        p = own[:, None] / (1 + others)
        rest = np.where((top == self.labels)[:, None], others / (1 + others), 1 - p)
        size = heavy * np.maximum(widest, rest)
        right = self._of_labels(seen, rows, p, rest, largest, log_sum, size)
        right &= self._sums(seen, right, log_sum, heavy)
        # of what is smaller yet central differences know no more than that it is small
        least = heavy * (e.min(axis=1, keepdims=True) / (1 + others))
        right &= (others > 2.0**-900) & (least > 2 * self.format.smallest_subnormal * 2.0**-TARGET_BITS)
        if right.any():
            # now the labels' classes are as if they were right, and no more is seen of them
            gradient[at] = (heavy * p)[:, 0]
            right &= self._of_others(seen, rows, e, heavy / (1 + others), largest, log_sum, size)
        return np.asarray(right[:, 0])

    def _of_labels(
        self,
        seen: _Seen,
        rows: Int64,
        p: Float64,
        rest: Float64,
        largest: Float64,
        log_sum: Float64,
        size: Float64,
    ) -> NDArray[np.bool_]:
        """Whether the class of each row's label is right, (R, 1)."""
        at, u, heavy = (np.arange(len(p)), self.labels), self.format.unit_roundoff, self.scale * self.weight
        constant, slope = plain_bound(self.format, self.logits.shape[1], log_sum)
        due, given = heavy * rest, self.gradient[at][:, None]
        of_softmax = constant - 2 * u + slope * (largest - self.logits[at][:, None])
        bound = heavy * (p * of_softmax + 4 * u) + 2 * u * due + self._floor
        error = np.abs(given + due)
        right = (given < 0) & (error <= _OF_LIMIT * bound)
        by = {"abs": 1.0, "rel": due, "ulp": self._ulp(due), "norm": size, "bound": bound}
        for name, unit in by.items():
            seen.metrics[name].see(np.where(right, error / unit, -1.0), -due, rows, self.labels)
        return np.asarray(right)

    def _sums(self, seen: _Seen, right: NDArray[np.bool_], log_sum: Float64, heavy: Float64) -> NDArray[np.bool_]:
        """Whether each row's components sum to 0 as nearly as rounding alone explains, (R, 1)."""
        off = np.abs(self.gradient.sum(axis=1, keepdims=True)) + 2.0**-46 * heavy
        allowed = heavy * shared_rounding(self.format, log_sum)
        seen.total = max(seen.total, float((off / allowed).max(initial=0.0, where=right & (off <= allowed))))
        return np.asarray(off <= allowed)

    def _of_others(
        self,
        seen: _Seen,
        rows: Int64,
        e: Float64,
        factor: Float64,
        largest: Float64,
        log_sum: Float64,
        size: Float64,
    ) -> NDArray[np.bool_]:
        """Whether all other classes of each row are right, (R, 1); `e` is overwritten."""
        constant, slope = plain_bound(self.format, e.shape[1], log_sum)
        metrics, right = seen.metrics, np.ones((len(e), 1), dtype=np.bool_)
        for some in _columns(*e.shape):
            due, given = e[:, some], self.gradient[:, some]
            due *= factor
            bound = largest - self.logits[:, some]
            bound *= slope
            bound += constant
            bound *= due
            bound += self._floor
            error = np.subtract(given, due)
            np.abs(error, out=error)
            ulp = self._ulp(due)
            least = given.min(axis=1, keepdims=True)
            right &= least >= 0  # which NaN is not
            if not least.all():
                right &= ~((given == 0) & (due > ulp / 2)).any(axis=1, keepdims=True)
            most = error.max(axis=1, keepdims=True)
            if not (most / size).max() <= metrics["norm"].value:
                metrics["norm"].see(error / size, due, rows, some.start)
            metrics["abs"].see(error, due, rows, some.start)
            metrics["ulp"].see(np.divide(error, ulp, out=ulp), due, rows, some.start)
            metrics["bound"].see(np.divide(error, bound, out=bound), due, rows, some.start)
            right &= bound.max(axis=1, keepdims=True) <= _OF_LIMIT
            metrics["rel"].see(np.divide(error, due, out=error), due, rows, some.start)
        return right

    @property
    def _floor(self) -> Float64:
        return self.format.least(flush=self.flush) * grown(self.scale * np.maximum(self.weight, 1.0))

    def _ulp(self, size: Float64) -> Float64:
        """The unit in the last place of positive numbers."""
        # the bits of the exponent alone are the power of two at or below a number
        power = (size.view(np.int64) & (0x7FF << 52)).view(np.float64)
        np.maximum(power, self.format.smallest_normal, out=power)
        power *= 2 * self.format.unit_roundoff
        return power


def _columns(count: int, classes: int) -> Iterator[slice]:
    step = max(1, _AT_ONCE // count)
    for first in range(0, classes, step):
        yield slice(first, min(first + step, classes))
