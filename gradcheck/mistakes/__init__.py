"""Planted mistakes: small candidates that are wrong in one known way, and sound ones beside them. One file a subject.

A file holds `MISTAKES` and `SOUND`, tuples of `Planted`. A mistake says what shows it; a sound variant has nothing to
show.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gradcheck import closed_form, plugins
from gradcheck.candidates import Candidate, computed, of_function
from gradcheck.closed_form import Gradient, Softmax
from gradcheck.exceptions import InputError, NotApplicableError
from gradcheck.formats import FORMATS, Array
from gradcheck.functions import Function
from gradcheck.problem import Problem, Terms

_BITS = 8
"""Of fewer bits of precision a tolerance forgives so much that most mistakes pass."""
EVERY = tuple(name for name, fmt in FORMATS.items() if fmt.precision >= _BITS)
"""The names of the formats in which mistakes show, unless they say otherwise."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What shows a mistake.

    Attributes:
        case: a case of the catalogue.
        by: the tolerance that fails there, or what is noticed beside the verdict: a name in `selftest.FLAGS`.
        formats: the formats in which it shows.
    """

    case: str
    by: str = "stable"
    formats: tuple[str, ...] = EVERY


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A candidate of which is known whether it is right.

    Attributes:
        reason: what it does, in one sentence.
        gradient: of a problem, (N, k), in its format; or
        function: of logits and labels, as code of a user's own; one of the two is given.
        signs: what shows that it is wrong; none for a sound variant.
        cause: what a diagnosis is to call its gradient; empty where that is right.
        watched: whether it is asked again, and in another order.
        flush: whether flushed subnormals are accepted of it.
        sources: the threads that it comes from, as OWNER/REPOSITORY#NUMBER.
    """

    name: str
    reason: str
    gradient: Gradient | None = None
    function: Callable[[Array, Array], Any] | None = None
    signs: tuple[Sign, ...] = ()
    cause: str = ""
    watched: bool = False
    flush: bool = False
    sources: tuple[str, ...] = ()

    @property
    def formats(self) -> list[str]:
        """The names of the formats in which it shows, in their order."""
        return [name for name in FORMATS if any(name in sign.formats for sign in self.signs)]

    @property
    def candidate(self) -> Candidate:
        """It as a candidate like any other."""
        if self.function is not None:
            return of_function(Function(name=self.name, call=self.function))
        assert self.gradient is not None
        return dataclasses.replace(computed(self.name, self.gradient), watched=self.watched)


@cache
def mistakes() -> dict[str, Planted]:
    """Every mistake by name, subject by subject."""
    return _all("MISTAKES")


@cache
def sound() -> dict[str, Planted]:
    """Every sound variant by name."""
    return _all("SOUND")


def select(globs: Iterable[str]) -> list[Planted]:
    """The mistakes and sound variants whose names match any of the shell-style patterns; all where there is none.

    Raises:
        UnknownNameError: for a pattern that matches nothing.
    """
    return list(plugins.matching("mistake", mistakes() | sound(), globs).values())


def _all(attribute: str) -> dict[str, Planted]:
    here = sys.modules[__name__]
    found: dict[str, Planted] = {}
    for name in plugins.names(here):
        for planted in getattr(plugins.load(here, "subject", name), attribute, ()):
            assert planted.name not in found, planted.name
            found[planted.name] = planted
    return found


def with_softmax(softmax: Softmax) -> Gradient:
    """The closed form with a softmax of the mistake's own."""
    return lambda problem: closed_form.gradient(problem, softmax)


def altered(problem: Problem, **fields: Any) -> Problem:
    """The problem with other fields: a mistake about the question.

    Raises:
        NotApplicableError: where that is no problem.
    """
    try:
        return dataclasses.replace(problem, **fields)
    except InputError as error:
        raise NotApplicableError(f"the mistake makes no problem of it: {error}") from None


def without(problem: Problem, *names: str) -> Problem:
    """The problem with some loss options forgotten."""
    return altered(problem, loss=tuple(option for option in problem.loss if option.name not in names))


def value_of(problem: Problem, name: str) -> str | None:
    """The value of a loss option, or None where it is not given."""
    return next((option.value for option in problem.loss if option.name == name), None)


def reweighed(problem: Problem, terms: Terms) -> Problem:
    """The problem with other terms: a mistake about the loss."""
    found = dataclasses.replace(problem)
    found.__dict__["terms"] = terms
    return found


def hard(problem: Problem) -> Array:
    """The labels as classes, (N,).

    Raises:
        NotApplicableError: where they are soft.
    """
    if problem.labels.ndim == 2:
        raise NotApplicableError("the mistake is one of hard labels")
    return np.asarray(problem.labels)
