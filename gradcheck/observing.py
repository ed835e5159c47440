"""What can be noticed of code beside its gradient: whether it answers alike again, and in another order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from gradcheck.candidates import Answer, Candidate
from gradcheck.exact import Dyadic, to_fraction
from gradcheck.exceptions import CrashedError, NotApplicableError
from gradcheck.formats import Array, Float64, Int64
from gradcheck.metrics import Comparison, failing
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference.values import ExactGradient
from gradcheck.results import LossValue, Permuted, Repeats
from gradcheck.tolerances import Limits, summing_roundoff


@np.errstate(all="ignore")
def repeats(exact: ExactGradient, answers: Sequence[Answer]) -> Repeats | None:
    """How far the answers to one question differ; None where they do not, to the bit."""
    first, *others = [answer.gradient for answer in answers]
    if not others:
        return None
    differing = np.zeros(first.shape, dtype=np.bool_)
    apart = np.zeros(first.shape)
    for other in others:
        if other.shape != first.shape or other.dtype != first.dtype:
            continue  # judged for itself, and crashed
        one, two = first.astype(np.float64), other.astype(np.float64)
        unequal = (one != two) & ~(np.isnan(one) & np.isnan(two))
        distance = np.where(np.isfinite(one) & np.isfinite(two), np.abs(one - two), np.inf)
        differing |= unequal
        apart = np.where(unequal, np.maximum(apart, distance), apart)
    if not differing.any():
        return None
    ulps = np.ldexp(apart, -exact.values.ulp_log2.astype(np.int32))
    row, cls = divmod(int(np.argmax(np.where(differing, ulps, -1.0))), first.shape[1])
    return Repeats(runs=len(answers), components=int(differing.sum()), most_ulp=float(ulps[row, cls]), row=row, cls=cls)


def orders(problem: Problem) -> tuple[Int64, Int64]:
    """Another order of rows and of classes; a class whose number means something to an option keeps its place."""
    rng = np.random.default_rng(0)
    rows, classes = rng.permutation(problem.rows), np.arange(problem.classes)
    free = np.setdiff1d(classes, [label for option in problem.loss for label in option.pinned])
    classes[free] = rng.permutation(free)
    return rows, classes


@np.errstate(all="ignore")
def permuted(
    problem: Problem, candidate: Candidate, exact: ExactGradient, limits: Limits, bound: Float64
) -> Permuted | None:
    """What is wrong where the same rows and classes stand in another order; None where nothing is.

    A component is wrong past its limit and past what a sound algorithm needs, in any order.
    """
    if problem.rows * problem.classes == 1:
        return None
    rows, classes = orders(problem)
    try:
        found = candidate.gradient(problem.reordered(rows, classes))
    except (CrashedError, NotApplicableError) as crash:
        return Permuted(crash=str(crash))
    if found.shape != problem.logits.shape:
        return Permuted(crash=f"the gradient has shape {found.shape}, the logits {problem.logits.shape}")
    back = np.empty_like(found)
    back[np.ix_(rows, classes)] = found
    comparison = Comparison(exact, back)
    past = failing(comparison, dataclasses.replace(limits, possible=np.maximum(limits.possible, bound)))
    if not past.any():
        return None
    return Permuted(components=int(past.sum()), worst=comparison.worst(np.where(past, comparison.ulps, 0.0)))


def spread(problem: Problem, candidate: Candidate, gradient: Array) -> int:
    """How many judged rows are not finite, and are so where rows of NaN or inf are left out."""
    finite = np.isfinite(gradient.astype(np.float64)).all(axis=1)
    harmless = ~(np.isnan(problem.logits) | (problem.logits == np.inf)).any(axis=1)
    harmed = np.flatnonzero(harmless & (problem.status == RowStatus.JUDGED) & ~finite)
    if not harmed.size or harmless.all():
        return 0
    rows = np.flatnonzero(harmless)
    try:
        alone = candidate.gradient(problem.take(rows)).astype(np.float64)
    except (CrashedError, NotApplicableError):
        return 0
    if alone.shape != (len(rows), problem.classes):
        return 0
    return int(np.isfinite(alone[np.isin(rows, harmed)]).all(axis=1).sum())


def loss_value(
    problem: Problem, candidate: Candidate, answer: Answer, known: Dyadic | float, exact: ExactGradient
) -> LossValue | None:
    """The loss that came with a gradient, where rounding, or a row without one, does not explain that it is another.

    Each row may err by s·A·(8u·(max|z| + ln S + 1) + 4·√k·u_acc), and their sum by 8u of it.
    """
    found = answer.loss
    if found is None or (problem.status == RowStatus.UNDEFINED).any():
        return None
    fmt = exact.values.format
    u, allowed = max(fmt.unit_roundoff, problem.format.unit_roundoff), 0.0
    for e in exact.estimates:
        if e is not None:
            sums = 4 * math.sqrt(e.row.classes) * summing_roundoff(fmt)
            allowed += e.scale * e.weight * (8 * u * (e.reach + e.log_sum + 1) + sums)
    if isinstance(known, float):
        agrees = known == found or (math.isnan(known) and math.isnan(found))
        return None if agrees else LossValue(value=found, ratio=math.nan)
    value = to_fraction(known)
    if math.isinf(found) and abs(value) > Fraction(fmt.max) / 2:
        return None  # it overflows in the format
    if not math.isfinite(allowed):
        return None
    if not math.isfinite(found):
        return LossValue(value=found, ratio=math.nan)
    slack = Fraction(allowed) + 8 * Fraction(u) * abs(value) + Fraction(fmt.smallest_normal)

    def described(times: Fraction) -> bool:
        # a mean is as good as the sum that it was made of, but for what underflows
        return abs(Fraction(found) / times - value) <= slack + Fraction(fmt.smallest_normal) / min(times, Fraction(1))

    if described(Fraction(1)):
        return None
    telling = 4 * slack < abs(value)
    ratio = Fraction(found) / value if value else None
    return LossValue(
        value=found,
        ratio=math.nan if ratio is None or abs(ratio) > 1e300 else float(ratio),
        disowned=candidate.differentiated and telling and any(map(described, _shares(problem))),
    )


def _shares(problem: Problem) -> Iterator[Fraction]:
    """What a loss is off by where a mean is taken for a sum, or a sum for a mean."""
    kept = problem.status != RowStatus.IGNORED
    found = {Fraction(problem.rows), Fraction(int(kept.sum()))}
    if problem.terms.weight is not None and problem.labels.ndim == 1:
        found.add(Fraction(float(problem.terms.weight[problem.labels[kept]].sum())))
    for divisor in found - {0, 1}:
        yield 1 / divisor
        yield divisor
