"""Each loss option by hand: on equal logits softmax is 1/k, and every number below can be worked out on paper."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

from gradcheck import candidates, losses, reference
from gradcheck.candidates import Candidate
from gradcheck.checking import How, check
from gradcheck.exact import Dyadic, to_fraction
from gradcheck.exceptions import InputError, UnknownNameError, UsageError
from gradcheck.formats import named
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Settings
from gradcheck.results import Judged, Result, Skipped, Verdict
from gradcheck.tolerances import parse as tolerance
from tests.conftest import EVERY_FORMAT, make_problem

LN4, LN3 = math.log(4), math.log(3)
ZERO = [0.0, 0.0, 0.0, 0.0]
WEIGHTS = "weight=1,2,3,4"

# options, labels of rows of four zeros, the gradient, the loss
HAND: list[tuple[str, list[Any], list[list[float]], float]] = [
    ("", [1], [[0.25, -0.75, 0.25, 0.25]], LN4),
    ("label_smoothing=0", [1], [[0.25, -0.75, 0.25, 0.25]], LN4),
    ("label_smoothing=0.1", [1], [[0.225, -0.675, 0.225, 0.225]], LN4),
    ("label_smoothing=0.1:uniform", [1], [[0.225, -0.675, 0.225, 0.225]], LN4),
    ("label_smoothing=1", [1], [[0, 0, 0, 0]], LN4),
    ("label_smoothing=0.3:others", [1], [[0.15, -0.45, 0.15, 0.15]], LN4),
    ("label_smoothing=1:others", [1], [[-1 / 12, 0.25, -1 / 12, -1 / 12]], LN4),
    ("label_smoothing=0.2", [[0.5, 0.5, 0, 0]], [[-0.2, -0.2, 0.2, 0.2]], LN4),
    (WEIGHTS, [1], [[0.5, -1.5, 0.5, 0.5]], 2 * LN4),
    (f"{WEIGHTS} label_smoothing=0.1", [1], [[0.4875, -1.3375, 0.4375, 0.4125]], 2.05 * LN4),
    ("weight=1,0,3,4", [1], [[0, 0, 0, 0]], 0.0),
    ("weight=1,0,3,4 label_smoothing=0.1", [1], [[0.025, 0.05, -0.025, -0.05]], 0.2 * LN4),
    (WEIGHTS, [[0.5, 0, 0, 0.5]], [[0.125, 0.625, 0.625, -1.375]], 2.5 * LN4),
    (f"{WEIGHTS} reduction=mean", [1, 3], [[1 / 12, -0.25, 1 / 12, 1 / 12], [1 / 6, 1 / 6, 1 / 6, -0.5]], LN4),
    (f"{WEIGHTS} reduction=mean:count", [1, 3], [[0.25, -0.75, 0.25, 0.25], [0.5, 0.5, 0.5, -1.5]], 3 * LN4),
    ("reduction=mean:rows ignore_index=9", [1, 9], [[0.125, -0.375, 0.125, 0.125], ZERO], LN4 / 2),
    ("reduction=mean:count ignore_index=9", [1, 9], [[0.25, -0.75, 0.25, 0.25], ZERO], LN4),
    ("reduction=mean", [[1, 0, 0, 0], [0, 0, 0, 0]], [[-0.375, 0.125, 0.125, 0.125], ZERO], LN4 / 2),
    ("label_smoothing=0.1 ignore_index=9 reduction=mean", [1, 9], [[0.225, -0.675, 0.225, 0.225], ZERO], LN4),
    ("z_loss=0.5", [1], [[(1 + LN4) / 4, (1 + LN4) / 4 - 1, (1 + LN4) / 4, (1 + LN4) / 4]], LN4 + LN4**2 / 2),
    ("z_loss=0.5", [[0, 0, 0, 0]], [[LN4 / 4] * 4], LN4**2 / 2),
    # Σw = 6 over two rows: the z-loss of a weighted mean counts 6, that of Liger Kernel 2
    (f"{WEIGHTS} reduction=mean z_loss=0.5", [1, 3], [
        [(2 + LN4) / 24, (2 + LN4) / 24 - 1 / 3, (2 + LN4) / 24, (2 + LN4) / 24],
        [(4 + LN4) / 24, (4 + LN4) / 24, (4 + LN4) / 24, (4 + LN4) / 24 - 2 / 3],
    ], LN4 + LN4**2 / 6),
    (f"{WEIGHTS} reduction=mean z_loss=0.5:count", [1, 3], [
        [(2 + 3 * LN4) / 24, (2 + 3 * LN4) / 24 - 1 / 3, (2 + 3 * LN4) / 24, (2 + 3 * LN4) / 24],
        [(4 + 3 * LN4) / 24, (4 + 3 * LN4) / 24, (4 + 3 * LN4) / 24, (4 + 3 * LN4) / 24 - 2 / 3],
    ], LN4 + LN4**2 / 2),
    ("temperature=2", [1], [[0.125, -0.375, 0.125, 0.125]], LN4),
    ("softcap=30", [1], [[0.25, -0.75, 0.25, 0.25]], LN4),
    ("softcap=30 temperature=0.5", [1], [[0.5, -1.5, 0.5, 0.5]], LN4),
    ("mask=1,1,0,1", [1], [[1 / 3, -2 / 3, 0, 1 / 3]], LN3),
    ("mask=1,1,0,1 label_smoothing=0.3", [1], [[7 / 30, -7 / 15, 0, 7 / 30]], LN3),
    ("mask=1,1,0,1 label_smoothing=0.3:others", [1], [[11 / 60, -11 / 30, 0, 11 / 60]], LN3),
    ("mask=1,1,0,1", [[0.25, 0.25, 0.5, 0]], [[-1 / 12, -1 / 12, 0, 1 / 6]], LN3 / 2),
    ("mask=1,1,0,1;0,1,1,0", [1, 2], [[1 / 3, -2 / 3, 0, 1 / 3], [0, 0.5, -0.5, 0]], LN3 + math.log(2)),
    ("upstream=-2", [1], [[-0.5, 1.5, -0.5, -0.5]], -2 * LN4),
    ("upstream=0", [1], [[0, 0, 0, 0]], 0.0),
    ("upstream=0.5,-3,0", [1, 1, 1], [[0.125, -0.375, 0.125, 0.125], [-0.75, 2.25, -0.75, -0.75], ZERO], -2.5 * LN4),
    ("upstream=3 reduction=mean", [1, 0], [[0.375, -1.125, 0.375, 0.375], [-1.125, 0.375, 0.375, 0.375]], 3 * LN4),
    ("upstream=-1 z_loss=0.5", [1], [
        [-(1 + LN4) / 4, 1 - (1 + LN4) / 4, -(1 + LN4) / 4, -(1 + LN4) / 4],
    ], -LN4 - LN4**2 / 2),
    ("empty=zero reduction=mean", [1], [[0.25, -0.75, 0.25, 0.25]], LN4),
    ("empty=zero reduction=mean ignore_index=9", [9, 9], [ZERO, ZERO], 0.0),
    ("empty=nan reduction=mean ignore_index=9", [9, 9], [ZERO, ZERO], math.nan),
    ("empty=zero-if-ignored reduction=mean ignore_index=9", [9, 9], [ZERO, ZERO], 0.0),
    ("reduction=mean ignore_index=9", [9, 9], [ZERO, ZERO], math.nan),
    ("reduction=sum ignore_index=9", [9, 9], [ZERO, ZERO], 0.0),
    ("reduction=mean empty=zero weight=0,2,3,4", [0, 0], [ZERO, ZERO], 0.0),
    ("reduction=mean empty=zero weight=0,2,3,4 label_smoothing=0.5", [0, 0], [ZERO, ZERO], 0.0),
    ("axis=-1", [1], [[0.25, -0.75, 0.25, 0.25]], LN4),
    ("like=torch", [1, -100], [[0.25, -0.75, 0.25, 0.25], ZERO], LN4),
    ("like=torch", [[1, 0, 0, 0]], [[-0.75, 0.25, 0.25, 0.25]], LN4),
    ("like=torch reduction=sum", [1, 1], [[0.25, -0.75, 0.25, 0.25]] * 2, 2 * LN4),
    ("like=optax", [1, 1], [[0.25, -0.75, 0.25, 0.25]] * 2, 2 * LN4),
    (f"like=keras {WEIGHTS}", [1, 3], [[0.25, -0.75, 0.25, 0.25], [0.5, 0.5, 0.5, -1.5]], 3 * LN4),
    (f"like=onnx {WEIGHTS}", [1, 3], [[1 / 12, -0.25, 1 / 12, 1 / 12], [1 / 6, 1 / 6, 1 / 6, -0.5]], LN4),
    ("like=keras ignore_index=9", [9], [ZERO], 0.0),
    ("like=liger", [-100, -100], [ZERO, ZERO], 0.0),
]  # fmt: skip


def results(problem: Problem, chosen: list[Candidate], rule: str = "stable", engine: str = "mpmath") -> list[Result]:
    settings = Settings(engine=engine)
    return list(check(problem, chosen, How(tolerance=tolerance(rule), settings=settings), case="x"))


def loss_of(result: Result) -> float:
    assert isinstance(result.outcome, Judged)
    loss = result.outcome.loss
    return float(to_fraction(loss)) if isinstance(loss, Dyadic) else float(loss if loss is not None else math.nan)


@pytest.mark.parametrize("engine", ["mpmath", "flint"])
@pytest.mark.parametrize(("options", "labels", "gradient", "loss"), HAND, ids=lambda value: str(value)[:60])
def test_by_hand(options: str, labels: list[Any], gradient: list[list[float]], loss: float, engine: str) -> None:
    problem = make_problem([[0.0] * 4] * len(labels), labels, loss=options.split())
    for method in ("incremental", "direct"):
        exact = reference.compute(problem, problem.format, Settings(method=method, engine=engine))
        for row, known in enumerate(gradient):
            for cls, value in enumerate(known):
                assert math.isclose(float(to_fraction(exact.exact(row, cls))), value, rel_tol=1e-14, abs_tol=1e-15)
    every = [candidates.load(name) for name in ("shifted", "log_softmax", "compensated", "naive")]
    for result in results(problem, every, engine=engine):
        assert result.verdict is Verdict.PASS, result
        assert math.isclose(loss_of(result), loss, rel_tol=1e-14) or (math.isnan(loss) and math.isnan(loss_of(result)))


# wrong gradients of what the options mean, each for two rows of four zeros with label 1
WRONG = {
    "label_smoothing=0.1": [[0.25 - 0.1 / 3, -0.65, 0.25 - 0.1 / 3, 0.25 - 0.1 / 3]] * 2,
    "label_smoothing=0.1:others": [[0.225, -0.675, 0.225, 0.225]] * 2,
    f"{WEIGHTS} reduction=mean": [[0.25, -0.75, 0.25, 0.25]] * 2,
    f"{WEIGHTS} reduction=mean:count": [[0.125, -0.375, 0.125, 0.125]] * 2,
    f"{WEIGHTS} label_smoothing=0.1": [[0.45, -1.35, 0.45, 0.45]] * 2,
    "z_loss=0.001": [[0.25, -0.75, 0.25, 0.25]] * 2,
    "softcap=0.5": [[0.5, -1.5, 0.5, 0.5]] * 2,
    "temperature=2": [[0.25, -0.75, 0.25, 0.25]] * 2,
    "mask=1,1,0,1": [[0.25, -0.75, 0.0, 0.25]] * 2,
    "mask=1,1,0,1 label_smoothing=0.3": [[1 / 3 - 0.075, 1 / 3 - 0.775, 0, 1 / 3 - 0.075]] * 2,
    "upstream=1,2": [[0.25, -0.75, 0.25, 0.25]] * 2,
    "upstream=-1": [[0.25, -0.75, 0.25, 0.25]] * 2,
}


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_fold_is_caught(options: str) -> None:
    problem = make_problem([[0.0] * 4] * 2, [1, 1], "float32", options.split())
    wrong = np.array(WRONG[options], dtype=np.float32)
    (result,) = results(problem, [candidates.given("wrong", wrong)])
    assert result.verdict is Verdict.FAIL


def test_weights_that_add_up_to_nothing_leave_no_gradient() -> None:
    problem = make_problem([ZERO] * 3, [0, 0, 9], loss=["reduction=mean", "weight=0,1,1,1", "ignore_index=9"])
    assert problem.status.tolist() == [RowStatus.UNDEFINED, RowStatus.UNDEFINED, RowStatus.IGNORED]
    gradient = np.full((3, 4), math.nan)
    gradient[2] = 0
    (result,) = results(problem, [candidates.given("nan, as of torch", gradient)])
    assert result.verdict is Verdict.PASS
    assert math.isnan(loss_of(result))
    gradient[2, 0] = 1e-300
    assert results(problem, [candidates.given("x", gradient)])[0].verdict is Verdict.FAIL
    alone = make_problem([ZERO] * 2, [0, 0], loss=["reduction=mean", "weight=0,1,1,1"])
    (result,) = results(alone, [candidates.load("shifted")])
    assert isinstance(result.outcome, Skipped)
    assert "class weights that add up to 0" in result.outcome.reason


@pytest.mark.parametrize("options", ["", "label_smoothing=0.5", "weight=3", "z_loss=0.5", "mask=1", "softcap=2"])
def test_one_class(options: str) -> None:
    """K = 1: p = 1, and all that is left is the gradient of a z-loss, 2ζ·z."""
    problem = make_problem([[1.5], [-700.0]], [0, 0], loss=options.split())
    exact = reference.compute(problem, problem.format, Settings())
    expected = [1.5, -700.0] if options == "z_loss=0.5" else [0.0, 0.0]
    assert [float(to_fraction(exact.exact(row, 0))) for row in (0, 1)] == expected
    for name in ("shifted", "compensated"):
        (result,) = results(problem, [candidates.load(name)])
        assert result.verdict is Verdict.PASS


def test_a_softcap_near_its_cap() -> None:
    """1 − tanh² is 0 in float32 where sech² is 8.2e-9: a sound algorithm's loss, which `ulp` shows."""
    problem = make_problem([[300.0, -300.0]], [1], "float32", ["softcap=30"])
    exact = reference.compute(problem, problem.format, Settings())
    assert math.isclose(float(to_fraction(exact.exact(0, 0))), float(mpmath.sech(10) ** 2), rel_tol=1e-12)
    assert round(float(to_fraction(exact.exact(0, 0))), 11) == 8.24e-9
    usual, careful = candidates.load("shifted"), candidates.load("compensated")
    assert usual.gradient(problem).tolist() == [[0.0, 0.0]]
    assert [result.verdict for result in results(problem, [usual, careful])] == [Verdict.PASS] * 2
    assert [result.verdict for result in results(problem, [usual, careful], "ulp:4")] == [Verdict.FAIL, Verdict.PASS]


@pytest.mark.parametrize("name", ["shifted", "log_softmax", "compensated"])
def test_a_mask_stays_a_mask_under_a_softcap(name: str) -> None:
    masked = make_problem([[-math.inf, 0.0, 1.0]], [1], "float32", ["softcap=2"])
    alone = make_problem([[0.0, 1.0]], [0], "float32", ["softcap=2"])
    candidate = candidates.load(name)
    with np.errstate(over="ignore"):  # cosh(1e4/c), whose inverse is 0 as it should be
        wrong = candidate.gradient(make_problem([[-1e4, 0.0, 1.0]], [1], "float32", ["softcap=2"]))
    assert candidate.gradient(masked)[0, 0] == 0.0
    assert np.allclose(candidate.gradient(masked)[0, 1:], candidate.gradient(alone)[0], rtol=1e-6, atol=0)
    assert results(masked, [candidate])[0].verdict is Verdict.PASS
    # capped to −c, as by a kernel that forgets to mask again
    assert results(masked, [candidates.given("unmasked", wrong)])[0].verdict is Verdict.FAIL


def test_a_masked_true_class_under_transforms() -> None:
    """f' at −inf is 1/T, and 0 under a softcap; the loss is infinite, with the sign of what comes from above."""
    row = [[-math.inf, 0.0, 0.0]]
    for options, gradient, loss in (
        ("temperature=0.5", [-2.0, 1.0, 1.0], math.inf),
        ("softcap=2", [0.0, 0.5, 0.5], math.inf),
        ("upstream=-1", [1.0, -0.5, -0.5], -math.inf),
        ("upstream=0", [0.0, 0.0, 0.0], 0.0),
    ):
        problem = make_problem(row, [0], loss=options.split())
        for engine in ("mpmath", "flint"):
            exact = reference.compute(problem, problem.format, Settings(engine=engine))
            assert [float(to_fraction(exact.exact(0, cls))) for cls in range(3)] == gradient
            found = results(problem, [candidates.load("shifted"), candidates.load("compensated")], engine=engine)
            assert [result.verdict for result in found] == [Verdict.PASS] * 2
            assert loss_of(found[0]) == loss


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_arrays_are_rounded_once_to_the_format(fmt: Any) -> None:
    problem = make_problem([[0.0, 0.0, 0.0]] * 2, [0, 1], fmt, ["weight=0.1,0.3,1", "upstream=0.7,0.1"])
    row = problem.distinct[0]
    assert row is not None
    assert row.total_q == Fraction(fmt.round(Fraction(1, 10)))
    assert row.scale == Fraction(fmt.round(Fraction(7, 10)))
    single = make_problem([[0.0]], [0], fmt, ["upstream=0.7"]).distinct[0]
    assert single is not None
    assert single.scale == Fraction(7, 10)


def test_options_by_name_with_arrays() -> None:
    values: dict[str, object] = {
        "weight": np.array([0.5, 2], dtype=np.float32),
        "label_smoothing": 0.1,
        "like": "torch",
    }
    options = {option.name: option for option in losses.given(values)}
    assert options["weight"].in_full == "0.5,2.0"
    assert options["weight"].argument(named("float16")).tolist() == [0.5, 2.0]  # type: ignore[attr-defined]
    assert options["label_smoothing"].argument(named("float16")) == 0.1
    assert options["reduction"].value == "mean"


def test_what_is_in_full_says_the_same_again() -> None:
    """A fixture, and a saved report, hold options as text."""
    texts = [
        "weight=0.1,0.3,1",
        "mask=1,1,0;0,1,1",
        "upstream=-0.5,2",
        "label_smoothing=0.1:others",
        "z_loss=1e-4:count",
        "reduction=mean:count",
        "empty=zero-if-ignored",
        "softcap=30",
        "temperature=0.7",
        "ignore_index=-1",
        "axis=1",
        "like=liger",
    ]
    first = make_problem([[0.0, 1.0, 2.0]] * 2, [0, 2], "float32", texts)
    again = make_problem(
        [[0.0, 1.0, 2.0]] * 2, [0, 2], "float32", [f"{option.name}={option.in_full}" for option in first.loss]
    )
    assert again.digest == first.digest
    for n, row in enumerate(first.distinct):
        other = again.distinct[n]
        assert row is not None
        assert other is not None
        assert (row.q, row.scale, row.zeta) == (other.q, other.scale, other.zeta)
    # a library's ignored label leaves soft labels alone, said or not
    make_problem([[0.0, 1.0]], [[0.5, 0.5]], loss=["like=torch", "ignore_index=-100"])
    with pytest.raises(InputError, match="ignore_index needs hard labels"):
        make_problem([[0.0, 1.0]], [[0.5, 0.5]], loss=["like=torch", "ignore_index=-1"])


def test_rows_taken_out_take_their_share_of_the_arrays() -> None:
    options = ["mask=1,1,0;0,1,1;1,1,1", "upstream=1,2,3", "reduction=mean", "label_smoothing=0.1", "weight=1,2,3"]
    problem = make_problem([[0.0, 1.0, 2.0]] * 3, [0, 2, 1], loss=options)
    part = problem.take(np.array([1]))
    (whole_row, row) = (problem.distinct[1], part.distinct[0])
    assert whole_row is not None
    assert row is not None
    assert (row.q, row.scale) == (whole_row.q, whole_row.scale)
    assert row.scale == Fraction(2, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label_smoothing=1.5", "label_smoothing is a number 0, or from 1e-100 to 1, not '1.5'"),
        ("label_smoothing=-0.1", "label_smoothing is a number"),
        ("label_smoothing=nan", "label_smoothing is a number"),
        ("label_smoothing=", "label_smoothing is a number"),
        ("label_smoothing=0.1:other", "label_smoothing has the rules uniform, others"),
        ("z_loss=-1", "z_loss is a number"),
        ("z_loss=1:torch", "z_loss has the rules count"),
        ("temperature=0", "temperature is a number from 1e-9 to 1e9"),
        ("softcap=-30", "softcap is a number from 1e-9"),
        ("softcap=inf", "softcap is a number"),
        ("reduction=mean:all", "reduction has the rules weights, count, rows"),
        ("reduction=sum:rows", "reduction is one of none, sum, mean, or mean:RULE"),
        ("empty=0", "empty is one of nan, zero"),
        ("axis=x", "axis is a whole number"),
        ("weight=1,x", "--loss weight: '1,x' is no list of numbers"),
        ("weight=@weight", "--loss weight: '@weight' is no list of numbers"),
        ("mask=1,0;1", "--loss mask: '1,0;1' has rows of different length"),
        ("like=pytorch", "unknown library 'pytorch'; did you mean 'torch'"),
    ],
)
def test_what_is_no_option(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        losses.parse([text])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1], "weight=1,2", "weight has shape (2,); logits of 3 classes need (3,)"),
        ([0, 1], "weight=1,2,-1", "weight -1 of class 2 is neither 0 nor from"),
        ([0, 1], "weight=1,2,nan", "weight nan of class 2"),
        ([0, 1], "mask=1,0", "mask has shape (2,); logits of shape (2, 3) need (3,) or (2, 3)"),
        ([0, 1], "mask=1,2,0", "mask holds numbers that are neither 0 nor 1"),
        ([0, 1], "mask=1,0,1", "the mask takes out class 1, the label of row 1"),
        ([0, 1], "upstream=1,2,3", "upstream has shape (3,); 2 rows need a single number or (2,)"),
        ([0, 1], "upstream=nan", "upstream: nan is not finite"),
        ([0, 1], "upstream=1,inf", "upstream inf of row 1 is neither 0 nor of a size"),
        ([0, 1], "upstream=1e300", "upstream 1e+300 is neither 0 nor of a size"),
        ([[1, 0, 0]] * 2, "reduction=mean:weights", "reduction=mean:weights needs hard labels"),
        ([[1, 0, 0]] * 2, "label_smoothing=0.1:others", "label_smoothing by the rule 'others' needs hard labels"),
        ([0, 0], "label_smoothing=0.1:others mask=1,0,0", "needs two classes or more"),
    ],
)
def test_what_does_not_fit_the_problem(labels: list[Any], options: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_problem([[0.0, 1.0, 2.0]] * 2, labels, loss=options.split())
    assert message in str(caught.value)


def test_sizes_past_what_can_be_judged_are_refused() -> None:
    for logits, options, message in (
        ([[1e306, 0.0]], "temperature=0.001", "overflows when divided by the temperature"),
        ([[1e200, 0.0]], "z_loss=0.001", "overflows when the z-loss squares it"),
    ):
        with pytest.raises(InputError, match=message):
            make_problem(logits, [0], loss=options.split())
    make_problem([[1e306, 0.0]], [9], loss=["temperature=0.001", "ignore_index=9"])
    make_problem([[1e306, 0.0]], [0], loss=["softcap=30", "z_loss=1"])


def test_an_unknown_option_names_its_neighbour() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'label_smoothing'"):
        losses.parse(["label_smooting=0.1"])


def test_a_softcap_far_past_its_cap() -> None:
    """sech²(363) is subnormal where cosh² overflows: a slope of 0 would have hidden how wrong the difference is."""
    logits = [[363.0, 362.0]]
    problem = make_problem(logits, [0], loss=["softcap=1"])
    context = mpmath.MPContext()
    context.dps = 400
    z = [context.tanh(x) for x in logits[0]]
    total = context.exp(z[0]) + context.exp(z[1])
    known = [(context.exp(z[i]) / total - (i == 0)) * context.sech(x) ** 2 for i, x in enumerate(logits[0])]
    for engine, order in (("mpmath", 2), ("flint", 2), ("mpmath", 8)):
        exact = reference.compute(problem, problem.format, Settings(engine=engine, order=order))
        for cls, value in enumerate(known):
            off = abs(to_fraction(exact.exact(0, cls)) - to_fraction(value)) / Fraction(
                problem.format.smallest_subnormal
            )
            assert float(off) <= exact.values.in_ulps(exact.values.uncertainty)[0, cls] <= 2.0**-10


@pytest.mark.parametrize("rule", ["rel:1e-6", "norm:1e-6", "ulp:0.6"])
@pytest.mark.parametrize(
    ("logits", "options"),
    [
        ([[1.0, 2.0, 0.5, -1.0]], "mask=1,1,0,1"),
        ([[1.0, 2.0, 0.5, -1.0]], "upstream=0"),
        ([[1.0, 2.0, 0.5, -1.0]], "weight=1,0,2,3"),
        ([[-math.inf, 2.0, 0.5, -math.inf]], ""),
        ([[-math.inf, 2.0, -math.inf, -math.inf]], "weight=3,2,0.25,1"),
        ([[1.0, 2.0, 0.5, -1.0]], "mask=0,1,0,0 label_smoothing=0.1"),
    ],
)
def test_what_is_exactly_zero_is_known_exactly(logits: list[list[float]], options: str, rule: str) -> None:
    """A gradient that is 0 for certain leaves nothing undecided, and costs no digits."""
    problem = make_problem(logits, [1], loss=options.split())
    exact = reference.compute(problem, problem.format, Settings())
    right = np.array([[float(to_fraction(exact.exact(0, cls))) for cls in range(4)]])
    assert (right == 0).any()
    assert exact.values.uncertainty[right == 0].max() == 0
    assert max(plan.precision_bits for plan in exact.plans) < 260
    (result,) = results(problem, [candidates.given("right", right)], rule)
    assert result.verdict is Verdict.PASS
    right[0, 0] += 1e-300 if right[0, 0] == 0 else 1.0
    assert results(problem, [candidates.given("wrong", right)], "rel:1e-6")[0].verdict is Verdict.FAIL


def test_half_precision_scales_once() -> None:
    """w·p and upstream·g leave float16's range where what is made of them does not."""
    rng = np.random.default_rng(0)
    for options in (["reduction=mean", "weight=" + ",".join(["0.001"] * 20)], ["reduction=mean", "upstream=65536"]):
        problem = make_problem(rng.normal(size=(8, 20)) * 4, rng.integers(0, 20, 8), "float16", options)
        every = [candidates.load(name) for name in ("shifted", "log_softmax", "compensated", "wide")]
        for result in results(problem, every):
            assert result.verdict is Verdict.PASS, result


def test_a_scale_that_is_1_after_all_loses_nothing() -> None:
    """0.001 from above over weights of 0.001: in between, components near the subnormal range would be lost."""
    options = ["reduction=mean", "weight=0.001,0.001", "upstream=0.001", "temperature=10"]
    problem = make_problem([[0.0, -890.0]], [0], "float32", options)
    for name in ("shifted", "log_softmax", "compensated"):
        (result,) = results(problem, [candidates.load(name)])
        assert result.verdict is Verdict.PASS, result


def test_a_slope_magnifies_what_is_subnormal_before_it() -> None:
    """A weight of 0.001 makes w·p subnormal, and 1/T multiplies what its rounding left."""
    logits = [[25.0, -50.0, -25.0, -25.0, 50.0, -0.0, -75.0]]
    options = ["temperature=0.07", "softcap=1000", "weight=1,0.001,1,1,1,1,1"]
    problem = make_problem(logits, [1], loss=options)
    for name in ("shifted", "log_softmax", "compensated"):
        (result,) = results(problem, [candidates.load(name)])
        assert result.verdict is Verdict.PASS, result


def test_smoothing_by_others_does_not_cancel() -> None:
    for classes, epsilon in ((2, "0.99"), (3, "0.99"), (10, "0.999")):
        problem = make_problem([[-800.0] + [0.0] * (classes - 1)], [0], loss=[f"label_smoothing={epsilon}:others"])
        assert results(problem, [candidates.load("shifted")])[0].verdict is Verdict.PASS


@pytest.mark.parametrize("name", ["shifted", "log_softmax", "wide"])
def test_a_temperature_in_half_precision_far_from_zero(name: str) -> None:
    """exp turns an error of u·|z| into a factor e^(u·|z|), which a linear bound would not allow."""
    rng = np.random.default_rng(1)
    for fmt, offset, options in (("bfloat16", 22016.0, "temperature=10"), ("float16", 60000.0, "temperature=3")):
        problem = make_problem(offset + rng.normal(size=(40, 6)) * 86, rng.integers(0, 6, 40), fmt, [options])
        assert results(problem, [candidates.load(name)])[0].verdict is Verdict.PASS


def test_huge_labels_with_huge_weights_are_refused() -> None:
    for options in ("weight=1e100,1,1", "upstream=1e100"):
        with pytest.raises(InputError, match="multiply to more than"):
            make_problem([[1.0, 2.0, 3.0]], [[2e279, 3e279, 5e279]], loss=[options])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"upstream": [1 + 1j]}, "the numbers are complex128"),
        ({"weight": "@w"}, "'@w' is no list of numbers"),
        ({"weight": [[1, 2], [3]]}, "loss option 'weight' is no array"),
        ({"weight": ""}, "a list of numbers, a file or @NAME is expected"),
    ],
)
def test_values_by_name_that_are_none(values: dict[str, object], message: str) -> None:
    with pytest.raises((InputError, UsageError)) as caught:
        Problem(
            logits=np.zeros((1, 2)),
            labels=np.zeros(1, dtype=np.int64),
            format=named("float64"),
            loss=losses.given(values),
        )
    assert message in str(caught.value)


def test_numbers_of_numpy_are_numbers() -> None:
    values: dict[str, object] = {"ignore_index": np.int64(-100), "temperature": np.float32(0.5), "upstream": True}
    values["label_smoothing"] = np.array(0.1)
    found = {option.name: option.value for option in losses.given(values)}
    assert found == {"ignore_index": "-100", "temperature": "0.5", "upstream": "1", "label_smoothing": "0.1"}
