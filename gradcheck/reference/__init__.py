"""The reference: high-precision central differences of the loss, each with its proved uncertainty."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcheck.estimates import Estimates, Known, RowsEstimates, estimate, ulp_log2_of
from gradcheck.exact import Dyadic
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import Float64, Format, Int64
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import engines
from gradcheck.reference.engines import Differences, Each, Evaluation
from gradcheck.reference.rule import PRECISION_CAP_BITS, TARGET_BITS, Plan, plan, truncation_log2
from gradcheck.reference.stencils import stencil
from gradcheck.reference.values import SMALLEST_UNIT_LOG2, Values, nothing, spread_rows, values_in_units

MINIMUM_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How references are made.

    Attributes:
        digits: the user's own working precision in decimal digits; None lets the format decide.
        step_log2: log2 of the user's own step; None lets the format decide.
        order: of the central difference: 2, 4, 6 or 8.
        method: `incremental` or `direct`.
        engine: the arithmetic, `mpmath` or `flint`.
        target_bits: G; without digits or step of the user's own, uncertainty is at most 2^-G ulp.
    """

    digits: int | None = None
    step_log2: int | None = None
    order: int = 2
    method: str = "incremental"
    engine: str = "mpmath"
    target_bits: int = TARGET_BITS

    def __post_init__(self) -> None:
        stencil(self.order)
        methods = engines.load(self.engine).METHODS
        if self.method not in methods:
            raise UnknownNameError("method", self.method, methods)
        most = digits_of(PRECISION_CAP_BITS)
        if self.digits is not None and not MINIMUM_DIGITS <= self.digits <= most:
            raise UsageError(f"--digits {self.digits} is outside {MINIMUM_DIGITS}…{most}")
        if self.step_log2 is not None and not -PRECISION_CAP_BITS < self.step_log2 <= 0:
            raise UsageError(f"--step 2^{self.step_log2} is outside 2^{1 - PRECISION_CAP_BITS}…2^0")

    @property
    def fixed(self) -> bool:
        """Whether the user has taken step or precision out of the program's hands."""
        return self.digits is not None or self.step_log2 is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class Closed:
    """The closed form in float64, which a row holds where no central difference is asked for.

    Attributes:
        places: the pairs whose differences are asked for, ascending.
        gradient, error: of all pairs, (m,).
    """

    places: Int64
    gradient: Float64
    error: Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class RowReference:
    """The reference of one row, a value for each distinct (logit, label weight) pair.

    Attributes:
        differences, shares: what any of its values can be made of again.
        closed: what stands beside the differences, where not all of them are asked for.
        values: (m,).
        evaluations: rounds of Ziv's loop that it took.
    """

    differences: Differences
    shares: Sequence[Any]
    closed: Closed | None
    values: Values
    plan: Plan
    evaluations: int

    @property
    def estimates(self) -> Estimates:
        """What float64 knows of it."""
        return self.differences.estimates

    @property
    def inverse(self) -> Int64:
        """The pair of each class, (k,)."""
        return self.estimates.row.inverse

    def exact(self, pair: int) -> Dyadic:
        """The central difference of a pair, to all its digits, whatever `values` holds of it."""
        if pair not in self._exact:
            self._exact[pair] = self.exact_of(np.array([pair]))[0]
        return self._exact[pair]

    @cached_property
    def _exact(self) -> dict[int, Dyadic]:
        # the worst component is often the same by every metric, and of many candidates
        return {}

    def exact_of(self, pairs: Int64) -> list[Dyadic]:
        """The central differences of some pairs, evaluated again, which together is quicker than one by one."""
        found = engines.exact(self.differences, self.shares, pairs)
        vanishing = self.estimates.row.vanishing[pairs].tolist()
        return [Dyadic(0, 0) if zero else value for zero, value in zip(vanishing, found, strict=True)]

    @cached_property
    def loss(self) -> Dyadic | float:
        """The row's loss to 30 digits; ±inf where a class with label weight has logit -inf."""
        return self.estimates.row.infinite_loss or self.differences.loss(self.shares)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The exact gradient of a problem, spread over all classes, (N, k).

    Attributes:
        judged: False in rows that are undefined, (N, 1).
    """

    settings: Settings
    rows: tuple[RowReference | None, ...]
    values: Values
    judged: NDArray[np.bool_]

    def exact(self, row: int, cls: int) -> Dyadic:
        """The reference of one component, to all its digits."""
        reference = self.rows[row]
        return Dyadic(0, 0) if reference is None else reference.exact(int(reference.inverse[cls]))

    def exact_row(self, row: int) -> list[Dyadic]:
        """The reference of a row's components, to all their digits."""
        reference = self.rows[row]
        if reference is None:
            return [Dyadic(0, 0)] * self.values.high.shape[1]
        found = reference.exact_of(np.arange(len(reference.values.high)))
        return [found[pair] for pair in reference.inverse.tolist()]

    @property
    def estimates(self) -> list[Estimates | None]:
        """What float64 knows of each row."""
        return [None if row is None else row.estimates for row in self.rows]

    at_once = None

    def spread(self, function: Callable[[Known, Values], Float64]) -> Float64:
        """See `ExactGradient`."""

        def of_pairs(row: int) -> Values:
            reference = self.rows[row]
            assert reference is not None
            return reference.values

        return spread_rows(self.estimates, of_pairs, function, self.values.high.shape[1])

    @property
    def plans(self) -> list[Plan]:
        """The plan of each row that has one."""
        return [row.plan for row in self.rows if row is not None]

    @property
    def evaluations(self) -> int:
        """The most rounds that a row took."""
        return max((row.evaluations for row in self.rows if row is not None), default=0)


@np.errstate(all="ignore")
def compute(
    problem: Problem,
    fmt: Format,
    settings: Settings,
    on_row: Callable[[], None] = lambda: None,
    each: Each = map,
) -> Reference:
    """The reference of every row of `problem` for gradients in the format `fmt`.

    Args:
        on_row: is called after each row.
        each: `map`, or that of an executor, which shares a row of many classes among processes.
    """
    rows = []
    for row in problem.distinct:
        rows.append(None if row is None else _row(estimate(row), fmt, settings, each))
        on_row()
    return _assemble(problem, fmt, settings, rows)


@np.errstate(all="ignore")
def at(
    problem: Problem,
    fmt: Format,
    settings: Settings,
    known: RowsEstimates,
    places: Sequence[Int64],
) -> Reference:
    """`compute`, where only some components are central differences; the others are the closed form in float64.

    A row costs the sum over its classes and the differences that are asked for. These are those of `compute`, to the
    last bit where its row takes one round. The closed form is off by no more than the uncertainty that it is given.

    Args:
        known: the closed form of all rows, with its error.
        places: the classes of each row, (N,). Classes that share logit and label weight with them are differences, too.
    """
    rows: list[RowReference | None] = []
    for n, (row, classes) in enumerate(zip(problem.distinct, places, strict=True)):
        if row is None:
            rows.append(None)
        else:
            closed = Closed(
                places=np.unique(row.inverse[classes]),
                gradient=known.gradient[n, row.stand_ins],
                error=known.error[n, row.stand_ins],
            )
            rows.append(_row(estimate(row), fmt, settings, closed=closed))
    return _assemble(problem, fmt, settings, rows)


def refine(
    problem: Problem, reference: Reference, rows: Iterable[int], target_bits: int, each: Each = map
) -> Reference:
    """`reference` with the given rows made again, their differences to an uncertainty of 2^-`target_bits` ulp.

    Args:
        each: as in `compute`.
    """
    settings = dataclasses.replace(reference.settings, target_bits=target_bits)
    renewed = list(reference.rows)
    for n in rows:
        old = renewed[n]
        if old is not None:
            renewed[n] = _row(old.estimates, reference.values.format, settings, each, old.closed)
    return _assemble(problem, reference.values.format, reference.settings, renewed)


def story() -> str:
    """How step, precision and uncertainty are chosen, in plain words with the formulas."""
    return _STORY


_STORY = f"""\
The reference is a central difference of the loss, taken at many digits:

    D = [L(l + h) - L(l - h)] / 2h        (--order 4, 6, 8 use more points on each side)

The step h = 2^-H is a power of two. Too large, and the difference is not yet the derivative: it
errs by at most h^2/6 times a bound M on the loss's third derivative. Too small, and the digits of
the two losses cancel. The format of the gradient sets the goal: an uncertainty of 2^-G of a unit in
the last place (ulp), G = {TARGET_BITS}. So

    H = half of [ G + 1 + log2( M / (6 ulp(g)) ) ], rounded up        truncation takes half of the uncertainty
    P = G + H + log2(1 / ulp(g)) + what the sizes of labels and of k ask for         working precision in bits

with g the smallest component, but no smaller than the format's smallest number: below it every
format holds 0. Hard labels need at most about 70, 180, 205 and 1145 bits in float16, bfloat16,
float32 and float64 with up to 150,000 classes, whatever the logits.

Every value carries its uncertainty: the truncation bound for the h that was used, and a bound on
the rounding at the P that was used (with --engine flint the radius of a ball that is proved to hold
the value). Where their sum is above 2^-G ulp, or too large to say on which side of its limit a
candidate's error lies, step and precision are sharpened and the row is evaluated again (Ziv's
strategy).

Of a dump (past 2^20 components, in formats narrower than float64) the closed form in float64, with
a proved bound on its error, decides what it can, and central differences decide the rest; --no-screen
turns that off.

--digits and --step take this out of the program's hands. Where they are too coarse for a verdict,
the verdict is inconclusive, and the message names digits and a step that would do. 'gradcheck
sweep' shows the error against the step."""


def bits_of(digits: int) -> int:
    """A working precision that holds so many decimal digits."""
    return math.ceil(digits * math.log2(10))


def digits_of(precision_bits: int) -> int:
    """Whole decimal digits that a working precision holds."""
    return int(precision_bits * math.log10(2))


@np.errstate(all="ignore")
def _row(
    estimates: Estimates, fmt: Format, settings: Settings, each: Each = map, closed: Closed | None = None
) -> RowReference:
    """One row, evaluated again with a smaller step and more bits until the uncertainty is met (Ziv's strategy).

    Args:
        closed: says which pairs to evaluate, and what the others are; None evaluates all.
    """
    method = engines.load(settings.engine).METHODS[settings.method]
    # a hair below, so that 1/2 is planned for the ulp on its lower side
    ulp_log2 = ulp_log2_of(fmt, estimates.gradient * (1 - 2.0**-10))
    vanishing = estimates.row.vanishing
    # what is exactly 0 needs no digits
    ulp_log2[vanishing] = ulp_log2.max(initial=1 - fmt.precision, where=~vanishing)
    shape = stencil(settings.order)
    current = plan(estimates, fmt, ulp_log2, shape, settings.target_bits, settings.step_log2)
    if settings.digits is not None:
        current = dataclasses.replace(current, precision_bits=bits_of(settings.digits))
    # the errors of heavy labels must not overflow in units of tiny components
    size_log2 = math.log2(max(estimates.scale * estimates.weight, 1.0))
    smallest_unit_log2 = max(SMALLEST_UNIT_LOG2, math.ceil(size_log2) - 900)
    kept = ~vanishing
    places = None if closed is None else closed.places
    asked = kept if places is None else kept & np.isin(np.arange(len(kept)), places)
    for evaluations in range(1, 1000):
        differences = method(estimates=estimates, plan=current)
        shares, evaluation = engines.evaluate(differences, places, each)
        truncation = truncation_log2(estimates, current)
        if closed is not None:
            truncation = np.where(asked, truncation, -np.inf)
            evaluation = _amid(closed, evaluation)
        error_log2 = np.where(vanishing, -np.inf, np.logaddexp2(truncation, evaluation.rounding_log2))
        cut = (evaluation.high * kept, evaluation.low * kept, evaluation.exponent)
        values = values_in_units(fmt, *cut, error_log2, smallest_unit_log2)
        # Where the error may hide the value, ask as if the value were smaller still, and bolder every round
        bold = np.floor(error_log2) - fmt.precision - 32 * 2.0**evaluations
        hidden = values.uncertainty >= values.size / 2
        ulp_log2 = np.maximum(fmt.subnormal_log2, np.where(hidden, np.minimum(bold, values.ulp_log2), values.ulp_log2))
        goal = ulp_log2 - settings.target_bits
        if settings.fixed or bool((error_log2 <= goal)[asked].all()):
            break
        coarse = max(0, math.ceil((float((truncation - goal)[asked].max()) + 1) / shape.order))
        short = max(0, math.ceil(float((evaluation.rounding_log2 - goal)[asked].max()) + 1))
        if current.precision_bits + coarse + short > PRECISION_CAP_BITS:
            break
        current = dataclasses.replace(
            current,
            step_log2=current.step_log2 - coarse,
            precision_bits=current.precision_bits + coarse + short,
        )
    return RowReference(
        differences=differences, shares=shares, closed=closed, values=values, plan=current, evaluations=evaluations
    )


def _amid(closed: Closed, evaluation: Evaluation) -> Evaluation:
    """Differences at some places; the error of what stands at the others counts as rounding."""
    found = Evaluation(
        high=np.where(np.isfinite(closed.gradient), closed.gradient, 0.0),
        low=np.zeros_like(closed.gradient),
        exponent=np.zeros(len(closed.gradient), dtype=np.int64),
        rounding_log2=np.log2(closed.error),
    )
    for name, array in vars(found).items():
        array[closed.places] = getattr(evaluation, name)
    return found


def _assemble(problem: Problem, fmt: Format, settings: Settings, rows: list[RowReference | None]) -> Reference:
    whole = nothing(fmt, (problem.rows, problem.classes))

    def spread(name: str, array: Any) -> Any:
        """One array of every row, from distinct pairs to classes."""
        for n, row in enumerate(rows):
            if row is not None:
                getattr(row.values, name).take(row.inverse, out=array[n], mode="clip")  # no place is out of range
        return array

    mixed = any(row is not None and row.closed is not None for row in rows)
    return Reference(
        settings=settings,
        rows=tuple(rows),
        values=dataclasses.replace(whole.each(spread), rough=mixed),
        judged=(problem.status != RowStatus.UNDEFINED)[:, None],
    )
