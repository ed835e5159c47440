"""Problems are validated once, when they are made."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gradcheck import losses
from gradcheck.exceptions import InputError, UnknownNameError, UsageError
from gradcheck.formats import named
from gradcheck.problem import Problem, RowStatus, _distinct
from tests.conftest import make_problem


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), r"label 3 of row 1 is outside 0…2"),
        (np.zeros((2, 3)), np.array([-100, -100]), r"\(2 rows have such a label\); .* --loss ignore_index=-100"),
        (np.zeros((2, 3)), np.array([0, 1, 2]), r"labels have shape \(3,\); logits of shape \(2, 3\) need \(2,\)"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "must be integers"),
        (np.zeros((2, 3)), np.zeros((2, 3), dtype=np.float32), "soft labels are float32"),
        (np.zeros((1, 2)), np.array([[0.5, -0.5]]), r"soft label -0.5 of row 0, class 1"),
        (np.zeros((1, 2)), np.array([[0.5, math.nan]]), "is not a finite number"),
        (np.zeros((2, 0)), np.array([0, 0]), "neither of them 0"),
        (np.zeros(3), np.array([0]), "expected \\(rows, classes\\)"),
        (np.zeros((1, 2), dtype=np.float32), np.array([0]), "logits are float32, the problem is float64"),
    ],
)
def test_what_is_no_problem_is_refused(logits: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Problem(logits=logits, labels=labels, format=named("float64"))


def test_a_problem_is_frozen_and_its_maker_is_not() -> None:
    logits = np.zeros((1, 2))
    problem = Problem(logits=logits, labels=np.array([0]), format=named("float64"))
    with pytest.raises(ValueError, match="read-only"):
        problem.logits[0, 0] = 1
    logits[0, 0] = 1


def test_row_status_ignored_wins() -> None:
    nan, inf = math.nan, math.inf
    problem = make_problem(
        [[0, 1], [nan, 1], [inf, 0], [-inf, -inf], [-inf, 0], [nan, nan]],
        [0, 0, 0, 0, 0, -1],
        loss=["ignore_index=-1"],
    )
    assert problem.status.tolist() == [
        RowStatus.JUDGED,
        RowStatus.UNDEFINED,
        RowStatus.UNDEFINED,
        RowStatus.UNDEFINED,
        RowStatus.JUDGED,
        RowStatus.IGNORED,
    ]
    assert [row is not None for row in problem.distinct] == [True, False, False, False, True, False]


def test_terms_by_hand() -> None:
    """Mean over the rows that are kept for hard labels, over all rows for soft ones; W is the labels' sum."""
    hard = make_problem([[0, 0]] * 4, [0, 7, 1, 7], loss=["reduction=mean", "ignore_index=7"])
    assert hard.terms.scale(0) == Fraction(1, 2)
    soft = make_problem([[0, 0]] * 3, [[0.5, 0.75]] * 3, loss=["reduction=mean"])
    assert soft.terms.scale(0) == Fraction(1, 3)
    row = soft.distinct[0]
    assert row is not None
    assert row.total_q == Fraction(5, 4)
    assert make_problem([[0, 0]] * 3, [0, 1, 0], loss=["reduction=sum"]).terms.scale(0) == 1
    empty = make_problem([[0, 0]], [9], loss=["reduction=mean", "ignore_index=9"])
    assert math.isnan(empty.terms.empty_loss)


def test_options_compose_in_one_order() -> None:
    one, other = (
        make_problem([[0, 0]] * 3, [0, 5, 1], loss=loss).terms.scale(0)
        for loss in (["reduction=mean", "ignore_index=5"], ["ignore_index=5", "reduction=mean"])
    )
    assert one == other == Fraction(1, 2)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, np.float32], ids=str)
def test_distinct_logits_of_any_width(dtype: Any) -> None:
    logits = np.random.default_rng(0).normal(size=5000).astype(dtype)
    logits[:3] = [-math.inf, -0.0, 0.0]
    values, inverse, counts = _distinct(logits)
    exact = logits.astype(np.float64)
    assert values.tolist() == sorted(set(exact.tolist()))
    assert (values[inverse] == exact).all()
    assert counts.tolist() == [int((exact == value).sum()) for value in values]


def test_distinct_pairs() -> None:
    problem = make_problem([[1.0, -0.0, 0.0, 1.0, 1.0]], [3])
    row = problem.distinct[0]
    assert row is not None
    assert row.logits.tolist() == [0.0, 1.0, 1.0]
    assert [float(q) for q in row.q] == [0.0, 0.0, 1.0]
    assert row.counts.tolist() == [2, 2, 1]
    assert row.inverse.tolist() == [1, 0, 0, 2, 1]
    assert row.one_hot


def test_rows_taken_out_keep_their_share_of_the_mean() -> None:
    problem = make_problem([[0, 1], [2, 0], [0, 0]], [0, 1, 0], loss=["reduction=mean"])
    part = problem.take(np.array([2]))
    assert part.terms.scale(0) == Fraction(1, 3)
    assert part.logits.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("reduction", UsageError),
        ("reduction=average", UsageError),
        ("ignore_index=x", UsageError),
        ("ignore_index=99999999999999999999", UsageError),
        ("focal=2", UnknownNameError),
    ],
)
def test_loss_options_are_validated(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        losses.parse([text])


def test_ignore_index_needs_hard_labels() -> None:
    with pytest.raises(InputError, match="hard labels"):
        make_problem([[0, 0]], [[0.5, 0.5]], loss=["ignore_index=0"])


def test_an_option_is_given_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        losses.parse(["reduction=mean", "reduction=sum"])


def test_soft_labels_that_overflow_are_refused() -> None:
    for labels in ([1e308, 1e308], [1.7e308, 0.0]):
        with pytest.raises(InputError, match="sum to more than"):
            make_problem([[0.0, 1.0]], [labels])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_counting_bit_patterns_finds_what_sorting_finds(name: str) -> None:
    fmt = named(name)
    rng = np.random.default_rng(0)
    logits = fmt.round_array(rng.normal(size=(1, 5000)) * 3)
    logits[0, :4] = [-0.0, 0.0, -np.inf, fmt.max]
    for label in (0, 2, 17):
        counted, sorted_ = (
            Problem(logits=array, labels=np.array([label]), format=of).distinct[0]
            for array, of in ((logits, fmt), (logits.astype(np.float64), named("float64")))
        )
        assert counted is not None
        assert sorted_ is not None
        for part in ("logits", "weight_of", "counts", "inverse"):
            assert np.array_equal(getattr(counted, part), getattr(sorted_, part)), part
        assert np.array_equal(counted.logits[counted.inverse], logits[0].astype(np.float64))
