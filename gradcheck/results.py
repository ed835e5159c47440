"""Results of checks: facts, frozen. `gradcheck.report` says how they look, the command line how the program ends."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from gradcheck.exact import Dyadic
from gradcheck.formats import Format
from gradcheck.metrics import Decision, Measures


class Verdict(enum.StrEnum):
    """What can be said of a candidate on a problem."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"
    CRASHED = "crashed"


def verdict_of(decision: Decision) -> Verdict:
    """What follows from a decision: certain failures first, then what is left open."""
    if decision.failed:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE if decision.undecided_rows else Verdict.PASS


@dataclass(frozen=True, kw_only=True)
class ReferenceFacts:
    """How the reference was made; of several rows the finest step, the most bits, the largest uncertainty."""

    engine: str
    method: str
    order: int
    step_log2: int
    precision_bits: int
    uncertainty_ulp: float
    certified: bool
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class Sufficient:
    """Working digits and a step that decide a result."""

    digits: int
    step_log2: int


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The candidate gave a gradient and the reference was made."""

    verdict: Verdict
    measures: Measures
    decision: Decision
    reference: ReferenceFacts | None
    loss: Dyadic | float | None
    """Of all rows; None where the question was about another function."""
    sufficient: Sufficient | None = None
    """What would decide an inconclusive result, where the user's own digits or step did not."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """There was nothing to judge, and why."""

    reason: str
    verdict: Verdict = field(default=Verdict.SKIPPED, init=False)


@dataclass(frozen=True, kw_only=True)
class Crashed:
    """The candidate gave no gradient, and why."""

    reason: str
    verdict: Verdict = field(default=Verdict.CRASHED, init=False)


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """Frozen values that central differences confirm.

    Attributes:
        edited: whether the fixture is not as it was recorded.
    """

    values: int
    edited: bool
    verdict: Verdict = field(default=Verdict.PASS, init=False)


@dataclass(frozen=True, kw_only=True)
class Unconfirmed:
    """Frozen values that central differences do not confirm; the place is that of the first one."""

    row: int
    cls: int
    frozen: Dyadic | float
    derived: Dyadic | float
    wrong: int
    values: int
    verdict: Verdict = field(default=Verdict.FAIL, init=False)


Outcome = Judged | Skipped | Crashed | Confirmed | Unconfirmed


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """Which step of the derivation a result is about.

    Attributes:
        logits: where a step has a value for each class and each logit, the class whose logit each checked row is
            about; None elsewhere.
        columns: how many of the logits were looked at in each row; None where a step does not go by logits.
        by_class: False where the step has a single value for the row.
        zeros: probabilities by which the step divides that are 0 in the format; thin: factors of its products below
            the normal range; beyond: exact values past the format's largest.
        values: where the function itself is judged beside its derivative, which checked rows hold its values.
    """

    name: str
    formula: str
    logits: tuple[int, ...] | None = None
    columns: int | None = None
    by_class: bool = True
    zeros: int = 0
    thin: int = 0
    beyond: int = 0
    values: tuple[bool, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One candidate on one problem.

    Attributes:
        case: the case's name, or the file's path.
        format: the logits' format; gradient_format: the one that the gradient is judged in.
        again: the command that shows this result again.
        row_numbers: where only some rows of the input were checked, their numbers in the input.
        step: where a step of the derivation was checked, not a gradient.
        known: whether a baseline holds the same, or worse.
        digest: tells problems apart: over logits, labels, loss and format.
    """

    case: str
    candidate: str
    format: Format
    gradient_format: Format
    loss: Mapping[str, str]
    rows: int
    classes: int
    tolerance: str
    outcome: Outcome
    again: str = ""
    row_numbers: tuple[int, ...] | None = None
    step: StepFacts | None = None
    known: bool = False
    digest: str = ""

    def row_number(self, row: int) -> int:
        """The number that a checked row has in the input."""
        return row if self.row_numbers is None else self.row_numbers[row]

    @property
    def verdict(self) -> Verdict:
        """The outcome's verdict."""
        return self.outcome.verdict


@dataclass(frozen=True, kw_only=True)
class Report:
    """All results of one run.

    Attributes:
        version: gradcheck's own.
        settings: what the run was asked to do, by option name.
        notes: what a reader must know of the input: a cast, a sample, rows left out.
    """

    version: str
    settings: Mapping[str, object]
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[Verdict, int]:
        """How many results have each verdict."""
        return {verdict: sum(result.verdict is verdict for result in self.results) for verdict in Verdict}
