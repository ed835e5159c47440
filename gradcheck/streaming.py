"""A batch of any size, checked part by part: what was found of the parts is one result for each candidate.

How a batch is cut follows from its shape and from what is asked alone, never from how many processes there are: so the
results do not depend on them, to the last digit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gradcheck import checking, merging
from gradcheck.batch import Batch, Cut
from gradcheck.candidates import Candidate
from gradcheck.checking import Found, How
from gradcheck.formats import Int64
from gradcheck.problem import Problem
from gradcheck.results import Judged, Outcome, Result
from gradcheck.workers import ALONE, Team

_PART = 1 << 16
"""Components of a part: a second of central differences, so that several processes have always something to do."""
_PART_OF_CODE = 1 << 18
"""The same where code is asked whose start may take longer than its answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """A part to check."""

    cut: Cut
    candidates: tuple[Candidate, ...]
    how: How


def check(
    batch: Batch,
    candidates: Sequence[Candidate],
    how: How,
    *,
    case: str,
    team: Team = ALONE,
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """One result for each candidate; where it is interrupted, of the parts that are done by then.

    Args:
        team: who does the work.
        on_row: called after each row, for whoever shows progress.
    """
    most = _PART_OF_CODE if any(one.watched for one in candidates) else _PART
    numbers = batch.numbers(slice(None))
    parts = list(_cut(numbers, max(1, most // batch.classes)))
    if len(parts) == 1:
        problem = batch.problem(numbers)
        for found in checking.outcomes(problem, candidates, how, on_row=on_row):
            yield _result(batch, case, how, found)
        return
    yield from _parts(batch, candidates, how, parts, case, team, on_row)


def check_each(
    problems: Iterable[tuple[str, Problem | None]], candidates: Sequence[Candidate], how: How, *, team: Team = ALONE
) -> Iterator[list[Result]]:
    """The results of each problem, by its name; none where there is no problem."""
    tasks = (_Named(name=name, problem=problem, candidates=tuple(candidates), how=how) for name, problem in problems)
    return team.map(_each, tasks)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Named:
    """A problem to check."""

    name: str
    problem: Problem | None
    candidates: tuple[Candidate, ...]
    how: How


def _each(task: _Named) -> list[Result]:
    if task.problem is None:
        return []
    return list(checking.check(task.problem, task.candidates, task.how, case=task.name))


def _parts(
    batch: Batch,
    candidates: Sequence[Candidate],
    how: How,
    parts: Sequence[Int64],
    case: str,
    team: Team,
    on_row: Callable[[], None],
) -> Iterator[Result]:
    # what explains a failure is looked for once, where it is worst
    quick = dataclasses.replace(how, diagnosed=False)
    tasks = (_Task(cut=batch.cut(part), candidates=tuple(candidates), how=quick) for part in parts)
    done: list[list[Found]] = []
    interrupted = False
    try:
        for part, found in zip(parts, team.map(_judged, tasks), strict=True):
            done.append(found)
            for _ in part:
                on_row()
    except KeyboardInterrupt:
        interrupted = True
    reached = sum(len(part) for part in parts[: len(done)])
    for place, candidate in enumerate(candidates if done else []):
        first, outcomes = 0, []
        for part, found in zip(parts, done, strict=False):
            outcomes.append((merging.moved(found[place].outcome, first), len(part)))
            first += len(part)
        outcome = merging.merged(outcomes, top=how.top)
        if how.diagnosed and not interrupted:
            outcome = _diagnosed(batch, candidate, how, outcome, parts)
        whole = dataclasses.replace(done[0][place], outcome=outcome)
        yield dataclasses.replace(_result(batch, case, how, whole), unreached=batch.rows - reached)
    if interrupted:
        raise KeyboardInterrupt


def _judged(task: _Task) -> list[Found]:
    return list(checking.outcomes(task.cut.problem(), task.candidates, task.how))


def _diagnosed(batch: Batch, candidate: Candidate, how: How, outcome: Outcome, parts: Sequence[Int64]) -> Outcome:
    """The outcome with what explains its failure in the part where that is worst."""
    if not isinstance(outcome, Judged) or not outcome.decision.failed or outcome.decision.worst is None:
        return outcome
    first = 0
    for part in parts:
        if outcome.decision.worst.row < first + len(part):
            break
        first += len(part)
    (found,) = checking.outcomes(batch.problem(part), [candidate], how)
    there = merging.moved(found.outcome, first)
    return dataclasses.replace(outcome, diagnosis=there.diagnosis) if isinstance(there, Judged) else outcome


def _cut(numbers: Int64, rows: int) -> Iterator[Int64]:
    for first in range(0, len(numbers), rows):
        yield numbers[first : first + rows]


def _result(batch: Batch, case: str, how: How, found: Found) -> Result:
    return Result(
        case=case,
        candidate=found.candidate,
        format=batch.format,
        gradient_format=found.gradient_format,
        loss={option.name: option.value for option in batch.loss},
        rows=batch.rows,
        classes=batch.classes,
        tolerance=str(how.tolerance),
        outcome=found.outcome,
        row_numbers=None if batch.chosen is None else tuple(batch.chosen.tolist()),
        digest=batch.digest,
    )
