"""What Python code calls, shown sound gradients and lies."""

from __future__ import annotations

import doctest
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import gradcheck
import gradcheck.api
from gradcheck import GradientError, assert_gradient, each_case
from gradcheck.exceptions import GradcheckError
from gradcheck.problem import Problem
from gradcheck.results import Judged

LOGITS = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, 20.0]], dtype=np.float32)
LABELS = np.array([0, 2])


def sound(logits: Any, labels: Any) -> Any:
    """The sum of the others at the true class."""
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows = np.arange(len(logits))
    total = exps.sum(axis=1, keepdims=True)
    gradient = exps / total
    exps[rows, labels] = 0
    gradient[rows, labels] = -exps.sum(axis=1) / total[:, 0]
    return gradient


def zeros(logits: Any, labels: Any) -> Any:
    return np.zeros_like(logits)


def test_functions_and_arrays() -> None:
    result = assert_gradient(sound, LOGITS, LABELS, tolerance="ulp:4")
    assert result.candidate == "sound"
    assert_gradient(sound(LOGITS, LABELS), LOGITS, LABELS)
    assert_gradient(sound(LOGITS, LABELS)[0], LOGITS[0], 0)
    assert_gradient(sound, LOGITS, LABELS, loss=["reduction=mean"])
    assert_gradient(sound(LOGITS, LABELS) / np.float32(2), LOGITS, LABELS, loss=["reduction=mean"])
    half = LOGITS.astype(ml_dtypes.bfloat16)
    assert_gradient(sound(half.astype(np.float32), LABELS).astype(half.dtype), half, LABELS)
    soft = np.array([[0.25, 0.5, 0.25], [0, 0, 1]], dtype=np.float32)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    assert_gradient(p - soft, LOGITS, soft)


def test_a_zero_backward_is_rejected_at_a_gap_of_20() -> None:
    """Which allclose and torch.autograd.gradcheck accept."""
    with pytest.raises(GradientError) as caught:
        assert_gradient(zeros, [[20.0, 0.0]], [0], tolerance="ulp:4")
    text = str(caught.value)
    for part in ("zeros: fail, row 0, class ", "0.0 (reference", "e-09)", "ulp:4 allows 4", "past the limit"):
        assert part in text
    assert caught.value.result.verdict == "fail"
    with pytest.raises(GradientError):
        assert_gradient(zeros, [[20.0, 0.0]], [0])


def test_just_inside_and_just_past() -> None:
    one_ulp = sound(LOGITS, LABELS)
    one_ulp[0, 0] = np.nextafter(one_ulp[0, 0], np.float32(1))
    assert_gradient(one_ulp, LOGITS, LABELS, tolerance="ulp:3")
    one_ulp[0, 0] += 8 * np.spacing(one_ulp[0, 0])
    with pytest.raises(GradientError, match="row 0, class 0"):
        assert_gradient(one_ulp, LOGITS, LABELS, tolerance="ulp:3")


def test_functions_that_take_options_get_them() -> None:
    seen = {}

    def mine(logits: Any, labels: Any, loss: Any) -> Any:
        seen.update(loss)
        kept = labels != -100
        gradient = sound(logits, np.where(kept, labels, 0)) / np.float32(kept.sum())
        gradient[~kept] = 0
        return gradient

    assert_gradient(mine, LOGITS, [0, -100], loss=["ignore_index=-100", "reduction=mean"])
    assert seen == {"ignore_index": -100, "reduction": "mean"}
    with pytest.raises(GradientError, match="skipped, sound takes no loss options, and the loss has ignore_index"):
        assert_gradient(sound, LOGITS, [0, -100], loss=["ignore_index=-100"])


def test_crashes_and_nonsense() -> None:
    with pytest.raises(GradientError, match=r"crashed, .* raised ZeroDivisionError"):
        assert_gradient(lambda logits, labels: 1 / 0, LOGITS, LABELS)
    for wrong in ({"labels": [0, 7]}, {"tolerance": "x"}, {"logits": [["a"]]}, {"loss": ["x=1"]}, {"dtype": "int8"}):
        with pytest.raises(GradcheckError):
            assert_gradient(**({"gradient": sound, "logits": LOGITS, "labels": LABELS} | wrong))  # type: ignore[arg-type]


@each_case("saturated-gap-20", "plain-*", dtypes=("float32",))
def test_each_case(case: Problem) -> None:
    loss = [f"{option.name}={option.value}" for option in case.loss]
    assert_gradient(sound, case.logits, case.labels, loss=loss, tolerance="ulp:64")


def test_public_names() -> None:
    assert set(gradcheck.__all__) <= set(dir(gradcheck.api)) | {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gradcheck.nothing


def test_the_examples_in_the_docstrings() -> None:
    found = doctest.testmod(gradcheck.api, optionflags=doctest.ELLIPSIS)
    assert found.attempted >= 10
    assert not found.failed


def test_check_returns_a_report() -> None:
    report = gradcheck.check(sound, LOGITS, LABELS, tolerance="ulp:4", repeat=2)
    assert report.passed
    assert report.settings["tolerance"] == "ulp:4"
    assert len(report.results) == 1
    assert not gradcheck.check(np.zeros_like(LOGITS), LOGITS, LABELS).passed
    assert gradcheck.check("compensated", LOGITS, LABELS, engine="flint").passed
    assert not gradcheck.check(sound, np.full((1, 3), np.nan), [0]).passed  # nothing was judged


@pytest.mark.parametrize("wrong", [{"repeat": 0}, {"timeout": -1.0}, {"timeout": float("nan")}, {"engine": "none"}])
def test_settings_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(GradcheckError):
        gradcheck.check("shifted" if "timeout" not in wrong else "torch:x", LOGITS, LABELS, **wrong)


def test_what_is_no_array() -> None:
    with pytest.raises(GradcheckError, match="the gradient is no array of numbers"):
        gradcheck.check([[1, 2], [3]], LOGITS, LABELS)


def test_a_loss_in_the_logits_format_beside_a_wider_gradient() -> None:
    def mixed(logits: Any, labels: Any) -> Any:
        wide = logits.astype(np.float64)
        loss = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(wide)), labels]
        return np.float32(loss.sum()), sound(wide, labels)

    (result,) = gradcheck.check(mixed, LOGITS, LABELS).results
    assert isinstance(result.outcome, Judged)
    assert result.outcome.conduct.loss is None


def test_cases_by_name_and_format() -> None:
    found = gradcheck.cases("plain-*", "soft-plain")
    assert {"plain-3", "plain-mean", "soft-plain"} <= set(found)
    case = found["plain-mean"]
    assert gradcheck.check("shifted", case.logits, case.labels, loss=case.loss).passed
    assert "offset-plus-1e7" not in gradcheck.cases("offset-*", dtype="float16")
    with pytest.raises(GradcheckError):
        gradcheck.cases("nothing-*")
