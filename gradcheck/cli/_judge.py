"""From the options of `Judging` to results. Only running commands import this: it pulls in all that is heavy."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from gradcheck import candidates, files, formats, tolerances
from gradcheck.candidates import Candidate
from gradcheck.checking import How
from gradcheck.checkpoint import NOTHING, Checkpoint, Nothing
from gradcheck.cli._options import Judging, Reporting, Rule
from gradcheck.exact import nonnegative, whole
from gradcheck.exceptions import UnknownNameError, UsageError, visible
from gradcheck.reference import Settings
from gradcheck.workers import ALONE, Team, Workers


def how_of(judging: Judging) -> How:
    """By what is judged, and how closely.

    Raises:
        UsageError: where an option cannot be understood.
    """
    return How(
        tolerance=tolerances.parse(judging.tolerance),
        settings=Settings(
            digits=digits_of(judging),
            step_log2=step_log2_of(judging),
            order=judging.order,
            method=judging.method,
            engine=judging.engine,
        ),
        gradient_format=formats.named(judging.gradient_dtype) if judging.gradient_dtype else None,
        flush=judging.ftz,
        repeat=judging.repeat,
        top=judging.top,
    )


@contextmanager
def team_of(judging: Judging, notes: list[str]) -> Iterator[Team]:
    """Who does the work, for as long as it takes; what became of workers that died is noted."""
    if judging.scheduler is None and judging.jobs in (None, 1):
        yield ALONE
        return
    with _workers(judging) as team:
        try:
            yield team
        finally:
            team.end()
            if team.lost:
                notes.append(_loss(team.lost, judging))


def _workers(judging: Judging) -> AbstractContextManager[Workers]:
    if judging.scheduler is None:
        return Workers(judging.jobs or 1)
    from gradcheck import cluster

    return cluster.joined(judging.scheduler, judging.jobs, candidates.forget)


def _loss(count: int, judging: Judging) -> str:
    if judging.scheduler is not None:
        lost = "a worker of the cluster was lost" if count == 1 else f"{count} workers of the cluster were lost"
        return f"{lost}; what was under way there was done again"
    died = "a worker process was killed" if count == 1 else f"worker processes died {count} times"
    return f"{died}; what was under way was done again"


@contextmanager
def journal_of(judging: Judging, reporting: Reporting, notes: list[str]) -> Iterator[Nothing]:
    """What keeps what is done; what became of it is noted."""
    if judging.checkpoint is None:
        yield NOTHING
        return
    path = judging.checkpoint
    others = [
        reporting.output,
        reporting.baseline,
        os.environ.get("GITHUB_STEP_SUMMARY"),
        *(text.partition("=")[2] for text in reporting.report or []),
    ]
    if os.path.realpath(path) in {os.path.realpath(other) for other in others if other}:
        raise UsageError(f"--checkpoint {path}: is a report's file, too; it is deleted at the end")

    def told(count: int) -> None:
        if not reporting.quiet:
            parts = "1 part is" if count == 1 else f"{count:,} parts are"
            print(f"{visible(path)}: {parts} done already; going on from there", file=sys.stderr)

    with Checkpoint(path, told) as journal:
        try:
            yield journal
        finally:
            if journal.lost:
                notes.append(f"{visible(path)}: nothing more could be kept there ({journal.lost})")


def candidates_of(judging: Judging) -> list[Candidate]:
    """The implementations that are named.

    Raises:
        UsageError: where there is none of a name.
    """
    if judging.exchange not in files.exchanged():
        raise UnknownNameError("exchange format", judging.exchange, files.exchanged())
    running = candidates.Running(timeout=judging.timeout, device=judging.device, folder=os.getcwd())
    if judging.device is not None and not judging.candidate:
        raise UsageError(f"--device goes with --candidate {', '.join(candidates.packages())}")
    found = [candidates.load(name, running) for name in judging.candidate or []]
    return found + [
        candidates.of_command(
            template, suffix=f".{judging.exchange}", running=running, gradient_dtype=judging.gradient_dtype
        )
        for template in judging.command or []
    ]


def digits_of(rule: Rule) -> int | None:
    """The user's own working digits; None lets the format decide."""
    try:
        return None if rule.digits == "auto" else whole(rule.digits)
    except ValueError:
        raise UsageError(f"--digits is a whole number or auto, not '{rule.digits}'") from None


def step_log2_of(rule: Rule) -> int | None:
    """log2 of the user's own step; None lets the format decide."""
    text = rule.step
    if text == "auto":
        return None
    base, power, exponent = text.partition("^")
    try:
        if power and base == "2":
            return whole(exponent)
        step = nonnegative(text)
    except ValueError:
        step = 0.0
    if not 0 < step <= 1:
        raise UsageError(f"--step is a power of two such as 2^-20, a number in (0, 1], or auto, not '{text}'")
    return math.frexp(step)[1] - 1
