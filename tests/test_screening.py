"""The closed form as a filter: what it decides is what central differences decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from gradcheck import candidates, catalogue, checking, mistakes, reference, streaming, tolerances
from gradcheck.batch import Batch
from gradcheck.checking import How
from gradcheck.estimates import estimate_rows
from gradcheck.exceptions import NotApplicableError, UsageError
from gradcheck.formats import Array, named
from gradcheck.metrics import Comparison
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Settings
from gradcheck.results import Judged, Outcome, Verdict
from gradcheck.screening import ClosedForm
from gradcheck.streaming import Screening
from gradcheck.tolerances import stable_bound
from tests.conftest import WHOLE, make_problem

NARROW = ("float16", "bfloat16", "float32")
QUICK = Settings(engine="flint")
RULES = ("stable", "ulp:4", "rel:1e-6", "torch", "norm:1e-6", "abs:1e-7")


def screened(problem: Problem, gradient: Array, how: How, certify: int = 3) -> Outcome:
    """What is found of a gradient that is screened."""
    (result,) = streaming.check(
        Batch.of(problem),
        [candidates.given("given", gradient)],
        how,
        case="x",
        screening=Screening(wanted=True, certify=certify),
    )
    return result.outcome


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(np.exp, mpmath.exp), (np.log1p, mpmath.log1p), (np.tanh, mpmath.tanh)],
    ids=lambda f: f.__name__,
)
def test_functions_are_as_good_as_is_assumed(ours: Callable[[Any], Any], theirs: Callable[[Any], Any]) -> None:
    """4 ulp: the bound of the closed form's error stands on it."""
    rng = np.random.default_rng(0)
    size = np.concatenate([rng.uniform(0, 700, 1500), 2.0 ** rng.uniform(-40, 9, 1500)])
    points = -size if ours is np.exp else size
    with mpmath.workdps(40):
        for x, found in zip(points.tolist(), ours(points).tolist(), strict=True):
            exact = theirs(mpmath.mpf(x))
            assert abs(found - exact) <= 4 * 2.0**-52 * abs(exact)


@pytest.mark.parametrize("name", NARROW)
def test_the_bound_is_that_of_central_differences(name: str) -> None:
    for case in catalogue.cases().values():
        problem = case.problem(named(name))
        if problem is None or "large" in case.tags:
            continue
        exact = reference.compute(problem, problem.format, dataclasses.replace(QUICK, target_bits=60))
        closed = ClosedForm(problem, problem.format)
        units = exact.values.unit_log2.astype(np.int32)
        for flush in (False, True):
            one = np.ldexp(stable_bound(exact, flush=flush), units)
            assert np.allclose(stable_bound(closed, flush=flush), one, rtol=1e-10, atol=0), case.name


def _agree(full: Outcome, quick: Outcome) -> None:
    assert type(full) is type(quick)
    if not isinstance(full, Judged) or not isinstance(quick, Judged):
        return
    assert full.verdict is quick.verdict
    # what fails already is not made sharper by the full check: there a few components may stay open
    assert full.decision.failed <= quick.decision.failed + 10 * len(quick.decision.undecided_rows)
    assert quick.decision.failed <= full.decision.failed + full.decision.judged * bool(full.decision.undecided_rows)
    assert full.decision.judged == quick.decision.judged
    for count in ("nonfinite", "ignored_nonzero", "undefined_rows", "infinite_loss_rows"):
        assert getattr(full.measures, count) == getattr(quick.measures, count), count
    # of what is nearly all cancellation float64 does not know the sign
    for count in ("wrong_sign", "flushed"):
        assert getattr(quick.measures, count) <= getattr(full.measures, count), count
    assert ((full.measures.total or 0) > 1) == ((quick.measures.total or 0) > 1)
    for metric in ("abs", "ulp", "bound"):
        one, other = full.measures.extremes[metric], quick.measures.extremes[metric]
        assert (one is None) == (other is None)
        sharp = all(it is not None and it.uncertainty_ulp < 0.01 for it in (one, other))
        if one is not None and other is not None and sharp and one.ulp > 0.02 and one.value < 1e30:
            # the differences themselves are good to 2^-10 ulp
            slack = (1e-6 + 2.0**-9 / one.ulp) * one.value
            least = one.value / 4 if metric == "ulp" else one.value
            assert least - slack <= other.value <= one.value + slack or other.value == one.value, metric


EACH = 1 if WHOLE else 3
CASES = [case for case in catalogue.cases().values() if "large" not in case.tags]


@pytest.mark.parametrize("part", range(8))
def test_nothing_passes_that_the_full_check_fails(part: int) -> None:
    """Every case and every mistake and sound variant, each pair in one format and by one tolerance.

    A third of the pairs, so that all of it takes half a minute; GRADCHECK_TEST_WHOLE=1 tries them all.
    """
    tried = 0
    for place, case in enumerate(CASES):
        if place % 8 != part:
            continue
        known: dict[str, tuple[Problem, reference.Reference]] = {}
        asked: set[tuple[str, str, bool, bytes]] = set()
        for number, planted in enumerate(mistakes.select([])):
            if (place // 8 + number) % EACH:
                continue
            name = NARROW[(place + number) % len(NARROW)]
            problem = case.problem(named(name))
            if problem is None:
                continue
            if name not in known:
                known[name] = problem, reference.compute(problem, problem.format, QUICK)
            problem, exact = known[name]
            rule = tolerances.parse("stable" if number % 2 else RULES[(place + number) // 2 % len(RULES)])
            how = How(tolerance=rule, settings=QUICK, diagnosed=False, profiled=False, flush=planted.flush)
            try:
                with np.errstate(all="ignore"):
                    gradient = planted.candidate.gradient(problem)
            except NotApplicableError:
                continue
            tried += 1
            # most mistakes are about options that a case has not: they leave the gradient as it is
            question = (name, str(rule), planted.flush, gradient.tobytes())
            if question in asked:
                continue
            asked.add(question)
            one = candidates.given("given", gradient)
            (full,) = checking.outcomes(problem, [one], how, exactly=lambda *_, exact=exact: exact)
            _agree(full.outcome, screened(problem, gradient, how))
    assert tried > 500 // EACH


PROBLEM = make_problem(np.random.default_rng(1).normal(size=(7, 40)) * 4, list(range(7)), "float32")
SOUND = candidates.load("shifted").gradient(PROBLEM)
STABLE = How(tolerance=tolerances.parse("stable"), settings=QUICK)


def test_it_is_said_how_components_were_decided() -> None:
    outcome = screened(PROBLEM, SOUND, STABLE, certify=50)
    assert isinstance(outcome, Judged)
    facts = outcome.screened
    assert facts is not None
    assert facts.bound + facts.differences == outcome.decision.judged == 7 * 40
    assert facts.drawn == 50
    assert 50 <= facts.differences <= 50 + 6
    assert outcome.reference is not None
    assert outcome.reference.engine == "flint"


def test_the_worst_are_central_differences_to_all_their_digits() -> None:
    wrong = SOUND.copy()
    wrong[5, 17] *= np.float32(1.01)
    outcome, whole = screened(PROBLEM, wrong, STABLE), reference.compute(PROBLEM, PROBLEM.format, QUICK)
    assert isinstance(outcome, Judged)
    worst = outcome.decision.worst
    assert worst is not None
    assert (worst.row, worst.cls, outcome.decision.failed) == (5, 17, 1)
    assert worst.reference == whole.exact(5, 17)
    assert outcome.diagnosis
    for extreme in outcome.measures.extremes.values():
        assert extreme is not None
        assert extreme.reference == whole.exact(extreme.row, extreme.cls)


def test_what_it_leaves_open_is_left_to_differences() -> None:
    """Limits at exactly the error, and so near to it that float64 cannot tell."""
    exact = reference.compute(PROBLEM, PROBLEM.format, dataclasses.replace(QUICK, target_bits=80))
    errors = exact.values.in_ulps(Comparison(exact, SOUND).errors)
    row, cls = np.unravel_index(int(np.argmax(errors)), errors.shape)
    most = float(errors[row, cls])
    for limit, verdict in ((most * (1 + 1e-13), Verdict.PASS), (most * (1 - 1e-13), Verdict.FAIL)):
        how = How(tolerance=tolerances.parse(f"ulp:{limit!r}"), settings=QUICK)
        outcome = screened(PROBLEM, SOUND, how, certify=0)
        assert outcome.verdict is verdict
        assert isinstance(outcome, Judged)
        assert outcome.screened is not None
        assert outcome.screened.undecided == 1


def test_a_wrong_closed_form_is_a_bug_of_ours_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lie that the certified components are there for."""
    right = estimate_rows

    def wrong(*arguments: Any) -> Any:
        known = right(*arguments)
        known.gradient[...] *= 1 + 2.0**-20
        return known

    monkeypatch.setattr("gradcheck.screening.estimate_rows", wrong)
    with pytest.raises(AssertionError, match="contradict the closed form"):
        screened(PROBLEM, SOUND, STABLE)


def test_undefined_and_ignored_rows() -> None:
    logits = np.array(PROBLEM.logits)
    logits[2, 3] = np.nan
    labels = [0, 1, 2, -100, 4, 5, 6]
    problem = make_problem(logits, labels, "float32", ["ignore_index=-100", "reduction=mean"])
    gradient = candidates.load("compensated").gradient(problem)
    outcome = screened(problem, gradient, STABLE)
    assert isinstance(outcome, Judged)
    assert outcome.verdict is Verdict.PASS
    assert outcome.measures.undefined_rows == 1
    assert outcome.decision.judged == 6 * 40
    gradient[3, 0] = 1e-30
    outcome = screened(problem, gradient, STABLE)
    assert isinstance(outcome, Judged)
    assert outcome.verdict is Verdict.FAIL
    assert outcome.measures.ignored_nonzero == 1


@pytest.mark.parametrize(
    ("fmt", "settings"),
    [("float64", Settings()), ("float32", Settings(digits=40)), ("float32", Settings(step_log2=-20))],
    ids=["float64", "digits", "step"],
)
def test_where_it_is_of_no_use_it_is_refused_and_not_taken(fmt: str, settings: Settings) -> None:
    problem = make_problem([[1.0, 0.0]], [0], fmt)
    how = dataclasses.replace(STABLE, settings=settings)
    with pytest.raises(UsageError, match="--screen"):
        Screening(wanted=True).of(Batch.of(problem), [candidates.load("shifted")], how)
    assert not Screening().of(Batch.of(problem), [candidates.load("shifted")], how)


def test_it_is_on_for_what_is_large() -> None:
    large = make_problem(np.zeros((1, streaming.SCREENED_FROM + 1)), [0], "float16")
    assert Screening().of(Batch.of(large), [candidates.load("shifted")], STABLE)
    assert not Screening(wanted=False).of(Batch.of(large), [candidates.load("shifted")], STABLE)
    assert not Screening().of(Batch.of(PROBLEM), [candidates.load("shifted")], STABLE)


def test_the_closed_form_says_nothing_of_rows_without_a_gradient() -> None:
    problem = make_problem([[np.inf, 0.0], [1.0, 0.0]], [0, 1], "float32")
    closed = ClosedForm(problem, problem.format)
    assert problem.status.tolist() == [RowStatus.UNDEFINED, RowStatus.JUDGED]
    assert closed.judged.tolist() == [[False], [True]]
    assert closed.values.high[0].tolist() == [0.0, 0.0]
    assert stable_bound(closed)[0].tolist() == [0.0, 0.0]


def test_the_order_of_the_arrays_changes_nothing() -> None:
    """Sums are added in pairs along rows that lie in one piece."""
    logits = np.random.default_rng(0).normal(size=(4, 3000)).astype(np.float32)
    labels = np.arange(4)
    gradient = candidates.load("compensated").gradient(make_problem(logits, labels, "float32"))
    found = []
    for order in ("C", "F"):
        problem = Problem(logits=np.asarray(logits, order=order), labels=labels, format=named("float32"))
        found.append(screened(problem, np.asarray(gradient, order=order), STABLE))
    assert found[0] == found[1]


def test_a_softcap_is_no_excuse_where_the_labels_cancel() -> None:
    """The limit there is a number of its own, not what float64 makes of 0."""
    logits = np.zeros((1, 600))
    soft = np.full((1, 600), 1 / 600)
    problem = make_problem(logits, soft, "float32", ["softcap=30"])
    exact = reference.compute(problem, problem.format, dataclasses.replace(QUICK, target_bits=60))
    units = exact.values.unit_log2.astype(np.int32)
    bounds = [np.ldexp(stable_bound(exact), units), stable_bound(ClosedForm(problem, problem.format))]
    assert np.allclose(bounds[0], bounds[1], rtol=2.0**-14, atol=0)


def test_the_format_that_counts_is_that_of_the_gradient() -> None:
    problem = make_problem(PROBLEM.logits, PROBLEM.labels, "float64")
    narrow, wide = (candidates.given("g", SOUND.astype(dtype)) for dtype in (np.float32, np.float64))
    assert Screening(wanted=True).of(Batch.of(problem), [narrow], STABLE)
    with pytest.raises(UsageError, match="float64 is as precise"):
        Screening(wanted=True).of(Batch.of(PROBLEM), [wide], STABLE)


@pytest.mark.parametrize(("certify", "drawn"), [(0, 0), (5, 5), (10**9, 7 * 40)])
def test_as_many_are_drawn_as_are_asked_for(certify: int, drawn: int) -> None:
    outcome = screened(PROBLEM, SOUND, STABLE, certify=certify)
    assert isinstance(outcome, Judged)
    assert outcome.screened is not None
    assert outcome.screened.drawn == drawn


def test_where_nothing_is_claimed_differences_decide() -> None:
    """A softcap so wide that float64 knows nothing, and a candidate that is not finite."""
    problem = make_problem(np.random.default_rng(0).normal(size=(2, 8)) * 1e5, [0, 1], "float32", ["softcap=1e4"])
    assert np.isinf(ClosedForm(problem, problem.format).values.uncertainty).any()
    gradient = candidates.load("wide").gradient(problem)
    right = screened(problem, gradient, STABLE)
    assert isinstance(right, Judged)
    assert right.screened is not None
    assert right.screened.undecided > 0
    gradient[1, 3] = np.nan
    wrong = screened(problem, gradient, STABLE)
    assert isinstance(wrong, Judged)
    assert (wrong.verdict, wrong.measures.nonfinite) == (Verdict.FAIL, 1)


def test_nothing_is_flushed_where_nothing_is_due() -> None:
    """Labels that equal the probabilities: the gradient is 0, and float64 has some noise there."""
    problem = make_problem(np.zeros((1, 10)), np.full((1, 10), 0.1), "float32", ["label_smoothing=0.1"])
    outcome = screened(problem, np.zeros((1, 10), np.float32), STABLE)
    assert isinstance(outcome, Judged)
    assert outcome.measures.flushed == 0
