"""One outcome of many: what was found of the parts of a problem, put together as if it had been found of the whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from gradcheck.exact import Dyadic, total
from gradcheck.metrics import Decision, Extreme, Measures
from gradcheck.profiles import merged as merged_profiles
from gradcheck.results import (
    Conduct,
    Crashed,
    Judged,
    Outcome,
    Permuted,
    ReferenceFacts,
    Repeats,
    Skipped,
    Sufficient,
    Verdict,
    verdict_of,
)

_SAME = 1.001
"""By how much an error may shrink that is looked at more closely: float64 knows it far better."""

_Placed = TypeVar("_Placed", Extreme, Repeats)


def placed(outcome: Outcome, rows: Sequence[int]) -> Outcome:
    """What was found of rows, where row n of them is row `rows`[n] of the whole."""
    if not isinstance(outcome, Judged):
        return outcome

    def there(one: _Placed | None) -> _Placed | None:
        return None if one is None else dataclasses.replace(one, row=int(rows[one.row]))

    decision, conduct = outcome.decision, outcome.conduct
    permuted = conduct.permuted and dataclasses.replace(conduct.permuted, worst=there(conduct.permuted.worst))
    points = tuple(dataclasses.replace(point, row=int(rows[point.row])) for point in outcome.profile.points)
    return dataclasses.replace(
        outcome,
        measures=dataclasses.replace(
            outcome.measures, extremes={name: there(one) for name, one in outcome.measures.extremes.items()}
        ),
        decision=dataclasses.replace(
            decision,
            undecided_rows=[int(rows[row]) for row in decision.undecided_rows],
            worst=there(decision.worst),
            top=tuple(dataclasses.replace(one, row=int(rows[one.row])) for one in decision.top),
        ),
        conduct=dataclasses.replace(conduct, repeats=there(conduct.repeats), permuted=permuted),
        diagnosis=tuple(
            dataclasses.replace(one, rows=tuple(int(rows[row]) for row in one.rows)) for one in outcome.diagnosis
        ),
        profile=dataclasses.replace(outcome.profile, points=points),
    )


def merged(parts: Sequence[tuple[Outcome, int]], *, top: int = 0) -> Outcome:
    """What was found of parts that follow each other, each with its number of rows, as of the whole.

    A crash anywhere is a crash of the whole; a part that has no row to judge counts as rows that are undefined.

    Args:
        top: how many of the worst components to name.
    """
    outcomes = [outcome for outcome, _ in parts]
    if len(outcomes) == 1:
        return outcomes[0]
    if crash := next((outcome for outcome in outcomes if isinstance(outcome, Crashed)), None):
        return crash
    judged = [outcome for outcome in outcomes if isinstance(outcome, Judged)]
    if not judged:
        return outcomes[0]
    undefined = sum(rows for outcome, rows in parts if isinstance(outcome, Skipped))
    decision = _decision([one.decision for one in judged], top)
    conduct = _conduct([one.conduct for one in judged])
    return Judged(
        verdict=Verdict.FAIL if conduct.wrong else verdict_of(decision),
        measures=_measures([one.measures for one in judged], undefined),
        decision=decision,
        reference=_reference([one.reference for one in judged]),
        loss=_loss([one.loss for one in judged]),
        sufficient=_sufficient([one.sufficient for one in judged]),
        conduct=conduct,
        diagnosis=next((one.diagnosis for one in judged if one.diagnosis), ()),
        profile=merged_profiles([one.profile for one in judged]),
    )


def _worst(extremes: Iterable[Extreme | None]) -> Extreme | None:
    """The largest; among equals the one of the largest error, and the first of those."""
    found = [one for one in extremes if one is not None]
    return max(found, key=_rank) if found else None


def _rank(extreme: Extreme) -> tuple[float, float]:
    return extreme.value, extreme.ulp


def _measures(parts: Sequence[Measures], undefined: int) -> Measures:
    totals = [part.total for part in parts if part.total is not None]
    return Measures(
        extremes={name: _worst(part.extremes[name] for part in parts) for name in parts[0].extremes},
        nonfinite=sum(part.nonfinite for part in parts),
        wrong_sign=sum(part.wrong_sign for part in parts),
        flushed=sum(part.flushed for part in parts),
        ignored_nonzero=sum(part.ignored_nonzero for part in parts),
        total=max(totals, default=None),
        undefined_rows=sum(part.undefined_rows for part in parts) + undefined,
        infinite_loss_rows=sum(part.infinite_loss_rows for part in parts),
    )


def _decision(parts: Sequence[Decision], top: int) -> Decision:
    worst = _worst(part.worst for part in parts)
    named = sorted((one for part in parts for one in part.top), key=_rank, reverse=True)
    return Decision(
        failed=sum(part.failed for part in parts),
        judged=sum(part.judged for part in parts),
        undecided_rows=[row for part in parts for row in part.undecided_rows],
        worst=worst,
        limit_ulps=next((part.limit_ulps for part in parts if part.worst is worst), math.nan),
        top=tuple(named[:top]),
        counted=all(part.counted for part in parts),
    )


def _reference(parts: Sequence[ReferenceFacts | None]) -> ReferenceFacts | None:
    """The finest step, the most bits, the largest uncertainty."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    return dataclasses.replace(
        found[0],
        step_log2=min(part.step_log2 for part in found),
        precision_bits=max(part.precision_bits for part in found),
        uncertainty_ulp=max(part.uncertainty_ulp for part in found),
        evaluations=max(part.evaluations for part in found),
    )


def _loss(parts: Sequence[Dyadic | float | None]) -> Dyadic | float | None:
    if any(part is None for part in parts):
        return None
    # a part without a row that counts has 0.0
    special = [part for part in parts if isinstance(part, float) and part != 0]
    exact = [part for part in parts if isinstance(part, Dyadic)]
    return sum(special) if special else total(exact) if exact else 0.0


def _sufficient(parts: Sequence[Sufficient | None]) -> Sufficient | None:
    found = [part for part in parts if part is not None]
    if not found:
        return None
    step_log2 = min(part.step_log2 for part in found)
    # what has a larger step of its own needs that many bits more
    digits = max(part.digits + math.ceil((part.step_log2 - step_log2) * math.log10(2)) for part in found)
    return Sufficient(digits=digits, step_log2=step_log2)


def _conduct(parts: Sequence[Conduct]) -> Conduct:
    repeats = [part.repeats for part in parts if part.repeats is not None]
    rearranged = [part.permuted for part in parts if part.permuted is not None]
    return Conduct(
        changed=tuple(dict.fromkeys(name for part in parts for name in part.changed)),
        repeats=_repeats(repeats) if repeats else None,
        permuted=_permuted(rearranged) if rearranged else None,
        spread=sum(part.spread for part in parts),
        loss=next((part.loss for part in parts if part.loss is not None), None),
    )


def _repeats(parts: Sequence[Repeats]) -> Repeats:
    furthest = max(parts, key=lambda part: part.most_ulp)
    return dataclasses.replace(furthest, components=sum(part.components for part in parts))


def _permuted(parts: Sequence[Permuted]) -> Permuted:
    return Permuted(
        crash=next((part.crash for part in parts if part.crash), ""),
        components=sum(part.components for part in parts),
        worst=_worst(part.worst for part in parts),
    )


def looked_at_again(screened: Judged, before: Judged, after: Judged) -> Judged:
    """What was found of all rows, where some of them were looked at again more closely.

    Args:
        screened: what was found of all of them at first; before, after: of those that were looked at again, at first
            and then.
    """
    first, less, more = screened.decision, before.decision, after.decision
    # code that does not answer alike again is not excused by its second answer
    worst = _kept(first.worst, more.worst)
    decision = dataclasses.replace(
        more,
        failed=max(first.failed - less.failed + more.failed, more.failed),
        judged=first.judged - less.judged + more.judged,
        worst=worst,
        limit_ulps=more.limit_ulps if worst is more.worst else first.limit_ulps,
    )
    counts = {
        name: getattr(screened.measures, name) - getattr(before.measures, name) + getattr(after.measures, name)
        for name in ("nonfinite", "wrong_sign", "flushed", "ignored_nonzero")
    }
    return dataclasses.replace(
        after,
        verdict=Verdict.FAIL if screened.conduct.wrong else verdict_of(decision),
        measures=dataclasses.replace(
            screened.measures,
            extremes={
                name: _kept(extreme, after.measures.extremes[name])
                for name, extreme in screened.measures.extremes.items()
            },
            **counts,
        ),
        decision=decision,
        loss=None,
        conduct=screened.conduct,
    )


def _kept(first: Extreme | None, then: Extreme | None) -> Extreme | None:
    """What was found then, unless it is not what was found at first."""
    if first is None or then is None:
        return then or first
    return first if first.value > then.value * _SAME else then
