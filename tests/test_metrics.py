"""Every metric and tolerance by hand, and each shown a lie just past its limit and one just inside."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradcheck import catalogue, closed_form, metrics, reference, tolerances
from gradcheck.estimates import estimate
from gradcheck.exact import Dyadic, to_fraction
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import Array, Format, named
from gradcheck.metrics import (
    Comparison,
    Decision,
    Measures,
    decide,
    failing,
    measure,
    measure_gradient,
    ratio,
    undecided,
)
from gradcheck.mistakes import sums
from gradcheck.problem import Problem
from gradcheck.reference import Reference, Settings
from gradcheck.reference.values import ExactGradient, Values
from gradcheck.screening import ClosedForm
from gradcheck.tolerances import Limits, Tolerance
from tests.conftest import EVERY_FORMAT, Program, make_problem

each_format = pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)


def sound(problem: Any, target_bits: int = 10) -> tuple[Reference, Any]:
    """The reference, and the gradient that is the reference rounded."""
    exact = reference.compute(problem, problem.format, Settings(target_bits=target_bits))
    rounded = [[problem.format.round(exact.exact(n, i)) for i in range(problem.classes)] for n in range(problem.rows)]
    return exact, np.array(rounded).astype(problem.format.dtype)


def decided(exact: Reference, gradient: Any, tolerance: str, *, flush: bool = False) -> Decision:
    bound = tolerances.stable_bound(exact, flush=flush)
    return decide(Comparison(exact, gradient), tolerances.parse(tolerance).limits(exact.values, bound))


def measured(problem: Problem, exact: ExactGradient, gradient: Any) -> Measures:
    return measure_gradient(problem, exact, Comparison(exact, gradient), tolerances.stable_bound(exact))


@each_format
def test_metrics_against_rational_arithmetic(fmt: Format) -> None:
    problem = make_problem([[0.5, -1.0, 2.0, 0.25], [3.0, 3.0, -4.0, 1.0]], [2, 0], fmt)
    exact, gradient = sound(problem)
    rng = np.random.default_rng(0)
    wrong = fmt.round_array(gradient.astype(np.float64) * (1 + rng.normal(size=gradient.shape) * 0.01))
    measures = measured(problem, exact, wrong)
    expected: dict[str, float] = dict.fromkeys(("abs", "rel", "ulp"), 0.0)
    norms: list[Fraction] = []
    for n in range(problem.rows):
        values = [to_fraction(exact.exact(n, i)) for i in range(4)]
        errors = [abs(Fraction(float(wrong[n, i])) - values[i]) for i in range(4)]
        norms.append(max(errors) / max(map(abs, values)))
        for error, value in zip(errors, values, strict=True):
            ulp = Fraction(fmt.ulp(float(value)))
            for name, scale in (("abs", Fraction(1)), ("rel", abs(value)), ("ulp", ulp)):
                expected[name] = max(expected[name], float(error / scale))
    expected["norm"] = float(max(norms))
    for name, known in expected.items():
        extreme = measures.extremes[name]
        assert extreme is not None
        assert extreme.value == pytest.approx(known, rel=1e-12)


def test_the_metrics_of_one_component_by_hand() -> None:
    """ŷ − y = ±1/2; the candidate is off by 2^-10 in one place."""
    problem = make_problem([[0.0, 0.0]], [1], "float32")
    exact, gradient = sound(problem)
    gradient[0, 0] = 0.5 + 2.0**-10
    found = {name: extreme.value for name, extreme in measured(problem, exact, gradient).extremes.items() if extreme}
    assert found["abs"] == pytest.approx(2.0**-10, rel=1e-9)
    assert found["rel"] == pytest.approx(2.0**-9, rel=1e-9)
    assert found["norm"] == pytest.approx(2.0**-9, rel=1e-9)
    # on which side of 1/2 the exact value lies is not certain, so the smaller ulp counts: that below, 2^-25
    assert found["ulp"] == pytest.approx(2.0**15, rel=1e-9)


@each_format
@pytest.mark.parametrize("ulps", [1, 4, 16])
def test_ulp_tolerance_is_sharp(fmt: Format, ulps: int) -> None:
    problem = make_problem([[0.5, -1.0, 2.0, 0.25]], [2], fmt)
    exact, gradient = sound(problem, target_bits=20)
    value = float(gradient[0, 1])
    distance = abs(Fraction(value) - to_fraction(exact.exact(0, 1)))
    assert distance / Fraction(fmt.ulp(value)) <= Fraction(1, 2)
    step = fmt.ulp(value) if value > 0 else -fmt.ulp(value)
    away = 1 if Fraction(value) > to_fraction(exact.exact(0, 1)) else -1
    gradient[0, 1] = value + step * ulps * away
    assert decided(exact, gradient, f"ulp:{ulps}").failed == 1
    gradient[0, 1] = value + step * (ulps - 1) * away
    assert not decided(exact, gradient, f"ulp:{ulps}").failed


@pytest.mark.parametrize(
    ("tolerance", "limit"),
    [
        ("rel:1e-3", lambda g, row: 1e-3 * abs(g)),
        ("abs:1e-3", lambda g, row: 1e-3),
        ("norm:1e-3", lambda g, row: 1e-3 * max(map(abs, row))),
        ("allclose:1e-3,1e-4", lambda g, row: 1e-4 + 1e-3 * abs(g)),
        ("torch", lambda g, row: 1e-7 + 1e-7 * abs(g)),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_tolerances_just_past_and_just_inside(tolerance: str, limit: Any, sign: int) -> None:
    problem = make_problem([[0.5, -1.0, 2.0, 0.25]], [2])
    exact, gradient = sound(problem)
    row = [float(to_fraction(exact.exact(0, i))) for i in range(4)]
    for place in range(4):
        for factor, failed in ((1 + 1e-6, 1), (1 - 1e-6, 0)):
            wrong = gradient.copy()
            wrong[0, place] = row[place] + sign * limit(row[place], row) * factor
            decision = decided(exact, wrong, tolerance)
            assert (decision.failed, decision.undecided_rows) == (failed, [])


def stable_bound_by_hand(fmt: Format, logits: list[float], label: int, place: int, smallest: float) -> float:
    """B for hard labels and no option, in float64 with plain numbers."""
    u, u_sum = fmt.unit_roundoff, min(fmt.unit_roundoff, 2.0**-24)
    total = sum(math.exp(value - max(logits)) for value in logits)
    delta = max(logits) - logits[place]
    p = math.exp(-delta) / total
    y = float(place == label)
    softmax = u * (3 * delta + 2 * math.log(total) + 8) + 4 * math.sqrt(len(logits)) * u_sum
    return p * softmax + 4 * u * y + 2 * u * abs(p - y) + smallest


@each_format
def test_the_stable_bound_is_the_documented_one(fmt: Format) -> None:
    logits, label = [0.5, -1.0, 2.0, -3.5], 2
    problem = make_problem([logits], [label], fmt)
    exact, _ = sound(problem)
    for flush, smallest in ((False, fmt.smallest_subnormal), (True, fmt.smallest_normal)):
        bound = tolerances.stable_bound(exact, flush=flush)
        for place in range(4):
            found = bound[0, place] * 2.0 ** int(exact.values.unit_log2[0, place])
            assert found == pytest.approx(stable_bound_by_hand(fmt, logits, label, place, smallest), rel=1e-5)


OPTIONS: tuple[dict[str, float], ...] = (
    {},
    {"temperature": 2.0, "upstream": 3.0},
    {"softcap": 3.0},
    {"softcap": 3.0, "temperature": 0.5, "z_loss": 0.25, "upstream": 0.125},
    {"z_loss": 0.25, "upstream": 4.0},
)


def moved_by(p: float, tau: float) -> float:
    """The farthest that a probability goes where its odds become e^±τ times themselves."""
    found = [p / (1 - p) * math.exp(way * tau) for way in (-1, 1)]
    return max(abs(odds / (1 + odds) - p) for odds in found)


@each_format
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("labels", [[0.25, 0.0, 0.5, 0.25], [0.0625, 0.0, 0.125, 0.0625]], ids=["whole", "light"])
def test_the_stable_bound_with_every_option(fmt: Format, options: dict[str, float], labels: list[float]) -> None:
    """As it is documented, for three labels of which one carries half of the weight, in float64 with plain numbers."""
    heat, cap = options.get("temperature", 1.0), options.get("softcap", math.inf)
    zeta, scale = options.get("z_loss", 0.0), options.get("upstream", 1.0)
    logits, whole = [0.0, -1.0, 2.0, -3.5], sum(labels)
    capped = [cap * math.tanh(logit / cap) if cap < math.inf else logit for logit in logits]
    slopes = [(1 - (value / cap) ** 2) / heat for value in capped]
    z = [value / heat for value in capped]
    log_sum = math.log(sum(math.exp(one - max(z)) for one in z))
    lse = max(z) + log_sum
    u, u_sum = fmt.unit_roundoff, min(fmt.unit_roundoff, 2.0**-24)
    heavy = whole + 2 * zeta * (1 + abs(lse))
    problem = make_problem([logits], [labels], fmt, [f"{name}={value}" for name, value in options.items()])
    exact = reference.compute(problem, fmt, Settings(target_bits=40))
    for flush, smallest in ((False, fmt.smallest_subnormal), (True, fmt.smallest_normal)):
        bound = tolerances.stable_bound(exact, flush=flush)
        assert not bound.flags.writeable
        for place, (one, q, slope) in enumerate(zip(z, labels, slopes, strict=True)):
            p = math.exp(one - lse)
            inner = (whole + 2 * zeta * lse) * p - q
            roundings = 6 if cap < math.inf else 2 if heat != 1 else 0
            moved = moved_by(p, roundings * u * (abs(one) + max(map(abs, z))))
            softmax = heavy * (u * (3 * (max(z) - one) + 2 * log_sum + 8) + 4 * math.sqrt(4) * u_sum)
            known = scale * slope * ((p + moved) * (softmax + whole / 2 * 3 * u_sum) + heavy * moved + 4 * u * q)
            if cap < math.inf:
                known += scale / heat * 4 * u * (abs(inner) + 16 * u * (heavy * p + q))
            known += 2 * u * scale * slope * abs(inner)
            grown = scale * max(heavy, 1.0) * max(slopes)
            known += smallest * (1.0 if grown == 1 else max(1.0, grown + 0.5))
            found = bound[0, place] * 2.0 ** int(exact.values.unit_log2[0, place])
            assert found == pytest.approx(known * (1 + 2.0**-20), rel=1e-9)


def test_parts_of_the_bound_by_hand() -> None:
    """Two equal logits, whose S is 2."""
    row = make_problem([[0.0, 0.0]], [0], "float16").distinct[0]
    assert row is not None
    fmt = named("float16")
    found = tolerances.softmax_error(estimate(row), fmt)
    assert found.tolist() == pytest.approx([2.0**-11 * (2 * math.log(2) + 8) + 4 * math.sqrt(2) * 2.0**-24] * 2)
    constant, slope = tolerances.plain_bound(fmt, 9, np.array([math.log(2)]))
    slack = 1 + 2.0**-20
    assert constant.tolist() == pytest.approx([slack * (2.0**-11 * (2 * math.log(2) + 10) + 12 * 2.0**-24)], rel=1e-12)
    assert slope == slack * 3 * 2.0**-11


def test_limits_are_as_uncertain_as_the_value() -> None:
    """1 to 3 units of 2^-1, and 14 to 18 of 2^2: by every tolerance what certainly passes, and what certainly fails."""
    values = Values(
        format=named("float32"),
        high=np.array([[-2.0, 16.0], [1.0, 1.0]]),
        low=np.zeros((2, 2)),
        ulp_log2=np.array([[-2, 2], [0, 0]]),
        ulp_most_log2=np.array([[-1, 3], [0, 0]]),
        unit_log2=np.array([[-1, 2], [0, 0]]),
        uncertainty=np.array([[1.0, 2.0], [0.0, 0.0]]),
    )
    bound = np.array([[5.0, 7.0], [1.0, 1.0]])
    rtol, atol = named("float32").assert_close
    for rule, certain, possible, other in (
        ("stable", [5.0, 7.0], [5.0, 7.0], 1.0),
        ("ulp:3", [1.5, 3.0], [3.0, 6.0], 3.0),
        ("rel:0.5", [0.5, 7.0], [1.5, 9.0], 0.5),
        ("abs:3", [6.0, 0.75], [6.0, 0.75], 3.0),
        ("norm:0.5", [56.0, 7.0], [72.0, 9.0], 0.5),
        ("allclose:0.5,3", [6.5, 7.75], [7.5, 9.75], 3.5),
        ("torch", [2 * atol + rtol, atol / 4 + 14 * rtol], [2 * atol + 3 * rtol, atol / 4 + 18 * rtol], atol + rtol),
    ):
        limits = tolerances.parse(rule).limits(values, bound)
        assert limits.certain.tolist() == [certain, [other, other]]
        assert limits.possible.tolist() == [possible, [other, other]]
    unseen = dataclasses.replace(values, uncertainty=np.array([[3.0, 2.0], [0.0, 0.0]]))
    assert tolerances.parse("rel:0.5").limits(unseen, bound).certain[0].tolist() == [0.0, 7.0]
    apart = dataclasses.replace(values, unit_log2=np.array([[-600, 900], [900, -600]]))
    assert tolerances.parse("norm:0.5").limits(apart, bound).certain.tolist() == [[math.inf, 7.0], [0.5, math.inf]]


def test_limits_of_the_closed_form_leave_room_for_its_rounding() -> None:
    problem = make_problem([[0.5, -1.0]], [0], "float16")
    exact, closed = reference.compute(problem, problem.format, Settings()), ClosedForm(problem, problem.format)
    bound, rule = tolerances.stable_bound(closed, flush=True), tolerances.parse("stable")
    limits = tolerances.limits_of(rule, closed, flush=True)
    assert limits.certain.tolist() == (bound * (1 - 2.0**-14)).tolist()
    assert limits.possible.tolist() == (bound * (1 + 2.0**-14)).tolist()
    sharp = tolerances.limits_of(rule, exact, flush=True)
    assert sharp.certain is sharp.possible is tolerances.stable_bound(exact, flush=True)
    assert (sharp.certain > tolerances.stable_bound(exact)).all()


@pytest.mark.parametrize(
    ("text", "tolerance", "metric"),
    [
        ("stable", tolerances.Stable(), "bound"),
        ("torch", tolerances.Torch(), "allclose"),
        ("ulp:4", tolerances.Ulp(most=4.0), "ulp"),
        ("rel:0x1p-3", tolerances.Relative(most=0.125), "rel"),
        ("abs:0.5", tolerances.Absolute(most=0.5), "abs"),
        ("norm:2", tolerances.Norm(most=2.0), "norm"),
        ("allclose:0.5,3", tolerances.AllClose(rtol=0.5, atol=3.0), "allclose"),
    ],
)
def test_what_a_tolerance_means(text: str, tolerance: Tolerance, metric: str) -> None:
    """Its numbers, and the metric that it judges by."""
    assert tolerances.parse(text) == tolerance
    assert tolerance.metric == metric
    assert str(tolerance) == text.replace("0x1p-3", "0.125")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stable:", "tolerance 'stable' takes no number"),
        ("torch:1", "tolerance 'torch' takes no number"),
        ("ulp:x", "tolerance 'ulp:x' needs a finite number >= 0 after the colon, such as ulp:4 or rel:1e-6"),
        ("allclose:1", "tolerance 'allclose:1' should read allclose:RTOL,ATOL"),
        ("allclose:1,", "tolerance 'allclose:1,' needs a finite number"),
    ],
)
def test_what_is_wrong_with_a_tolerance(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(said)}"):
        tolerances.parse(text)


@each_format
def test_stable_is_sharp(fmt: Format) -> None:
    problem = make_problem([[0.5, -1.0, 2.0, -3.5]], [2], fmt)
    exact, gradient = sound(problem)
    wide = gradient.astype(np.float64)
    bound = tolerances.stable_bound(exact) * 2.0 ** exact.values.unit_log2.astype(np.float64)
    for place in range(4):
        for factor, failed in ((1.1, 1), (0.9, 0)):  # float64 itself rounds c by some 5 % of B
            wrong = wide.copy()
            value = float(to_fraction(exact.exact(0, place)))
            wrong[0, place] = value + factor * bound[0, place]
            assert decided(exact, wrong, "stable").failed == failed


def test_flushed_subnormals_pass_with_ftz_only() -> None:
    fmt = named("float32")
    problem = make_problem([[0.0, -90.0]], [0], fmt)
    exact, gradient = sound(problem)
    gradient[0, :] = 0.0
    gradient[0, 0] = gradient[0, 1] = 0.0
    assert decided(exact, gradient, "stable").failed >= 1
    assert decided(exact, gradient, "stable", flush=True).failed == 0


def test_flags() -> None:
    problem = make_problem(
        [[0.0, 0.0, 1.0], [1.0, 2.0, 3.0], [math.nan, 0.0, 0.0]], [0, -100, 0], "float32", ["ignore_index=-100"]
    )
    exact, gradient = sound(problem)
    clean = measured(problem, exact, gradient)
    assert (clean.nonfinite, clean.wrong_sign, clean.flushed, clean.ignored_nonzero) == (0, 0, 0, 0)
    assert clean.undefined_rows == 1
    gradient[0] = [math.nan, 0.0, -gradient[0, 2]]
    gradient[1] = [1e-30, 0.0, math.nan]
    gradient[2] = [math.nan, math.inf, 5.0]
    found = measured(problem, exact, gradient)
    assert (found.nonfinite, found.wrong_sign, found.flushed, found.ignored_nonzero) == (2, 1, 1, 2)
    for tolerance in ("stable", "ulp:1e300", "abs:1e300", "torch"):
        decision = decided(exact, gradient, tolerance)
        assert decision.judged == 6  # the undefined row is nobody's business
        assert decision.failed >= 2  # NaN passes nowhere


def test_total_sees_what_no_component_shows() -> None:
    """One class of 50,257 left out of S: every component stays within its bound, the row's sum does not."""
    problem = catalogue.cases()["vocabulary-50257"].problem(named("float32"))
    assert problem is not None
    logits = problem.logits.astype(np.float64)
    exact = reference.compute(problem, problem.format, Settings())
    label = int(problem.labels[0])

    def gradient(left_out: int | None) -> Any:
        exps = np.exp(logits - logits.max())
        total = exps.sum() - (exps[0, left_out] if left_out is not None else 0)
        p = exps / total
        p[0, label] -= 1
        return p.astype(np.float32)

    best = measured(problem, exact, gradient(None))
    assert best.total is not None
    assert best.total < 1
    middling = int(np.argsort(logits[0])[45_000])
    wrong = measured(problem, exact, gradient(middling))
    assert decided(exact, gradient(middling), "stable").failed == 0
    assert wrong.total is not None
    assert wrong.total > 1


def test_an_uncertain_reference_leaves_it_undecided() -> None:
    problem = make_problem([[0.5, -1.0, 2.0, 0.25]], [2], "float32")
    exact, gradient = sound(problem)
    coarse = reference.compute(problem, problem.format, Settings(digits=8))
    assert decided(coarse, gradient, "ulp:4").undecided_rows == [0]
    assert decided(exact, gradient, "ulp:4").undecided_rows == []


def test_underflow_to_nothing_is_no_relative_error() -> None:
    """e^-1e4 is below every float32; the candidate's 0 is the right answer."""
    problem = make_problem([[1e4, 0.0]], [0], "float32")
    exact, gradient = sound(problem)
    measures = measured(problem, exact, gradient)
    for name in ("abs", "rel", "norm"):
        extreme = measures.extremes[name]
        assert extreme is not None
        assert extreme.value < 1e-40


def test_an_error_of_1_where_a_tiny_float64_is_due() -> None:
    """2^1074 ulp overflow float64, and must still fail."""
    problem = make_problem([[740.0, 0.0]], [0])
    exact, gradient = sound(problem)
    gradient[0, 1] = 1e300
    for tolerance in ("stable", "ulp:1e308", "rel:1e300", "abs:1", "allclose:1,1", "norm:10"):
        assert decided(exact, gradient, tolerance).failed == 1


@pytest.mark.parametrize(
    "text",
    [
        "ulp",
        "ulp:",
        "ulp:-1",
        "ulp:nan",
        "rel:inf",
        "abs:x",
        "allclose:1e-3",
        "allclose:1,2,3",
        "stable:1",
        "torch:",
        "norm:1e-3;",
    ],
)
def test_tolerances_are_validated(text: str) -> None:
    with pytest.raises(UsageError):
        tolerances.parse(text)


def test_unknown_tolerance() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown tolerance 'stabel'; did you mean 'stable'\?$"):
        tolerances.parse("stabel")


@pytest.mark.parametrize(
    "text", ["stable", "ulp:4", "rel:0.001", "abs:1e-09", "norm:0.5", "allclose:0.001,1e-05", "torch"]
)
def test_tolerances_read_back(text: str) -> None:
    assert tolerances.parse(str(tolerances.parse(text))) == tolerances.parse(text)


def judged_text(fmt: str, gradient_fmt: str, logits: list[float], labels: Any, gradient: list[float], rule: str) -> str:
    problem = make_problem([logits], labels, fmt)
    target = named(gradient_fmt)
    exact = reference.compute(problem, target, Settings())
    decision = decided(exact, np.array([gradient]), rule)
    return "fail" if decision.failed else "undecided" if decision.undecided_rows else "pass"


@pytest.mark.parametrize("rule", ["ulp:0.9", "ulp:0.5"])
def test_a_value_just_below_a_power_of_two_is_measured_by_its_own_ulp(rule: str) -> None:
    """g = 1 − e^-60, c one bfloat16 ulp below 1: the ulp at 1 is twice as large as that at g."""
    assert judged_text("float64", "bfloat16", [60.0, 0.0], [1], [1 - 2.0**-8, -1.0], rule) != "pass"
    assert judged_text("float64", "bfloat16", [60.0, 0.0], [1], [1 - 2.0**-8, -1.0], "ulp:2.1") == "pass"
    assert judged_text("float64", "bfloat16", [60.0, 0.0], [1], [1 - 2.0**-7, -1.0], rule) == "fail"


@pytest.mark.parametrize("rule", ["rel:1e300", "abs:1e300", "norm:1e300", "allclose:1e300,1e300", "ulp:1e300"])
def test_no_limit_is_large_enough_for_nan(rule: str) -> None:
    assert judged_text("float64", "float64", [0.0, 1.0], [0], [math.nan, math.inf], rule) == "fail"


def test_overflowing_limits_let_nothing_pass() -> None:
    assert judged_text("float64", "float64", [0.0, 1.0], [0], [1e300, 0.0], "abs:1e295") == "fail"
    logits = [0.0, 1.0, -1400.0]
    assert (
        judged_text("float64", "float64", logits, [[1e280, 1e280, 0.0]], [-4.6e279, 4.6e279, math.nan], "norm:1e-3")
        == "fail"
    )


def test_an_exact_gradient_never_fails() -> None:
    """±1/2 in float32, under tolerances that allow nothing: undecided, as no finite precision proves equality."""
    for rule in ("ulp:0", "abs:0", "norm:0", "allclose:0,0", "rel:0"):
        assert judged_text("float32", "float32", [1.0, 1.0], [0], [-0.5, 0.5], rule) == "undecided"


def test_a_value_that_underflows_is_not_equal_to_0() -> None:
    """g = ±e^-3000: the relative error of 0 is 1, and no pass may come of not seeing it."""
    assert judged_text("float64", "float64", [3000.0, 0.0], [0], [0.0, 0.0], "rel:0.5") == "undecided"


def test_the_norm_is_as_uncertain_as_its_largest_component() -> None:
    problem = make_problem([[0.0, 1.0, -30.0]], [0])
    fine = reference.compute(problem, problem.format, Settings(target_bits=60))
    coarse = reference.compute(problem, problem.format, Settings(digits=60, step_log2=-2))
    values = [float(to_fraction(fine.exact(0, i))) for i in range(3)]
    values[2] += 0.99936e-3 * max(map(abs, values))
    assert decided(fine, np.array([values]), "norm:1e-3").failed == 0
    decision = decided(coarse, np.array([values]), "norm:1e-3")
    assert (decision.failed, decision.undecided_rows) == (0, [0])


def test_huge_finite_gradients_are_measured() -> None:
    problem = make_problem([[0.0, 1.0, -1400.0]], [0])
    exact = reference.compute(problem, problem.format, Settings())
    measures = measured(problem, exact, np.array([[0.0, 0.0, 1.797e308]]))
    extreme = measures.extremes["abs"]
    assert extreme is not None
    assert extreme.value == 1.797e308
    assert measures.total == math.inf or measures.total is not None


def test_a_huge_error_has_no_sign() -> None:
    """Past 2^1024 of its units an error is the candidate's own size."""
    problem = make_problem([[0.0, 1.0, -1400.0]], [0])
    exact = reference.compute(problem, problem.format, Settings())
    extreme = measured(problem, exact, np.array([[0.0, 0.0, -1.797e308]])).extremes["abs"]
    assert extreme is not None
    assert (extreme.value, extreme.candidate) == (1.797e308, -1.797e308)


def test_ratios_by_hand() -> None:
    """Nothing of nothing is nothing; what is infinite, or is nothing allowed, is past every limit."""
    errors = np.array([3.0, 0.0, 0.0, 1.0, math.inf, math.inf])
    limits = np.array([2.0, 4.0, 0.0, 0.0, 8.0, math.inf])
    with np.errstate(all="ignore"):
        assert ratio(errors, limits).tolist() == [1.5, 0.0, 0.0, math.inf, math.inf, math.inf]
        assert ratio(errors[:2], limits[:2]).tolist() == [1.5, 0.0]


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize(
    "loss", [[], ["temperature=2"], ["z_loss=0.25", "upstream=-3", "temperature=0.5"]], ids=" ".join
)
def test_what_rounding_explains_of_a_sum_by_hand(loss: list[str], flush: bool) -> None:
    """Five classes of which two pairs share a logit, so that theirs add up before they are squared."""
    fmt = named("float16")
    logits, label = [0.0, 1.0, -12.0, -12.0, 1.0], 1
    options = dict(option.split("=") for option in loss)
    heat, zeta, given = (
        float(options.get(name, default)) for name, default in (("temperature", 1), ("z_loss", 0), ("upstream", 1))
    )
    z, scale = [logit / heat for logit in logits], abs(given)
    total = sum(math.exp(one - 1 / heat) for one in z)
    lse = 1 / heat + math.log(total)
    u, heavy = fmt.unit_roundoff, 1 + 2 * zeta * (1 + lse)
    shared, flushed = dict.fromkeys(logits, 0.0), 0.0
    for place, one in enumerate(z):
        p, y = math.exp(one - lse), float(place == label)
        moved = moved_by(p, 2 * u * (abs(one) + 12 / heat)) if heat != 1 else 0.0
        inner = (1 + 2 * zeta * lse) * p - y
        rounding = p * heavy * u * (3 * (1 / heat - one) + 2 * math.log(total) + 8) + heavy * moved
        rounding += 4 * u * y + 2 * u * abs(inner)
        shared[logits[place]] += max(scale / heat * rounding, fmt.smallest_subnormal)
        size = abs(scale / heat * inner)
        flushed += size if size < fmt.smallest_normal else 0.0
    common = heavy * ((16 + 2 / 128) * 2.0**-24 + 2 * u * math.log(total))
    allowed = 4 * math.hypot(*shared.values()) + scale / heat * common + (flushed if flush else 0.0)
    problem = make_problem([logits], [label], fmt, loss)
    exact = reference.compute(problem, fmt, Settings())
    ((row, due, explained),) = metrics._sums(exact, flush)
    assert row == 0
    assert due == pytest.approx(2 * given * zeta * lse / heat, rel=1e-12)
    assert explained == pytest.approx(allowed, rel=1e-12)


@dataclass(frozen=True, eq=False)
class ByHand:
    """Exact values that are written down, all of unit and ulp 1."""

    values: Values
    judged: Any = field(default_factory=lambda: np.ones((1, 1), dtype=np.bool_))

    def exact(self, row: int, cls: int) -> Dyadic:
        return Dyadic.from_float(float(self.values.high[row, cls]))


def compared(candidate: list[float], values: list[float], uncertainty: list[float]) -> Comparison:
    """One row of a candidate beside values that are written down."""
    ones = np.zeros((1, len(values)), dtype=np.int64)
    high, off = np.array([values]), np.array([uncertainty])
    known = Values(
        format=named("float32"),
        high=high,
        low=np.zeros_like(high),
        ulp_log2=ones,
        ulp_most_log2=ones,
        unit_log2=ones,
        uncertainty=off,
    )
    return Comparison(ByHand(known), np.array([candidate]))


def said(error: float, slack: float, limit: float) -> str:
    """What is decided of one error."""
    comparison, allowed = compared([error], [0.0], [slack]), np.array([[limit]])
    limits = Limits(certain=allowed, possible=allowed)
    decision = decide(comparison, limits)
    assert bool(failing(comparison, limits).any()) == bool(decision.failed)
    assert bool(undecided(comparison, limits).any()) == bool(decision.undecided_rows)
    return "fail" if decision.failed else "undecided" if decision.undecided_rows else "pass"


@pytest.mark.parametrize(
    ("error", "slack", "known"),
    [
        (0.5, 0.0, "pass"),
        (1 - 2.0**-49, 0.0, "pass"),
        (1 - 2.0**-51, 0.0, "undecided"),  # its own rounding counts
        (1.0, 0.0, "undecided"),
        (1 + 2.0**-51, 0.0, "undecided"),
        (1 + 2.0**-49, 0.0, "fail"),
        (0.25, 0.5, "pass"),
        (0.25, 1.0, "undecided"),
        (0.0, 3.0, "undecided"),
        (2.0, 1.5, "undecided"),
        (3.0, 1.5, "fail"),
        (math.inf, 1.5, "fail"),
    ],
)
def test_an_error_its_slack_and_its_limit(error: float, slack: float, known: str) -> None:
    assert said(error, slack, 1.0) == known
    assert said(-error, slack, 1.0) == known


def test_where_nothing_is_allowed() -> None:
    assert said(0.0, 0.0, 0.0) == "pass"
    assert said(0.0, 1.0, 0.0) == "undecided"
    assert said(1.0, 1.0, 0.0) == "undecided"
    assert said(2.0, 1.0, 0.0) == "fail"


def test_what_cannot_be_told_from_0_is_0_in_both() -> None:
    """A value of 2 that may be off by 4, and a candidate that is off by 6 and by 10 of it: past 8 an error is seen."""
    for candidate, rel, norm in ((8.0, 0.0, 0.0), (12.0, 5.0, 0.625)):
        found = measure(compared([candidate, 16.0], [2.0, 16.0], [4.0, 0.0]), np.ones((1, 2)))
        shares = {name: extreme.value for name, extreme in found.extremes.items() if extreme}
        off = candidate - 2
        assert shares == {"abs": off, "rel": rel, "ulp": off, "norm": norm, "bound": off}
        worst = found.extremes["abs"]
        assert worst is not None
        assert (worst.reference, worst.uncertainty_ulp, worst.ulp) == (Dyadic(0, 0), 4.0, off)


def test_what_is_counted_by_hand() -> None:
    """A wrong sign is one that both have, and that is certain; 0 is flushed where the value does not round to it."""
    values, slack = [3.0, -3.0, 3.0, 3.0, 0.25, 0.75, 3.0, 2.0], [0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    candidate = [-3.0, 3.0, -3.0, -0.0, 0.0, -0.0, -math.nan, 2.0]
    found = measure(compared(candidate, values, slack), np.ones((1, 8)))
    assert (found.wrong_sign, found.flushed, found.nonfinite) == (2, 2, 1)
    plain = measure(compared([2.0, -2.0], [2.0, -2.0], [0.0, 0.0]), np.ones((1, 2)))
    assert (plain.wrong_sign, plain.flushed, plain.nonfinite) == (0, 0, 0)
    assert (plain.ignored_nonzero, plain.total, plain.undefined_rows, plain.infinite_loss_rows) == (0, None, 0, 0)


def test_the_worst_is_where_something_is_judged() -> None:
    """Beside an undefined row, also where no error is larger than 0; and nowhere, where all is undefined."""
    problem = make_problem([[math.nan, 0.0], [math.nan, 1.0]], [0, -1], "float32", ["ignore_index=-1"])
    exact = reference.compute(problem, problem.format, Settings())
    gradient = np.array([[7.0, math.nan], [0.0, 0.0]], dtype=np.float32)
    bound = tolerances.stable_bound(exact)
    decision = decide(Comparison(exact, gradient), Limits(certain=bound, possible=bound), top=4)
    assert decision.worst is not None
    assert (decision.failed, decision.judged, decision.worst.row, decision.worst.value) == (0, 2, 1, 0.0)
    assert [(one.row, one.cls) for one in decision.top] == [(1, 0), (1, 1)]
    assert {extreme.row for extreme in measured(problem, exact, gradient).extremes.values() if extreme} == {1}
    nothing = problem.take(np.array([0]))
    exact = reference.compute(nothing, nothing.format, Settings())
    bound = tolerances.stable_bound(exact)
    decision = decide(Comparison(exact, gradient[:1]), Limits(certain=bound, possible=bound), top=4)
    assert (decision.failed, decision.judged, decision.undecided_rows) == (0, 0, [])
    assert (decision.worst, decision.top) == (None, ())
    assert math.isnan(decision.limit_ulps)
    found = measured(nothing, exact, gradient[:1])
    assert list(found.extremes.values()) == [None] * 5
    assert (found.total, found.undefined_rows) == (None, 1)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("loss", [[], ["z_loss=0.25", "upstream=-3", "temperature=2"]], ids=" ".join)
def test_the_total_of_the_closed_form(loss: list[str], sign: int) -> None:
    """Beside what all probabilities have in common, or, where that is too little, as the full check has it."""
    problem = make_problem([[0.5, -1.0, 2.0, 0.25], [math.nan, 0.0, 0.0, 0.0]], [2, 0], "float32", loss)
    exact = reference.compute(problem, problem.format, Settings())
    closed = ClosedForm(problem, problem.format)
    gradient = np.where(exact.judged, closed.values.high * 2.0**closed.values.unit_log2, 7.0)
    ((_, due, _),) = metrics._sums(exact, False)
    (e,) = (one for one in exact.estimates if one is not None)
    common = (16 + 1 / 128) * 2.0**-24 + 2 * 2.0**-24 * e.log_sum
    allowed = abs(e.scale) / e.temperature * e.weight * common
    for off in (0.5, 0.99):
        wrong = gradient.copy()
        wrong[0, 1] += sign * off * allowed
        assert measured(problem, closed, wrong).total == pytest.approx(off, rel=1e-4)
        assert wrong[0].sum() - due == pytest.approx(sign * off * allowed, rel=1e-4)
    for off in (1.01, 100.0):
        wrong = gradient.copy()
        wrong[0, 1] += sign * off * allowed
        full = measured(problem, exact, wrong).total
        assert full is not None
        assert 0 < full < off
        assert measured(problem, closed, wrong).total == pytest.approx(full, rel=1e-4)
    gradient[0, 1] = math.nan
    assert measured(problem, closed, gradient).total is None


def test_a_softcap_leaves_no_known_sum() -> None:
    problem = make_problem([[0.5, -1.0, 2.0, 0.25]], [2], "float32", ["softcap=3"])
    for exact in (reference.compute(problem, problem.format, Settings()), ClosedForm(problem, problem.format)):
        assert measured(problem, exact, np.ones((1, 4), dtype=np.float32)).total is None


def test_a_sum_that_nothing_explains() -> None:
    """Labels of nothing leave no rounding: any sum but 0 is infinitely far off."""
    assert metrics._of_allowed(np.array([0.5, -0.5]), 0.0, 0.0) == 0.0
    assert metrics._of_allowed(np.array([0.5, -0.25]), 0.0, 0.0) == math.inf
    assert metrics._of_allowed(np.array([0.5, -0.25]), 1.0, 0.5) == 1.5
    assert metrics._of_allowed(np.array([1.7e308, 1.7e308]), 0.0, 1.0) == math.inf


def test_labels_of_nothing_leave_nothing() -> None:
    """All-zero soft labels: no loss, gradient exactly 0."""
    for fmt in EVERY_FORMAT:
        problem = make_problem([[1.0, 2.0]], [[0.0, 0.0]], fmt)
        for target in EVERY_FORMAT:
            exact = reference.compute(problem, target, Settings())
            zeros = np.zeros((1, 2), dtype=target.dtype)
            assert decided(exact, zeros, "stable").failed == 0
            assert measured(problem, exact, zeros).total == 0.0


def test_numpys_error_state_is_nobodys_business() -> None:
    with np.errstate(all="raise"):
        for fmt in EVERY_FORMAT:
            problem = make_problem([[0.0, 800.0, -800.0], [1.0, 2.0, 3.0]], [0, 2], fmt)
            exact = reference.compute(problem, fmt, Settings())
            gradient = np.zeros((2, 3), dtype=fmt.dtype)
            for rule in ("stable", "ulp:4", "rel:1e300", "abs:1e-300", "norm:1e300", "allclose:1e300,1e300"):
                decided(exact, gradient, rule)
            measured(problem, exact, gradient)


def test_the_worst_components_in_their_order(program: Program) -> None:
    """By their share of the limit, as the verdict goes."""
    words = ["check", "--case", "overflow-sum", "--candidate", "naive", "--tolerance", "ulp:4", "--format", "json"]
    (result,) = json.loads(program(*words, "--top", "5").out)["results"]
    shares = [one["of_limit"] for one in result["top"]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    assert result["top"][0] == result["worst"]
    assert len({(one["row"], one["class"]) for one in result["top"]}) == 5
    (result,) = json.loads(program(*words, "--top", "99").out)["results"]
    assert len(result["top"]) == result["judged"] == 12
    (result,) = json.loads(program(*words).out)["results"]
    assert result["top"] == []
    for form in ("concise", "table", "markdown"):
        lines = program("check", "--case", "plain-3", "--top", "2", "--format", form).out
        assert "  1. row 1, class 2: 0.406868 (reference 0.40686803659), off by 0.867 ulp" in lines.replace("\\", "")
        assert "  2. row 1, class 0" in lines


def test_total_forgives_flushed_subnormals_where_they_are_accepted() -> None:
    """65,536 probabilities of 2^-16, subnormal in float16, together are 1."""
    problem = catalogue.cases()["equal-65536"].problem(named("float16"))
    assert problem is not None
    exact = reference.compute(problem, problem.format, Settings())
    flushed = np.where(np.arange(problem.classes) == 1, -1.0, 0.0)[None, :].astype(np.float16)
    totals = [
        measure_gradient(
            problem, exact, Comparison(exact, flushed), tolerances.stable_bound(exact, flush=flush), flush=flush
        ).total
        for flush in (False, True)
    ]
    assert totals[0] is not None
    assert totals[1] is not None
    assert totals[0] > 10
    assert totals[1] < 1


def test_total_of_errors_whose_squares_underflow() -> None:
    """One subnormal number where 0 is due is no infinite sum."""
    problem = catalogue.cases()["weighted-nothing"].problem(named("float64"))
    assert problem is not None
    exact = reference.compute(problem, problem.format, Settings())
    gradient = np.zeros(problem.logits.shape)
    gradient[0, 1] = problem.format.smallest_subnormal
    found = measured(problem, exact, gradient).total
    assert found is not None
    assert found < 1


def test_total_lets_equal_terms_round_alike() -> None:
    """151,935 equal terms, dealt out among 32 lanes, and a whole class that is left out."""
    problem = catalogue.cases()["vocabulary-crowd"].problem(named("float32"))
    assert problem is not None
    exact = reference.compute(problem, problem.format, Settings())

    def total(softmax: Callable[[Array, Format], Array]) -> float:
        found = measured(problem, exact, closed_form.gradient(problem, softmax)).total
        assert found is not None
        return found

    assert total(sums._lanes) < 1
    assert total(sums._one_accumulator) > 10
