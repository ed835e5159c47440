"""Results of checks: facts, frozen. `gradcheck.report` says how they look, the command line how the program ends."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from gradcheck.diagnosis import Finding
from gradcheck.exact import Dyadic
from gradcheck.formats import Format
from gradcheck.metrics import Decision, Extreme, Measures
from gradcheck.profiles import Profile


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
class Repeats:
    """Answers to the same question that differ.

    Attributes:
        runs: how often it was asked.
        components: of the gradient, that are not the same in all answers.
        most_ulp: by how much they differ at most, in ulps of the exact value.
        row, cls: where that is.
    """

    runs: int
    components: int
    most_ulp: float
    row: int
    cls: int


@dataclass(frozen=True, kw_only=True)
class Permuted:
    """What the same rows and classes in another order make of the answer.

    Attributes:
        crash: why there was no answer; empty where there was one.
        components: past both the limit and the `stable` bound, in that order alone.
        worst: the furthest of them, at its place in the problem's own order.
    """

    crash: str = ""
    components: int = 0
    worst: Extreme | None = None


@dataclass(frozen=True, kw_only=True)
class LossValue:
    """The loss that came with the gradient, and is not the one that is described.

    Attributes:
        ratio: it over the exact loss; NaN where that is 0 or infinite.
        disowned: whether it is the loss that is described, over a number of rows or times it, of which a framework has
            made the gradient: one that is not off by as much is not that of the loss.
    """

    value: float
    ratio: float
    disowned: bool = False


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """What was noticed of the code itself, beside its gradient.

    Attributes:
        changed: the inputs that it wrote to.
        spread: judged rows that are finite only where rows of NaN or inf are left out of the batch.
    """

    changed: tuple[str, ...] = ()
    repeats: Repeats | None = None
    permuted: Permuted | None = None
    spread: int = 0
    loss: LossValue | None = None

    @property
    def wrong(self) -> bool:
        """Whether it fails a gradient that is right as it stands."""
        return bool(self.changed) or self.permuted is not None or (self.loss is not None and self.loss.disowned)


@dataclass(frozen=True, kw_only=True)
class Screened:
    """How many components were decided how, where the closed form in float64 came first.

    Attributes:
        bound: by the closed form and its error bound.
        differences: by central differences: those that were left undecided, of the largest errors, or drawn at random.
        undecided, drawn: how many of them were undecided, and drawn.
        rows: the rows that central differences were made in.
    """

    bound: int
    differences: int
    undecided: int
    drawn: int
    rows: int


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
    conduct: Conduct = Conduct()
    diagnosis: tuple[Finding, ...] = ()
    """What explains a failure, the likeliest first."""
    profile: Profile = field(default_factory=Profile)
    """Where its errors are; nothing where the question was about another function."""
    screened: Screened | None = None
    """None where every component was compared with a central difference."""


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


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A candidate of which it is known whether it is right, and what was said of it.

    Attributes:
        by: what is to show that it is wrong, a tolerance or what is noticed beside the verdict; empty of a sound one.
        shown: whether that showed it; of a sound one, whether anything was held against it.
        judged: what was measured at the case; None where that gave nothing to judge, and `why` says why.
        caught: the cases on which `stable` fails it, or of a sound one whatever is held against it.
        cases: how many it was tried on.
    """

    by: str
    shown: bool
    judged: Judged | None
    caught: tuple[str, ...]
    cases: int
    why: str = ""

    @property
    def verdict(self) -> Verdict:
        """Pass where what is wrong was shown, and what is right was not."""
        return Verdict.PASS if self.shown == bool(self.by) else Verdict.FAIL


Outcome = Judged | Skipped | Crashed | Confirmed | Unconfirmed | Tried


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
        unreached: rows that were left when the run was interrupted.
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
    unreached: int = 0

    def row_number(self, row: int) -> int:
        """The number that a checked row has in the input."""
        return row if self.row_numbers is None else self.row_numbers[row]

    @property
    def verdict(self) -> Verdict:
        """The outcome's verdict."""
        return self.outcome.verdict

    @property
    def judged(self) -> Judged | None:
        """What was measured, if anything was."""
        match self.outcome:
            case Judged() as judged:
                return judged
            case Tried(judged=judged):
                return judged
            case _:
                return None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All results of one run.

    Attributes:
        version: gradcheck's own.
        settings: what the run was asked to do, by option name.
        notes: what a reader must know of the input: a cast, a sample, rows left out.
        environment: what it was made with, each by its version or name; see `versions.environment`.
    """

    version: str
    settings: Mapping[str, object]
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there are results, and every one of them passed."""
        return bool(self.results) and all(result.verdict is Verdict.PASS for result in self.results)

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The candidates of which every result is skipped."""
        judged = {result.candidate for result in self.results if result.verdict is not Verdict.SKIPPED}
        return tuple(dict.fromkeys(result.candidate for result in self.results if result.candidate not in judged))

    @property
    def summary(self) -> dict[Verdict, int]:
        """How many results have each verdict."""
        return {verdict: sum(result.verdict is verdict for result in self.results) for verdict in Verdict}
