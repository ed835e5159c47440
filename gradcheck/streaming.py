"""A batch of any size, checked part by part: what was found of the parts is one result for each candidate.

How a batch is cut follows from its shape and from what is asked alone, never from how many processes there are: so the
results do not depend on them, to the last digit.

A dump is screened first: `screening.ClosedForm` decides most components. Rows where it leaves something undecided,
those of the largest errors, and a few drawn at random are looked at again, and central differences take its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcheck import checking, glance, merging, reference, versions
from gradcheck.batch import Batch, Cut, leaves, pieces
from gradcheck.candidates import Candidate, computed
from gradcheck.checking import Exactly, Found, How
from gradcheck.checkpoint import NOTHING, Nothing
from gradcheck.exceptions import CrashedError, NotApplicableError, UsageError
from gradcheck.formats import Array, Format, Int64
from gradcheck.metrics import Comparison, undecided
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Settings
from gradcheck.reference.engines import Each
from gradcheck.reference.values import ExactGradient
from gradcheck.results import Crashed, Judged, Outcome, Result, Screened, Verdict
from gradcheck.screening import ClosedForm
from gradcheck.tolerances import limits_of
from gradcheck.workers import ALONE, Team

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCREENED_FROM = 1 << 20
"""Components past which a batch is screened, unless it is said otherwise."""
CERTIFIED = 1024
"""Components drawn at random that get central differences, unless it is said otherwise."""

_PART = 1 << 16
"""Components of a part: a second of central differences, so that several processes have always something to do."""
_PART_OF_CODE = 1 << 18
"""The same where code is asked whose start may take longer than its answer."""
_SCREENED_TASK, _SCREENED_PART = 1 << 22, 1 << 17
"""Components that are screened in one task, and at a time: what fits into a processor's cache."""
_TASKS = 1 << 14
"""Tasks that a batch is cut into, at most: more of them, and whoever gives them out is what all others wait for."""
_KEPT = 64
"""Outcomes of parts that are kept before they are put together."""
_DRAWN_IN_A_ROW = 256
"""Components that are drawn in one row, where there are rows enough: the sum over its classes serves them all."""
_OTHER_ROWS = 6
"""Rows drawn at random, at least, that are looked at beside the worst, where a failure is to be explained."""


@dataclass(frozen=True, kw_only=True)
class Screening:
    """Whether the closed form in float64 is a filter before central differences.

    Attributes:
        wanted: None leaves it to the size.
        certify: how many components to draw at random for central differences.
        seed: of the draw.
    """

    wanted: bool | None = None
    certify: int = CERTIFIED
    seed: int = 0

    def of(self, batch: Batch, candidates: Iterable[Candidate], how: How) -> bool:
        """Whether this batch is screened.

        Raises:
            UsageError: where that is wanted and cannot be.
        """
        kinds = [how.gradient_format or one.gradient_format or batch.format for one in candidates]
        narrow = any(fmt.wider is not None for fmt in kinds)
        if self.wanted and not narrow:
            raise UsageError(f"--screen is of no use here: a gradient in {kinds[0]} is as precise as the filter")
        if self.wanted and how.settings.fixed:
            raise UsageError("--screen is of no use here: --digits and --step ask for another reference")
        possible = narrow and not how.settings.fixed
        return possible and (batch.size > SCREENED_FROM if self.wanted is None else self.wanted)


def check(
    batch: Batch,
    candidates: Sequence[Candidate],
    how: How,
    *,
    case: str,
    team: Team = ALONE,
    screening: Screening = Screening(),
    journal: Nothing = NOTHING,
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """One result for each candidate; where it is interrupted, of the parts that are done by then.

    Args:
        team: who does the work.
        journal: keeps what is found of parts.
        on_row: called after each row, for whoever shows progress.
    """
    batch, candidates = batch.seen_by(team.sees), [one.seen_by(team.sees) for one in candidates]
    watched = any(one.watched for one in candidates)
    screened = screening.of(batch, candidates, how)
    most = _PART_OF_CODE if watched else _SCREENED_TASK if screened else _PART
    numbers = batch.numbers(slice(None))
    rows = max(1, most // batch.classes)
    parts = list(pieces(numbers, rows * math.ceil(batch.rows / rows / _TASKS)))
    digest = functools.cache(lambda: batch.digest(team.map))

    def run() -> dict[str, str]:
        asked = {"the input": digest(), "--screen": str(screened)}
        if screened:
            asked |= {"--certify": str(screening.certify), "--seed": str(screening.seed)}
        return asked | _run(candidates, how) | {one.name: _identity(one, numbers, team) for one in candidates}

    journal.begin(run, _KINDS)
    if len(parts) == 1 and not screened:
        problem = batch.problem(numbers)
        for found in checking.outcomes(problem, candidates, how, on_row=on_row, each=team.map):
            yield _result(batch, case, how, found, digest())
        return
    # what explains a failure is looked for once, where it is worst
    quick = dataclasses.replace(how, diagnosed=False, profiled=not screened)
    step = max(1, _SCREENED_PART // batch.classes) if screened and not watched else rows
    tasks = (
        _Task(
            cut=batch.cut(part),
            rows=step,
            candidates=tuple(one.cut(part) for one in candidates),
            how=quick,
            screened=screened,
        )
        for part in parts
    )
    # of few rows it is their classes that are shared
    few = len(parts) < 2 * team.jobs and not screened
    named = ((f"rows {part[0]} to {part[-1]}", task) for part, task in zip(parts, tasks, strict=True))
    judged = (
        journal.map(map, functools.partial(_judged, each=team.map), named, _lasts)
        if few
        else journal.map(team.map, _judged, named, _lasts)
    )
    sums = [_Sum(how) for _ in candidates]
    first: list[Found] = []
    interrupted = False
    try:
        for part, of_part in zip(parts, judged, strict=True):
            first = first or of_part
            for one, there in zip(sums, of_part, strict=True):
                one.add(there.outcome, len(part))
            for _ in part:
                on_row()
    except KeyboardInterrupt:
        interrupted = True
    for candidate, begun, one in zip(candidates, first, sums, strict=False):
        outcome = one.outcome
        if isinstance(outcome, Judged):
            if screened and begun.gradient_format.wider:
                facts = Screened(bound=outcome.decision.judged, differences=0, undecided=0, drawn=0, rows=0)
                outcome = dataclasses.replace(outcome, screened=facts)
            try:
                if not interrupted:
                    outcome = _completed(batch, candidate, how, outcome, team, screening, journal)
            except KeyboardInterrupt:
                interrupted = True
        unreached = batch.rows - one.rows
        if unreached and outcome.verdict is Verdict.PASS and isinstance(outcome, Judged):
            outcome = dataclasses.replace(outcome, verdict=Verdict.INCONCLUSIVE)
        whole = dataclasses.replace(begun, outcome=outcome)
        # of what was interrupted there is nothing to compare, and the rest may take long to read
        yield _result(batch, case, how, whole, "" if unreached else digest(), unreached=unreached)
    if interrupted:
        raise KeyboardInterrupt


def _lasts(found: Sequence[Found | Result] | _Closer) -> bool:
    """Whether it would be found again: code that has crashed may not crash where it is asked another time."""
    outcomes = [found.after] if isinstance(found, _Closer) else [one.outcome for one in found]
    return not any(isinstance(outcome, Crashed) for outcome in outcomes)


def _run(candidates: Iterable[Candidate], how: How) -> dict[str, str]:
    """What results depend on besides the problems."""
    return {
        **versions.versions(),
        "source": versions.source(),
        **dict(_told(how)),
        "candidates": ", ".join(one.name for one in candidates),
    }


_OPTIONS = {"flush": "ftz", "gradient_format": "gradient-dtype", "step_log2": "step"}
"""What the command line calls fields that have another name."""


def _told(settings: DataclassInstance) -> Iterator[tuple[str, str]]:
    """Settings as texts, by name."""
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if isinstance(value, Settings):
            yield from _told(value)
        else:
            text = value.name if isinstance(value, Format) else "auto" if value is None else str(value)
            yield f"--{_OPTIONS.get(one.name, one.name)}", text


def _identity(candidate: Candidate, numbers: Int64, team: Team) -> str:
    """What tells a candidate from others of its name: its gradient, or the files of its code, and how that is run."""
    found, given = hashlib.sha256(), candidate.given
    if given is not None:
        found.update(f"{given.dtype} {given.shape}".encode())
        if len(given) > numbers[-1]:
            for leaf in leaves((given,), numbers, team.map):
                found.update(leaf)
    for path in candidate.sources:
        with contextlib.suppress(OSError):
            found.update(path.read_bytes() + b"\0")
    return f"{found.hexdigest()[:16]} {candidate.terms}".strip()


def _completed(
    batch: Batch,
    candidate: Candidate,
    how: How,
    outcome: Judged,
    team: Team,
    screening: Screening,
    journal: Nothing,
) -> Outcome:
    """The outcome with what is left to do when all parts are done."""
    found: Outcome = outcome
    if outcome.screened is not None:
        found = _looked_at_again(batch, candidate, how, outcome, team, screening, journal)
    if how.diagnosed and isinstance(found, Judged) and found.decision.failed:
        return _diagnosed(batch, candidate, how, found)
    return found


def check_each(
    problems: Iterable[tuple[str, Problem | None]],
    candidates: Sequence[Candidate],
    how: How,
    *,
    team: Team = ALONE,
    journal: Nothing = NOTHING,
    cases: str = "",
) -> Iterator[list[Result]]:
    """The results of each problem, by its name; none where there is no problem.

    Args:
        journal: keeps what is found of problems.
        cases: which problems they are.
    """

    def run() -> dict[str, str]:
        known = {one.name: _identity(one, np.arange(0), team) for one in candidates}
        return {"the cases": cases} | _run(candidates, how) | known

    journal.begin(run, _KINDS)
    named = (
        (
            f"{name} {problem.format.name if problem else ''} {problem.digest if problem else ''}",
            _Named(name=name, problem=problem, candidates=tuple(candidates), how=how),
        )
        for name, problem in problems
    )
    return journal.map(team.map, _each, named, _lasts)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """A part to check, in pieces of so many rows, of which one is in memory at a time."""

    cut: Cut
    rows: int
    candidates: tuple[Candidate, ...]
    how: How
    screened: bool


def _judged(task: _Task, each: Each = map) -> list[Found]:
    cuts = list(task.cut.pieces(task.rows))
    if task.screened:
        found = [[_screened(cut.problem(), candidate, task.how) for candidate in task.candidates] for cut in cuts]
    else:
        found = [list(checking.outcomes(cut.problem(), task.candidates, task.how, each=each)) for cut in cuts]
    sizes = [cut.rows for cut in cuts]
    return [
        dataclasses.replace(of_one[0], outcome=_Sum.of(task.how, [one.outcome for one in of_one], sizes))
        for of_one in zip(*found, strict=True)
    ]


def _screened(problem: Problem, candidate: Candidate, how: How) -> Found:
    if not candidate.watched:
        with contextlib.suppress(NotApplicableError, CrashedError), np.errstate(all="ignore"):
            gradient = candidate.gradient(problem)
            # it is read, or computed, once
            candidate = computed(candidate.name, lambda _: gradient)
            if glance.possible(problem, gradient, how):
                right, others = glance.glance(problem, gradient, flush=how.flush)
                if right is not None:
                    return _beside(problem, gradient, candidate.name, how, right, others)
    (found,) = checking.outcomes(problem, [candidate], how, exactly=_closed(how))
    return found


def _beside(problem: Problem, gradient: Array, name: str, how: How, right: Judged, others: Int64) -> Found:
    """What was seen of rows at a glance, and what there is to say of the others."""
    if not others.size:
        return Found(candidate=name, gradient_format=checking.format_of(gradient), outcome=right)
    rest = computed(name, lambda _: gradient[others])
    (found,) = checking.outcomes(problem.take(others), [rest], how, exactly=_closed(how))
    placed = (merging.placed(found.outcome, others.tolist()), len(others))
    outcome = merging.merged([(right, problem.rows - len(others)), placed], top=how.top)
    return dataclasses.replace(found, outcome=outcome)


class _Sum:
    """The outcome of parts that follow each other, put together as they come, so that few are kept."""

    def __init__(self, how: How) -> None:
        self.rows, self._top = 0, how.top
        self._parts: list[tuple[Outcome, int]] = []

    @classmethod
    def of(cls, how: How, outcomes: Iterable[Outcome], rows: Iterable[int]) -> Outcome:
        """That of some parts, of so many rows each."""
        found = cls(how)
        for outcome, count in zip(outcomes, rows, strict=True):
            found.add(outcome, count)
        return found.outcome

    def add(self, outcome: Outcome, rows: int) -> None:
        """The outcome of the next rows."""
        self._parts.append((merging.placed(outcome, range(self.rows, self.rows + rows)), rows))
        self.rows += rows
        if len(self._parts) >= _KEPT:
            self._parts = [(self.outcome, self.rows)]

    @property
    def outcome(self) -> Outcome:
        """That of all so far."""
        return merging.merged(self._parts, top=self._top)


def _closed(how: How) -> Exactly:
    """The closed form in float64, where the gradient's format is narrower."""

    def exactly(problem: Problem, fmt: Format) -> ExactGradient:
        return ClosedForm(problem, fmt) if fmt.wider else reference.compute(problem, fmt, how.settings)

    return exactly


@dataclass(frozen=True, kw_only=True, eq=False)
class _Again:
    """Rows to look at again, each with the classes that get central differences whatever was found."""

    cut: Cut
    candidate: Candidate
    how: How
    places: tuple[Int64, ...]
    asked: Cut | None
    """The part that code was asked about at first, where its answer may depend on that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Closer:
    """What was found of rows, at first and then.

    Attributes:
        undecided: components that the closed form left open; differences: that got central differences.
    """

    before: Outcome
    after: Outcome
    undecided: int
    differences: int


def _again(task: _Again) -> _Closer:
    problem, how = task.cut.problem(), task.how
    try:
        if task.asked is None:
            gradient = task.candidate.gradient(problem)
        else:
            rows = np.searchsorted(task.asked.whole.numbers, task.cut.whole.numbers)
            gradient = task.candidate.gradient(task.asked.problem())[rows]
    except (CrashedError, NotApplicableError) as crash:
        failed = Crashed(reason=f"asked about some rows again: {crash}")
        return _Closer(before=failed, after=failed, undecided=0, differences=0)
    answer = computed(task.candidate.name, lambda _: gradient)
    closed = ClosedForm(problem, how.gradient_format or checking.format_of(gradient))
    # where the errors are is asked of what is found then
    quick = dataclasses.replace(how, profiled=False)
    (before,) = checking.outcomes(problem, [answer], quick, exactly=lambda *_: closed)
    if not isinstance(before.outcome, Judged):
        return _Closer(before=before.outcome, after=before.outcome, undecided=0, differences=0)
    limits = limits_of(how.tolerance, closed, flush=how.flush)
    left_open = undecided(Comparison(closed, gradient), limits)
    places = [np.union1d(some, np.flatnonzero(row)) for some, row in zip(task.places, left_open, strict=True)]
    exact = reference.at(problem, before.gradient_format, how.settings, closed.at_once, places)
    _confirm(closed, exact, places)
    (after,) = checking.outcomes(problem, [answer], how, exactly=lambda *_: exact)
    judged = problem.status == RowStatus.JUDGED
    return _Closer(
        before=before.outcome,
        after=after.outcome,
        undecided=int(left_open.sum()),
        differences=sum(len(some) for some, whether in zip(places, judged, strict=True) if whether),
    )


def _confirm(closed: ClosedForm, exact: ExactGradient, places: Sequence[Int64]) -> None:
    """That central differences agree with the closed form to within what both may be off by."""
    one, other = closed.values, exact.values
    for row, classes in enumerate(places):
        units = np.ldexp(1.0, other.unit_log2[row, classes].astype(np.int32))
        apart = np.abs(one.high[row, classes] - other.high[row, classes] * units)
        allowed = (
            one.uncertainty[row, classes]
            + (other.uncertainty[row, classes] + other.size[row, classes] * 2.0**-50) * units
        )
        if not (apart <= allowed).all():
            raise AssertionError(f"central differences contradict the closed form's error bound in row {row}")


def _looked_at_again(
    batch: Batch,
    candidate: Candidate,
    how: How,
    screened: Judged,
    team: Team,
    screening: Screening,
    journal: Nothing,
) -> Outcome:
    """The outcome with central differences where the closed form leaves something open, or errors are largest."""
    places: dict[int, set[int]] = {row: set() for row in screened.decision.undecided_rows}
    for extreme in (*screened.measures.extremes.values(), screened.decision.worst, *screened.decision.top):
        if extreme is not None:
            places.setdefault(extreme.row, set()).add(extreme.cls)
    drawn = _drawn(batch, screening)
    for row, classes in drawn.items():
        places.setdefault(row, set()).update(classes)
    rows = np.array(sorted(places), dtype=np.int64)
    step, whole = max(1, _PART // batch.classes), max(1, _PART_OF_CODE // batch.classes)
    # what was asked together is asked together again, and rows of two parts are two tasks
    groups = [group for part in np.split(rows, _edges(rows, whole)) for group in pieces(part, step)]
    closely = dataclasses.replace(how, diagnosed=False, valued=False)
    numbers = batch.numbers(slice(None))

    def asked(row: int) -> Cut:
        first = row // whole * whole
        return batch.cut(numbers[first : first + whole])

    tasks = (
        _Again(
            cut=batch.cut(numbers[group]),
            candidate=candidate.cut(numbers[group]),
            how=closely,
            places=tuple(np.array(sorted(places[row]), dtype=np.int64) for row in group.tolist()),
            asked=asked(int(group[0])) if candidate.watched else None,
        )
        for group in groups
    )
    named = (
        (f"{candidate.name} again: {_short([(row, sorted(places[row])) for row in group.tolist()])}", task)
        for group, task in zip(groups, tasks, strict=True)
    )
    found = list(journal.map(team.map, _again, named, _lasts))
    before, after = (
        merging.merged(
            [
                (merging.placed(getattr(one, when), group.tolist()), len(group))
                for group, one in zip(groups, found, strict=True)
            ],
            top=how.top,
        )
        for when in ("before", "after")
    )
    if not isinstance(before, Judged) or not isinstance(after, Judged):
        return after
    outcome = merging.looked_at_again(screened, before, after)
    differences = sum(one.differences for one in found)
    facts = Screened(
        bound=outcome.decision.judged - differences,
        differences=differences,
        undecided=sum(one.undecided for one in found),
        drawn=sum(len(classes) for classes in drawn.values()),
        rows=len(rows),
    )
    return dataclasses.replace(outcome, screened=facts)


def _short(places: object) -> str:
    return hashlib.sha256(repr(places).encode()).hexdigest()[:16]


def _edges(rows: Int64, whole: int) -> list[int]:
    """Where rows, ascending, come to another part of so many rows."""
    return (np.flatnonzero(np.diff(rows // whole)) + 1).tolist()


def _drawn(batch: Batch, screening: Screening) -> dict[int, list[int]]:
    """Components drawn at random, as classes by row, from a few rows that are not ignored."""
    kept = batch.kept
    if not screening.certify or not kept.size:
        return {}
    rng = np.random.default_rng(screening.seed)
    most = min(batch.classes, _DRAWN_IN_A_ROW)
    rows = rng.choice(kept, size=min(kept.size, math.ceil(screening.certify / most)), replace=False)
    each = min(batch.classes, math.ceil(screening.certify / len(rows)))
    return {row: rng.choice(batch.classes, size=each, replace=False).tolist() for row in sorted(rows.tolist())}


def _diagnosed(batch: Batch, candidate: Candidate, how: How, outcome: Judged) -> Judged:
    """The outcome with what explains its failure in the rows of the largest errors and a few others."""
    extremes = (*outcome.measures.extremes.values(), outcome.decision.worst)
    worst = [extreme.row for extreme in extremes if extreme is not None]
    count = min(batch.rows, max(_OTHER_ROWS, _PART // batch.classes))
    others = np.random.default_rng(0).choice(batch.rows, size=count, replace=False)
    rows = np.union1d(worst, others).astype(np.int64)
    problem = batch.problem(batch.numbers(slice(None))[rows])
    only = dataclasses.replace(how, profiled=False, valued=False)
    (found,) = checking.outcomes(problem, [candidate], only, exactly=_closed(how))
    there = merging.placed(found.outcome, rows.tolist())
    if not isinstance(there, Judged):
        return outcome
    seen = f" (seen in {len(rows):,} of {batch.rows:,} rows)" if len(rows) < batch.rows else ""
    findings = tuple(dataclasses.replace(one, evidence=one.evidence + seen) for one in there.diagnosis)
    return dataclasses.replace(outcome, diagnosis=findings)


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


_KINDS: tuple[Any, ...] = (Found, _Closer, Result)
"""What tasks find."""


def _result(batch: Batch, case: str, how: How, found: Found, digest: str, unreached: int = 0) -> Result:
    numbers = None if batch.chosen is None else tuple(batch.chosen.tolist())
    result = checking.result(batch, how, found, case=case, digest=digest)
    return dataclasses.replace(result, row_numbers=numbers, unreached=unreached)
