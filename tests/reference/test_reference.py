"""The reference against certified gradients, hand-computed values, itself by another way, and planted mistakes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

from gradcheck import catalogue, reference
from gradcheck.estimates import estimate
from gradcheck.exact import Dyadic, to_fraction
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import Float64, Format, Int64, named
from gradcheck.problem import Problem
from gradcheck.reference import Reference, Settings
from gradcheck.reference.engines import mpmath as engine
from gradcheck.reference.rule import TARGET_BITS, Plan, derivative_log2, plan, truncation_log2
from gradcheck.reference.stencils import ORDERS, stencil
from gradcheck.reference.values import Values, following, nothing, values_in_units
from tests.conftest import EVERY_FORMAT, make_problem, real
from tests.reference import closed_form

CERTIFIED = (
    "langid_sentences_f32",
    "magika_f32",
    "ocr_ddddocr_f32",
    "sklearn_iris_logreg_f64",
    "sklearn_digits_logreg_f64",
    "smollm2_bf16",
)


def certified(archive: Any, values: Any) -> tuple[Float64, Any]:
    """The archive's certified gradient, and `values` at the same components."""
    if "grad_ref_f64" in archive:
        return archive["grad_ref_f64"], values
    return archive["grad_ref_sel_f64"], np.take_along_axis(values, archive["grad_idx"], axis=1)


def errors_against_certified(exact: Reference, archive: Any) -> tuple[Float64, Float64]:
    """|reference − certified| and the claimed uncertainty, both in units; the first lessened by float64's rounding."""
    known, high = certified(archive, exact.values.high)
    low, unit, claimed = (
        certified(archive, values)[1] for values in (exact.values.low, exact.values.unit_log2, exact.values.uncertainty)
    )
    unit = unit.astype(np.int32)
    apart = np.abs((np.ldexp(known, -unit) - high) - low)
    rounding = np.ldexp(np.spacing(np.abs(known)), -unit) / 2  # in this order: half of the smallest would be 0
    return np.maximum(apart - rounding, 0.0), claimed


@pytest.mark.parametrize("name", CERTIFIED)
def test_agrees_with_certified_gradients_to_the_last_digit(name: str) -> None:
    """Every component, rounded to float64, is the certified one."""
    problem, archive = real(name, "float64")
    # 2^-40 ulp: at the default 2^-10 one component in some thousand would lie too near a rounding boundary
    exact = reference.compute(problem, problem.format, Settings(target_bits=40))
    # rounded once, from all digits: the sum of high and low would be rounded again in the subnormal range
    rounded = np.zeros(problem.logits.shape)
    for n, row in enumerate(exact.rows):
        assert row is not None
        rounded[n] = np.array([problem.format.round(value) for value in row.exact_of(np.arange(len(row.values.high)))])[
            row.inverse
        ]
    known, found = certified(archive, rounded)
    assert np.array_equal(known, found)
    assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-40
    assert [float(to_fraction(row.loss) * problem.rows) for row in exact.rows if row] == pytest.approx(
        archive["loss_rows_ref_f64"].tolist(), rel=2.0**-52, abs=0
    )


@pytest.mark.parametrize("own_format", [True, False], ids=["own", "float64"])
@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_gradients_lie_within_the_claimed_uncertainty(name: str, own_format: bool) -> None:
    problem, archive = real(name, None if own_format else "float64")
    exact = reference.compute(problem, problem.format, Settings())
    error, claimed = errors_against_certified(exact, archive)
    assert (error <= claimed).all()
    assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS


@pytest.mark.parametrize(
    "settings",
    [Settings(digits=14), Settings(digits=20), Settings(step_log2=-6), Settings(step_log2=-12)],
    ids=["14 digits", "20 digits", "step 2^-6", "step 2^-12"],
)
@pytest.mark.parametrize("name", ["magika_f32", "sklearn_iris_logreg_f64", "langid_sentences_f32"])
def test_uncertainty_follows_the_users_digits_and_step(name: str, settings: Settings) -> None:
    """It grows with them, still contains the true error, and is not a thousand times too large."""
    problem, archive = real(name, "float64")
    rows = np.arange(0, problem.rows, 4)
    archive = {key: archive[key][rows] for key in ("grad_ref_f64",)}
    problem = problem.take(rows)
    exact = reference.compute(problem, problem.format, settings)
    error, claimed = errors_against_certified(exact, archive)
    assert (error <= claimed).all()
    unit = exact.values.unit_log2.astype(np.int32)
    largest_error, largest_claim = (float(np.ldexp(values, unit).max()) for values in (error, claimed))
    default = reference.compute(problem, problem.format, Settings()).values
    assert largest_claim > 1000 * float(np.ldexp(default.uncertainty, default.unit_log2.astype(np.int32)).max())
    assert largest_claim < 1000 * largest_error


def test_uncertainty_of_a_published_row() -> None:
    """−e^-37.43/(1 + e^-37.43), whose cancellation three frameworks got wrong."""
    problem = make_problem([[37.42994775023705, 0.0]], [0])
    exact = reference.compute(problem, problem.format, Settings())
    assert problem.format.round(exact.exact(0, 0)) == -5.551115123125776e-17
    assert problem.format.round(exact.exact(0, 1)) == 5.551115123125776e-17


def test_hand_computed() -> None:
    """Two equal logits: ±1/2; three with e^l = 1, 2, 5 as nearly as float64 has them: 1/8, 2/8, 5/8."""
    problem = make_problem([[3.0, 3.0]], [1])
    exact = reference.compute(problem, problem.format, Settings())
    assert [float(to_fraction(exact.exact(0, i))) for i in (0, 1)] == [0.5, -0.5]
    problem = make_problem([[0.0, math.log(2), math.log(5)]], [2], loss=["reduction=mean"])
    exact = reference.compute(problem, problem.format, Settings())
    found = [float(to_fraction(exact.exact(0, i))) for i in range(3)]
    assert found == pytest.approx([1 / 8, 2 / 8, 5 / 8 - 1], rel=1e-15)


# --- agreement, and proof that it can fail ---------------------------------------------------------------------


def _values(row: reference.RowReference) -> list[Dyadic]:
    return row.exact_of(np.arange(len(row.values.high)))


def disagreement(one: Reference, other: Reference) -> float:
    """The largest distance of two references, as a multiple of what both claim together."""
    worst = 0.0
    for left, right in zip(one.rows, other.rows, strict=True):
        if left is None or right is None:
            continue
        claims = [
            [
                Fraction(float(u)) * Fraction(2) ** int(unit)
                for u, unit in zip(row.values.uncertainty, row.values.unit_log2, strict=True)
            ]
            for row in (left, right)
        ]
        for a, b, *claimed in zip(_values(left), _values(right), *claims, strict=True):
            apart = abs(to_fraction(a) - to_fraction(b))
            if apart:
                worst = max(worst, float(apart / sum(claimed)) if sum(claimed) else math.inf)
    return worst


def small_cases() -> list[tuple[str, Format]]:
    return [
        (case.name, fmt)
        for case in catalogue.cases().values()
        for fmt in EVERY_FORMAT
        if (made := case.problem(fmt)) is not None
        and (sizes := [len(row.logits) for row in made.distinct if row is not None])
        and max(sizes) <= 64
    ]


def problem_of(name: str, fmt: Format) -> Problem:
    made = catalogue.cases()[name].problem(fmt)
    assert made is not None
    return made


@pytest.mark.parametrize(("name", "fmt"), small_cases(), ids=str)
def test_direct_and_incremental_and_two_precisions_agree(name: str, fmt: Format) -> None:
    problem = problem_of(name, fmt)
    # of rows that share everything but their order one is enough; direct is O(k²)
    incremental = reference.compute(problem, fmt, Settings())
    direct = reference.compute(problem, fmt, Settings(method="direct"))
    finer = reference.compute(problem, fmt, Settings(target_bits=24))
    assert disagreement(incremental, direct) <= 1
    assert disagreement(incremental, finer) <= 1
    for exact, bits in ((incremental, TARGET_BITS), (direct, TARGET_BITS), (finer, 24)):
        assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-bits


class WrongSum(engine.Incremental):
    """Counts one class twice in S."""

    def block(self, places: Int64) -> engine._Block:
        block = super().block(places)
        counts = block.pairs.counts + np.eye(len(places), dtype=int)[0]
        return dataclasses.replace(block, pairs=dataclasses.replace(block.pairs, counts=counts))


class WrongStep(engine.Incremental):
    """Divides by a step other than the one that it took."""

    class Block(engine._Block):
        def exact(self, shares: Sequence[int]) -> list[Dyadic]:
            return [value.scaled(Fraction(1001, 1000), 400) for value in super().exact(shares)]

    def block(self, places: Int64) -> engine._Block:
        block = super().block(places)
        fields = {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}
        return self.Block(**fields)


class WrongRounding(engine.Incremental):
    """Claims more bits than it computed with."""

    def block(self, places: Int64) -> engine._Block:
        block = super().block(places)
        return dataclasses.replace(block, bits=block.bits - 30)


@pytest.mark.parametrize("mistake", [WrongSum, WrongStep, WrongRounding])
def test_a_wrong_reference_is_caught(mistake: type[engine.Incremental], monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem([[0.3, -1.2, 2.5, 0.7]], [1], "float32")
    sound = reference.compute(problem, problem.format, Settings(method="direct"))
    assert disagreement(sound, reference.compute(problem, problem.format, Settings())) <= 1
    monkeypatch.setitem(engine.METHODS, "incremental", mistake)
    assert disagreement(sound, reference.compute(problem, problem.format, Settings())) > 1


# --- step and precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 150_000])
@pytest.mark.parametrize(
    ("name", "gap", "most"),
    [("float16", 6e4, 70), ("bfloat16", 1e38, 180), ("float32", 1e38, 205), ("float64", 1e300, 1145)],
)
def test_huge_gaps_need_no_more_bits(name: str, gap: float, most: int, classes: int) -> None:
    """As docs/numerics.md has it."""
    most -= 17 if classes == 3 else 0
    for label in (0, 1):
        problem = make_problem([[gap, 0.0, *[1.0] * (classes - 2)]], [label], name)
        exact = reference.compute(problem, problem.format, Settings())
        assert max(found.precision_bits for found in exact.plans) <= most
        assert exact.evaluations == 1


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
@pytest.mark.parametrize("classes", [4, 7])
def test_a_gradient_of_exactly_0_ends_decided(fmt: Format, classes: int) -> None:
    problem = make_problem([[0.5] * classes], [[1 / classes] * classes], fmt)
    exact = reference.compute(problem, fmt, Settings())
    assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS
    assert (np.abs(exact.values.high) <= exact.values.uncertainty).all()


def test_ziv_takes_a_second_round_where_estimates_mislead() -> None:
    """1/7 in float64: the estimate of the gradient is its own rounding error, the true gradient is 0."""
    problem = make_problem([[0.5] * 7], [[1 / 7] * 7])
    exact = reference.compute(problem, problem.format, Settings())
    assert exact.evaluations >= 2
    assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS
    first = reference.compute(problem, problem.format, Settings(step_log2=exact.plans[0].step_log2 // 4))
    assert first.evaluations == 1
    assert first.values.in_ulps(first.values.uncertainty).max() > 2.0**-TARGET_BITS


def test_equal_pairs_are_evaluated_once() -> None:
    problem, _ = real("smollm2_bf16")
    exact = reference.compute(problem, problem.format, Settings())
    for row, found in zip(problem.distinct, exact.rows, strict=True):
        assert row is not None
        assert found is not None
        assert (
            len(found.values.high) == len(np.unique(np.delete(problem.terms.logits[0], 0)))
            or len(found.values.high) < 2500
        )


def test_gradients_are_judged_in_a_format_of_their_own() -> None:
    """float64 gradients of bfloat16 logits: the digits follow the gradient."""
    problem = make_problem([[1.5, 0.25, -3.0]], [0], "bfloat16")
    narrow = reference.compute(problem, named("bfloat16"), Settings())
    wide = reference.compute(problem, named("float64"), Settings())
    assert wide.plans[0].precision_bits > narrow.plans[0].precision_bits + 60


def test_refine_renews_the_rows_that_it_is_asked_to() -> None:
    problem = make_problem([[1.0, 2.0], [3.0, 5.0]], [0, 1])
    coarse = reference.compute(problem, problem.format, Settings())
    fine = reference.refine(problem, coarse, [1], 40)
    assert fine.rows[0] is coarse.rows[0]
    assert fine.values.uncertainty[1].max() <= 2.0**-40 < fine.values.uncertainty[0].max()
    assert disagreement(coarse, fine) <= 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"digits": 4}, UsageError),
        ({"digits": 10_000}, UsageError),
        ({"step_log2": 1}, UsageError),
        ({"method": "magic"}, UnknownNameError),
    ],
)
def test_settings_are_validated(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Settings(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"digits": 4}, "--digits 4 is outside 5…6020"),
        ({"digits": 6021}, "--digits 6021 is outside 5…6020"),
        ({"step_log2": 1}, "--step 2^1 is outside 2^-19999…2^0"),
        ({"step_log2": -20_000}, "--step 2^-20000 is outside 2^-19999…2^0"),
        ({"method": "magic"}, "method"),
    ],
)
def test_what_settings_are_refused_with(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((UsageError, UnknownNameError), match=re.escape(said)):
        Settings(**settings)


def test_settings_at_their_ends() -> None:
    for settings in (Settings(digits=5), Settings(digits=6020), Settings(step_log2=0), Settings(step_log2=-19_999)):
        assert settings.fixed
    assert not Settings().fixed
    assert not Settings(target_bits=40, order=8, method="direct").fixed
    assert (Settings().target_bits, Settings().order, Settings().method, Settings().engine) == (
        10,
        2,
        "incremental",
        "mpmath",
    )
    # 2^33 is 8.6e9 and 2^34 is 1.7e10
    assert [reference.bits_of(digits) for digits in (1, 5, 10)] == [4, 17, 34]
    assert [reference.digits_of(bits) for bits in (3, 4, 33, 34, 20_000)] == [0, 1, 9, 10, 6020]


def test_rows_without_a_gradient_are_0_and_not_judged() -> None:
    problem = make_problem(
        [[math.nan, 0.0], [0.0, 0.0], [1.0, 2.0], [0.0, 3.0]], [0, 1, -1, 0], "float32", ["ignore_index=-1"]
    )
    seen: list[None] = []
    exact = reference.compute(problem, problem.format, Settings(), lambda: seen.append(None))
    assert len(seen) == 4
    assert exact.judged.tolist() == [[False], [True], [True], [True]]
    for n in (0, 2):
        assert exact.rows[n] is None
        assert exact.estimates[n] is None
        assert exact.exact_row(n) == [Dyadic(0, 0)] * 2 == [exact.exact(n, 0), exact.exact(n, 1)]
        assert exact.values.high[n].tolist() == exact.values.uncertainty[n].tolist() == [0.0, 0.0]
    assert [float(to_fraction(value)) for value in exact.exact_row(1)] == pytest.approx([0.5, -0.5])
    assert len(exact.plans) == 2
    assert exact.evaluations == 1
    assert exact.spread(lambda known, values: np.ones(len(values.high)))[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    nothing = reference.compute(problem.take(np.array([0, 2])), problem.format, Settings())
    assert (nothing.plans, nothing.evaluations) == ([], 0)


def test_users_digits_and_step_are_taken_as_they_are() -> None:
    problem = make_problem([[0.5, -1.0, 2.0]], [1])
    (found,) = reference.compute(problem, problem.format, Settings(digits=30, step_log2=-7)).plans
    assert (found.step_log2, found.precision_bits) == (-7, 100)
    (found,) = reference.compute(problem, problem.format, Settings(step_log2=-7)).plans
    assert found.step_log2 == -7


def test_a_power_of_two_is_planned_for_the_ulp_below_it() -> None:
    """1/2 in float32, of which the difference may be a hair less: 2H >= 11 + log2(1/12) + 25, P = 10 + H + 25 + 7."""
    problem = make_problem([[0.0, 0.0]], [0], "float32")
    exact = reference.compute(problem, problem.format, Settings())
    assert exact.values.ulp_log2.tolist() == [[-25, -25]]
    ((step_log2, bits),) = ((found.step_log2, found.precision_bits) for found in exact.plans)
    assert (step_log2, bits, exact.evaluations) == (-17, 59, 1)


def test_heavy_labels_have_larger_units() -> None:
    """8e289 is 2^963.04: errors of that size are 2^900 units at most."""
    problem = make_problem([[0.0, 0.0]], [[4e289, 4e289]])
    exact = reference.compute(problem, problem.format, Settings())
    assert (exact.values.unit_log2.tolist(), exact.evaluations) == ([[64, 64]], 1)


def test_a_sharper_reference_remembers_how_it_was_asked_for() -> None:
    problem = make_problem([[0.5, -1.0, 2.0]], [1])
    coarse = reference.compute(problem, problem.format, Settings())
    fine = reference.refine(problem, coarse, [0], 300)
    assert fine.settings is coarse.settings
    assert not fine.values.rough
    assert fine.values.in_ulps(fine.values.uncertainty).max() <= 2.0**-50


def test_no_process_wide_mpmath_state_is_touched() -> None:
    before = (mpmath.mp.prec, mpmath.mp.dps, mpmath.iv.prec)
    problem = make_problem([[1.0, 2.0, -4.0]], [1])
    for method in engine.METHODS:
        reference.compute(problem, problem.format, Settings(method=method))
    assert (mpmath.mp.prec, mpmath.mp.dps, mpmath.iv.prec) == before
    mpmath.mp.prec = 20
    try:
        low = reference.compute(problem, problem.format, Settings())
    finally:
        mpmath.mp.prec = before[0]
    assert disagreement(low, reference.compute(problem, problem.format, Settings())) == 0


# --- the whole canonical loss, row by row ----------------------------------------------------------------------

LOGITS = (
    [0.5, -1.25, 3.0, 2.0],
    [40.0, 0.0, -7.5, 1.0],
    [300.0, 299.0, -300.0, 0.0],
    [-math.inf, 1.0, 2.0, -1e4],
)
LABELS: tuple[list[float], ...] = ([0, 0, 1, 0], [1, 0, 0, 0], [0.25, 0.125, 0.5, 0.25], [1e-12, 0, 3, 0.7])
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"scale": Fraction(1, 7)},
    {"zeta": Fraction(1, 10_000)},
    {"temperature": Fraction(1, 3)},
    {"temperature": Fraction(20)},
    {"softcap": Fraction(30)},
    {"softcap": Fraction(5), "temperature": Fraction(7, 10), "zeta": Fraction(1, 100), "scale": Fraction(1, 3)},
)


@pytest.mark.parametrize("method", ["incremental", "direct"])
@pytest.mark.parametrize(("logits", "labels", "options"), [*itertools.product(LOGITS, LABELS, OPTIONS)])
def test_every_term_of_the_loss_against_the_closed_form(
    logits: list[float], labels: list[float], options: dict[str, Any], method: str
) -> None:
    base = make_problem([logits], [labels])
    part = base.terms.row(0)
    row = dataclasses.replace(part, **options)
    known = closed_form.gradient(row)
    for fmt in (named("float32"), named("float64")):
        found = reference._row(estimate(row), fmt, Settings(method=method))
        for i, value in enumerate(known):
            unit = Fraction(2) ** int(found.values.unit_log2[i])
            error = abs(to_fraction(found.exact(i)) - value) / unit
            assert error <= Fraction(float(found.values.uncertainty[i])) * Fraction(1001, 1000)
            assert (
                found.values.uncertainty[i] * 2.0 ** float(found.values.unit_log2[i] - found.values.ulp_log2[i])
                <= 2.0**-TARGET_BITS
            )


def test_loss_to_thirty_digits() -> None:
    """Against the definition at 60 digits, for a saturated row, whose loss is e^-100, and an ordinary one."""
    for logits, label in (([100.0, 0.0, 0.0], 0), ([1.0, 2.0, 3.0], 0), ([-5.0, 700.0], 0)):
        problem = make_problem([logits], [label])
        found = reference.compute(problem, problem.format, Settings()).rows[0]
        assert found is not None
        with mpmath.workdps(120):
            known = mpmath.log(mpmath.fsum(mpmath.exp(value) for value in logits)) - logits[label]
            error = abs(1 - mpmath.mpf(to_fraction(found.loss).numerator) / to_fraction(found.loss).denominator / known)
            assert error < mpmath.mpf(10) ** -30


def test_a_masked_true_class_has_infinite_loss() -> None:
    problem = make_problem([[-math.inf, 0.0, 1.0]], [0])
    found = reference.compute(problem, problem.format, Settings()).rows[0]
    assert found is not None
    assert found.loss == math.inf


def test_plan_grows_with_the_target() -> None:
    row = make_problem([[1.0, 2.0]], [0]).distinct[0]
    assert row is not None
    estimates = estimate(row)
    ulps = named("float32").ulp_log2(estimates.gradient)
    small, large = (plan(estimates, named("float32"), ulps, stencil(2), bits) for bits in (10, 30))
    assert large.step_log2 == small.step_log2 - 10
    assert large.precision_bits == small.precision_bits + 30


@pytest.mark.parametrize(
    ("logits", "labels", "options", "known"),
    [
        # p = 1/2, |p''| <= p, and G = ±1/2
        ([0.0, 0.0], [1, 0], {}, 0.5),
        ([0.0, 0.0], [1, 0], {"temperature": Fraction(1, 2), "scale": Fraction(3)}, 3 * 0.5 * 2**3),
        ([0.0, 0.0], [0.25, 0.5], {}, 0.75 * 0.5),
        # |(lse·p)'' − lse·p''| <= 3p
        ([0.0, 0.0], [1, 0], {"zeta": Fraction(1, 4)}, (1 + 0.5 * (1 + math.log(2)) + 0.5 * 3) * 0.5),
        # 4·sech²/c², 6·sech²/(cT) and sech²/T² of the loss's first, second and third derivative
        ([0.0, 0.0], [1, 0], {"softcap": Fraction(4)}, 0.5 * (4 / 16 + 6 / 4 + 1)),
        (
            [0.0, 0.0],
            [0.25, 0.5],
            {"softcap": Fraction(4), "temperature": Fraction(2)},
            (4 * 0.5 / 16 + 6 * 0.375 / (4 * 2) + 0.375 / 4) / 2,
        ),
    ],
)
def test_the_third_derivative_by_hand(
    logits: list[float], labels: list[float], options: dict[str, Any], known: float
) -> None:
    row = dataclasses.replace(make_problem([logits], [labels]).terms.row(0), **options)
    assert np.exp2(derivative_log2(estimate(row), stencil(2))).max() == pytest.approx(known, rel=1e-8)


@pytest.mark.parametrize("loss", [[], ["softcap=4"], ["z_loss=0.25"]], ids=" ".join)
def test_the_derivative_bears_no_sign(loss: list[str]) -> None:
    one, other = (
        estimate(make_problem([[0.0, 0.5]], [[0.25, 0.5]], loss=[*loss, f"upstream={sign}"]).terms.row(0))
        for sign in (1, -1)
    )
    assert (other.gradient == -one.gradient).all()
    assert derivative_log2(other, stencil(2)).tolist() == derivative_log2(one, stencil(2)).tolist()


def test_a_masked_class_has_no_derivative() -> None:
    row = make_problem([[-math.inf, 0.0, 0.0]], [1]).distinct[0]
    assert row is not None
    estimates = estimate(row)
    assert np.isneginf(derivative_log2(estimates, stencil(2))).tolist() == np.isneginf(estimates.z).tolist()


@pytest.mark.parametrize(
    ("logits", "options", "ulp_log2", "known"),
    [
        # 2H >= 10 + 1 + log2(M/6 ulp), M = 1/2, and P = 10 + H + 25 + 7 for the sum over two classes
        ([0.0, 0.0], {}, -25, (-17, 10 + 17 + 25 + 7)),
        ([0.0, 0.0], {"scale": Fraction(8)}, -25, (-18, 10 + 18 + 25 + 3 + 7)),
        ([0.0, 0.0], {}, -1000, (-504, 10 + 504 + 149 + 7)),  # below its smallest number a format has no digits
        ([0.0, 0.0], {}, 5, (-4, 24 + 10 + 7)),  # no step above T/16, and no fewer bits than the format's
        ([0.0, 0.0], {"temperature": Fraction(1, 4)}, 15, (-6, 24 + 10 + 7)),
        ([0.0, 0.0], {"temperature": Fraction(1, 3)}, 15, (-6, 24 + 10 + 7)),
        ([16.0, 0.0], {"softcap": Fraction(10**9)}, -25, (-6, 10 + 6 + 25 + 4 + 7)),
        ([0.0, 0.0], {"temperature": Fraction(100)}, 5, (-4, 24 + 10 + 7)),
        ([16.0, 16.0], {"softcap": Fraction(10**9)}, -25, (-17, 10 + 17 + 25 + 4 + 7)),
        ([0.0, 0.0], {"softcap": Fraction(1, 4)}, 15, (-6, 24 + 10 + 7)),
        ([0.0] * 1000, {}, -25, (-12, 10 + 12 + 25 + 18)),  # M = 1/1000, and log2(1000·(ln 1000 + 2)) is 13.1
    ],
)
def test_step_and_precision_by_hand(
    logits: list[float], options: dict[str, Any], ulp_log2: int, known: tuple[int, int]
) -> None:
    row = dataclasses.replace(make_problem([logits], [0]).terms.row(0), **options)
    estimates = estimate(row)
    ulps = np.full(len(estimates.z), ulp_log2)
    found = plan(estimates, named("float32"), ulps, stencil(2), 10)
    assert (found.step_log2, found.precision_bits) == known
    assert found == plan(estimates, named("float32"), ulps, stencil(2), 10)  # whatever arrays they hold
    assert "derivative" not in repr(found)
    own = plan(estimates, named("float32"), ulps, stencil(2), 10, found.step_log2 - 1000)
    assert own.step_log2 == found.step_log2 - 1000


@pytest.mark.parametrize("order", ORDERS)
def test_truncation_by_hand(order: int) -> None:
    """h^n·M/(6, 30, …), and what M may grow by over the m steps of the stencil."""
    row = make_problem([[0.0, 0.5]], [0]).terms.row(0)
    shape = stencil(order)
    rows: tuple[tuple[dict[str, Any], float], ...] = (
        ({}, 1.0),
        ({"temperature": Fraction(2)}, 0.5),
        ({"zeta": Fraction(1, 4)}, 4.0),
        ({"softcap": Fraction(2), "temperature": Fraction(3)}, 2.0),
    )
    for options, steps in rows:
        estimates = estimate(dataclasses.replace(row, **options))
        used = Plan(stencil=shape, step_log2=-4, precision_bits=100, derivative_log2=derivative_log2(estimates, shape))
        known = used.derivative_log2 - 4 * order + math.log2(shape.remainder) + steps * shape.reach / 16 / math.log(2)
        found = truncation_log2(estimates, used)
        assert found.tolist() == pytest.approx((known + 2.0**-20 / math.log(2)).tolist(), abs=1e-11)
    for softcap, bounded in ((Fraction(1, 2), True), (Fraction(255, 512), False)):
        estimates = estimate(dataclasses.replace(row, softcap=softcap))
        found = truncation_log2(estimates, dataclasses.replace(used, step_log2=-5))
        assert np.isfinite(found).all() == bounded


@pytest.mark.parametrize("method", ["incremental", "direct"])
@pytest.mark.parametrize(
    ("logits", "labels", "options"),
    [
        ([1e18, 1.000000000000001e18], [0, 1], {"temperature": Fraction(3)}),
        ([1e16, 1.0000000000000002e16], [1, 0], {"temperature": Fraction(7, 10)}),
        ([1.3056640625], [0], {"zeta": Fraction(1, 10**6)}),
        ([0.5, 0.25], [0, 0], {"zeta": Fraction(1, 10**30)}),
        ([0.5, 0.25], [5e-324, 0], {"scale": Fraction(1, 3)}),
        ([0.5, 0.25], [1e-300, 2e-300], {}),
    ],
)
def test_uncertainty_holds_at_the_ends_of_float64(
    logits: list[float], labels: list[float], options: dict[str, Any], method: str
) -> None:
    """Rows on which estimates in float64, or weights far from 1, once made the claim too small."""
    part = make_problem([logits], [labels]).terms.row(0)
    row = dataclasses.replace(part, **options)
    for fmt in EVERY_FORMAT:
        found = reference._row(estimate(row), fmt, Settings(method=method))
        for i, value in enumerate(closed_form.gradient(row)):
            error = abs(to_fraction(found.exact(i)) - value) / Fraction(2) ** int(found.values.unit_log2[i])
            assert error <= Fraction(float(found.values.uncertainty[i])) * Fraction(1001, 1000)


def test_many_subnormals_together() -> None:
    """4,095 classes at a gap of 100: each exp is a subnormal float32, their sum is not."""
    from gradcheck import candidates
    from gradcheck.metrics import Comparison

    for fmt, gap in ((named("float32"), 100.0), (named("float32"), 103.0), (named("float64"), 735.0)):
        problem = make_problem([[gap] + [0.0] * 4095], [0], fmt)
        exact = reference.compute(problem, fmt, Settings())
        gradient = candidates.load("compensated").gradient(problem)
        assert exact.values.in_ulps(Comparison(exact, gradient).errors)[0, 0] <= 16


# --- values in units -------------------------------------------------------------------------------------------


def one_value(fmt: Format, value: float, low: float, exponent: int, error_log2: float, *floor: int) -> Values:
    return values_in_units(
        fmt, np.array([value]), np.array([low]), np.array([exponent]), np.array([error_log2]), *floor
    )


@pytest.mark.parametrize(
    ("value", "low", "exponent", "error_log2", "known"),
    [
        # in float16 the ulp is 2^-10 from 1 to 2, 2^-11 below 1, and 2^-24 below 2^-14
        (1.5, 0.0, 0, -20, (-10, -10, -10)),
        (-1.5, 0.0, 0, -20, (-10, -10, -10)),
        (1.5, 0.0, -3, -23, (-13, -13, -13)),
        (1.5, 0.0, 0, 0, (-10, -11, -9)),  # 0.5 to 2.5
        (1.5, 0.0, 0, 1, (-10, -24, -9)),  # −0.5 to 3.5
        (1.5, 0.0, 0, 0.2, (-10, -12, -9)),  # 0.35 to 2.65
        (1.5, 0.0, 0, 2.5, (-10, -24, -8)),  # −4.2 to 7.2
        (1.75, 0.0, 0, -2, (-10, -10, -9)),  # reaches 2 exactly
        (1.75, 0.0, 0, -3, (-10, -10, -10)),
        (1.25, 0.0, 0, -2, (-10, -10, -10)),  # reaches 1 exactly, which has the ulp of what is above it
        (1.25, 0.0, 0, -1, (-10, -11, -10)),
        (1.0, 0.0, 0, -20, (-10, -11, -10)),
        (-1.0, 0.0, 0, -20, (-10, -11, -10)),
        (1.0, 2.0**-60, 0, -80, (-10, -10, -10)),
        (-1.0, -(2.0**-60), 0, -80, (-10, -10, -10)),
        (1.0, -(2.0**-60), 0, -80, (-10, -11, -10)),
        (-1.0, 2.0**-60, 0, -80, (-10, -11, -10)),
        (1.0, 2.0**-60, 0, -59, (-10, -11, -10)),
        (2 - 2.0**-52, 2.0**-55, 0, -53, (-10, -10, -10)),
        (2 - 2.0**-52, 2.0**-55, 0, -52, (-10, -10, -9)),
        (1.5, 0.0, -16, -26, (-24, -24, -24)),
        (1.5, 0.0, -15, -26, (-24, -24, -24)),
        (1.5, 0.0, -13, -26, (-23, -23, -23)),
        (0.0, 0.0, 0, -math.inf, (-24, -24, -24)),
        (0.0, 0.0, 0, -2, (-24, -24, -12)),
    ],
)
def test_the_ulps_that_a_value_may_have(
    value: float, low: float, exponent: int, error_log2: float, known: tuple[int, int, int]
) -> None:
    fmt = named("float16")
    found = one_value(fmt, value, low, exponent, error_log2)
    assert (int(found.unit_log2[0]), int(found.ulp_log2[0]), int(found.ulp_most_log2[0])) == known
    unit = 2.0 ** known[0]
    assert (found.high[0] * unit, found.low[0] * unit) == (math.ldexp(value, exponent), math.ldexp(low, exponent))
    assert found.uncertainty[0] * unit == pytest.approx(
        2.0**error_log2 + abs(value) * 2.0 ** (exponent - 104), rel=1e-12
    )
    assert found.size[0] == abs(found.high[0])


def test_units_have_a_floor() -> None:
    """2^-600, or what leaves room for larger errors; what is far below it is 0, and off by little."""
    fmt = named("float64")
    found = one_value(fmt, 1.5, 2.0**-60, -650, -700)
    assert (int(found.unit_log2[0]), int(found.ulp_log2[0]), int(found.ulp_most_log2[0])) == (-600, -702, -702)
    assert (found.high[0], found.low[0], found.uncertainty[0]) == (1.5 * 2.0**-50, 2.0**-110, 2.0**-100)
    assert found.in_ulps(np.array([1.0]))[0] == found.in_ulps_at(np.array([1.0]), (0,)) == 2.0**102
    assert int(one_value(fmt, 1.5, 2.0**-60, -650, -700, -500).unit_log2[0]) == -500
    far = one_value(fmt, 1.5, 0.0, -9000, -9100)
    assert (far.high[0], far.uncertainty[0], int(far.ulp_log2[0])) == (0.0, 2.0**-1000, -1074)
    far_off = np.array([1e300])
    assert far.in_ulps(far_off)[0] == far.in_ulps_at(far_off, (0,)) == math.inf
    huge = one_value(fmt, 1.5, 0.0, 0, 9000)
    assert huge.uncertainty[0] == math.inf
    for name, unit in (("float16", -24), ("float64", -600)):
        zeros = nothing(named(name), (1, 2))
        assert zeros.unit_log2.tolist() == [[unit, unit]]
        assert zeros.ulp_log2.tolist() == zeros.ulp_most_log2.tolist() == [[named(name).subnormal_log2] * 2]
        assert [array.tolist() for array in (zeros.high, zeros.low, zeros.uncertainty)] == [[[0.0, 0.0]]] * 3
        assert not zeros.resolved.any()


def test_of_rough_values_only_what_is_certain_counts() -> None:
    """Where an uncertainty of more than 2^-9 ulp shows; sharp values are taken as they are."""
    slack = np.array([0.5, 0.5, 2.0**-9, 2.0**-8, math.inf, 1.0])
    errors = np.array([2.0, 0.25, 1.0, 1.0, math.inf, math.inf])
    zeros = np.zeros(6, dtype=np.int64)
    sharp = Values(
        format=named("float32"),
        high=np.full(6, -3.0),
        low=np.zeros(6),
        ulp_log2=zeros - 1,
        ulp_most_log2=zeros,
        unit_log2=zeros,
        uncertainty=slack,
    )
    rough = dataclasses.replace(sharp, rough=True)
    assert sharp.certain(errors) is errors
    with np.errstate(invalid="ignore"):
        assert rough.certain(errors).tolist() == [1.5, 0.0, 1.0, 1 - 2.0**-8, math.inf, math.inf]
    fine = dataclasses.replace(rough, uncertainty=np.full(6, 2.0**-9))
    assert fine.certain(errors) is errors
    assert sharp.measuring_size.tolist() == [3.0] * 6
    assert rough.measuring_size.tolist() == (3 + slack).tolist()
    assert (sharp.in_ulps(errors)[0], rough.in_ulps(errors)[0]) == (4.0, 2.0)
    assert (sharp.in_ulps_at(errors, (1,)), rough.in_ulps_at(errors, (1,))) == (0.5, 0.25)
    assert sharp.resolved.tolist() == [True, True, True, True, False, True]
    assert not dataclasses.replace(sharp, uncertainty=np.full(6, 3.0)).resolved.any()


def test_what_follows_is_made_once_for_each_flag() -> None:
    made = []

    @following
    def twice(exact: Any, flush: bool) -> list[bool]:
        made.append(flush)
        return [flush]

    one, other = Settings(), Settings(order=4)
    assert twice(one, False) is twice(one, False)
    assert (twice(one, False), twice(one, True), twice(other, True)) == ([False], [True], [True])
    assert made == [False, True, True]
