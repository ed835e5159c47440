"""The built-in candidates: right where they claim to be, wrong where they are known to be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradcheck import candidates, catalogue, reference, tolerances
from gradcheck.checking import How, check
from gradcheck.exact import to_fraction
from gradcheck.formats import FORMATS, Format, named
from gradcheck.metrics import Comparison
from gradcheck.mistakes import EVERY
from gradcheck.problem import Problem
from gradcheck.reference import Settings
from gradcheck.results import Skipped, Verdict
from tests.conftest import EVERY_FORMAT, make_problem

SOUND = ("shifted", "log_softmax", "compensated", "wide")


def verdicts(name: str, tolerance: str = "stable") -> dict[tuple[str, str], Verdict]:
    found = {}
    for case in catalogue.cases().values():
        for fmt in EVERY_FORMAT:
            problem = case.problem(fmt)
            if problem is not None:
                (result,) = check(
                    problem,
                    [candidates.load(name)],
                    How(tolerance=tolerances.parse(tolerance), settings=Settings()),
                    case=case.name,
                )
                found[case.name, fmt.name] = result.verdict
    return found


@pytest.mark.parametrize("name", SOUND)
def test_sound_forms_pass_every_case_in_every_format(name: str) -> None:
    wrong = {
        key: verdict
        for key, verdict in verdicts(name).items()
        if verdict is not Verdict.PASS and not (name == "wide" and key[1] == "float64")
    }
    assert wrong == {}


def test_naive_fails_where_exp_overflows_or_underflows() -> None:
    found = verdicts("naive")
    for (case, fmt), verdict in found.items():
        if fmt not in EVERY:
            continue
        if case.startswith(("overflow-b", "underflow-b")) or (case == "overflow-sum" and fmt != "float16"):
            assert verdict is Verdict.FAIL, (case, fmt)
        if case in ("plain-3", "plain-10", "equal-2", "equal-10"):
            assert verdict is Verdict.PASS, (case, fmt)


def test_logsumexp_fails_at_large_offsets() -> None:
    found = verdicts("logsumexp")
    for (case, fmt), verdict in found.items():
        if fmt not in EVERY:
            continue
        if case.startswith("offset-") and not case.startswith(("offset-plus-1e3", "offset-minus-1e3")):
            assert verdict is Verdict.FAIL, (case, fmt)
        if case in ("plain-3", "equal-2"):
            assert verdict is Verdict.PASS, (case, fmt)


def saturated() -> list[tuple[str, Format, Problem, int]]:
    """Rows of plain cross-entropy in which the true class's probability rounds to 1."""
    found = []
    for case in catalogue.cases().values():
        for fmt in EVERY_FORMAT:
            problem = case.problem(fmt)
            if problem is None or problem.terms.hard is None or case.phenomenon in ("softcap", "smoothing", "z_loss"):
                continue
            exact = None
            for n, row in enumerate(problem.distinct):
                label = int(problem.terms.hard[n])
                if row is None or problem.logits[n, label] != problem.logits[n].max():
                    continue
                exact = exact or reference.compute(problem, fmt, Settings())
                value = exact.exact(n, label)
                if abs(to_fraction(value)) * problem.rows < fmt.unit_roundoff / 2 and value:
                    found.append((case.name, fmt, problem, n))
    return found


def test_compensated_keeps_the_true_class_where_shifted_loses_it() -> None:
    """Within 16 ulp, or 2δ + 16 where the shift itself rounds; shifted is off by up to 100 %."""
    rows = saturated()
    assert len(rows) >= 36
    lost = 0
    for name, fmt, problem, n in rows:
        assert problem.terms.hard is not None
        label = int(problem.terms.hard[n])
        exact = reference.compute(problem, fmt, Settings())
        with np.errstate(all="ignore"):
            compensated, shifted = (candidates.load(form).gradient(problem) for form in ("compensated", "shifted"))
        error = exact.values.in_ulps(Comparison(exact, compensated).errors)[n, label]
        logits = problem.logits[n].astype(np.float64)
        delta = float(logits.max() - np.partition(logits, -2)[-2]) if problem.classes > 1 else 0.0
        gaps = logits.max() - logits[np.isfinite(logits)]
        rounds = bool((fmt.round_array(gaps).astype(np.float64) != gaps).any())
        underflows = abs(float(to_fraction(exact.exact(n, label)))) < fmt.smallest_normal
        allowed = 2 * delta + 16 if rounds and not underflows else 16
        assert error <= allowed, (name, fmt.name, n, error)
        with np.errstate(all="ignore"):
            value = float(to_fraction(exact.exact(n, label)))
        lost += shifted[n, label] == 0 and abs(value) > fmt.smallest_subnormal
    assert lost > 20


def test_the_published_row() -> None:
    problem = make_problem([[37.42994775023705, 0.0]], [0])
    exact = reference.compute(problem, problem.format, Settings())
    assert float(to_fraction(exact.exact(0, 0))) == -5.551115123125776e-17
    assert candidates.load("shifted").gradient(problem).tolist() == [[0.0, 5.551115123125776e-17]]
    compensated = candidates.load("compensated").gradient(problem)
    assert compensated[0].tolist() == pytest.approx([-5.551115123125776e-17, 5.551115123125776e-17], rel=2.0**-51)
    for name, tolerance, verdict in (
        ("shifted", "stable", Verdict.PASS),
        ("shifted", "ulp:4", Verdict.FAIL),
        ("compensated", "stable", Verdict.PASS),
        ("compensated", "ulp:4", Verdict.PASS),
    ):
        (result,) = check(
            problem,
            [candidates.load(name)],
            How(tolerance=tolerances.parse(tolerance), settings=Settings()),
            case="published",
        )
        assert result.verdict is verdict, (name, tolerance)


@pytest.mark.parametrize("name", [name for name in SOUND if name != "wide"])
@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_by_hand(name: str, fmt: Format) -> None:
    """Two equal logits, soft labels (1/4, 1/2), mean of two rows: (3/4·1/2 − y)/2."""
    problem = make_problem([[1.0, 1.0], [2.0, 2.0]], [[0.25, 0.5], [0.25, 0.5]], fmt, ["reduction=mean"])
    assert candidates.load(name).gradient(problem).astype(np.float64).tolist() == [[0.0625, -0.0625]] * 2


def test_wide_has_nothing_wider_than_float64() -> None:
    (result,) = check(
        make_problem([[0.0, 1.0]], [0]),
        [candidates.load("wide")],
        How(tolerance=tolerances.parse("stable"), settings=Settings()),
        case="x",
    )
    assert isinstance(result.outcome, Skipped)


def test_a_mean_over_more_rows_than_float16_can_count() -> None:
    problem = make_problem(np.zeros((70_000, 2)), np.zeros(70_000, dtype=int), "float16", ["reduction=mean"])
    gradient = candidates.load("shifted").gradient(problem).astype(np.float64)
    assert gradient[0].tolist() == pytest.approx([-0.5 / 70_000, 0.5 / 70_000], rel=0.01)


def test_every_candidate_says_what_it_is() -> None:
    for name in candidates.names():
        assert candidates.summary(name)
    assert set(SOUND) < set(candidates.names())
    assert math.isfinite(FORMATS["float16"].max)
    assert named("float64").wider is None
