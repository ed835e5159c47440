"""The stability catalogue: named problems, each with the reason it exists. One file a phenomenon.

A file holds `CASES`, a tuple of `Case`. Logits are given as exact float64 values and rounded once into each format;
a case exists in every format whose range holds its logits.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from gradcheck import losses, plugins
from gradcheck.exceptions import UnknownNameError
from gradcheck.formats import Array, Float64, Format
from gradcheck.problem import Problem

Logits = Float64 | Sequence[Sequence[float]]
Labels = Array | Sequence[int] | Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A named problem of the catalogue.

    Attributes:
        reason: what it is for, in one sentence.
        make: logits (N, k) and labels, hard (N,) or soft (N, k), for a format; None where the format has no such case.
        loss: loss options as KEY=VALUE.
    """

    name: str
    reason: str
    make: Callable[[Format], tuple[Logits, Labels] | None]
    loss: tuple[str, ...] = ()

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
            labels = fmt.round_array(labels.astype(np.float64))
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
            found[case.name] = case
    return found


def select(globs: Iterable[str]) -> list[Case]:
    """The cases whose names match any of the shell-style patterns, in catalogue order; all where there is none.

    Raises:
        UnknownNameError: for a pattern that matches nothing.
    """
    known = cases()
    patterns = list(globs)
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise UnknownNameError("case", pattern, known)
    return [case for name, case in known.items() if not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)]
