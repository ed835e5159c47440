"""A row cut into blocks, whoever evaluates them: the same to the last bit."""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradcheck import catalogue, reference
from gradcheck.estimates import estimate
from gradcheck.exact import to_fraction
from gradcheck.formats import Format, named
from gradcheck.problem import Row
from gradcheck.reference import RowReference, Settings, engines
from gradcheck.reference.engines import mpmath as mpmath_engine
from tests.conftest import EVERY_FORMAT, make_problem

METHODS = ("incremental", "direct")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"zeta": Fraction(1, 100)},
    {"temperature": Fraction(7, 10), "scale": Fraction(1, 3)},
    {"softcap": Fraction(5), "zeta": Fraction(1, 1000)},
)
WAYS = [
    pytest.param(Settings(engine=engine, method=method, order=order), options, id=f"{engine}-{method}-{order}-{n}")
    for engine, method, order in itertools.product(engines.names(), METHODS, (2, 4))
    for n, options in enumerate(OPTIONS)
]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


def row_of(options: dict[str, Any], labels: list[float] | int = 11) -> Row:
    """Masked, equal and saturated logits among others."""
    logits = [*(np.random.default_rng(3).normal(size=17) * 4).tolist(), -math.inf, -math.inf, 1.5, 1.5, 1.5, 9.0, 9.0]
    return dataclasses.replace(make_problem([logits], [labels]).terms.row(0), **options)


def same(one: RowReference, other: RowReference) -> bool:
    """Whether two references agree in every bit."""
    names = [field.name for field in dataclasses.fields(one.values) if field.name != "format"]
    return (
        all(np.array_equal(getattr(one.values, name), getattr(other.values, name)) for name in names)
        and [one.exact(i) for i in range(len(one.values.high))] == other.exact_of(np.arange(len(other.values.high)))
        and one.loss == other.loss
        and one.plan == other.plan
    )


@pytest.mark.parametrize(("settings", "options"), WAYS)
def test_the_cut_leaves_no_trace(settings: Settings, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    soft = np.random.default_rng(4).random(24).tolist()
    soft[17:19] = [0.0, 0.0]
    for row in (row_of(options), row_of(options, soft)):
        estimates, fmt = estimate(row), named("float32")
        whole = reference._row(estimates, fmt, settings)
        for size in (1, 7):
            monkeypatch.setattr(engines, "EVALUATED", size)
            assert same(whole, reference._row(estimates, fmt, settings))
        monkeypatch.undo()


@pytest.mark.parametrize(("settings", "options"), WAYS)
def test_other_processes_leave_no_trace(
    settings: Settings, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, pool: ProcessPoolExecutor
) -> None:
    monkeypatch.setattr(engines, "SUMMED", 9)
    estimates, fmt = estimate(row_of(options)), named("float64")
    known = reference._row(estimates, fmt, settings)
    for size in (9, 7, 100):
        monkeypatch.setattr(engines, "EVALUATED", size)
        assert same(known, reference._row(estimates, fmt, settings))
        assert same(known, reference._row(estimates, fmt, settings, pool.map))


@pytest.mark.parametrize("engine", engines.names())
def test_refined_rows_are_shared_too(engine: str, monkeypatch: pytest.MonkeyPatch, pool: ProcessPoolExecutor) -> None:
    """1/7 as a label: Ziv's loop takes more than one round."""
    monkeypatch.setattr(engines, "SUMMED", 2)
    monkeypatch.setattr(engines, "EVALUATED", 3)
    problem = make_problem([[0.5, 0.25, 0.125, 0.0, -1.0, -2.0, 1.0]], [[1 / 7] * 7])
    settings = Settings(engine=engine)
    here, there = (reference.compute(problem, problem.format, settings, each=each) for each in (map, pool.map))
    finer = [reference.refine(problem, exact, [0], 50, each) for exact, each in ((here, map), (there, pool.map))]
    for one, other in ((here, there), finer):
        assert one.rows[0] is not None
        assert other.rows[0] is not None
        assert same(one.rows[0], other.rows[0])


@pytest.mark.parametrize("engine", engines.names())
def test_what_is_sent_is_as_small_as_its_block(engine: str) -> None:
    k = 5000
    logits = np.random.default_rng(0).normal(size=(1, k))
    problem = make_problem(logits, np.abs(logits))
    found = reference.compute(problem, problem.format, Settings(engine=engine)).rows[0]
    assert found is not None
    whole, part = (len(pickle.dumps(found.differences.block(np.arange(n)))) for n in (k, k // 100))
    assert part < whole / 20


@pytest.mark.parametrize("engine", engines.names())
def test_a_sent_share_is_the_share(engine: str) -> None:
    found = reference._row(estimate(row_of({})), named("float64"), Settings(engine=engine))
    assert pickle.loads(pickle.dumps(found.shares)) == found.shares


def test_a_ball_that_was_sent_holds_the_ball() -> None:
    """Its middle is exact; its radius does not shrink, and grows by no more than its own last bits."""
    from flint import arb

    from gradcheck.reference.engines import flint

    for bits in (60, 128, 300):
        for x in (np.random.default_rng(bits).normal(size=200) * 100).tolist():
            with flint._precision(bits):
                ball = arb(x).exp() / 3
                again = flint._total([flint._sent(ball)])
            assert again.mid() == ball.mid()
            assert again.contains(ball)
            assert again.rad() <= ball.rad() * (1 + 2.0**-27)


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_the_loss_of_the_sum_at_hand_is_that_of_a_sum_of_its_own(fmt: Format) -> None:
    """Where the sum has digits enough; a gap of 100 leaves it none behind its 1."""
    reused = 0
    for case in catalogue.cases().values():
        problem = case.problem(fmt)
        for row in [] if problem is None or problem.classes > 3000 else problem.distinct[:2]:
            if row is None:
                continue
            found = reference._row(estimate(row), fmt, Settings())
            bits = found.plan.precision_bits
            reused += (sum(found.shares) - (1 << bits)).bit_length() > bits - 40
            own, other = mpmath_engine._loss(row), found.differences.loss(found.shares)
            apart = abs(to_fraction(own) - to_fraction(other))
            assert apart <= Fraction(1, 2**102) * abs(to_fraction(own)), case.name
    assert reused > 20
