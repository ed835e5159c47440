"""Problem × candidate → result: the only place where candidate and reference meet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradcheck import diagnosis, formats, observing, reference
from gradcheck.batch import Batch
from gradcheck.candidates import Answer, Candidate
from gradcheck.exact import Dyadic, total
from gradcheck.exceptions import CrashedError, InputError, NotApplicableError
from gradcheck.formats import Array, Format
from gradcheck.metrics import Comparison, Decision, decide, failing, measure_gradient
from gradcheck.problem import Problem, RowStatus
from gradcheck.profiles import Profile, profile
from gradcheck.reference import Reference, engines
from gradcheck.reference.engines import Each
from gradcheck.reference.rule import SHARPEST_TARGET_BITS
from gradcheck.reference.values import ExactGradient
from gradcheck.results import (
    Conduct,
    Crashed,
    Judged,
    Outcome,
    ReferenceFacts,
    Result,
    Skipped,
    Sufficient,
    Verdict,
    verdict_of,
)
from gradcheck.screening import ClosedForm
from gradcheck.tolerances import Limits, Tolerance, limits_of, stable_bound


@dataclass(frozen=True, kw_only=True)
class How:
    """By what, and how closely, gradients are judged.

    Attributes:
        settings: how references are made.
        gradient_format: the format to judge in; None takes the gradient array's own.
        flush: whether flushed subnormals are within the bound that is reported.
        repeat: how often code that may answer otherwise is asked; the worst answer is judged.
        top: how many components of each result to name, the worst first.
        diagnosed: whether a failure is explained, which takes as long as some ten checks.
        profiled: whether it is noted where the errors are.
        valued: whether the loss itself is evaluated, which takes another pass over the classes.
    """

    tolerance: Tolerance
    settings: reference.Settings
    gradient_format: Format | None = None
    flush: bool = False
    repeat: int = 1
    top: int = 0
    diagnosed: bool = True
    profiled: bool = True
    valued: bool = True


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of one candidate."""

    candidate: str
    gradient_format: Format
    outcome: Outcome


Exactly = Callable[[Problem, Format], ExactGradient]
"""How the exact gradient of a problem comes about, for gradients in a format."""


def check(
    problem: Problem,
    candidates: Iterable[Candidate],
    how: How,
    *,
    case: str,
    exactly: Exactly | None = None,
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """One result for each candidate, as it is found; see `outcomes`."""
    for found in outcomes(problem, candidates, how, exactly=exactly, on_row=on_row):
        yield result(problem, how, found, case=case, digest=problem.digest)


def result(checked: Problem | Batch, how: How, found: Found, *, case: str, digest: str) -> Result:
    """What was found, and of what."""
    return Result(
        case=case,
        candidate=found.candidate,
        format=checked.format,
        gradient_format=found.gradient_format,
        loss={option.name: option.value for option in checked.loss},
        rows=checked.rows,
        classes=checked.classes,
        tolerance=str(how.tolerance),
        outcome=found.outcome,
        digest=digest,
    )


def outcomes(
    problem: Problem,
    candidates: Iterable[Candidate],
    how: How,
    *,
    exactly: Exactly | None = None,
    on_row: Callable[[], None] = lambda: None,
    each: Each = map,
) -> Iterator[Found]:
    """What there is to say of each candidate; the reference is made once for each gradient format.

    Args:
        exactly: makes exact gradients; None makes central differences.
        on_row: called after each row of central differences, for whoever shows progress.
        each: shares a row of many classes among processes.
    """
    make = exactly or (lambda problem, fmt: reference.compute(problem, fmt, how.settings, on_row, each))
    references: dict[str, ExactGradient] = {}
    for candidate in candidates:
        found = how.gradient_format or problem.format
        outcome: Outcome
        if bool((problem.status == RowStatus.UNDEFINED).all()):
            outcome = Skipped(reason=f"every row is undefined: {_undefined(problem)}")
        else:
            try:
                with np.errstate(all="ignore"):
                    answers = [candidate.answer(problem) for _ in range(how.repeat if candidate.watched else 1)]
            except NotApplicableError as skip:
                outcome = Skipped(reason=str(skip))
            except CrashedError as crash:
                outcome = Crashed(reason=str(crash))
            else:
                found = how.gradient_format or format_of(answers[0].gradient)
                if found.name not in references:
                    references[found.name] = make(problem, found)
                outcome, references[found.name] = _judge(problem, candidate, answers, references[found.name], how)
                if how.diagnosed:
                    outcome = _diagnosed(problem, answers, outcome, references[found.name], how)
        yield Found(candidate=candidate.name, gradient_format=found, outcome=outcome)


def _undefined(problem: Problem) -> str:
    if problem.terms.undefined:
        return "the mean divides by class weights that add up to 0 (--loss empty=zero makes that 0)"
    return "NaN, +inf, or nothing but -inf among its logits"


def format_of(gradient: Array) -> Format:
    """The format of a gradient.

    Raises:
        InputError: where it is none.
    """
    found = formats.of_dtype(gradient.dtype)
    if found is None:
        raise InputError(f"the gradient is {gradient.dtype}; expected one of {', '.join(formats.FORMATS)}")
    return found


@np.errstate(all="ignore")
def _judge(
    problem: Problem,
    candidate: Candidate,
    answers: Sequence[Answer],
    exact: ExactGradient,
    how: How,
) -> tuple[Outcome, ExactGradient]:
    """The verdict on the worst answer, and the reference as refined as it took."""
    outcome: Outcome | None = None
    for answer in answers:
        if answer.gradient.shape != problem.logits.shape:
            shape = f"the gradient has shape {answer.gradient.shape}, the logits {problem.logits.shape}"
            return Crashed(reason=shape), exact
        tried, exact = _judge_one(problem, answer.gradient, exact, how)
        if outcome is None or (outcome.verdict is Verdict.PASS and tried.verdict is not Verdict.PASS):
            outcome, judged = tried, answer
    assert isinstance(outcome, Judged)
    rearranged = None
    if candidate.watched and outcome.verdict is Verdict.PASS:
        bound = stable_bound(exact, flush=how.flush)
        limits = limits_of(how.tolerance, exact, flush=how.flush)
        rearranged = observing.permuted(problem, candidate, exact, limits, bound)
    known = outcome.loss
    if isinstance(exact, ClosedForm) and judged.loss is not None:
        known = exact.loss
    conduct = Conduct(
        changed=tuple(dict.fromkeys(name for answer in answers for name in answer.changed)),
        repeats=observing.repeats(exact, answers),
        permuted=rearranged,
        spread=observing.spread(problem, candidate, judged.gradient) if candidate.watched else 0,
        loss=None if known is None else observing.loss_value(problem, candidate, judged, known, exact),
    )
    verdict = Verdict.FAIL if conduct.wrong else outcome.verdict
    return dataclasses.replace(outcome, conduct=conduct, verdict=verdict), exact


def _diagnosed(
    problem: Problem,
    answers: Sequence[Answer],
    outcome: Outcome,
    exact: ExactGradient,
    how: How,
) -> Outcome:
    """The outcome with what explains its failure: that of the first answer that fails."""
    if not isinstance(outcome, Judged) or not outcome.decision.failed:
        return outcome
    bound = stable_bound(exact, flush=how.flush)
    limits = limits_of(how.tolerance, exact, flush=how.flush)
    for answer in answers:
        failed = failing(Comparison(exact, answer.gradient), limits)
        if failed.any():
            found = diagnosis.diagnose(problem, answer.gradient, exact, bound, failed, summed=answer.summed)
            return dataclasses.replace(outcome, diagnosis=found)
    return outcome


def _judge_one(problem: Problem, gradient: Array, exact: ExactGradient, how: How) -> tuple[Judged, ExactGradient]:
    """The verdict on one gradient, and the reference as refined as it took."""

    def limits(exact: ExactGradient) -> Limits:
        return limits_of(how.tolerance, exact, flush=how.flush)

    bound, comparison = stable_bound(exact, flush=how.flush), Comparison(exact, gradient)
    decision = decide(comparison, limits(exact))
    sufficient = None
    if not isinstance(exact, Reference):
        pass  # frozen values are as sharp as they will be
    elif not exact.settings.fixed:
        decision, sharper = _sharpen(problem, gradient, exact, limits, decision)
        if sharper is not exact:
            exact, comparison = sharper, Comparison(sharper, gradient)
            bound = stable_bound(exact, flush=how.flush)
    elif verdict_of(decision) is Verdict.INCONCLUSIVE:
        sufficient = _sufficient(problem, gradient, exact, limits)
    if how.top:
        named = decide(comparison, limits(exact), top=how.top).top
        decision = dataclasses.replace(decision, top=named)
    outcome = Judged(
        verdict=verdict_of(decision),
        measures=measure_gradient(problem, exact, comparison, bound, flush=how.flush),
        decision=decision,
        reference=_facts(exact) if isinstance(exact, Reference) else None,
        loss=_loss(problem, exact) if isinstance(exact, Reference) and how.valued else None,
        sufficient=sufficient,
        profile=profile(problem, comparison, bound) if how.profiled else Profile(),
    )
    return outcome, exact


def _sharpen(
    problem: Problem,
    gradient: Array,
    exact: Reference,
    limits: Callable[[Reference], Limits],
    decision: Decision,
) -> tuple[Decision, Reference]:
    """Rows that the uncertainty leaves undecided, made again with twice the digits (Ziv's strategy)."""
    target_bits = exact.settings.target_bits
    while decision.undecided_rows and not decision.failed and target_bits < SHARPEST_TARGET_BITS:
        target_bits *= 2
        exact = reference.refine(problem, exact, decision.undecided_rows, target_bits)
        decision = decide(Comparison(exact, gradient), limits(exact))
    return decision, exact


def _sufficient(
    problem: Problem, gradient: Array, exact: Reference, limits: Callable[[Reference], Limits]
) -> Sufficient | None:
    """The digits and step that decide what the user's own do not: those that the program itself would take."""
    settings = dataclasses.replace(exact.settings, digits=None, step_log2=None)
    free = reference.compute(problem, exact.values.format, settings)
    decision = decide(Comparison(free, gradient), limits(free))
    decision, free = _sharpen(problem, gradient, free, limits, decision)
    if verdict_of(decision) is Verdict.INCONCLUSIVE:
        return None
    step_log2 = min(plan.step_log2 for plan in free.plans)
    # with one step for all rows, a row whose own step is larger needs that many bits more
    bits = max(plan.precision_bits + plan.step_log2 - step_log2 for plan in free.plans)
    return Sufficient(digits=math.ceil(bits * math.log10(2)), step_log2=step_log2)


def _facts(exact: Reference) -> ReferenceFacts | None:
    plans = exact.plans
    if not plans:
        return None
    return ReferenceFacts(
        engine=exact.settings.engine,
        method=exact.settings.method,
        order=exact.settings.order,
        step_log2=min(plan.step_log2 for plan in plans),
        precision_bits=max(plan.precision_bits for plan in plans),
        uncertainty_ulp=float(exact.values.in_ulps(exact.values.uncertainty).max()),
        certified=engines.load(exact.settings.engine).CERTIFIED,
        evaluations=exact.evaluations,
    )


def _loss(problem: Problem, exact: Reference) -> Dyadic | float:
    """The loss over all rows that have one; infinite where a row's is, NaN where a mean is over nothing."""
    if not problem.terms.kept.any() or problem.terms.undefined:
        return problem.terms.empty_loss
    rows = [row.loss for row in exact.rows if row is not None]
    infinite = [loss for loss in rows if isinstance(loss, float)]
    return sum(infinite) if infinite else total(loss for loss in rows if isinstance(loss, Dyadic))
