"""The catalogue: every case is valid and decided in each format that it claims, and makes the same numbers always."""

from __future__ import annotations

import numpy as np
import pytest

from gradcheck import catalogue, reference
from gradcheck.catalogue import Case
from gradcheck.exceptions import UnknownNameError
from gradcheck.formats import Format, named
from gradcheck.reference import Settings
from gradcheck.reference.rule import TARGET_BITS
from tests.conftest import EVERY_FORMAT

CATALOGUE = list(catalogue.cases().values())


def test_there_are_enough() -> None:
    assert len(CATALOGUE) >= 30
    by_default = sum(case.problem(named(name)) is not None for case in CATALOGUE for name in ("float32", "float64"))
    assert by_default >= 50


@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_a_case_says_what_it_is_for(case: Case) -> None:
    assert case.reason.endswith(".")
    assert case.name == case.name.lower()
    assert any(case.problem(fmt) is not None for fmt in EVERY_FORMAT)


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_a_case_is_decided_in_every_format_that_holds_it(case: Case, fmt: Format) -> None:
    problem = case.problem(fmt)
    if problem is None:
        made = case.make(fmt)
        assert made is None or np.nanmax(np.abs(np.asarray(made[0]))) > fmt.max
        return
    again = case.problem(fmt)
    assert again is not None
    assert problem.logits.tobytes() == again.logits.tobytes()
    assert problem.labels.tobytes() == again.labels.tobytes()
    assert any(row is not None for row in problem.distinct)
    exact = reference.compute(problem, fmt, Settings())
    assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS


def test_selection() -> None:
    assert [case.name for case in catalogue.select(["plain-3", "equal-*"])] == [
        name for name in catalogue.cases() if name == "plain-3" or name.startswith("equal-")
    ]
    assert len(catalogue.select([])) == len(CATALOGUE)
    with pytest.raises(UnknownNameError, match="did you mean 'plain-3'"):
        catalogue.select(["plian-3"])


def test_a_format_that_cannot_hold_a_case_has_none() -> None:
    assert catalogue.cases()["saturated-gap-1e300"].problem(named("float32")) is None
    assert catalogue.cases()["saturated-gap-1e300"].problem(named("float64")) is not None
