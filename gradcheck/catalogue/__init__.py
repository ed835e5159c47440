"""The stability catalogue: named problems, each with the reason it exists. One file a phenomenon.

A file holds `CASES`, a tuple of `Case`; its docstring is the story of the phenomenon, which `gradcheck explain` tells.
Logits are given as exact float64 values and rounded once into each format; a case exists in every format whose range
holds its logits.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from gradcheck import losses, plugins
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import Array, Float64, Format
from gradcheck.problem import Problem

LARGE = "large"
"""The tag of cases that only those run who ask for them."""
HARD, SOFT = "hard", "soft"
"""The tags of cases whose labels are class numbers, (N,), and of those whose labels are (N, k)."""

Logits = Float64 | Sequence[Sequence[float]]
Labels = Array | Sequence[int] | Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A named problem of the catalogue.

    Attributes:
        reason: what it is for, in one sentence.
        make: logits (N, k) and labels, hard (N,) or soft (N, k), for a format; None where the format has no such case.
        loss: loss options as KEY=VALUE.
        tags: what it can be selected by, the phenomenon first, HARD or SOFT among them.
        sources: the threads that it comes from, as OWNER/REPOSITORY#NUMBER.
    """

    name: str
    reason: str
    make: Callable[[Format], tuple[Logits, Labels] | None]
    loss: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def phenomenon(self) -> str:
        """The file of the catalogue that it stands in."""
        return self.tags[0]

    def problem(self, fmt: Format) -> Problem | None:
        """The problem in a format, or None where the format cannot hold it."""
        made = self.make(fmt)
        if made is None:
            return None
        exact = np.asarray(made[0], dtype=np.float64)
        logits = fmt.round_array(exact)
        if not np.array_equal(np.isinf(exact), np.isinf(logits.astype(np.float64))):
            return None
        labels = np.asarray(made[1])
        if labels.ndim == 2:
            labels = fmt.round_array(labels)
        return Problem(
            logits=logits,
            labels=labels if labels.ndim == 2 else labels.astype(np.int64),
            format=fmt,
            loss=losses.parse(self.loss),
        )


def fixed(logits: Logits, labels: Labels) -> Callable[[Format], tuple[Logits, Labels]]:
    """A `make` with the same exact numbers in every format."""
    return lambda fmt: (logits, labels)


@cache
def cases() -> dict[str, Case]:
    """Every case by name, phenomenon by phenomenon."""
    here = sys.modules[__name__]
    found: dict[str, Case] = {}
    for name in plugins.names(here):
        for case in plugins.load(here, "phenomenon", name).CASES:
            assert case.name not in found, case.name
            own = (name, *case.tags)
            found[case.name] = dataclasses.replace(case, tags=own if SOFT in own else (*own, HARD))
    return found


def story(case: Case) -> str:
    """What there is to know of the case's phenomenon."""
    first, rest = plugins.documented(sys.modules[__name__], case.phenomenon)
    return f"{first}.\n\n{rest}".strip()


def tags() -> dict[str, int]:
    """Every tag with the number of cases that carry it: the phenomena first."""
    found = [
        *plugins.names(sys.modules[__name__]),
        *sorted({tag for case in cases().values() for tag in case.tags[1:]}),
    ]
    return {tag: sum(tag in case.tags for case in cases().values()) for tag in dict.fromkeys(found)}


def select(globs: Iterable[str] = (), tagged: Iterable[str] = ()) -> list[Case]:
    """The cases whose names match any of the shell-style patterns and that carry any of the tags, in catalogue order.

    Without patterns every name will do, without tags every tag. A case that is tagged `large` must be asked for: by its
    name, by that tag, or by a tag that only large cases carry.

    Raises:
        UnknownNameError: for a pattern that matches nothing, or a tag that no case carries.
        UsageError: where no case fits both.
    """
    patterns, wanted = list(globs), list(tagged)
    named = plugins.matching("case", cases(), patterns)
    for tag in wanted:
        if tag not in tags():
            raise UnknownNameError("tag", tag, tags())
    found = [case for case in named.values() if not wanted or any(tag in case.tags for tag in wanted)]
    if not patterns and LARGE not in wanted:
        found = [case for case in found if LARGE not in case.tags] or found
    if not found:
        raise UsageError(f"no case is both named {' or '.join(patterns)} and tagged {' or '.join(wanted)}")
    return found
