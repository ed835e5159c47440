"""Candidates: implementations of the gradient that are checked. One file each; its name is the candidate's.

A file here defines `gradient(problem) -> array`: the gradient of the problem's loss with respect to its logits, (N, k),
in the problem's dtype or in one of its own. It raises NotApplicableError where it has no answer. A file of `frameworks`
adapts a package that need not be installed; that, and code of the user's own, runs in a child process.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gradcheck import functions, plugins
from gradcheck.candidates import _function, _piece, frameworks
from gradcheck.candidates._answers import Answer, Question, array_of, as_request, from_answer
from gradcheck.candidates._command import Command
from gradcheck.exceptions import CrashedError, MissingExtraError, UnknownNameError, UsageError
from gradcheck.formats import Array, Format, Int64, of_dtype
from gradcheck.functions import TIMEOUT, Function
from gradcheck.problem import Problem
from gradcheck.processes import Process
from gradcheck.stored import File, Rows, part, rows_of, seen

__all__ = [
    "DEFAULT",
    "Answer",
    "Candidate",
    "Running",
    "array_of",
    "computed",
    "forget",
    "given",
    "load",
    "names",
    "of_command",
    "of_function",
    "packages",
    "piece",
    "story",
    "summary",
]

DEFAULT = "shifted"
_LONGEST = 1e6


@dataclass(frozen=True, kw_only=True)
class Running:
    """How code of the user's own is run.

    Attributes:
        timeout: seconds that an answer may take.
        device: of a framework, by its own name for it.
        folder: in which it runs, and in which its names are looked for; None is that of the process that loads it.
    """

    timeout: float = TIMEOUT
    device: str | None = None
    folder: str | None = None

    @property
    def terms(self) -> str:
        """As a reader would call them."""
        return f"timeout {self.timeout:g} s, device {self.device or 'its own'}"

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= _LONGEST:
            raise UsageError(f"a timeout is from 0 to {_LONGEST:g} seconds, not {self.timeout:g}")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A named implementation.

    Attributes:
        watched: whether it is code that may answer otherwise when it is asked again, or asked in another order.
        differentiated: whether its gradient is one that a framework makes of the loss that comes with it.
    """

    name: str
    answer: Callable[[Problem], Answer]
    watched: bool = False
    differentiated: bool = False
    again: Callable[[], Candidate] | None = field(default=None, compare=False, repr=False)
    """Makes it in another process; None where it cannot leave this one."""
    given: Rows | None = field(default=None, compare=False, repr=False)
    """Its gradient of the whole input, where that was computed elsewhere."""
    sources: tuple[Path, ...] = field(default=(), compare=False, repr=False)
    """The files of its code, as far as its name tells."""
    terms: str = field(default="", compare=False, repr=False)
    """What else its answers may depend on."""

    def __reduce__(self) -> tuple[object, ...]:
        if self.again is None:
            raise TypeError(f"{self.name} cannot leave the process that it was made in")
        return self.again, ()

    @property
    def gradient_format(self) -> Format | None:
        """That of its answers, where it is known before they are."""
        return None if self.given is None else of_dtype(self.given.dtype)

    def gradient(self, problem: Problem) -> Array:
        """The gradient alone."""
        return self.answer(problem).gradient

    def seen_by(self, sees: Callable[[File], bool]) -> Candidate:
        """The candidate, whose rows are sent where somebody does not see their file."""
        return self if self.given is None else given(self.name, seen(self.given, sees))

    def cut(self, numbers: Int64) -> Candidate:
        """As much of the candidate as it takes for some rows of the input, by number, ascending."""
        if self.given is None or len(self.given) <= numbers[-1]:
            return self  # what is too short is told by what it answers
        return given(self.name, part(self.given, numbers))


def names() -> list[str]:
    """The candidates that gradcheck brings; those of `frameworks` need their packages."""
    return sorted([*plugins.names(sys.modules[__name__]), *plugins.names(frameworks)])


def packages() -> tuple[str, ...]:
    """Those that candidates need and that may be installed, as they are imported."""
    return tuple(plugins.names(frameworks))


def load(name: str, running: Running = Running()) -> Candidate:
    """A candidate by its name: a built-in one, a framework, or a function as MODULE:FUNCTION or PATH.py:FUNCTION.

    Raises:
        UsageError: where there is none.
        MissingExtraError: where its package is not installed.
    """
    return dataclasses.replace(_load(name, running), again=functools.partial(_kept, name, running))


@functools.cache
def _kept(name: str, running: Running) -> Candidate:
    # a worker process keeps one child for all its tasks
    return load(name, running)


def forget() -> None:
    """Ends what worker processes keep: one that lives on may be asked about other code of the same name."""
    _kept.cache_clear()


def _load(name: str, running: Running) -> Candidate:
    framework, colon, target = name.partition(":")
    if framework in plugins.names(frameworks):
        if colon and ":" not in target:
            raise UsageError(f"'{name}' should read {framework}:MODULE:LOSS or {framework}:PATH.py:LOSS")
        if importlib.util.find_spec(framework) is None:
            raise MissingExtraError(f"--candidate {framework}", framework, framework)
        found = _in_a_child(name, f"{frameworks.__name__}.{framework}", target or None, running)
        return dataclasses.replace(found, differentiated=True)
    if running.device is not None:
        raise UsageError(f"--device goes with {', '.join(packages())}, not with '{name}'")
    if colon:
        return _in_a_child(name, _function.__name__, name, running)
    if name not in names():
        own = f"{name}:FUNCTION" if name.endswith(".py") else "MODULE:FUNCTION or PATH.py:FUNCTION"
        raise UnknownNameError("candidate", name, names(), other=f"code of your own is {own}")
    return computed(name, plugins.load(sys.modules[__name__], "candidate", name).gradient)


def _in_a_child(name: str, module: str, target: str | None, running: Running) -> Candidate:
    # one child serves all problems: frameworks take seconds to import
    arguments = {"target": target, "device": running.device}
    process = Process(name, module, arguments, running.timeout, running.folder)
    source = None if target is None else functions.file_of(target, running.folder or os.getcwd())
    return Candidate(
        name=name,
        answer=lambda problem: from_answer(name, process(**as_request(Question.of(problem)))),
        watched=True,
        sources=() if source is None else (source,),
        terms=running.terms,
    )


def summary(name: str) -> str:
    """What a candidate computes, in one sentence."""
    return _documented(name)[0]


def story(name: str) -> str:
    """What there is to know beyond that sentence; may be empty."""
    return _documented(name)[1]


def _documented(name: str) -> tuple[str, str]:
    return plugins.documented(frameworks if name in plugins.names(frameworks) else sys.modules[__name__], name)


def of_function(function: Function) -> Candidate:
    """A function that is at hand, called in this process; see `candidates._function` for what it takes and returns."""
    return Candidate(
        name=function.name, answer=lambda problem: _function.answer(function, Question.of(problem)), watched=True
    )


def piece(name: str, running: Running) -> Function:
    """A function of the user's own that lives in a child process, and returns arrays of the formats.

    Raises:
        UsageError: where there is none.
    """
    process = Process(name, _piece.__name__, {"target": name}, running.timeout)
    return Function(name=name, call=lambda *arguments: array_of(name, process(arguments=list(arguments)).get("value")))


def of_command(template: str, *, suffix: str, running: Running, gradient_dtype: str | None) -> Candidate:
    """A program; see `candidates._command`."""
    command = Command(
        template, suffix=suffix, timeout=running.timeout, folder=running.folder, gradient_dtype=gradient_dtype
    )
    again = functools.partial(of_command, template, suffix=suffix, running=running, gradient_dtype=gradient_dtype)
    return Candidate(
        name=template,
        answer=command.answer,
        watched=True,
        again=again,
        sources=command.sources,
        terms=f"{running.terms}, files {suffix}",
    )


def computed(name: str, gradient: Callable[[Problem], Array]) -> Candidate:
    """A gradient as a function of the problem."""
    return Candidate(name=name, answer=lambda problem: Answer(gradient=gradient(problem)))


def given(name: str, gradient: Rows) -> Candidate:
    """A gradient that was computed elsewhere, (N, k): that of the input, of which a problem may be a part."""

    def answer(problem: Problem) -> Answer:
        shape = (problem.whole.rows, problem.classes)
        if gradient.shape != shape:
            raise CrashedError(f"the gradient has shape {gradient.shape}, the logits {shape}")
        return Answer(gradient=rows_of(gradient, problem.whole.numbers))

    return Candidate(name=name, answer=answer, again=functools.partial(given, name, gradient), given=gradient)
