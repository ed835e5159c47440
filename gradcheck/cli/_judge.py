"""From the options of `Judging` to results. Only running commands import this: it pulls in all that is heavy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from gradcheck import candidates, checking, files, formats, tolerances
from gradcheck.candidates import Candidate
from gradcheck.cli._options import Judging, Rule
from gradcheck.exact import positive, whole
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.problem import Problem
from gradcheck.reference import Settings
from gradcheck.results import Result


class Judge:
    """The options, read once; every problem is then judged alike.

    Raises:
        UsageError: where an option cannot be understood.
    """

    def __init__(self, judging: Judging) -> None:
        self._flush, self._repeat, self._top = judging.ftz, judging.repeat, judging.top
        self._tolerance = tolerances.parse(judging.tolerance)
        self._format = formats.named(judging.gradient_dtype) if judging.gradient_dtype else None
        self._settings = Settings(
            digits=digits_of(judging),
            step_log2=step_log2_of(judging),
            order=judging.order,
            method=judging.method,
            engine=judging.engine,
        )

    def results(
        self, problem: Problem, chosen: list[Candidate], case: str, on_row: Callable[[], None] = lambda: None
    ) -> Iterator[Result]:
        """One result for each candidate."""
        return checking.check(
            problem,
            chosen,
            case=case,
            tolerance=self._tolerance,
            settings=self._settings,
            gradient_format=self._format,
            flush=self._flush,
            repeat=self._repeat,
            top=self._top,
            on_row=on_row,
        )


def candidates_of(judging: Judging) -> list[Candidate]:
    """The implementations that are named.

    Raises:
        UsageError: where there is none of a name.
    """
    if judging.exchange not in files.exchanged():
        raise UnknownNameError("exchange format", judging.exchange, files.exchanged())
    running = candidates.Running(timeout=judging.timeout, device=judging.device)
    if judging.device is not None and not judging.candidate:
        raise UsageError("--device goes with --candidate torch or jax")
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
        step = positive(text)
    except ValueError:
        step = 0.0
    if not 0 < step <= 1:
        raise UsageError(f"--step is a power of two such as 2^-20, a number in (0, 1], or auto, not '{text}'")
    return math.frexp(step)[1] - 1
