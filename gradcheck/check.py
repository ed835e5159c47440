"""Problem × candidate → result: the only place where candidate and reference meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from gradcheck import formats, reference
from gradcheck.candidates import Candidate
from gradcheck.exact import Dyadic, total
from gradcheck.exceptions import InputError, NotApplicableError
from gradcheck.formats import Array, Format
from gradcheck.metrics import Decision, decide, measure
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Reference
from gradcheck.reference import mpmath as engine
from gradcheck.reference.rule import PRECISION_CAP_BITS
from gradcheck.results import Crashed, Judged, Outcome, ReferenceFacts, Result, Skipped, Verdict
from gradcheck.tolerances import Tolerance


def check(
    problem: Problem,
    candidates: Iterable[Candidate],
    *,
    case: str,
    tolerance: Tolerance,
    settings: reference.Settings,
    gradient_format: Format | None = None,
    flush: bool = False,
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """One result for each candidate, as it is found; the reference is made once for each gradient format.

    Args:
        gradient_format: the format to judge in; None takes the gradient array's own.
        flush: whether flushed subnormals are within the bound that is reported.
        on_row: called after each row of a reference, for whoever shows progress.
    """
    references: dict[str, Reference] = {}
    for candidate in candidates:
        found: Format = gradient_format or problem.format
        outcome: Outcome
        if bool((problem.status == RowStatus.UNDEFINED).all()):
            outcome = Skipped(reason="every row is undefined: NaN, +inf, or nothing but -inf among its logits")
        else:
            try:
                with np.errstate(all="ignore"):
                    gradient = candidate.gradient(problem)
            except NotApplicableError as skip:
                outcome = Skipped(reason=str(skip))
            else:
                found = gradient_format or _format_of(gradient, problem)
                if found.name not in references:
                    references[found.name] = reference.compute(problem, found, settings, on_row)
                outcome, references[found.name] = _judge(
                    problem, gradient, references[found.name], tolerance, flush=flush
                )
        yield Result(
            case=case,
            candidate=candidate.name,
            format=problem.format,
            gradient_format=found,
            loss={option.name: option.value for option in problem.loss},
            rows=problem.rows,
            classes=problem.classes,
            tolerance=str(tolerance),
            outcome=outcome,
        )


def _format_of(gradient: Array, problem: Problem) -> Format:
    found = formats.of_dtype(gradient.dtype)
    if found is None:
        raise InputError(f"the gradient is {gradient.dtype}; expected one of {', '.join(formats.FORMATS)}")
    return found


def _judge(
    problem: Problem, gradient: Array, exact: Reference, tolerance: Tolerance, *, flush: bool
) -> tuple[Outcome, Reference]:
    """The verdict, and the reference as refined as it took (Ziv's strategy, now against the limit itself)."""
    if gradient.shape != problem.logits.shape:
        shape = f"the gradient has shape {gradient.shape}, the logits {problem.logits.shape}"
        return Crashed(reason=shape), exact
    decision = decide(exact, gradient, tolerance.limits(exact))
    target_bits = exact.settings.target_bits
    while decision.undecided_rows and not decision.failed and not exact.settings.fixed:
        target_bits *= 2
        if target_bits > PRECISION_CAP_BITS // 4:
            break
        exact = reference.refine(problem, exact, decision.undecided_rows, target_bits)
        decision = decide(exact, gradient, tolerance.limits(exact))
    outcome = Judged(
        verdict=_verdict(decision),
        measures=measure(problem, exact, gradient, flush=flush),
        decision=decision,
        reference=_facts(exact),
        loss=_loss(problem, exact),
        sufficient_digits=(
            reference.sufficient_digits(problem, exact.format)
            if exact.settings.fixed and _verdict(decision) is Verdict.INCONCLUSIVE
            else None
        ),
    )
    return outcome, exact


def _verdict(decision: Decision) -> Verdict:
    if decision.failed:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE if decision.undecided_rows else Verdict.PASS


def _facts(exact: Reference) -> ReferenceFacts | None:
    plans = exact.plans
    if not plans:
        return None
    return ReferenceFacts(
        engine=engine.NAME,
        method=exact.settings.method,
        order=2,
        step_log2=min(plan.step_log2 for plan in plans),
        precision_bits=max(plan.precision_bits for plan in plans),
        uncertainty_ulp=float(exact.in_ulps(exact.uncertainty).max()),
        certified=engine.CERTIFIED,
        evaluations=exact.evaluations,
    )


def _loss(problem: Problem, exact: Reference) -> Dyadic | float:
    """The loss over all rows that have one; inf where a row's is, NaN where every row is ignored under a mean."""
    rows = [row.loss for row in exact.rows if row is not None]
    if any(isinstance(loss, float) for loss in rows):
        return math.inf
    return (
        total(loss for loss in rows if isinstance(loss, Dyadic))
        if problem.terms.kept.any()
        else problem.terms.empty_loss
    )
