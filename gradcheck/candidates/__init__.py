"""Candidates: implementations of the gradient that are checked. One file each; its name is the candidate's.

A file defines `gradient(problem) -> array`: the gradient of the problem's loss with respect to its logits, (N, k),
in the problem's dtype or in one of its own. It raises NotApplicableError where it has no answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from gradcheck import functions, plugins
from gradcheck.candidates import _function
from gradcheck.candidates._function import array_of
from gradcheck.formats import Array, Int64
from gradcheck.functions import Function
from gradcheck.problem import Problem

__all__ = ["DEFAULT", "Candidate", "array_of", "given", "load", "names", "of_function", "part", "story", "summary"]

DEFAULT = "shifted"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A named implementation."""

    name: str
    gradient: Callable[[Problem], Array]


def names() -> list[str]:
    """The built-in candidates."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> Candidate:
    """A candidate by its name: a built-in one, or a function as MODULE:FUNCTION or PATH.py:FUNCTION.

    Raises:
        UsageError: where there is none.
        CrashedError: where importing a function raises.
    """
    if ":" in name:
        return of_function(functions.load(name))
    module = plugins.load(sys.modules[__name__], "candidate", name)
    return Candidate(name=name, gradient=module.gradient)


def summary(name: str) -> str:
    """What a built-in candidate computes, in one sentence."""
    return plugins.summary(plugins.load(sys.modules[__name__], "candidate", name))


def story(name: str) -> str:
    """What there is to know beyond that sentence; may be empty."""
    return plugins.story(plugins.load(sys.modules[__name__], "candidate", name))


def of_function(function: Function) -> Candidate:
    """A function of the user's own; see `candidates._function` for what it takes and returns."""
    return Candidate(name=function.name, gradient=lambda problem: _function.gradient(function, problem))


def given(name: str, gradient: Array) -> Candidate:
    """A gradient that was computed elsewhere, (N, k), as a candidate."""
    return Candidate(name=name, gradient=lambda problem: gradient)


def part(candidate: Candidate, rows: Int64) -> Candidate:
    """A candidate that answers for a whole input, of which only some rows are asked."""
    return Candidate(name=candidate.name, gradient=lambda problem: candidate.gradient(problem)[rows])
