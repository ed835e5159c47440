"""Problem × candidate → result, with candidates that lie on purpose."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from gradcheck import candidates, catalogue, reference, tolerances
from gradcheck.checking import How, check
from gradcheck.exact import Dyadic, to_fraction
from gradcheck.exceptions import InputError
from gradcheck.formats import named
from gradcheck.problem import Problem
from gradcheck.profiles import Profile
from gradcheck.reference import Settings
from gradcheck.results import Crashed, Judged, Result, Skipped, Sufficient, Verdict
from tests.conftest import make_problem


def judged(problem: Problem, gradient: Any, tolerance: str = "stable", **options: Any) -> Result:
    """The result of a candidate that answers `gradient`, an array or a function of the problem."""
    answer = gradient if callable(gradient) else lambda problem: gradient
    settings = options.pop("settings", Settings())
    (result,) = check(
        problem,
        [candidates.computed("planted", answer)],
        How(tolerance=tolerances.parse(tolerance), settings=settings, **options),
        case="case",
    )
    return result


PROBLEM = make_problem([[0.5, -1.0, 2.0, 0.25], [1.0, 0.0, 0.0, 3.0]], [2, 0], "float32")
SOUND = candidates.load("shifted").gradient(PROBLEM)


def test_a_sound_gradient_passes() -> None:
    assert judged(PROBLEM, SOUND).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "mistake",
    [
        lambda g: -g,
        lambda g: g * 2,
        lambda g: g / 2,
        lambda g: np.zeros_like(g),
        lambda g: g[::-1],
        lambda g: np.where(g == g.max(), 0, g),
        lambda g: g + np.float32(1e-4),
        lambda g: np.where(np.arange(4) == 1, np.nan, g),
    ],
    ids=["sign", "doubled", "halved", "zero", "rows swapped", "one zeroed", "offset", "NaN"],
)
def test_planted_mistakes_fail(mistake: Any) -> None:
    assert judged(PROBLEM, mistake(SOUND).astype(np.float32)).verdict is Verdict.FAIL


def test_the_worst_place_is_named() -> None:
    wrong = SOUND.copy()
    wrong[1, 3] += np.float32(0.125)
    outcome = judged(PROBLEM, wrong).outcome
    assert isinstance(outcome, Judged)
    worst = outcome.decision.worst
    assert worst is not None
    assert (worst.row, worst.cls, worst.candidate) == (1, 3, float(wrong[1, 3]))
    assert float(to_fraction(worst.reference)) == pytest.approx(float(SOUND[1, 3]), rel=1e-6)
    assert outcome.decision.failed == 1


def test_a_gradient_of_another_shape_is_no_gradient() -> None:
    assert isinstance(judged(PROBLEM, SOUND.T).outcome, Crashed)
    assert isinstance(judged(PROBLEM, SOUND[0]).outcome, Crashed)


def test_a_gradient_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="int64"):
        judged(PROBLEM, SOUND.astype(np.int64))


def test_the_gradients_own_format_is_judged() -> None:
    wide = judged(PROBLEM, SOUND.astype(np.float64))
    assert wide.gradient_format is named("float64")
    assert wide.verdict is Verdict.FAIL  # float32's errors, in float64's measure
    assert judged(PROBLEM, SOUND.astype(np.float64), gradient_format=named("float32")).verdict is Verdict.PASS


def test_nothing_to_judge_is_skipped() -> None:
    problem = make_problem([[math.nan, 0.0]], [0])
    assert isinstance(judged(problem, np.zeros((1, 2))).outcome, Skipped)


def test_the_users_own_digits_may_not_decide() -> None:
    result = judged(PROBLEM, SOUND, settings=Settings(digits=8))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert isinstance(result.outcome, Judged)
    enough = result.outcome.sufficient
    assert enough is not None
    settings = Settings(digits=enough.digits, step_log2=enough.step_log2)
    assert judged(PROBLEM, SOUND, settings=settings).verdict is Verdict.PASS


@pytest.mark.parametrize("tolerance", ["stable", "ulp:4", "rel:1e-5", "abs:1e-9", "torch", "norm:1e-6"])
@pytest.mark.parametrize("fmt", ["float16", "float64"])
@pytest.mark.parametrize("case", ["saturated-gap-40", "plain-10", "soft-softmax-rounded", "offset-mixed-rows"])
def test_the_digits_that_are_advised_do(case: str, fmt: str, tolerance: str) -> None:
    problem = catalogue.cases()[case].problem(named(fmt))
    assert problem is not None
    gradient = candidates.load("shifted").gradient(problem)
    result = judged(problem, gradient, tolerance, settings=Settings(digits=9))
    if result.verdict is Verdict.INCONCLUSIVE:
        assert isinstance(result.outcome, Judged)
        enough = result.outcome.sufficient
        assert enough is not None
        settings = Settings(digits=enough.digits, step_log2=enough.step_log2)
        assert judged(problem, gradient, tolerance, settings=settings).verdict is not Verdict.INCONCLUSIVE


def test_too_large_a_step_is_inconclusive_never_a_number() -> None:
    assert judged(PROBLEM, SOUND, "ulp:4", settings=Settings(step_log2=-3)).verdict is Verdict.INCONCLUSIVE


def test_certain_failure_is_seen_through_a_coarse_reference() -> None:
    assert judged(PROBLEM, -SOUND, settings=Settings(digits=12)).verdict is Verdict.FAIL


def test_the_limit_itself_sharpens_the_reference() -> None:
    """A candidate within 2^-12 ulp of its limit is decided by a second, finer reference."""
    problem = make_problem([[0.5, -1.0, 2.0, 0.25]], [2], "float32")
    fine = judged(problem, candidates.load("wide").gradient(problem)).outcome
    assert isinstance(fine, Judged)
    extreme = fine.measures.extremes["ulp"]
    assert extreme is not None
    limit = extreme.value * (1 + 2.0**-13)
    result = judged(problem, candidates.load("wide").gradient(problem), f"ulp:{limit!r}")
    assert isinstance(result.outcome, Judged)
    assert result.verdict is not Verdict.INCONCLUSIVE
    assert result.outcome.reference is not None
    assert result.outcome.reference.uncertainty_ulp < 2.0**-10


def test_an_exact_tie_ends_inconclusive() -> None:
    """A gradient that is exactly 0, under a tolerance of nothing: no precision can tell."""
    problem = make_problem([[0.0, 0.0]], [[0.5, 0.5]])
    assert judged(problem, np.zeros((1, 2)), "ulp:0").verdict is Verdict.INCONCLUSIVE
    assert judged(problem, np.zeros((1, 2)), "stable").verdict is Verdict.PASS


@pytest.mark.parametrize("error", [5e-323, 1e-300, 1e-190, 0.5])
@pytest.mark.parametrize("tolerance", ["ulp:1", "rel:1e-3"])
def test_what_is_exactly_0_leaves_nothing_undecided(error: float, tolerance: str) -> None:
    """A row of one class, and a masked class: both exact values are 0, without uncertainty."""
    for problem in (
        make_problem([[3.0]], [0]),
        make_problem([[3.0, 1.0]], [0], loss=["mask=1,0"]),
    ):
        gradient = np.zeros((1, problem.classes))
        assert judged(problem, gradient, tolerance).verdict is Verdict.PASS
        gradient[0, -1] = error
        assert judged(problem, gradient, tolerance).verdict is Verdict.FAIL


def test_a_wrong_gradient_where_every_row_is_ignored_is_explained_without_a_warning() -> None:
    problem = make_problem([[1.0, 2.0]], [-1], "float32", ["ignore_index=-1", "z_loss=1", "reduction=sum"])
    assert judged(problem, np.ones((1, 2), np.float32)).verdict is Verdict.FAIL


def test_ignored_rows_are_exactly_0() -> None:
    problem = make_problem([[math.nan, 0.0], [1.0, 2.0]], [-1, 0], "float32", ["ignore_index=-1"])
    good = candidates.load("shifted").gradient(problem)
    assert judged(problem, good).verdict is Verdict.PASS
    for value in (1e-45, math.nan):
        wrong = good.copy()
        wrong[0, 1] = value
        assert judged(problem, wrong).verdict is Verdict.FAIL


def test_an_undefined_row_is_nobodys_business_and_its_neighbours_are() -> None:
    problem = make_problem([[math.nan, 0.0], [1.0, 2.0]], [0, 0], "float32")
    good = candidates.load("shifted").gradient(problem)
    assert judged(problem, good).verdict is Verdict.PASS
    spread = np.full_like(good, math.nan)
    assert judged(problem, spread).verdict is Verdict.FAIL


def test_loss_values() -> None:
    def loss(problem: Problem) -> Any:
        outcome = judged(problem, candidates.load("shifted").gradient(problem)).outcome
        assert isinstance(outcome, Judged)
        return outcome.loss

    two = make_problem([[0.0, 0.0], [0.0, 0.0]], [0, 1])
    mean = make_problem([[0.0, 0.0], [0.0, 0.0]], [0, 1], loss=["reduction=mean"])
    assert float(to_fraction(loss(two))) == 2 * math.log(2)
    assert float(to_fraction(loss(mean))) == math.log(2)
    assert loss(make_problem([[-math.inf, 0.0]], [0])) == math.inf
    assert math.isnan(loss(make_problem([[0.0, 0.0]], [5], loss=["ignore_index=5", "reduction=mean"])))
    tiny = loss(make_problem([[1e30, 0.0]], [0]))
    assert isinstance(tiny, Dyadic)
    assert tiny.log2() == pytest.approx(-1e30 / math.log(2))


def test_a_candidate_sees_a_read_only_problem() -> None:
    def in_place(problem: Problem) -> Any:
        problem.logits[0, 0] = 0
        return SOUND

    with pytest.raises(ValueError, match="read-only"):
        judged(PROBLEM, in_place)


def facts(result: Result) -> Judged:
    assert isinstance(result.outcome, Judged)
    return result.outcome


APART = ([[60.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.5 + 2.0**-20, 0.5 - 2.0**-20]])


def test_the_facts_are_those_of_the_finest_row() -> None:
    """A row whose gradient is e^-60 takes more bits, one whose gradient is small by cancellation takes a finer step."""
    logits, labels = APART
    both = make_problem(logits, labels)
    gradient = candidates.load("shifted").gradient(both)
    found = facts(judged(both, gradient)).reference
    alone = [
        facts(judged(make_problem([row], [label]), gradient[n : n + 1])).reference
        for n, (row, label) in enumerate(zip(logits, labels, strict=True))
    ]
    assert found is not None
    one, other = alone
    assert one is not None
    assert other is not None
    assert one.step_log2 > other.step_log2
    assert one.precision_bits > other.precision_bits
    assert found.step_log2 == other.step_log2
    assert found.precision_bits == one.precision_bits
    assert found.uncertainty_ulp == max(one.uncertainty_ulp, other.uncertainty_ulp)
    assert (found.engine, found.method, found.order, found.certified) == ("mpmath", "incremental", 2, False)
    assert found.evaluations == 1


def test_the_digits_that_are_advised_are_those_of_the_program() -> None:
    """One step for all rows, that of the finest; what another row's own is larger by, it needs in bits."""
    problem = make_problem(*APART)
    plans = reference.compute(problem, problem.format, Settings()).plans
    step_log2 = min(plan.step_log2 for plan in plans)
    bits = max(plan.precision_bits + plan.step_log2 - step_log2 for plan in plans)
    found = facts(judged(problem, candidates.load("shifted").gradient(problem), settings=Settings(digits=8)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.sufficient == Sufficient(digits=math.ceil(bits / math.log2(10)), step_log2=step_log2)


def test_no_digits_are_advised_where_none_decide() -> None:
    problem = make_problem([[0.0, 0.0]], [[0.5, 0.5]])
    found = facts(judged(problem, np.zeros((1, 2)), "ulp:0", settings=Settings(digits=20)))
    assert (found.verdict, found.sufficient) == (Verdict.INCONCLUSIVE, None)
    passing = facts(judged(PROBLEM, SOUND, settings=Settings(digits=40)))
    assert (passing.verdict, passing.sufficient) == (Verdict.PASS, None)


@pytest.mark.parametrize(("watched", "verdict"), [(True, Verdict.FAIL), (False, Verdict.PASS)])
def test_the_worst_of_several_answers_is_judged(watched: bool, verdict: Verdict) -> None:
    """Code that is right but for its third answer; what is not watched is asked once."""
    asked = []

    def worse(problem: Problem) -> Any:
        asked.append(problem)
        return -SOUND if len(asked) == 3 else SOUND

    planted = dataclasses.replace(candidates.computed("planted", worse), watched=watched)
    how = How(tolerance=tolerances.parse("stable"), settings=Settings(), repeat=3)
    (found,) = check(PROBLEM, [planted], how, case="case")
    assert found.verdict is verdict
    assert bool(facts(found).decision.failed) == bool(facts(found).diagnosis) == watched
    repeats = facts(found).conduct.repeats
    assert (repeats.runs if repeats else 1) == (3 if watched else 1)
    assert watched or len(asked) == 1


def test_what_is_not_asked_for_is_not_made() -> None:
    wrong = facts(judged(PROBLEM, -SOUND, diagnosed=False, profiled=False, valued=False))
    assert (wrong.diagnosis, wrong.profile, wrong.loss, wrong.decision.top) == ((), Profile(), None, ())
    found = facts(judged(PROBLEM, -SOUND, top=2))
    assert found.diagnosis
    assert found.profile != Profile()
    assert found.loss is not None
    assert len(found.decision.top) == 2
    assert found.decision.top[0] == found.decision.worst
    assert not facts(judged(PROBLEM, SOUND)).diagnosis


def test_a_loss_that_came_with_a_gradient() -> None:
    """It is beside the point where the loss is not evaluated."""
    planted = candidates.Candidate(name="planted", answer=lambda _: candidates.Answer(gradient=SOUND, loss=5.0))
    for valued, known in ((True, 5.0), (False, None)):
        how = How(tolerance=tolerances.parse("stable"), settings=Settings(), valued=valued)
        (found,) = check(PROBLEM, [planted], how, case="case")
        said = facts(found).conduct.loss
        assert (said.value if said else None) == known


def test_why_nothing_is_judged() -> None:
    (result,) = (judged(make_problem([[math.nan, 0.0]], [0]), np.zeros((1, 2))),)
    assert result.outcome == Skipped(reason="every row is undefined: NaN, +inf, or nothing but -inf among its logits")
    weightless = make_problem([[1.0, 0.0]], [0], "float32", ["weight=0,1", "reduction=mean"])
    skipped = judged(weightless, np.zeros((1, 2), dtype=np.float32)).outcome
    assert skipped == Skipped(
        reason="every row is undefined: the mean divides by class weights that add up to 0"
        " (--loss empty=zero makes that 0)"
    )


def test_a_shape_and_a_kind_are_named() -> None:
    assert judged(PROBLEM, SOUND.T).outcome == Crashed(reason="the gradient has shape (4, 2), the logits (2, 4)")
    with pytest.raises(
        InputError, match=r"^the gradient is int64; expected one of float16, bfloat16, float32, float64$"
    ):
        judged(PROBLEM, SOUND.astype(np.int64))


def test_a_result_says_of_what_it_is() -> None:
    problem = make_problem([[0.5, -1.0, 2.0]], [1], "bfloat16", ["z_loss=0.25"])
    found = judged(problem, np.zeros((1, 3), dtype=np.float32), "ulp:4")
    assert (found.case, found.candidate, found.tolerance, found.digest) == ("case", "planted", "ulp:4", problem.digest)
    assert (found.format, found.gradient_format) == (named("bfloat16"), named("float32"))
    assert (found.rows, found.classes, dict(found.loss)) == (
        1,
        3,
        {option.name: option.value for option in problem.loss},
    )


def test_the_loss_of_many_rows() -> None:
    """ln 2 for each of two rows; one that is ignored adds nothing, and one that is infinite is all."""

    def loss(*rows: tuple[list[float], int], options: list[str]) -> Any:
        problem = make_problem([row for row, _ in rows], [label for _, label in rows], "float64", options)
        return facts(judged(problem, candidates.load("shifted").gradient(problem))).loss

    plain, masked, ignored = ([0.0, 0.0], 0), ([-math.inf, 0.0], 0), ([5.0, 0.0], -1)
    ignoring = ["ignore_index=-1"]
    assert float(to_fraction(loss(plain, plain, ignored, options=ignoring))) == 2 * math.log(2)
    assert loss(plain, masked, options=[]) == math.inf
    assert loss(plain, masked, options=["upstream=-1"]) == -math.inf
    assert to_fraction(loss(ignored, options=ignoring)) == 0
