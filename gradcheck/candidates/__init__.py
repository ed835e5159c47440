"""Candidates: implementations of the gradient that are checked. One file each; its name is the candidate's.

A file defines `gradient(problem) -> array`: the gradient of the problem's loss with respect to its logits, (N, k),
in the problem's dtype or in one of its own. It raises NotApplicableError where it has no answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from gradcheck import plugins
from gradcheck.formats import Array, Int64
from gradcheck.problem import Problem

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
    """A built-in candidate by its name.

    Raises:
        UnknownNameError: where there is none.
    """
    module = plugins.load(sys.modules[__name__], "candidate", name)
    return Candidate(name=name, gradient=module.gradient)


def summary(name: str) -> str:
    """What a built-in candidate computes, in one sentence."""
    return plugins.summary(plugins.load(sys.modules[__name__], "candidate", name))


def story(name: str) -> str:
    """What there is to know beyond that sentence; may be empty."""
    return plugins.story(plugins.load(sys.modules[__name__], "candidate", name))


def given(name: str, gradient: Array) -> Candidate:
    """A gradient that was computed elsewhere, (N, k), as a candidate."""
    return Candidate(name=name, gradient=lambda problem: gradient)


def part(candidate: Candidate, rows: Int64) -> Candidate:
    """A candidate that answers for a whole input, of which only some rows are asked."""
    return Candidate(name=candidate.name, gradient=lambda problem: candidate.gradient(problem)[rows])
