"""PyTorch's cross_entropy, in float64, under every combination of its options, on rows that hypothesis draws."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcheck import candidates
from gradcheck.checking import How, check
from gradcheck.formats import Array
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Settings
from gradcheck.results import Verdict
from gradcheck.tolerances import parse as tolerance
from tests.conftest import make_problem

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

NUMBERS = st.floats(-60, 60, allow_subnormal=False, width=32)
POSITIVE = st.floats(0.0625, 8, width=32)
COMBINATIONS = [
    combination
    for combination in itertools.product(
        ("hard", "soft"), (0.0, 0.1, 1.0), ("plain", "weighted"), ("keep", "ignore"), ("none", "sum", "mean")
    )
    if combination[0] == "hard" or combination[3] == "keep"
]


@st.composite
def rows(draw: st.DrawFn, soft: bool, weighted: bool, ignoring: bool) -> dict[str, Any]:
    """Logits, labels and weights of a few rows."""
    count, classes = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    matrix = st.lists(st.lists(NUMBERS, min_size=classes, max_size=classes), min_size=count, max_size=count)
    label = st.integers(0, classes - 1)
    labels = draw(
        st.lists(
            st.lists(st.floats(0, 2, width=32), min_size=classes, max_size=classes), min_size=count, max_size=count
        )
        if soft
        else st.lists(st.one_of(label, st.just(-100)) if ignoring else label, min_size=count, max_size=count)
    )
    weight = draw(st.lists(POSITIVE, min_size=classes, max_size=classes)) if weighted else None
    return {"logits": draw(matrix), "labels": labels, "weight": weight}


def torch_gradient(drawn: dict[str, Any], soft: bool, smoothing: float, reduction: str) -> Array:
    logits = torch.tensor(drawn["logits"], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(drawn["labels"], dtype=torch.float64 if soft else torch.int64)
    weight = None if drawn["weight"] is None else torch.tensor(drawn["weight"], dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(
        logits, labels, weight=weight, label_smoothing=smoothing, reduction=reduction
    )
    loss.sum().backward()
    found: Array = logits.grad.numpy()
    return found


def problem_of(drawn: dict[str, Any], smoothing: float, reduction: str) -> Problem:
    options = ["like=torch", f"reduction={reduction}", f"label_smoothing={smoothing}"]
    if drawn["weight"] is not None:
        options.append("weight=" + ",".join(map(repr, drawn["weight"])))
    return make_problem(drawn["logits"], drawn["labels"], loss=options)


@pytest.mark.parametrize(("kind", "smoothing", "weighted", "ignoring", "reduction"), COMBINATIONS)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_every_combination(
    data: st.DataObject, kind: str, smoothing: float, weighted: str, ignoring: str, reduction: str
) -> None:
    soft = kind == "soft"
    drawn = data.draw(rows(soft, weighted == "weighted", ignoring == "ignore"))
    problem = problem_of(drawn, smoothing, reduction)
    theirs = torch_gradient(drawn, soft, smoothing, reduction)
    every = [candidates.given("torch", theirs), *map(candidates.load, ("shifted", "log_softmax", "compensated"))]
    for result in check(problem, every, How(tolerance=tolerance("stable"), settings=Settings()), case="x"):
        assert result.verdict is Verdict.PASS, (result.candidate, result.outcome)
    # the mistake of one option beside it: half as much again of everything
    wrong = theirs * 1.5
    if np.abs(wrong).max() > 1e-300 and not (problem.status == RowStatus.IGNORED).all():
        (result,) = check(
            problem, [candidates.given("x", wrong)], How(tolerance=tolerance("rel:0.1"), settings=Settings()), case="x"
        )
        assert result.verdict is Verdict.FAIL


def test_a_softcap_in_torch() -> None:
    """At l = 300, c = 30 torch's 1 − tanh² is 0: `stable` forgives it, `ulp:4` does not."""
    logits = torch.tensor([[300.0, -300.0]], requires_grad=True)
    torch.nn.functional.cross_entropy(30 * torch.tanh(logits / 30), torch.tensor([1])).backward()
    theirs = logits.grad.numpy()
    assert theirs.tolist() == [[0.0, 0.0]]
    problem = make_problem([[300.0, -300.0]], [1], "float32", ["softcap=30"])
    for rule, verdict in (("stable", Verdict.PASS), ("ulp:4", Verdict.FAIL)):
        (result,) = check(
            problem, [candidates.given("torch", theirs)], How(tolerance=tolerance(rule), settings=Settings()), case="x"
        )
        assert result.verdict is verdict


def test_a_masked_true_class_under_a_temperature_in_torch() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(logits / 0.5, torch.tensor([0])).backward()
    problem = make_problem([[-np.inf, 0.0, 1.0]], [0], loss=["temperature=0.5"])
    (result,) = check(
        problem,
        [candidates.given("torch", logits.grad.numpy())],
        How(tolerance=tolerance("stable"), settings=Settings()),
        case="x",
    )
    assert result.verdict is Verdict.PASS
