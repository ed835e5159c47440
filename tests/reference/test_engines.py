"""Engines and stencils: every way to the same value, and what happens when one of them is wrong."""

from __future__ import annotations

import builtins
import dataclasses
import math
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.polynomial import Polynomial

from gradcheck import candidates, catalogue, reference, tolerances
from gradcheck.checking import How, check
from gradcheck.estimates import estimate
from gradcheck.exact import Dyadic, to_fraction
from gradcheck.exceptions import MissingExtraError, UsageError
from gradcheck.formats import Format, named
from gradcheck.problem import Problem
from gradcheck.reference import Settings, engines, stencils
from gradcheck.reference.rule import TARGET_BITS
from gradcheck.reference.stencils import ORDERS, Stencil, stencil
from gradcheck.results import Verdict
from tests.conftest import EVERY_FORMAT, Program, make_problem, real
from tests.reference import closed_form
from tests.reference.test_reference import LABELS, LOGITS, OPTIONS, disagreement, small_cases

WAYS = [Settings(engine=engine, order=order) for engine in engines.names() for order in ORDERS]


@pytest.fixture(autouse=True)
def flint_leaves_no_trace() -> Iterator[None]:
    """python-flint's precision belongs to the process."""
    from flint import ctx

    before = ctx.prec
    yield
    assert ctx.prec == before


def assert_within_claim(row: reference.RowReference) -> None:
    """Every value of a row differs from the closed form by no more than its uncertainty."""
    for i, value in enumerate(closed_form.gradient(row.estimates.row)):
        error = abs(to_fraction(row.exact(i)) - value) / Fraction(2) ** int(row.values.unit_log2[i])
        assert error <= Fraction(float(row.values.uncertainty[i]))


# --- stencils --------------------------------------------------------------------------------------------------


def test_published_coefficients() -> None:
    """Fornberg 1988, table 1."""
    assert stencil(2).coefficients == (Fraction(1, 2),)
    assert stencil(4).coefficients == (Fraction(2, 3), Fraction(-1, 12))
    assert stencil(6).coefficients == (Fraction(3, 4), Fraction(-3, 20), Fraction(1, 60))
    assert stencil(8).coefficients == (Fraction(4, 5), Fraction(-1, 5), Fraction(4, 105), Fraction(-1, 280))
    assert [stencil(order).remainder for order in ORDERS] == [Fraction(1, n) for n in (6, 30, 140, 630)]


@pytest.mark.parametrize("order", ORDERS)
def test_a_stencil_is_exact_on_polynomials_of_its_degree(order: int) -> None:
    """And off by exactly its remainder on the next odd power."""
    shape, h = stencil(order), Fraction(1, 3)
    for power in range(order + 2):
        terms = [
            c * (Fraction(j * h) ** power - Fraction(-j * h) ** power) / h for j, c in enumerate(shape.coefficients, 1)
        ]
        found: Fraction = sum(terms, Fraction(0))
        if power <= order:
            assert found == (power == 1)
        else:
            off = shape.remainder * math.factorial(order + 1) * h**order
            assert abs(found) == off


@pytest.mark.parametrize("order", ORDERS)
def test_growth_constants_bound_the_derivatives_of_softmax(order: int) -> None:
    """Sampled: |d^n p/dl^n| over min(p, 1 − p), by exact recursion on rational p."""
    worst = 0.0
    for i in range(1, 400):
        p = Fraction(i, 400)
        # p^(n) as a polynomial in p, by dp/dl = p − p²
        poly = [Fraction(0), Fraction(1)]
        for _ in range(order):
            slope = [k * c for k, c in enumerate(poly)][1:]
            poly = [Fraction(0)] * (len(slope) + 2)
            for k, c in enumerate(slope):
                poly[k + 1] += c
                poly[k + 2] -= c
        value = sum((c * p**k for k, c in enumerate(poly)), Fraction(0))
        worst = max(worst, float(abs(value)) / float(min(p, 1 - p)))
    growth = stencil(order).softmax_growth[order]
    assert worst <= growth
    assert growth < 1.05 * worst + 0.02


def test_growth_constants_by_hand() -> None:
    """Up to the fifth no derivative of p is larger than p; tanh's are tangent numbers at 0, powers of 2 times sech²."""
    for order in (2, 4, 6):
        assert stencil(order).softmax_growth[:6] == pytest.approx([1.0] * min(order + 1, 6), rel=1e-8)
        assert stencil(order).square_growth == pytest.approx([2**m - 1 for m in range(order + 1)], rel=1e-8)
    assert stencil(2).cap_growth == pytest.approx([4.0, 6.0, 1.0], rel=1e-8)
    assert stencil(4).cap_growth == pytest.approx([16.0, 120.0, 100.0, 20.0, 1.0], rel=1e-8)
    assert [stencil(order).cap_growth[0] for order in (6, 8)] == pytest.approx([272.0, 7936.0], rel=1e-8)
    assert [stencil(order).weight for order in ORDERS] == pytest.approx([1.0, 3 / 2, 11 / 6, 25 / 12], rel=1e-15)
    assert [stencil(order).reach for order in ORDERS] == [1, 2, 3, 4]


def test_growth_constants_bound_the_derivatives_of_the_square() -> None:
    """(lse·p)^(m) − lse·p^(m) is a polynomial in p: 0 at first, and of each the next is its derivative and p·p^(m)."""
    slope, p = Polynomial([0.0, 1.0, -1.0]), np.linspace(1e-6, 1.0, 1000)
    apart, derivative = Polynomial([0.0]), Polynomial([0.0, 1.0])
    for growth in stencil(8).square_growth:
        assert (np.abs(apart(p)) <= growth * p).all()
        apart = apart.deriv() * slope + Polynomial([0.0, 1.0]) * derivative
        derivative = derivative.deriv() * slope


@pytest.mark.parametrize("order", [0, 3, 10])
def test_unknown_order(order: int) -> None:
    with pytest.raises(UsageError, match=f"^--order is one of 2, 4, 6, 8, not {order}$"):
        Settings(order=order)


# --- agreement -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fmt"), small_cases(), ids=str)
def test_every_engine_and_order_agrees_on_every_case(name: str, fmt: Format) -> None:
    problem = catalogue.cases()[name].problem(fmt)
    assert problem is not None
    found = [reference.compute(problem, fmt, way) for way in WAYS]
    for exact in found:
        assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS
        assert disagreement(found[0], exact) <= 1


@pytest.mark.parametrize(
    "name",
    [
        "langid_sentences_f32",
        "magika_f32",
        "ocr_ddddocr_f32",
        "smollm2_bf16",
        "sklearn_iris_logreg_f64",
        "sklearn_digits_logreg_f64",
    ],
)
def test_engines_agree_on_real_logits(name: str) -> None:
    problem, _ = real(name)
    mpmath, flint = (
        reference.compute(problem, problem.format, Settings(engine=engine)) for engine in ("mpmath", "flint")
    )
    assert disagreement(mpmath, flint) <= 1
    for exact in (mpmath, flint):
        assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS


@pytest.mark.parametrize("name", ["magika_f32", "sklearn_iris_logreg_f64"])
def test_flint_encloses_the_certified_gradient(name: str) -> None:
    from tests.reference.test_reference import errors_against_certified

    problem, archive = real(name, "float64")
    for settings in (Settings(engine="flint"), Settings(engine="flint", order=8), Settings(engine="flint", digits=16)):
        error, claimed = errors_against_certified(reference.compute(problem, problem.format, settings), archive)
        assert (error <= claimed).all()


@pytest.mark.parametrize("method", ["incremental", "direct"])
@pytest.mark.parametrize("settings", WAYS, ids=lambda way: f"{way.engine}-{way.order}")
def test_every_term_of_the_loss(settings: Settings, method: str) -> None:
    settings = dataclasses.replace(settings, method=method)
    for logits in LOGITS:
        for labels in LABELS[1:3]:
            for options in OPTIONS:
                row = dataclasses.replace(make_problem([logits], [labels]).terms.row(0), **options)
                found = reference._row(estimate(row), named("float64"), settings)
                assert_within_claim(found)


@pytest.mark.parametrize("order", ORDERS)
def test_what_a_series_leaves_out_is_in_its_ball(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off after its first term, the series is coarse, and says so."""
    from gradcheck.reference.engines import flint

    settings = Settings(engine="flint", order=order, digits=40, step_log2=-6)
    for logits, label in (([0.5, -1.0, 2.0, 0.25], 2), ([40.0, 0.0, 39.0], 1)):
        row = make_problem([logits], [label]).terms.row(0)
        sound = reference._row(estimate(row), named("float64"), settings)
        with monkeypatch.context() as patch:
            patch.setattr(flint, "_series_terms", lambda e, *_: (1, np.zeros(len(e.z), dtype=bool)))
            coarse = reference._row(estimate(row), named("float64"), settings)
        assert (coarse.values.uncertainty > 2 * sound.values.uncertainty).any()
        for found in (sound, coarse):
            assert_within_claim(found)


def test_the_few_that_need_more_terms_take_their_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A saturated class asks for hundreds of terms: it does not take the row with it, nor lose its own digits."""
    from gradcheck.reference.engines import flint

    logits = [700.0, *np.random.default_rng(0).normal(size=30).tolist()]
    row = make_problem([logits], [0]).terms.row(0)
    chosen = []
    choose = flint._series_terms

    def seen(*arguments: Any) -> tuple[int, Any]:
        chosen.append(choose(*arguments))
        return chosen[-1]

    monkeypatch.setattr(flint, "_series_terms", seen)
    for order in ORDERS:
        found = reference._row(estimate(row), named("float64"), Settings(engine="flint", order=order))
        assert_within_claim(found)
        terms, others = chosen[-1]
        assert np.flatnonzero(others).tolist() == [30]
        assert terms < 10


def test_losses_agree() -> None:
    """Whatever the digits of the gradient, and however large the gap."""
    rows: list[tuple[list[float], list[float]]] = [
        ([100.0, 0.0, 0.0], [1, 0, 0]),
        ([1.0, 2.0, -math.inf], [0.25, 0.5, 0]),
        ([1e12, 1e-300, 0.0], [1, 0, 0]),
        ([1e39, 1e-300, 0.0], [0, 1, 0]),
    ]
    for logits, labels in rows:
        problem = make_problem([logits], [labels])
        ways = [Settings(engine=name, digits=digits) for name in ("mpmath", "flint") for digits in (None, 8, 60)]
        losses = []
        for way in ways:
            (row,) = reference.compute(problem, problem.format, way).rows
            assert row is not None
            losses.append(to_fraction(row.loss))
        assert max(losses) - min(losses) <= losses[0] * Fraction(1, 10**32)


@pytest.mark.parametrize("order", ORDERS)
def test_cap_growth_is_the_bell_polynomial_of_what_bounds_tanh(order: int) -> None:
    """By Faà di Bruno's sum over partitions, with the derivatives of tanh sampled in mpmath."""
    context = mpmath.MPContext()
    context.dps = 60
    bounds = []
    for j in range(1, order + 2):
        sampled = (context.taylor(context.tanh, x / 50, j)[j] * math.factorial(j) for x in range(-150, 151))
        places = (x / 50 for x in range(-150, 151))
        bounds.append(max(float(abs(value) * context.cosh(x) ** 2) for value, x in zip(sampled, places, strict=True)))

    def partitions(total: int, largest: int) -> Iterator[list[int]]:
        if not total:
            yield []
        for part in range(min(total, largest), 0, -1):
            for rest in partitions(total - part, part):
                yield [part, *rest]

    known = [0.0] * (order + 1)
    for parts in partitions(order + 1, order + 1):
        ways = math.factorial(order + 1)
        for part in set(parts):
            ways //= math.factorial(part) ** parts.count(part) * math.factorial(parts.count(part))
        known[len(parts) - 1] += ways * math.prod(bounds[part - 1] for part in parts)
    for growth, value in zip(stencil(order).cap_growth, known, strict=True):
        assert value <= growth * (1 + 1e-9)
        assert growth < 1.2 * value


@pytest.mark.parametrize("engine", engines.names())
def test_labels_equal_to_softmax_end_decided(engine: str) -> None:
    """Gradients near 0 by cancellation: Ziv's loop ends, and the uncertainty holds against the closed form."""
    rng = np.random.default_rng(1)
    for fmt in EVERY_FORMAT:
        logits = fmt.round_array(rng.normal(size=(1, 6)) * 3).astype(np.float64)
        p = np.exp(logits - logits.max())
        problem = make_problem(logits, p / p.sum(), fmt)
        exact = reference.compute(problem, fmt, Settings(engine=engine))
        (row,) = exact.rows
        assert row is not None
        assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS
        assert_within_claim(row)


# --- mistakes, each caught by its own test ---------------------------------------------------------------------


def verdict(problem: Problem, settings: Settings, rule: str = "ulp:2") -> Verdict:
    sound = candidates.load("wide")
    (result,) = check(problem, [sound], How(tolerance=tolerances.parse(rule), settings=settings), case="x")
    return result.verdict


PLAIN = make_problem([[0.3, -1.2, 2.5, 0.7]], [1], "float32")


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("order", ORDERS)
def test_a_wrong_coefficient_is_no_agreement(engine: str, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = reference.compute(PLAIN, PLAIN.format, Settings())
    shape = stencil(order)
    for place in range(shape.reach):
        wrong = list(shape.coefficients)
        wrong[place] *= 1 + Fraction(1, 10**6)
        planted: dict[int, Stencil] = {
            **stencils._STENCILS,
            order: dataclasses.replace(shape, coefficients=tuple(wrong)),
        }
        monkeypatch.setattr(stencils, "_STENCILS", planted)
        assert disagreement(sound, reference.compute(PLAIN, PLAIN.format, Settings(engine=engine, order=order))) > 1


@pytest.mark.parametrize("settings", WAYS, ids=lambda way: f"{way.engine}-{way.order}")
def test_a_step_too_large_or_a_precision_too_low_is_inconclusive(settings: Settings) -> None:
    assert verdict(PLAIN, settings) is Verdict.PASS
    assert verdict(PLAIN, dataclasses.replace(settings, step_log2=-1)) is Verdict.INCONCLUSIVE
    assert verdict(PLAIN, dataclasses.replace(settings, digits=6)) is Verdict.INCONCLUSIVE


# --- the process -----------------------------------------------------------------------------------------------


def test_flints_precision_is_put_back_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from flint import ctx

    from gradcheck.reference.engines import flint

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    before = ctx.prec
    monkeypatch.setattr(flint, "_evaluation", broken)
    with pytest.raises(ZeroDivisionError):
        reference.compute(PLAIN, PLAIN.format, Settings(engine="flint"))
    assert ctx.prec == before


def test_threads_share_flint_without_harm() -> None:
    problems = [make_problem([[0.1 * n, 1.0, -40.0 * n]], [1], fmt) for n in range(1, 5) for fmt in EVERY_FORMAT]
    alone = [reference.compute(problem, problem.format, Settings(engine="flint")) for problem in problems]
    together: dict[int, Any] = {}

    def work(n: int) -> None:
        together[n] = reference.compute(problems[n], problems[n].format, Settings(engine="flint"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, exact in enumerate(alone):
        assert disagreement(exact, together[n]) == 0


def test_an_engine_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gradcheck.reference.engines.flint", raising=False)
    real_import = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "flint":
            raise ModuleNotFoundError("No module named 'flint'", name="flint")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'gradcheck\[flint\]'"):
        Settings(engine="flint")


def test_certified_is_said(program: Any) -> None:
    for engine, certified in (("mpmath", "false"), ("flint", "true")):
        ran = program("check", "--case", "plain-3", "--engine", engine, "--order", "4", "--format", "json")
        assert f'"certified": {certified}' in ran.out
        assert f'"engine": "{engine}"' in ran.out
        assert '"order": 4' in ran.out


def test_values_far_below_float64(program: Any) -> None:
    """A ball around 2^-3000 keeps its exponent."""
    problem = make_problem([[2000.0, 0.0]], [0])
    exact = reference.compute(problem, problem.format, Settings(engine="flint", target_bits=2200))
    value = exact.exact(0, 1)
    assert isinstance(value, Dyadic)
    assert value.log2() == pytest.approx(-2000 / math.log(2), rel=1e-9)


@pytest.mark.parametrize("engine", engines.names())
@pytest.mark.parametrize("order", ORDERS)
def test_a_heavy_label_on_a_class_that_underflows(engine: str, order: int) -> None:
    """p = e^-800 is below float64, 1e200·p is not."""
    for logits, labels in (([-800.0, 0.0], [0.0, 1e200]), ([-760.0, 0.0], [0.0, 1e60])):
        problem = make_problem([logits], [labels])
        exact = reference.compute(problem, problem.format, Settings(engine=engine, order=order))
        (row,) = exact.rows
        assert row is not None
        assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS
        assert_within_claim(row)


@pytest.mark.parametrize("settings", WAYS, ids=lambda way: f"{way.engine}-{way.order}")
@pytest.mark.parametrize("classes", [2, 8])
def test_one_ulp_off_a_power_of_two_never_fails_one_ulp(settings: Settings, classes: int) -> None:
    """g = 1/k exactly, c one ulp above: on which side of 1/k the difference falls is chance."""
    problem = make_problem([[0.0] * classes], [0], "float32")
    gradient = np.full((1, classes), 1 / classes, dtype=np.float32)
    gradient[0, 0] -= 1
    gradient[0, 1] = np.nextafter(np.float32(1 / classes), np.float32(1))
    planted = candidates.computed("planted", lambda _: gradient)
    for limit, known in (("ulp:1.5", Verdict.FAIL), ("ulp:2.5", Verdict.INCONCLUSIVE), ("ulp:0.25", Verdict.PASS)):
        (result,) = check(problem, [planted], How(tolerance=tolerances.parse(limit), settings=settings), case="x")
        assert result.verdict is not known
    (result,) = check(problem, [planted], How(tolerance=tolerances.parse("ulp:2.5"), settings=settings), case="x")
    assert result.verdict is Verdict.PASS


def test_direct_balls_that_hold_0(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"logits": [[-121, 0]], "labels": [0]}')
    for dtype in ("bfloat16", "float32", "float64"):
        assert program("check", str(path), "--dtype", dtype, "--engine", "flint", "--method", "direct").code == 0
    ran = program("check", "--case", "equal-1", "--engine", "flint", "--digits", "5", "--step", "0.25", "--order", "8")
    assert ran.code in (0, 2)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("target_bits", [10, 30, 50, 70, 90])
def test_rounding_alone_stays_within_its_bound(order: int, target_bits: int) -> None:
    """One class: the gradient is 0, and all of the difference is rounding."""
    for logit in (0.0, 1.0, 261.89, -830.0):
        problem = make_problem([[logit]], [[0.319]])
        exact = reference.compute(problem, problem.format, Settings(order=order, target_bits=target_bits))
        assert abs(exact.values.high[0, 0]) <= exact.values.uncertainty[0, 0]


@pytest.mark.parametrize("method", ["incremental", "direct"])
@pytest.mark.parametrize("engine", engines.names())
def test_steps_that_underflow(engine: str, method: str) -> None:
    """2^-1060 and 2^-2000: what few digits leave of the difference may be past float64's range."""
    for step_log2, digits in ((-1060, 5), (-2000, 100), (-2000, None), (-19_000, 5)):
        settings = Settings(engine=engine, method=method, step_log2=step_log2, digits=digits)
        assert verdict(PLAIN, settings) in (Verdict.PASS, Verdict.INCONCLUSIVE)


def test_flint_resolves_a_large_step_at_a_large_offset() -> None:
    problem = make_problem([[1e300, 1e300]], [0])
    exact = reference.compute(problem, problem.format, Settings(engine="flint", step_log2=0)).values
    assert np.isfinite(exact.uncertainty).all()


@pytest.mark.parametrize("engine", engines.names())
def test_heavy_labels_whose_gradient_is_0_are_judged(engine: str) -> None:
    """49 labels of 1e280: the errors of a sound form are past 2^424 of the smallest units."""
    for weight in (1e150, 1e280):
        problem = make_problem([[0.0] * 49], [[weight] * 49])
        sound = candidates.load("log_softmax")
        settings = Settings(engine=engine)
        (result,) = check(problem, [sound], How(tolerance=tolerances.parse("stable"), settings=settings), case="x")
        assert result.verdict is Verdict.PASS
