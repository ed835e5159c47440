"""Fixtures checked: candidates against the frozen values, and the frozen values against central differences."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from gradcheck import candidates, checking, fixtures, tolerances
from gradcheck.candidates import Candidate
from gradcheck.exceptions import UsageError
from gradcheck.fixtures import Fixture
from gradcheck.reference import Settings
from gradcheck.results import Confirmed, Crashed, Outcome, Result, Unconfirmed

FROZEN = "frozen values"
"""What stands in a candidate's place where the fixture itself is checked."""


def verify(
    fixture: Fixture,
    *,
    deep: bool = False,
    chosen: Sequence[Candidate] | None = None,
    tolerance: str | None = None,
) -> Iterator[Result]:
    """One result for each candidate, and one for the frozen values where they are derived again.

    Args:
        deep: whether they are; they always are where the fixture is not as it was recorded.
        chosen, tolerance: in place of the fixture's own.

    Raises:
        UsageError: for a candidate or tolerance that there is not.
    """
    again = f"gradcheck fixtures verify {shlex.quote(str(fixture.path))} --deep"
    try:
        rule = tolerances.parse(tolerance or fixture.tolerance)
        tried = [candidates.load(name) for name in fixture.candidates] if chosen is None else chosen
    except UsageError as error:
        raise UsageError(f"{fixture.title}: {error}") from None

    def of_itself(outcome: Outcome) -> Result:
        return Result(
            case=fixture.title,
            candidate=FROZEN,
            format=fixture.problem.format,
            gradient_format=fixture.problem.format,
            loss={option.name: option.value for option in fixture.problem.loss},
            rows=fixture.problem.rows,
            classes=fixture.problem.classes,
            tolerance=str(rule),
            outcome=outcome,
            digest=fixture.problem.digest,
            again=again,
        )

    if fixture.expected is None:
        update = f"gradcheck fixtures update {shlex.quote(str(fixture.path))}"
        yield of_itself(Crashed(reason=f"has no expected values yet; {update} derives them"))
        return
    if deep or fixture.edited:
        derived = fixtures.derive(fixture.problem)
        wrong = fixtures.mismatches(fixture, derived)
        values = int(derived.judged.sum()) * fixture.problem.classes
        if wrong:
            first = wrong[0]
            outcome = Unconfirmed(
                row=first.row,
                cls=first.cls,
                frozen=first.frozen,
                derived=first.derived,
                wrong=len(wrong),
                values=values,
            )
            yield of_itself(outcome)
            return
        if values:
            yield of_itself(Confirmed(values=values, edited=fixture.edited))
    yield from checking.check(
        fixture.problem,
        tried,
        checking.How(tolerance=rule, settings=Settings()),
        case=fixture.title,
        exactly=lambda _, fmt: fixture.frozen(fmt),
    )
