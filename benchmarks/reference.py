"""How long a checked component takes: gradcheck beside other gradient checkers and the bare arithmetic, in one run.

    pip install '.[bench]' && python benchmarks/reference.py

Times are the best of a few runs, on one machine at one time: read the ratios. A peer that is not installed is left out.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_ENABLE_X64", "1")

import numpy as np

from gradcheck import reference, tolerances
from gradcheck.candidates import shifted
from gradcheck.formats import Format, named
from gradcheck.metrics import Comparison, decide, measure_gradient
from gradcheck.problem import Problem
from gradcheck.reference import Settings

SHAPES = ((1, 1000), (16, 1000), (32, 100), (1, 50_257))
FLOAT64 = named("float64")


def problem_of(rows: int, classes: int, fmt: Format = FLOAT64) -> Problem:
    """Normal logits of scale 2 with random labels."""
    rng = np.random.default_rng(0)
    logits = fmt.round_array(rng.normal(size=(rows, classes)) * 2)
    return Problem(logits=logits, labels=rng.integers(0, classes, rows), format=fmt)


def best(run: Callable[[], Any], seconds: float = 1.5) -> float:
    """The shortest of several runs, at least one, for about `seconds`."""
    shortest, start = math.inf, time.perf_counter()
    while time.perf_counter() - start < seconds or shortest == math.inf:
        begun = time.perf_counter()
        run()
        shortest = min(shortest, time.perf_counter() - begun)
    return shortest


def ours(problem: Problem, engine: str, order: int = 2) -> Callable[[], Any]:
    """Reference, all metrics and the decision of `stable`."""
    gradient = shifted.gradient(problem)
    tolerance = tolerances.parse("stable")

    def run() -> None:
        # a new problem, because one remembers its rows
        again = Problem(logits=problem.logits, labels=problem.labels, format=problem.format)
        exact = reference.compute(again, again.format, Settings(engine=engine, order=order))
        bound, comparison = tolerances.stable_bound(exact), Comparison(exact, gradient)
        decide(comparison, tolerance.limits(exact.values, bound))
        measure_gradient(again, exact, comparison, bound)

    return run


def floor(problem: Problem) -> Callable[[], Any]:
    """One exponential and two logarithms for each component, in python-flint's tightest loop, at the same precision."""
    from flint import arb, ctx

    exact = reference.compute(problem, problem.format, Settings(engine="flint"))
    bits = max(plan.precision_bits for plan in exact.plans)
    before, ctx.prec = ctx.prec, bits
    shifted_logits = [arb(x) for x in (problem.logits - problem.logits.max(axis=1, keepdims=True)).ravel().tolist()]
    exps = [x.exp() for x in shifted_logits]
    step = arb(2) ** -31
    up, down = ([1 + sign * x * step for x in exps] for sign in (1, -1))
    ctx.prec = before

    def run() -> None:
        ctx.prec = bits
        _ = [x.exp() for x in shifted_logits], [x.log() for x in up], [x.log() for x in down]
        ctx.prec = before

    return run


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A checker: `make(problem)` returns what to run, and how many components that run checks."""

    name: str
    package: str
    make: Callable[[Problem], tuple[Callable[[], Any], int]]
    most: int


def _torch(problem: Problem) -> tuple[Callable[[], Any], int]:
    import torch

    torch.set_num_threads(1)
    logits = torch.tensor(np.array(problem.logits), requires_grad=True)
    labels = torch.tensor(np.array(problem.labels))
    loss = torch.nn.functional.cross_entropy
    return lambda: torch.autograd.gradcheck(lambda x: loss(x, labels, reduction="sum"), (logits,)), problem.logits.size


def _jax(problem: Problem) -> tuple[Callable[[], Any], int]:
    import jax
    import jax.numpy as jnp
    from jax.test_util import check_grads

    rows, labels = jnp.arange(problem.rows), jnp.asarray(problem.labels)

    def loss(x: Any) -> Any:
        return -jax.nn.log_softmax(x)[rows, labels].sum()

    logits = jnp.asarray(problem.logits)
    return lambda: check_grads(loss, (logits,), order=1, modes=["rev"]), problem.logits.size


def _flat(problem: Problem) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    shape, rows, labels = problem.logits.shape, np.arange(problem.rows), problem.labels

    def loss(x: Any) -> Any:
        z = x.reshape(shape)
        top = z.max(axis=1, keepdims=True)
        return (top[:, 0] + np.log(np.exp(z - top).sum(axis=1)) - z[rows, labels]).sum()

    def gradient(x: Any) -> Any:
        z = x.reshape(shape)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[rows, labels] -= 1
        return p.ravel()

    return loss, gradient


def _scipy_check(problem: Problem) -> tuple[Callable[[], Any], int]:
    from scipy.optimize import check_grad

    loss, gradient = _flat(problem)
    return lambda: check_grad(loss, gradient, problem.logits.ravel()), problem.logits.size


def _scipy_jacobian(problem: Problem) -> tuple[Callable[[], Any], int]:
    from scipy.differentiate import jacobian

    row, label = problem.logits[0], int(problem.labels[0])

    def loss(x: Any) -> Any:
        top = x.max(axis=0)
        return top + np.log(np.exp(x - top).sum(axis=0)) - x[label]

    return lambda: jacobian(loss, row), problem.classes


def _numdifftools(problem: Problem) -> tuple[Callable[[], Any], int]:
    import numdifftools

    loss, _ = _flat(problem)
    return lambda: numdifftools.Gradient(loss)(problem.logits.ravel()), problem.logits.size


def _autograd(problem: Problem) -> tuple[Callable[[], Any], int]:
    import autograd.numpy as anp
    from autograd.test_util import check_grads

    rows, labels = np.arange(problem.rows), np.array(problem.labels)

    def loss(z: Any) -> Any:
        top = anp.max(z, axis=1, keepdims=True)
        return anp.sum(top[:, 0] + anp.log(anp.sum(anp.exp(z - top), axis=1)) - z[rows, labels])

    logits = np.array(problem.logits)
    return lambda: check_grads(loss, modes=["rev"], order=1)(logits), problem.logits.size


def _mpmath_diff(problem: Problem) -> tuple[Callable[[], Any], int]:
    import mpmath

    logits, label = [mpmath.mpf(x) for x in problem.logits[0].tolist()], int(problem.labels[0])

    def partial(i: int) -> Any:
        def loss(x: Any) -> Any:
            moved = [*logits[:i], x, *logits[i + 1 :]]
            return mpmath.log(mpmath.fsum(mpmath.exp(z) for z in moved)) - moved[label]

        with mpmath.workdps(50):
            return mpmath.diff(loss, logits[i])

    return lambda: [partial(i) for i in range(4)], 4  # a sample: each takes k exponentials


PEERS = (
    Peer(name="torch.autograd.gradcheck, slow", package="torch", make=_torch, most=50_257),
    Peer(name="jax.test_util.check_grads *", package="jax", make=_jax, most=10**9),
    Peer(name="scipy.optimize.check_grad", package="scipy", make=_scipy_check, most=50_257),
    Peer(name="scipy.differentiate.jacobian", package="scipy", make=_scipy_jacobian, most=1000),
    Peer(name="numdifftools.Gradient", package="numdifftools", make=_numdifftools, most=3200),
    Peer(name="autograd check_grads *", package="autograd", make=_autograd, most=10**9),
    Peer(name="mpmath.diff, 50 digits", package="mpmath", make=_mpmath_diff, most=1000),
)


def exponent(sizes: list[int], times: list[float]) -> float:
    """The slope of log(time) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def main() -> None:
    """Prints the tables."""
    packages = ("numpy", "mpmath", "gmpy2", "python-flint", "torch", "jax", "scipy", "numdifftools", "autograd")
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    print(f"{platform.machine()}, Python {platform.python_version()}; {', '.join(versions)}\n")

    print("Microseconds a component, float64; in brackets the ratio to the flint engine. '-': left out, or too slow.")
    print()
    print(f"{'':34}" + "".join(f"{f'({rows}, {classes})':>20}" for rows, classes in SHAPES))
    problems = [problem_of(*shape) for shape in SHAPES]
    flint = [best(ours(problem, "flint")) / problem.logits.size * 1e6 for problem in problems]

    def line(name: str, times: list[float | None]) -> None:
        cells = ["-" if t is None else f"{t:.3g} [{t / base:.3g}]" for t, base in zip(times, flint, strict=True)]
        print(f"{name:34}" + "".join(f"{cell:>20}" for cell in cells), flush=True)

    line("floor: 1 exp, 2 log in flint", [best(floor(problem)) / problem.logits.size * 1e6 for problem in problems])
    line("gradcheck --engine flint", list(flint))
    line(
        "gradcheck --engine mpmath", [best(ours(problem, "mpmath")) / problem.logits.size * 1e6 for problem in problems]
    )
    for peer in PEERS:
        times: list[float | None] = []
        for problem in problems:
            if problem.logits.size > peer.most or (peer.make in (_scipy_jacobian, _mpmath_diff) and problem.rows > 1):
                times.append(None)
                continue
            try:
                run, components = peer.make(problem)
                times.append(best(run, 0.5) / components * 1e6)
            except ModuleNotFoundError:
                times.append(None)
        line(peer.name, times)
    print("\n* one random direction for all components together, not each component\n")

    print("Growth: exponent of the time, fitted")
    for engine in ("mpmath", "flint"):
        classes, rows = [250, 500, 1000, 2000, 4000], [4, 8, 16, 32, 64]
        over_k = exponent(classes, [best(ours(problem_of(2, k), engine), 0.6) for k in classes])
        over_n = exponent(rows, [best(ours(problem_of(n, 250), engine), 0.6) for n in rows])
        print(f"  {engine:8} over classes {over_k:.3f}, over rows {over_n:.3f}")

    print("\nA vocabulary row of 49,152 classes, microseconds a component (reference alone)")
    for engine in ("mpmath", "flint"):
        times_of = {}
        for name in ("float32", "bfloat16"):
            problem = problem_of(1, 49_152, named(name))

            def run(problem: Problem = problem, engine: str = engine) -> None:
                again = Problem(logits=problem.logits, labels=problem.labels, format=problem.format)
                reference.compute(again, again.format, Settings(engine=engine))

            times_of[name] = best(run) / problem.logits.size * 1e6
        ratio = times_of["float32"] / times_of["bfloat16"]
        print(f"  {engine:8} float32 {times_of['float32']:.3g}, bfloat16 {times_of['bfloat16']:.3g}: {ratio:.1f} times")


if __name__ == "__main__":
    main()
