"""Every metric and tolerance by hand, and each shown a lie just past its limit and one just inside."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradcheck import cases, reference, tolerances
from gradcheck.exact import to_fraction
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import Format, named
from gradcheck.metrics import Decision, decide, measure
from gradcheck.reference import Reference, Settings
from tests.conftest import EVERY_FORMAT, make_problem

each_format = pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)


def sound(problem: Any, target_bits: int = 10) -> tuple[Reference, Any]:
    """The reference, and the gradient that is the reference rounded."""
    exact = reference.compute(problem, problem.format, Settings(target_bits=target_bits))
    rounded = [
        [problem.format.round(exact.exact(n, i)) for i in range(problem.classes)] for n in range(problem.rows)
    ]
    return exact, np.array(rounded).astype(problem.format.dtype)


def decided(exact: Reference, gradient: Any, tolerance: str, *, flush: bool = False) -> Decision:
    return decide(exact, gradient, tolerances.parse(tolerance, flush=flush).limits(exact))


@each_format
def test_metrics_against_rational_arithmetic(fmt: Format) -> None:
    problem = make_problem([[0.5, -1.0, 2.0, 0.25], [3.0, 3.0, -4.0, 1.0]], [2, 0], fmt)
    exact, gradient = sound(problem)
    rng = np.random.default_rng(0)
    wrong = fmt.round_array(gradient.astype(np.float64) * (1 + rng.normal(size=gradient.shape) * 0.01))
    measures = measure(problem, exact, wrong, flush=False)
    expected: dict[str, float] = dict.fromkeys(("abs", "rel", "ulp"), 0.0)
    norms = []
    for n in range(problem.rows):
        values = [to_fraction(exact.exact(n, i)) for i in range(4)]
        errors = [abs(Fraction(float(wrong[n, i])) - values[i]) for i in range(4)]
        norms.append(max(errors) / max(map(abs, values)))
        for error, value in zip(errors, values, strict=True):
            ulp = Fraction(fmt.ulp(float(value)))
            for name, metric in (("abs", error), ("rel", error / abs(value)), ("ulp", error / ulp)):
                expected[name] = max(expected[name], float(metric))
    expected["norm"] = float(max(norms))
    for name, value in expected.items():
        extreme = measures.extremes[name]
        assert extreme is not None
        assert extreme.value == pytest.approx(value, rel=1e-12)


def test_the_metrics_of_one_component_by_hand() -> None:
    """ŷ − y = ±1/2; the candidate is off by 2^-10 in one place."""
    problem = make_problem([[0.0, 0.0]], [1], "float32")
    exact, gradient = sound(problem)
    gradient[0, 0] = 0.5 + 2.0**-10
    found = {name: extreme.value for name, extreme in measure(problem, exact, gradient, flush=False).extremes.items() if extreme}
    assert found["abs"] == pytest.approx(2.0**-10, rel=1e-9)
    assert found["rel"] == pytest.approx(2.0**-9, rel=1e-9)
    assert found["norm"] == pytest.approx(2.0**-9, rel=1e-9)
    # the reference is within 2^-10 ulp of 1/2, and the binade below 1/2 has an ulp half as large
    assert found["ulp"] in (pytest.approx(2.0**14, rel=1e-6), pytest.approx(2.0**13 * 2, rel=1e-6), pytest.approx(2.0**13, rel=1e-6))


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
            found = bound[0, place] * 2.0 ** int(exact.unit_log2[0, place])
            assert found == pytest.approx(stable_bound_by_hand(fmt, logits, label, place, smallest), rel=1e-6)


@each_format
def test_stable_is_sharp(fmt: Format) -> None:
    problem = make_problem([[0.5, -1.0, 2.0, -3.5]], [2], fmt)
    exact, gradient = sound(problem)
    wide = gradient.astype(np.float64)
    bound = tolerances.stable_bound(exact) * 2.0 ** exact.unit_log2.astype(np.float64)
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
    clean = measure(problem, exact, gradient, flush=False)
    assert (clean.nonfinite, clean.wrong_sign, clean.flushed, clean.ignored_nonzero) == (0, 0, 0, 0)
    assert clean.undefined_rows == 1
    gradient[0] = [math.nan, 0.0, -gradient[0, 2]]
    gradient[1] = [1e-30, 0.0, math.nan]
    gradient[2] = [math.nan, math.inf, 5.0]
    found = measure(problem, exact, gradient, flush=False)
    assert (found.nonfinite, found.wrong_sign, found.flushed, found.ignored_nonzero) == (2, 1, 1, 2)
    for tolerance in ("stable", "ulp:1e300", "abs:1e300", "torch"):
        decision = decided(exact, gradient, tolerance)
        assert decision.judged == 6  # the undefined row is nobody's business
        assert decision.failed >= 2  # NaN passes nowhere


def test_total_sees_what_no_component_shows() -> None:
    """One class of 50,257 left out of S: every component stays within its bound, the row's sum does not."""
    problem = cases.catalogue()["vocabulary-50257"].problem(named("float32"))
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

    best = measure(problem, exact, gradient(None), flush=False)
    assert best.total is not None
    assert best.total < 1
    middling = int(np.argsort(logits[0])[45_000])
    wrong = measure(problem, exact, gradient(middling), flush=False)
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
    measures = measure(problem, exact, gradient, flush=False)
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
    ["ulp", "ulp:", "ulp:-1", "ulp:nan", "rel:inf", "abs:x", "allclose:1e-3", "allclose:1,2,3", "stable:1", "torch:", "norm:1e-3;"],
)
def test_tolerances_are_validated(text: str) -> None:
    with pytest.raises(UsageError):
        tolerances.parse(text)


def test_unknown_tolerance() -> None:
    with pytest.raises(UnknownNameError, match="stable"):
        tolerances.parse("stabel")


@pytest.mark.parametrize("text", ["stable", "ulp:4", "rel:0.001", "abs:1e-09", "norm:0.5", "allclose:0.001,1e-05", "torch"])
def test_tolerances_read_back(text: str) -> None:
    assert tolerances.parse(str(tolerances.parse(text))) == tolerances.parse(text)
