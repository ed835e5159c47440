"""The derivation's steps: references against closed forms, sound formulas that pass, and mistakes at their own step."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from gradcheck import catalogue, tolerances
from gradcheck.derivation import NAMES, STEPS, WHOLE, Derivation, Study, _steps, beyond
from gradcheck.exact import to_fraction
from gradcheck.exceptions import InputError, UnknownNameError
from gradcheck.formats import Format
from gradcheck.functions import Function
from gradcheck.problem import Problem
from gradcheck.report import _sentences
from gradcheck.results import Crashed, Judged, Skipped, Verdict
from tests.conftest import EVERY_FORMAT, make_problem, real

STABLE = tolerances.parse("stable")
DIVIDE = {"output-loss", "chain-sum"}
"""The steps that divide by ŷ, which may underflow."""


def studied(problem: Problem, **options: Any) -> dict[str, Study]:
    settings: dict[str, Any] = {"case": "x", "tolerance": STABLE, "pieces": {}}
    return {NAMES[n]: study for n, study in enumerate(Derivation(problem, **settings | options).studies())}


def failing(problem: Problem, **options: Any) -> set[str]:
    """The steps that do not pass, all of which must be failures."""
    verdicts = {name: study.result.verdict for name, study in studied(problem, **options).items()}
    assert set(verdicts.values()) <= {Verdict.PASS, Verdict.FAIL}, verdicts
    return {name for name, verdict in verdicts.items() if verdict is Verdict.FAIL}


def piece(name: str, call: Callable[..., Any]) -> dict[str, Function]:
    return {name: Function(name="mine", call=call)}


def softmax(logits: Any) -> Any:
    exps = np.exp(logits - logits.max())
    return exps / exps.sum()


EASY = make_problem([[0.5, -1.0, 2.0, 0.25], [0.0, 1.5, -0.75, 3.0], [1.0, 1.0, 0.5, -2.0]], [2, 0, 1], "float32")
SOFT = make_problem([[0.5, -1.0, 2.0], [0.0, 3.0, 1.0]], [[0.2, 0.5, 0.3], [0.0, 0.25, 0.5]], "float32")
SATURATED = [[0.0, 1000.0, -1000.0]]


# --- sound formulas ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
@pytest.mark.parametrize("problem", [EASY, SOFT], ids=["hard", "soft"])
def test_every_step_passes_on_easy_rows(problem: Problem, fmt: Format) -> None:
    again = make_problem(problem.logits, problem.labels, fmt)
    assert failing(again) == set()


@pytest.mark.parametrize("fmt", ["float32", "float64"])
def test_a_saturated_row_fails_where_the_derivation_divides(fmt: str) -> None:
    """−y/ŷ is −1/0 and 0/0, the chain-rule sum is NaN; the collapsed form has nothing to divide."""
    found = studied(make_problem(SATURATED, [0], fmt))
    assert {name for name, study in found.items() if study.result.verdict is Verdict.FAIL} == DIVIDE
    assert found["fused"].result.verdict is Verdict.PASS
    for name, value in (("output-loss", -math.inf), ("chain-sum", math.nan)):
        outcome, step = found[name].result.outcome, found[name].result.step
        assert isinstance(outcome, Judged)
        assert outcome.decision.worst is not None
        assert outcome.decision.worst.candidate == pytest.approx(value, nan_ok=True)
        assert step is not None
        assert step.zeros == 2


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_no_sound_step_is_flagged_on_any_case(fmt: Format) -> None:
    """And what fails fails by division by a ŷ that has lost its digits."""
    seen = 0
    for case in catalogue.cases().values():
        problem = case.problem(fmt)
        if problem is None or problem.classes > 200 or beyond(problem):
            continue
        for name, study in studied(problem).items():
            step, verdict = study.result.step, study.result.verdict
            assert step is not None
            if verdict is Verdict.SKIPPED:
                continue
            seen += 1
            if name in DIVIDE and (step.zeros or step.thin):
                assert verdict in (Verdict.PASS, Verdict.FAIL)
            else:
                assert verdict is Verdict.PASS, (case.name, name)
    assert seen > 400


# --- the references ----------------------------------------------------------------------------------------------


def closed_form(problem: Problem, n: int) -> dict[str, Any]:
    """What each step comes to on row `n`, by the derivation's own formulas at 4,000 bits."""
    context = mpmath.MPContext()
    context.prec = 4000
    logits = [context.mpf(float(x)) for x in problem.logits[n]]
    k = len(logits)
    labels = problem.labels[n]
    y = [context.mpf(float(labels[i]) if problem.labels.ndim == 2 else float(labels == i)) for i in range(k)]
    exps = [context.exp(logit - max(logits)) for logit in logits]
    p = [e / context.fsum(exps) for e in exps]
    jacobian = [[p[i] * ((i == m) - p[m]) for i in range(k)] for m in range(k)]
    weight = context.fsum(y)
    gradient = [weight * p[m] - y[m] for m in range(k)]
    return {
        "quotient-rule": jacobian,
        "chain-rule": [p],
        "softmax-diagonal": [[jacobian[i][i] for i in range(k)]],
        "softmax-off-diagonal": jacobian,
        "softmax-jacobian": jacobian,
        "output-loss": [[-y[i] / p[i] for i in range(k)]],
        "loss-sum": [gradient],
        "chain-sum": [gradient],
        "fused": [gradient],
        "hessian": [[weight * x for x in row] for row in jacobian],
        "batch-mean": [[x / problem.rows for x in gradient]],
    }


ROWS = [
    ([[0.5, -1.0, 2.0, 0.25]], [1]),
    ([[0.0, 40.0, 39.0]], [2]),
    ([[0.0, -200.0, 700.0]], [0]),
    ([[1e30, 1.0, 1e30]], [0]),
    ([[3.0, 3.0, 3.0, -1.0]], [[0.25, 0.5, 0.125, 0.125]]),
    ([[3.0, -30.0, 3.5]], [[0.25, 0.5, 0.0]]),
    ([[7.0]], [0]),
]


@pytest.mark.parametrize("settings", [{}, {"digits": 30, "step_log2": -6}, {"digits": 12}, {"step_log2": -14}], ids=str)
@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_every_difference_is_within_its_claimed_uncertainty(fmt: Format, settings: dict[str, int]) -> None:
    for logits, labels in ROWS:
        if max(map(abs, logits[0])) > fmt.max:
            continue
        problem = make_problem(logits, labels, fmt)
        expected = closed_form(problem, 0)
        for name, study in studied(problem, **settings).items():
            if name not in expected or study.comparison is None:
                continue
            values = study.comparison.values
            if not settings:
                assert values.in_ulps(values.uncertainty).max() <= 2.0**-10
            for row, cls in np.argwhere(study.comparison.judged).tolist():
                exact, known = study.comparison.exact.exact(row, cls), expected[name][row][cls]
                if not math.isfinite(values.uncertainty[row, cls]):
                    continue
                error = abs(to_fraction(exact) - to_fraction(known)) / to_fraction(2) ** int(values.unit_log2[row, cls])
                assert error <= to_fraction(float(values.uncertainty[row, cls])) * (1 + to_fraction(2) ** -40), name


def test_exponential_and_logarithm_are_differenced_at_the_formats_own_numbers() -> None:
    for name, function in (("exponential", mpmath.exp), ("logarithm", lambda x: 1 / x)):
        study = studied(EASY)[name]
        assert study.comparison is not None
        for row in range(3):
            shifted = EASY.logits[row] - EASY.logits[row].max()
            at = shifted if name == "exponential" else [np.exp(shifted).sum(dtype=np.float32)]
            for cls, x in enumerate(at):
                with mpmath.workdps(30):
                    known = function(mpmath.mpf(float(x)))
                exact = study.comparison.exact.exact(row, cls)
                assert float(to_fraction(exact)) == pytest.approx(float(known), rel=1e-10)


@pytest.mark.parametrize("settings", [{"step_log2": -3}, {"digits": 5}], ids=str)
def test_a_coarse_difference_is_inconclusive(settings: dict[str, int]) -> None:
    verdicts = {
        study.result.verdict for study in studied(EASY, tolerance=tolerances.parse("ulp:2"), **settings).values()
    }
    assert Verdict.INCONCLUSIVE in verdicts
    assert Verdict.PASS not in verdicts


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_in_a_formula_fails_its_step_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each built-in formula off by a thousandth; the steps are judged alone."""
    from gradcheck import candidates

    def off(attempt: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*arguments: Any) -> Any:
            values = attempt(*arguments)
            return values * values.dtype.type(1.001)

        return wrong

    (step,) = (step for step in STEPS if step.name == name)
    if step.attempt is not None:
        planted = tuple(dataclasses.replace(s, attempt=off(s.attempt)) if s is step else s for s in STEPS)  # type: ignore[arg-type]
        monkeypatch.setattr("gradcheck.derivation.STEPS", planted)
    else:
        # the batch's own form: wrong for the mean alone, or for the sum alone
        sound = candidates.load("shifted").gradient

        def gradient(problem: Problem) -> Any:
            return off(sound)(problem) if bool(problem.loss) is (name == "batch-mean") else sound(problem)

        monkeypatch.setattr("gradcheck.candidates.shifted.gradient", gradient)
    assert failing(EASY) == {name}


def wrong_sign(logits: Any) -> Any:
    y = softmax(logits)
    return np.diag(y) + np.outer(y, y) - 2 * np.diag(y * y)


def wrong_axis(logits: Any) -> Any:
    """ŷₙ(δᵢₙ − ŷₙ): a row where a column is due, which broadcasting lets pass."""
    y = softmax(logits)
    return y * (np.eye(len(y), dtype=y.dtype) - y)


def inner_product(logits: Any) -> Any:
    """diag(ŷ) − ŷᵀŷ: transposing an array of one axis does nothing, and the outer product becomes an inner one."""
    y = softmax(logits)
    return np.diag(y) - y @ y.T


def fused(logits: Any, label: int) -> Any:
    y = softmax(logits)
    y[label] -= 1
    return y


def batch(logits: Any, labels: Any) -> Any:
    return np.stack([fused(row, label) for row, label in zip(logits, labels, strict=True)]) / np.float32(len(logits))


def calls(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives its answer in a buffer that it uses again."""
    buffers: dict[tuple[int, ...], Any] = {}

    def again(*arguments: Any) -> Any:
        found = function(*arguments)
        buffer = buffers.setdefault(found.shape, np.empty_like(found))
        buffer[...] = found
        return buffer

    return again


MISTAKES = [
    ("softmax", lambda x: np.exp(x) / np.exp(x + 1).sum(), {"softmax-diagonal", "softmax-off-diagonal"}),
    ("softmax-jacobian", wrong_sign, {"softmax-jacobian"}),
    ("softmax-jacobian", wrong_axis, {"softmax-jacobian"}),
    ("softmax-jacobian", inner_product, {"softmax-jacobian"}),
    ("loss-gradient", lambda x, t: (np.arange(4) == t) / softmax(x), {"output-loss"}),
    ("fused", lambda x, t: -fused(x, t), {"fused"}),
    ("fused", lambda x, t: fused(x, t) / np.float32(3), {"fused"}),
    ("batch-mean", lambda x, t: batch(x, t) / np.float32(len(x)), {"batch-mean"}),
    ("batch-mean", lambda x, t: batch(x, t) * np.float32(len(x)), {"batch-mean"}),
]


@pytest.mark.parametrize(("name", "call", "steps"), MISTAKES)
def test_a_mistake_in_a_piece_is_found_at_its_own_step(name: str, call: Callable[..., Any], steps: set[str]) -> None:
    def checked(*arguments: Any) -> Any:
        return np.asarray(call(*arguments), dtype=np.float32)

    assert failing(EASY, pieces=piece(name, checked)) == steps


SOUND = [
    ("softmax", softmax),
    ("softmax-jacobian", lambda x: np.diag(softmax(x)) - np.outer(softmax(x), softmax(x))),
    # the Jacobian is symmetric: to transpose it is no mistake
    ("softmax-jacobian", lambda x: (np.diag(softmax(x)) - np.outer(softmax(x), softmax(x))).T),
    ("loss-gradient", lambda x, t: -(np.arange(4) == t).astype(np.float32) / softmax(x)),
    ("fused", fused),
    ("batch-mean", batch),
]


@pytest.mark.parametrize(("name", "call"), SOUND)
def test_a_sound_piece_passes_and_is_named(name: str, call: Callable[..., Any]) -> None:
    found = studied(EASY, pieces=piece(name, call))
    assert {study.result.verdict for study in found.values()} == {Verdict.PASS}
    own = {step.name for step in STEPS if step.piece == name}
    assert {step for step, study in found.items() if study.result.candidate == "mine"} == own


@pytest.mark.parametrize(("name", "call"), SOUND)
def test_a_buffer_that_is_used_again_does_no_harm(name: str, call: Callable[..., Any]) -> None:
    assert failing(EASY, pieces=piece(name, calls(call))) == set()


@pytest.mark.parametrize(
    ("logits", "wrong"),
    [
        ([[2.0, -1.0], [0.5, 3.0]], lambda x: softmax(-x)),
        ([[0.0, 1000.0, -1000.0]], lambda x: np.array([0, 0, 1], dtype=np.float32)),
        ([[7.0]], lambda x: np.zeros(1, dtype=np.float32)),
    ],
)
def test_a_wrong_softmax_with_the_right_derivatives_is_seen(logits: Any, wrong: Callable[..., Any]) -> None:
    problem = make_problem(logits, [0] * len(logits), "float32")
    found = studied(problem, pieces=piece("softmax", wrong))["softmax-diagonal"].result
    assert found.verdict is Verdict.FAIL
    assert ", ŷ itself" in _sentences.reason(found)


@pytest.mark.parametrize(
    ("logits", "labels", "fmt", "said"),
    [
        ([[3.0234375, 0.03936767578125, 9.09375]], [0], "float16", "below the normal range"),
        ([[0.0, -34.5, -69.0]], [2], "float32", "below the normal range"),
        ([[0.0, -9.4, -2.0]], [[5.0, 5.0, 5.0]], "float16", "past the format's largest"),
    ],
)
def test_a_step_that_divides_says_why_it_fails(logits: Any, labels: Any, fmt: str, said: str) -> None:
    found = studied(make_problem(logits, labels, fmt))
    failed = [study.result for study in found.values() if study.result.verdict is Verdict.FAIL]
    assert failed
    reasons = [_sentences.reason(result) for result in failed]
    assert any(said in reason for reason in reasons)
    assert all("below the normal range" in reason or "past the format's largest" in reason for reason in reasons)


def test_gaps_whose_exponent_is_past_float64() -> None:
    for gap, fmt in ((1e38, "float32"), (1e18, "float64"), (1e300, "float64")):
        problem = make_problem([[gap, 0.0, 1.0]], [1], fmt)
        sound = studied(problem)["output-loss"]
        assert sound.comparison is not None
        assert sound.comparison.values.in_ulps(sound.comparison.values.uncertainty).max() <= 2.0**-10
        assert len(_sentences.reason(sound.result)) < 400
        clamped = piece("loss-gradient", lambda x, t: ((np.arange(3) == t) / -(softmax(x) + 1e-12)).astype(x.dtype))
        assert studied(problem, pieces=clamped)["output-loss"].result.verdict is Verdict.FAIL


def test_heavy_labels_and_small_arguments_are_within_their_claims() -> None:
    heavy = studied(make_problem([[0.0, -550.0, -560.0]], [[1e200, 1e200, 0.0]]))["hessian"]
    assert heavy.comparison is not None
    assert heavy.comparison.values.in_ulps(heavy.comparison.values.uncertainty).max() <= 2.0**-10
    few = studied(make_problem([[0.0, -700.123456789]], [0]), digits=20, step_log2=-58)["exponential"]
    assert few.result.verdict is Verdict.INCONCLUSIVE
    verdicts = {study.result.verdict for study in studied(EASY, step_log2=0).values()}
    assert verdicts == {Verdict.INCONCLUSIVE}


def test_soft_labels_reach_a_piece_as_an_array() -> None:
    seen = []

    def mine(logits: Any, label: Any) -> Any:
        seen.append(label)
        return label.sum() * softmax(logits) - label

    assert failing(SOFT, pieces=piece("fused", mine)) == set()
    assert [label.shape for label in seen] == [(3,), (3,)]


def test_a_piece_is_judged_in_its_own_format() -> None:
    study = studied(EASY, pieces=piece("fused", lambda x, t: fused(x.astype(np.float64), t)))["fused"]
    assert study.result.gradient_format.name == "float64"
    assert study.result.verdict is Verdict.PASS


def exits(*_: Any) -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (exits, "SystemExit"),
        (lambda x: np.zeros(7, np.float32), r"shape \(7,\); expected \(4,\)"),
        (lambda x: np.zeros(4, np.int64), "returned int64"),
        (lambda x: "text", "returned <U4"),
        (lambda x: [[1.0], [1.0, 2.0]], "no array"),
        (lambda: None, "TypeError"),
    ],
)
def test_a_piece_that_fails_is_a_crashed_step_and_the_others_go_on(call: Callable[..., Any], said: str) -> None:
    found = studied(EASY, pieces=piece("softmax", call))
    for name, study in found.items():
        if name in ("softmax-diagonal", "softmax-off-diagonal"):
            assert isinstance(study.result.outcome, Crashed)
            assert re.search(said, study.result.outcome.reason), study.result.outcome.reason
        else:
            assert study.result.verdict is Verdict.PASS


def test_a_piece_cannot_change_the_logits() -> None:
    def mine(logits: Any) -> Any:
        logits -= logits.max()
        return np.exp(logits) / np.exp(logits).sum()

    assert failing(EASY, pieces=piece("softmax", mine)) == set()


# --- what is looked at ---------------------------------------------------------------------------------------------


def test_many_classes_are_sampled_and_it_is_said() -> None:
    problem, _ = real("langid_sentences_f32", loss=())
    steps = Derivation(problem, case="x", tolerance=STABLE, pieces={})
    assert problem.classes > WHOLE
    assert len(steps.matrix_rows) < problem.rows
    for row, columns in enumerate(steps.columns):
        assert len(columns) == len(set(columns.tolist())) == 4096 // 142
        assert {int(problem.labels[row]), int(np.argmax(problem.logits[row])), 141, 0} <= set(columns.tolist())
    (study,) = steps.studies(("softmax-off-diagonal",))
    assert study.result.step is not None
    assert study.result.step.columns == 4096 // 142
    assert study.result.verdict is Verdict.PASS
    again = Derivation(problem, case="x", tolerance=STABLE, pieces={}, seed=1)
    assert any((a != b).any() for a, b in zip(steps.columns, again.columns, strict=True))


def test_rows_without_a_gradient_are_left_out() -> None:
    logits = [[math.nan, 0.0], [1.0, 2.0], [-math.inf, 0.0], [0.0, 1.0]]
    problem = make_problem(logits, [0, 1, 0, 7], "float32", loss=["ignore_index=7"])
    steps = Derivation(problem, case="x", tolerance=STABLE, pieces={})
    assert steps.rows.tolist() == [1]
    assert (steps.undefined_rows, steps.infinite_loss_rows) == (1, 1)
    (study,) = steps.studies(("fused",))
    assert study.result.row_numbers == (1,)
    nothing = studied(make_problem([[math.nan, 0.0]], [0]))
    assert all(isinstance(study.result.outcome, Skipped) for study in nothing.values())
    single = studied(make_problem([[7.0]], [0]))
    assert isinstance(single["softmax-off-diagonal"].result.outcome, Skipped)


def test_masked_classes_divide_by_a_ŷ_of_0() -> None:
    assert failing(make_problem([[0.0, -math.inf, 1.0]], [0], "float32")) == DIVIDE


def test_another_loss_and_an_unknown_piece_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="piece"):
        Derivation(EASY, case="x", tolerance=STABLE, pieces=piece("sofmax", softmax))

    @dataclasses.dataclass(frozen=True)
    class Other:
        name: str = "z_loss"
        value: str = "1"
        stage: int = 3

        def fold(self, terms: Any) -> Any:
            return terms

    with pytest.raises(InputError, match="plain cross-entropy, not with z_loss"):
        Derivation(dataclasses.replace(EASY, loss=(Other(),)), case="x", tolerance=STABLE, pieces={})  # type: ignore[arg-type]


def test_steps_have_the_names_of_the_contract() -> None:
    contract = (
        "exponential logarithm quotient-rule chain-rule softmax-diagonal softmax-off-diagonal softmax-jacobian "
        "output-loss loss-sum chain-sum fused hessian batch-mean"
    )
    assert contract.split() == list(_steps.NAMES)
