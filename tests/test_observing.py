"""What is watched beside the gradient: each check is shown the mistake, and code that does not make it."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import candidates, observing, reference, tolerances
from gradcheck.candidates import Answer
from gradcheck.checking import How, check
from gradcheck.exact import to_fraction
from gradcheck.formats import Array
from gradcheck.problem import Problem
from gradcheck.reference import Settings
from gradcheck.report import _sentences
from gradcheck.results import Conduct, Judged, Report, Result, Verdict
from gradcheck.tolerances import Stable
from tests.conftest import SOUND, Program, make_problem

LOGITS = np.array([[1.0, 2.0, 3.0, -1.0], [0.5, -2.0, 0.25, 4.0]], dtype=np.float32)
LABELS = np.array([2, 0])


def sound(logits: Any, labels: Any) -> Any:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), labels] -= 1
    return p


def seen(report: Report) -> tuple[Verdict, Conduct, str]:
    (result,) = report.results
    assert isinstance(result.outcome, Judged)
    return result.verdict, result.outcome.conduct, _sentences.reason(result)


def test_sound_code_is_left_in_peace() -> None:
    verdict, conduct, reason = seen(gradcheck.check(sound, LOGITS, LABELS, repeat=3))
    assert (verdict, conduct) == (Verdict.PASS, Conduct())
    assert "of its limit" in reason


def test_an_input_that_is_overwritten() -> None:
    def in_place(logits: Any, labels: Any) -> Any:
        gradient = sound(logits, labels)
        logits[:] = gradient
        return gradient

    def labels_too(logits: Any, labels: Any) -> Any:
        gradient = sound(logits, labels)
        labels[0] += 1
        return gradient

    verdict, conduct, reason = seen(gradcheck.check(in_place, LOGITS, LABELS))
    assert verdict is Verdict.FAIL
    assert conduct.changed == ("logits",)
    assert "right as it stands, but it overwrites its input (logits)" in reason
    assert seen(gradcheck.check(labels_too, LOGITS, LABELS))[1].changed == ("labels",)


def test_runs_that_differ() -> None:
    calls = iter(range(100))

    def wavers(logits: Any, labels: Any) -> Any:
        gradient = sound(logits, labels)
        gradient[1, 2] = np.nextafter(gradient[1, 2], np.float32(1)) if next(calls) % 2 else gradient[1, 2]
        return gradient

    def fails_once(logits: Any, labels: Any) -> Any:
        return sound(logits, labels) * (0 if next(calls) == 2 else 1)

    verdict, conduct, reason = seen(gradcheck.check(wavers, LOGITS, LABELS, repeat=4))
    assert verdict is Verdict.PASS
    assert conduct.repeats is not None
    assert (conduct.repeats.runs, conduct.repeats.components, conduct.repeats.row, conduct.repeats.cls) == (4, 1, 1, 2)
    assert conduct.repeats.most_ulp == 1
    assert "4 runs differ in 1 component, by up to 1 ulp (row 1, class 2)" in reason
    assert seen(gradcheck.check(wavers, LOGITS, LABELS))[1].repeats is None  # asked once
    calls = iter(range(100))
    verdict, conduct, _ = seen(gradcheck.check(fails_once, LOGITS, LABELS, repeat=4))
    assert verdict is Verdict.FAIL
    assert conduct.repeats is not None


def test_another_order_of_classes_or_rows() -> None:
    def unshifted_but_for_the_first(logits: Any, labels: Any) -> Any:
        # a stale maximum: right as long as the first classes hold the largest
        p = np.exp(logits - logits[:, :2].max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(p)), labels] -= 1
        return p

    rows = np.zeros((1, 8), dtype=np.float32)
    rows[0, 0] = 120.0
    verdict, conduct, reason = seen(gradcheck.check(unshifted_but_for_the_first, rows, [3]))
    assert verdict is Verdict.FAIL
    assert conduct.permuted is not None
    assert conduct.permuted.components
    assert "right as it stands, but with its rows and classes in another order" in reason


def test_an_order_that_cannot_be_answered() -> None:
    def picky(logits: Any, labels: Any) -> Any:
        if labels[0] != 2:
            raise ValueError("only this label")
        return sound(logits, labels)

    verdict, conduct, reason = seen(gradcheck.check(picky, LOGITS, LABELS))
    assert verdict is Verdict.FAIL
    assert conduct.permuted is not None
    assert "in another order it fails: " in reason
    assert "only this label" in reason


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["reduction=mean", "ignore_index=1", "label_smoothing=0.1"],
        ["weight=1,2,3,4", "mask=1,1,1,0;1,1,1,1;0,1,1,1", "upstream=1,2,3", "reduction=mean"],
        ["z_loss=0.1:count", "weight=1,2,3,4", "reduction=mean"],
    ],
)
@pytest.mark.parametrize("soft", [True, False])
def test_another_order_is_the_same_problem(options: list[str], soft: bool) -> None:
    """Its exact gradient is the same, in that order; also that of a part."""
    if soft and "ignore_index=1" in options:
        return
    rng = np.random.default_rng(2)
    labels = rng.dirichlet(np.ones(4), 3) if soft else np.array([0, 1, 2])
    whole = make_problem(rng.normal(size=(3, 4)), labels, loss=options)
    for problem in (whole, whole.take(np.array([2, 0]))):
        rows, classes = observing.orders(problem)
        other = problem.reordered(rows, classes)
        one, two = (reference.compute(p, p.format, Settings()) for p in (problem, other))
        for row in range(problem.rows):
            for cls in range(4):
                own, moved = one.exact(int(rows[row]), int(classes[cls])), two.exact(row, cls)
                assert abs(float(to_fraction(own) - to_fraction(moved))) <= 1e-15


def test_a_row_of_nan_that_spreads() -> None:
    def spreads(logits: Any, labels: Any) -> Any:
        return sound(logits, labels) + 0 * logits.sum()

    rows = np.vstack([LOGITS, np.full((1, 4), math.nan, dtype=np.float32)])
    verdict, conduct, reason = seen(gradcheck.check(spreads, rows, [2, 0, 1]))
    assert verdict is Verdict.FAIL
    assert conduct.spread == 2
    assert "2 rows not finite only because of other rows of NaN or inf in the batch" in reason
    verdict, conduct, _ = seen(gradcheck.check(sound, rows, [2, 0, 1]))
    assert (verdict, conduct.spread) == (Verdict.PASS, 0)


def test_a_loss_that_does_not_go_with_the_gradient() -> None:
    def both(factor: float) -> Any:
        def f(logits: Any, labels: Any) -> Any:
            rows = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), labels]
            return factor * rows, sound(logits, labels)

        return f

    assert seen(gradcheck.check(both(1.0), LOGITS, LABELS))[1].loss is None
    verdict, conduct, reason = seen(gradcheck.check(both(0.5), LOGITS, LABELS))
    assert verdict is Verdict.PASS
    assert conduct.loss is not None
    assert math.isclose(conduct.loss.ratio, 0.5, rel_tol=1e-6)
    assert "is not the one described, 0.5 times it" in reason
    for wrong in (math.nan, math.inf):
        assert seen(gradcheck.check(both(wrong), LOGITS, LABELS))[1].loss is not None


def of_framework(problem: Problem, loss: float) -> Result:
    """What is said of a loss whose gradient is right, both of which a framework has made."""
    shifted = candidates.load("shifted")
    one = dataclasses.replace(
        shifted, answer=lambda part: Answer(gradient=shifted.gradient(part), loss=loss), differentiated=True
    )
    (result,) = check(problem, [one], How(tolerance=tolerances.parse("stable"), settings=Settings()), case="x")
    return result


def test_a_backward_that_is_not_its_forwards_fails() -> None:
    weighted = make_problem(LOGITS, LABELS, "float32", ["weight=0.5,1,2,4"])
    for problem, divisor in (
        (make_problem(LOGITS, LABELS, "float32"), len(LABELS)),
        (weighted, np.array([0.5, 1, 2, 4])[list(LABELS)].sum()),
    ):
        judged = of_framework(problem, math.nan).judged
        assert judged is not None
        assert judged.loss is not None
        assert not isinstance(judged.loss, float)
        value = float(to_fraction(judged.loss))
        for wrong in (value / divisor, value * divisor):
            assert of_framework(problem, wrong).verdict is Verdict.FAIL, wrong
        for told in (value, value / 3 + 0.1, value + 1, value / divisor * 1.001, 0.0, math.nan):
            assert of_framework(problem, told).verdict is Verdict.PASS, told


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_divergence_differs_from_cross_entropy_by_a_constant_alone(dtype: str) -> None:
    """Its value is next to nothing where the labels are the softmax, and so is that over the rows."""
    # what rounding may do to a loss that is not 0 is more than these at large logits in half precision
    logits = (1000 if dtype == "float32" else 0) + np.random.default_rng(0).normal(size=(64, 3)) * 2
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    problem = make_problem(logits, e / e.sum(axis=1, keepdims=True), dtype)
    for divergence in (2.4e-7, -2e-3, 0.0):
        result = of_framework(problem, divergence)
        assert result.verdict is Verdict.PASS
        assert result.judged is not None
        assert result.judged.conduct.loss is not None


def test_losses_of_extreme_rows_are_compared_or_left() -> None:
    """Nothing overflows on the way, whatever the logits, weights and losses are."""

    def stable(logits: Any, labels: Any) -> Any:
        largest = logits.max(axis=1)
        lse = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
        return lse - logits[np.arange(len(logits)), labels], sound(logits, labels)

    def weighted(logits: Any, labels: Any, options: Any) -> Any:
        return np.float64(7.0), sound(logits, labels) * options["weight"][labels][:, None]

    for logits in ([[1.7e308, -1.7e308]], [[1e300, 0.0]], [[5e-324, 0.0]], [[0.0, -np.inf]]):
        report = gradcheck.check(stable, np.array(logits), [0])
        assert report.passed, report
    seen(gradcheck.check(weighted, np.array([[1e300, 0.0]]), [0], loss={"weight": [1e100, 1.0]}))


def test_built_in_forms_and_files_are_not_asked_again() -> None:
    asked = []

    def counted(problem: Problem) -> Array:
        asked.append(problem)
        return candidates.load("shifted").gradient(problem)

    problem = make_problem(LOGITS, LABELS, "float32")
    (result,) = check(
        problem, [candidates.computed("x", counted)], How(tolerance=Stable(), settings=Settings(), repeat=5), case="x"
    )
    assert result.verdict is Verdict.PASS
    assert len(asked) == 1


def test_it_is_all_in_the_json_report(program: Program, tmp_path: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{SOUND}def g(x, y):\n    p = f(x, y)\n    x += 1\n    return np.float64(7.0), p\n")
    words = ["check", "--case", "plain-3", "--candidate", f"{path}:g"]
    ran = program(*words, "--format", "json")
    assert ran.code == 1
    (result,) = json.loads(ran.out)["results"]
    assert result["verdict"] == "fail"
    assert result["conduct"]["changed_input"] == ["logits"]
    assert result["conduct"]["loss"]["value"] == 7.0
    assert result["conduct"]["permuted"] is None
    assert result["failed"] == 0
    saved = tmp_path / "r.json"
    assert program(*words, "--report", f"json={saved}").code == 1
    assert program(*words, "--baseline", str(saved)).code == 0
    record = json.loads(saved.read_text())
    record["results"][0]["conduct"]["changed_input"] = []
    saved.write_text(json.dumps(record))
    assert program(*words, "--baseline", str(saved)).code == 1
