"""Which known mistake explains a wrong gradient: hypotheses, each tested against the exact values.

A hypothesis is reported where it explains every component: the candidate is what it says, to within what a sound
algorithm may err by, or what is wrong is exactly what it says is wrong. It is made of another question (`_questions`)
and of something that happened to its answer (`_effects`, `_sums`); two at once are `mixed`. It looks at the gradient
alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from gradcheck import text
from gradcheck.diagnosis import _effects, _questions, _sums
from gradcheck.diagnosis._view import Base, Finding, Mask, View, parts
from gradcheck.formats import Array, Float64, Int64
from gradcheck.problem import Problem
from gradcheck.reference.values import ExactGradient

__all__ = ["CAUSES", "Finding", "diagnose"]

CAUSES = {
    "scaled": "multiplied by a constant: a mean taken twice or not at all, a factor in two places",
    "sign": "the opposite sign",
    "labels-omitted": "ŷ alone, y left out",
    "labels-shifted": "labels off by a constant number of classes",
    "labels-permuted": "labels of other rows, or other labels",
    "transposed": "transposed in memory, or a softmax over the rows",
    "wrt-probabilities": "the gradient with respect to the probabilities, or one that goes through it",
    "softmax-twice": "probabilities where logits are due",
    "option-missing": "a loss option that is asked for, and left out",
    "option-extra": "a loss option that is not asked for",
    "other-convention": "another library's meaning of the same loss",
    "ignored-rows": "ignored rows that are not 0",
    "overflow-unshifted": "exp without the shift by the row's maximum",
    "division-free": "exp(l − lse) at a large offset",
    "cancellation": "p − 1 where p is close to 1",
    "half-precision-sum": "a sum that its accumulator cannot hold",
    "flushed-subnormals": "subnormal numbers that became 0",
    "clipped-probabilities": "probabilities that are clipped, or have an epsilon added",
    "narrow-format": "computed or stored in a narrower format",
    "wrong-row-max": "a shift by another maximum than the row's",
    "stale-block-max": "online softmax that does not rescale its sum",
    "wrong-sum": "classes left out of the sum, or padding let in",
    "masked-nan": "masks of -inf that meet",
    "inaccurate-exp": "an exp that is accurate near 0 alone",
    "constant-offset": "something added to every component of a row",
    "isolated-entries": "a few entries, or one in each row",
    "mixed": "more than one of these",
    "unknown": "none of these",
}
"""What a diagnosis may say, with what it means."""

_MANY = 2**22
"""Components past which a part of the rows is looked at."""
_ALTERNATIVES = 3


@np.errstate(all="ignore")
def diagnose(
    problem: Problem,
    gradient: Array,
    exact: ExactGradient,
    bound: Float64,
    failed: Mask,
    *,
    summed: bool = False,
) -> tuple[Finding, ...]:
    """What explains a gradient that fails, the likeliest first; always something, and be it `unknown`.

    Args:
        gradient: the candidate's, (N, k); bound: what a sound algorithm needs, in units, (N, k).
        failed: the components past the tolerance's limit, (N, k).
        summed: whether the candidate's is always that of the sum over rows, of which a mean is taken for it.
    """
    values = exact.values
    units = values.unit_log2.astype(np.int32)
    rows = _looked_at(problem, failed)
    some = problem if len(rows) == problem.rows else problem.take(rows)
    own = Base(
        finding=None,
        gradient=np.ldexp(values.high, units)[rows],
        bound=np.ldexp(bound, units)[rows],
        parts=parts(some),
    )
    view = View(
        problem=some,
        format=values.format,
        candidate=gradient[rows].astype(np.float64),
        failed=failed[rows],
        own=own,
        summed=summed,
    )
    return tuple(dataclasses.replace(one, rows=tuple(int(rows[row]) for row in one.rows)) for one in _found(view))


def _looked_at(problem: Problem, failed: Mask) -> Int64:
    """All rows, or of many those that fail and as many others, in order."""
    most = max(_MANY // problem.classes, 2)
    if problem.rows <= most:
        return np.arange(problem.rows)
    wrong = failed.any(axis=1)
    bad, good = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    return np.sort(np.concatenate([bad[: most - most // 4], good[: most // 4]]))


def _found(view: View) -> tuple[Finding, ...]:
    own = view.own
    if view.is_gradient(own.gradient, own.bound):
        past = np.abs(view.candidate - own.gradient)[view.failed] > own.bound[view.failed]
        found = _effects.scattered(view, own) if past.any() else _effects.cancelled(view) or _sound(view)
        return (found or _unknown(view),)
    for stage in (_likely, _unlikely, _double, _by_rows, _vague):
        if several := _distinct(stage(view)):
            return several
    return (_unknown(view),)


def _likely(view: View) -> Iterator[Finding]:
    """One thing that explains all, and that little else would."""
    yield from _happened(view, _effects.EARLY)
    yield from _meant(view, _questions.asked(view))
    yield from _happened(view, _effects.LATE)
    if sums := _sums.known_sums(view, view.own):
        yield from sums
        yield from _happened(view, [_effects.isolated])
    yield from _meant(view, _questions.strange(view))


def _unlikely(view: View) -> Iterator[Finding]:
    """One thing that explains all, with a number of its own for each row or entry."""
    yield from _happened(view, [_effects.isolated, _effects.rows_zeroed, _effects.some_rows, _sums.wrong_sum])


def _vague(view: View) -> Iterator[Finding]:
    """What takes a number for each row, or fits a tendency and not every component."""
    yield from _happened(view, [_effects.scattered, _effects.row_factors, _effects.inaccurate_exp])


def _happened(view: View, effects: Iterable[_effects.Effect]) -> Iterator[Finding]:
    for effect in effects:
        if found := effect(view, view.own):
            yield found


def _meant(view: View, bases: Iterable[Base]) -> Iterator[Finding]:
    for base in bases:
        if base.finding is not None and view.is_gradient(base.gradient, base.bound) and view.told(base):
            yield base.finding


def _others(view: View) -> Iterator[Base]:
    yield from _questions.asked(view)
    yield from _questions.strange(view)


def _double(view: View) -> Iterator[Finding]:
    """Another question, and something that happened to its answer."""
    for base in _others(view):
        if base.finding is not None and base.finding.cause == "option-extra":
            continue  # a number of its own, and another thing beside it, explain too much
        for effect in (*_effects.EARLY, *_effects.LATE, _effects.one_entry, _sums.known_sum):
            if base.finding is not None and effect is not _effects.clipped and (found := effect(view, base)):
                yield Finding(
                    cause="mixed",
                    evidence=f"{base.finding.cause} ({base.finding.evidence}) and {found.cause} ({found.evidence})",
                    fix=f"{base.finding.fix}; {found.fix}",
                    rows=base.finding.rows + found.rows,
                )


def _by_rows(view: View) -> Iterator[Finding]:
    """Some rows by one question, some by another."""
    left = ~view.near(view.own.gradient, view.own.bound).all(axis=1)
    causes: list[Finding] = []
    for base in _others(view):
        fits = left & view.near(base.gradient, base.bound).all(axis=1)
        if fits.any() and base.finding is not None:
            causes.append(base.finding)
            left &= ~fits
    if left.any() or len(causes) < 2:
        return
    names = " and ".join(f"{one.cause} ({one.evidence.replace('every row', 'some rows')})" for one in causes)
    yield Finding(
        cause="mixed",
        evidence=f"different rows differ: {names}",
        fix="; ".join(one.fix for one in causes),
        rows=tuple(row for one in causes for row in one.rows),
    )


def _distinct(found: Iterator[Finding]) -> tuple[Finding, ...]:
    """The first of each cause, not too many."""
    by_cause: dict[str, Finding] = {}
    for one in found:
        by_cause.setdefault(one.cause, one)
        if len(by_cause) == _ALTERNATIVES:
            break
    return tuple(by_cause.values())


def _sound(view: View) -> Finding:
    return Finding(
        cause="unknown",
        evidence=f"nothing but rounding: every component is as near as a sound algorithm in {view.format.name} comes",
        fix="ask for what the format can hold",
        option="--tolerance stable",
    )


def _unknown(view: View) -> Finding:
    """Which rows, which classes, against the distance below the maximum and the label."""
    failed, judged = view.failed & view.judged[:, None], int(view.judged.sum())
    rows, classes = np.flatnonzero(failed.any(axis=1)), np.flatnonzero(failed.any(axis=0))
    true = view.at_labels(failed)
    gaps = view.parts.gap[failed & np.isfinite(view.parts.gap)]
    where = f"{text.count(int(failed.sum()), 'component')} in {text.count(rows.size, 'row')} of {judged:,}"
    if rows.size == 1:
        where += " (row {row})"
    if classes.size and 2 * (classes[-1] - classes[0]) < view.problem.classes - 2:
        where += f", all in class{'es' if classes.size > 1 else ''} {classes[0]}"
        where += f" to {classes[-1]}" if classes.size > 1 else ""
    at_label = f"{int(true.sum()):,} at the true class"
    if failed.any() and true.sum() == failed.sum():
        at_label = "all of them at the true class"
    reach = (
        f", {text.brief(float(gaps.min()))} to {text.brief(float(gaps.max()))} below the row's maximum"
        if gaps.size
        else ""
    )
    return Finding(
        cause="unknown",
        evidence=f"no known mistake explains it: {where} {'fails' if failed.sum() == 1 else 'fail'}, "
        f"{at_label}{reach}{_what_they_are(view.candidate[failed])}",
        fix="compare a single row, step by step (gradcheck derive)",
        rows=tuple(rows) if rows.size == 1 else (),
    )


def _what_they_are(wrong: Float64) -> str:
    """NaN, infinite and zero, where there are such, in words."""
    found = [
        f"{'all' if n == wrong.size else f'{n:,}'} {what}"
        for n, what in (
            (int(np.isnan(wrong).sum()), "NaN"),
            (int(np.isinf(wrong).sum()), "infinite"),
            (int((wrong == 0).sum()), "0"),
        )
        if n
    ]
    return f"; {' and '.join(found)}" if found else ""
