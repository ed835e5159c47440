"""Which gradient checkers notice which planted mistakes: gradcheck beside its peers, each at its defaults.

    pip install '.[bench]' && python benchmarks/detection.py --output docs/detection.md

Every checker is also given the right gradient: one that rejects it has noticed nothing by rejecting a wrong one. A peer
that is not installed is left out.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import typer

from gradcheck import catalogue, checking, mistakes, selftest, tolerances
from gradcheck.catalogue import Case
from gradcheck.exact import to_fraction
from gradcheck.formats import Array, Float64, Format, named
from gradcheck.mistakes import Planted
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Settings
from gradcheck.results import Judged, Result, Tried, Verdict

SECONDS = 20
"""What a checker may take for one gradient."""
SCIPY_MOST = 1e-5
"""The norm up to which this file lets scipy pass a gradient."""
RIGHT = "correctly-rounded"
"""The sound variant that every checker should let pass."""


_PAGE = """\
# Which checkers notice which mistakes

Made by `python benchmarks/detection.py --output docs/detection.md` with Python {python},
{versions}.{missing}

Each of the {mistakes} mistakes that `gradcheck selftest` plants is given to each checker, at its defaults, at the cases
of the catalogue that show it. Mistakes and cases are gradcheck's own choice, and many are there because they are hard:
read which kinds of mistakes a checker can see, not how often it would see one.

Peers get the case's logits and its loss in float64, and the mistake's gradient as the backward pass. A mistake that
brings a loss of its own, writes to its input or answers otherwise the next time is given as that code, not as its
answer. The case is in float64 wherever the mistake shows there, else in a narrower format: its gradient is then rounded
more coarsely than peers expect.

Two peers give no verdict, and one had to be chosen for them. scipy returns a norm: it passes here up to {scipy_most},
the power of ten at which most is caught; at a tenth of it the noise of forward differences fails ordinary batches. What
numdifftools returns is compared by the defaults of numpy.allclose (rtol 1e-5, atol 1e-8). jax, autograd and torch's
fast mode check one random direction in place of all components: what they see depends on it, too. Seeds are fixed.

- *caught*: the mistake is rejected, or something is raised, where the right gradient passes. One case is enough;
  (1 of 2) says that it was not all of them.
- *missed*: it passes, as the right gradient does.
- *rejects all*: the right gradient, correctly rounded, is rejected there too: nothing was noticed. The last column
  counts such cases, of those with an answer.
- *too slow*: no answer within {seconds} s, on the machine at hand. Before it rejects, torch's fast mode does the slow
  check, too.

A mistake with several cases counts as the first of these that holds at any of them.

"""


class TooSlowError(Exception):
    """A checker has had its time."""


class Cell(IntEnum):
    """What a checker makes of a mistake, the best first."""

    CAUGHT = 0
    MISSED = 1
    REJECTS_ALL = 2
    TOO_SLOW = 3

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A gradient to check: for gradcheck a candidate at a problem, for its peers functions of float64 logits.

    Attributes:
        logits: (N, k), a copy of the problem's.
        loss: of any logits; gradient: of `logits` alone, (N, k).
    """

    case: Case
    problem: Problem
    planted: Planted
    logits: Float64
    loss: Callable[[Float64], float]
    gradient: Callable[[Float64], Float64]


@dataclass(frozen=True, kw_only=True)
class Checker:
    """A checker: `accepts(question)` says whether it lets the gradient pass."""

    name: str
    what: str
    package: str
    accepts: Callable[[Question], bool]


def loss_of(problem: Problem) -> Callable[[Float64], float]:
    """The problem's loss as a function of float64 logits."""
    terms = problem.terms
    kept, q = terms.kept, terms.label_weights()[terms.kept]
    total_q, zeta, temperature = q.sum(axis=1), float(terms.zeta), float(terms.temperature)
    scale = np.array([float(terms.scale(n)) for n in range(terms.rows)])[kept]

    def loss(logits: Float64) -> float:
        if not kept.any() or terms.undefined:
            return terms.empty_loss
        z = logits if terms.mask is None else np.where(terms.mask, logits, -np.inf)
        z = z[kept]
        if terms.softcap is not None:
            cap = float(terms.softcap)
            # a mask stays a mask under the cap
            z = np.where(np.isneginf(z), z, cap * np.tanh(z / cap))
        z = z / temperature
        # relative to the largest, so that a common offset costs no digits
        top = z.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(z - top).sum(axis=1))
        rows = total_q * log_sum + np.where(q == 0, 0.0, q * (top - z)).sum(axis=1)
        if zeta:
            rows = rows + zeta * (top[:, 0] + log_sum) ** 2
        return float(np.where(scale == 0, 0.0, scale * rows).sum())

    return loss


def _alone(array: Any) -> Float64:
    return np.array(array, dtype=np.float64)


def asked(case: Case, problem: Problem, planted: Planted) -> Question:
    """What is planted, as a question at a case."""
    with np.errstate(all="ignore"):
        answer, loss = planted.candidate.answer(problem), loss_of(problem)
    own, right = planted.function, _alone(answer.gradient)

    def gradient(logits: Float64) -> Float64:
        if own is None:
            return right.copy()
        # a user's own code gets the peer's own array, and may answer otherwise every time
        found = own(logits, problem.labels)
        return _alone(found[1] if isinstance(found, tuple) else found)

    def own_loss(logits: Float64) -> float:
        assert own is not None
        return float(own(logits, problem.labels)[0])

    return Question(
        case=case,
        problem=problem,
        planted=planted,
        logits=_alone(problem.logits),
        loss=loss if answer.loss is None else own_loss,
        gradient=gradient,
    )


def _judged(question: Question) -> Result:
    found = checking.check(
        question.problem,
        [question.planted.candidate],
        checking.How(tolerance=tolerances.parse("stable"), settings=Settings()),
        case=question.case.name,
    )
    return next(iter(found))


def _stable(question: Question) -> bool:
    return _judged(question).verdict is not Verdict.FAIL


def _as_in_selftest(question: Question) -> bool:
    # only what this case is to show; a sound variant has nothing to show, and is tried at the case as such
    signs = tuple(sign for sign in question.planted.signs if sign.case == question.case.name)
    one = dataclasses.replace(question.planted, signs=signs)
    results = selftest.run([one], [question.problem.format], [] if signs else [question.case])
    return not any(isinstance(result.outcome, Tried) and result.outcome.shown for result in results)


def _torch(question: Question, *, fast: bool) -> bool:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return torch.tensor(question.loss(x.detach().numpy()), dtype=torch.float64)

        @staticmethod
        def backward(ctx: Any, above: Any) -> Any:
            (x,) = ctx.saved_tensors
            return above * torch.from_numpy(question.gradient(x.detach().numpy()))

    logits = torch.from_numpy(question.logits).requires_grad_()
    return bool(torch.autograd.gradcheck(Loss.apply, (logits,), fast_mode=fast))


def _torch_slow(question: Question) -> bool:
    return _torch(question, fast=False)


def _torch_fast(question: Question) -> bool:
    return _torch(question, fast=True)


def _jax(question: Question) -> bool:
    import jax
    from jax.test_util import check_grads

    scalar = jax.ShapeDtypeStruct((), np.float64)
    array = jax.ShapeDtypeStruct(question.logits.shape, np.float64)

    def forward(x: Any) -> Any:
        return jax.pure_callback(lambda x: _alone(question.loss(np.asarray(x))), scalar, x)

    def backward(x: Any, above: Any) -> Any:
        return (above * jax.pure_callback(lambda x: question.gradient(np.asarray(x)), array, x),)

    loss = jax.custom_vjp(forward)
    loss.defvjp(lambda x: (loss(x), x), backward)
    check_grads(loss, (question.logits,), order=1, modes=["rev"])
    return True


def _autograd(question: Question) -> bool:
    from autograd.extend import defvjp, primitive
    from autograd.test_util import check_grads

    loss = primitive(question.loss)
    defvjp(loss, lambda found, x: lambda above: above * question.gradient(x))
    np.random.seed(0)  # noqa: NPY002 - the direction is drawn from this one
    check_grads(loss, modes=["rev"], order=1)(question.logits)
    return True


def _flat(question: Question) -> tuple[Callable[[Any], float], Callable[[Any], Array], Array]:
    shape = question.logits.shape
    return (
        lambda x: question.loss(x.reshape(shape)),
        lambda x: question.gradient(x.reshape(shape)).ravel(),
        question.logits.ravel(),
    )


def _scipy(question: Question) -> bool:
    from scipy.optimize import check_grad

    return bool(check_grad(*_flat(question)) <= SCIPY_MOST)


def _numdifftools(question: Question) -> bool:
    import numdifftools

    loss, gradient, logits = _flat(question)
    numerical = numdifftools.Gradient(loss)(logits)
    return bool(np.allclose(gradient(logits), numerical))


CHECKERS = (
    Checker(name="stable", what="gradcheck, the verdict of `stable`", package="gradcheck", accepts=_stable),
    Checker(
        name="selftest",
        what="gradcheck, the tolerance or the flag that `gradcheck selftest` names",
        package="gradcheck",
        accepts=_as_in_selftest,
    ),
    Checker(name="torch", what="torch.autograd.gradcheck", package="torch", accepts=_torch_slow),
    Checker(name="torch fast", what="the same, fast_mode=True", package="torch", accepts=_torch_fast),
    Checker(name="jax", what='jax.test_util.check_grads, order=1, modes=["rev"]', package="jax", accepts=_jax),
    Checker(
        name="autograd",
        what='autograd.test_util.check_grads, order=1, modes=["rev"]',
        package="autograd",
        accepts=_autograd,
    ),
    Checker(
        name="scipy", what=f"scipy.optimize.check_grad, its norm <= {SCIPY_MOST:g}", package="scipy", accepts=_scipy
    ),
    Checker(
        name="numdifftools",
        what="numdifftools.Gradient, compared by numpy.allclose",
        package="numdifftools",
        accepts=_numdifftools,
    ),
)


def accepts(checker: Checker, question: Question) -> bool:
    """Whether a checker lets a gradient pass: an exception, whatever it complains of, is a no.

    Raises:
        TooSlowError: where it takes longer than it may.
    """
    end = time.monotonic() + SECONDS

    def timed(logits: Float64) -> float:
        # what takes long asks for the loss again and again
        if time.monotonic() > end:
            raise TooSlowError
        return question.loss(logits)

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = checker.accepts(dataclasses.replace(question, logits=question.logits.copy(), loss=timed))
    except Exception:
        found = False
    if time.monotonic() > end:
        raise TooSlowError
    return found


class Trial:
    """Every checker at every mistake's cases; what it makes of the right gradient there is asked once."""

    def __init__(self, checkers: Sequence[Checker]) -> None:
        self.checkers = checkers
        self.controls: dict[tuple[str, str, str], bool | None] = {}
        """By checker, case and format: whether the right gradient passes; None where that takes too long."""
        self._questions: dict[tuple[str, str], Question] = {}

    def cells(self, planted: Planted) -> dict[str, list[Cell]]:
        """What each checker makes of a mistake, case by case."""
        found: dict[str, list[Cell]] = {checker.name: [] for checker in self.checkers}
        for case, fmt in places(planted):
            right = self._right(case, fmt)
            wrong = asked(case, right.problem, planted)
            for checker in self.checkers:
                found[checker.name].append(self._cell(checker, right, wrong))
        return found

    def alarms(self, checker: Checker) -> tuple[int, int]:
        """On how many of the cases that it had time for a checker rejects the right gradient, and how many they are."""
        answers = [passes for (name, _, _), passes in self.controls.items() if name == checker.name]
        return answers.count(False), len(answers) - answers.count(None)

    def _right(self, case: Case, fmt: Format) -> Question:
        if (case.name, fmt.name) not in self._questions:
            problem = case.problem(fmt)
            assert problem is not None, f"{case.name} has no problem in {fmt.name}"
            question = asked(case, problem, mistakes.sound()[RIGHT])
            verify(question)
            self._questions[case.name, fmt.name] = question
        return self._questions[case.name, fmt.name]

    def _cell(self, checker: Checker, right: Question, wrong: Question) -> Cell:
        key = (checker.name, right.case.name, right.problem.format.name)
        try:
            if key not in self.controls:
                self.controls[key] = None
                self.controls[key] = accepts(checker, right)
            if self.controls[key] is None:
                return Cell.TOO_SLOW
            if not self.controls[key]:
                return Cell.REJECTS_ALL
            return Cell.MISSED if accepts(checker, wrong) else Cell.CAUGHT
        except TooSlowError:
            return Cell.TOO_SLOW


def places(planted: Planted) -> Iterator[tuple[Case, Format]]:
    """The cases that show a mistake, each in one format: float64 where it shows in it, else float32, else the first."""
    for name in dict.fromkeys(sign.case for sign in planted.signs):
        claimed = [fmt for sign in planted.signs if sign.case == name for fmt in sign.formats]
        chosen = next((fmt for fmt in ("float64", "float32") if fmt in claimed), claimed[0])
        yield catalogue.cases()[name], named(chosen)


def verify(question: Question) -> None:
    """Stops the run where the loss that peers get is not the one that gradcheck differentiates."""
    outcome = _judged(question).outcome
    if not isinstance(outcome, Judged) or (question.problem.status == RowStatus.UNDEFINED).any():
        return  # there is no such loss
    with np.errstate(all="ignore"):
        found = question.loss(question.logits)
    known = outcome.loss if isinstance(outcome.loss, float) else float(to_fraction(outcome.loss))
    if not np.isclose(found, known, rtol=1e-12, atol=1e-12, equal_nan=True):
        sys.exit(f"{question.case.name}: the loss is {known}, peers would get {found}")


def page(trial: Trial, found: dict[str, dict[str, list[Cell]]], missing: Sequence[str]) -> str:
    """The results in Markdown."""
    checkers = trial.checkers
    packages = dict.fromkeys(["numpy", *(one.package for one in checkers if one.package != "gradcheck")])
    made = _PAGE.format(
        python=platform.python_version(),
        versions=", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages),
        missing=f" Not installed, and left out: {', '.join(missing)}." if missing else "",
        mistakes=len(found),
        scipy_most=f"{SCIPY_MOST:g}",
        seconds=SECONDS,
    )
    columns = ("column", "checker", *map(str, Cell), "right gradient rejected")
    lines = [f"| {' | '.join(columns)} |", "|---|---|" + "---:|" * (len(columns) - 2)]
    for checker in checkers:
        best = [min(cells[checker.name]) for cells in found.values()]
        counts = " | ".join(str(best.count(cell)) for cell in Cell)
        alarms, cases = trial.alarms(checker)
        lines.append(f"| {checker.name} | {checker.what} | {counts} | {alarms} of {cases} |")
    lines += ["", f"| mistake | {' | '.join(checker.name for checker in checkers)} |", "|---|" + "---|" * len(checkers)]
    for name, cells in found.items():
        lines.append(f"| {name} | {' | '.join(_merged(cells[checker.name]) for checker in checkers)} |")
    return made + "\n".join(lines) + "\n"


def _merged(cells: Sequence[Cell]) -> str:
    caught = cells.count(Cell.CAUGHT)
    return f"caught ({caught} of {len(cells)})" if 0 < caught < len(cells) else str(min(cells))


def main(
    output: Annotated[Path | None, typer.Option(help="Where to write the page; standard output if not given.")] = None,
) -> None:
    """Prints the page, or writes it."""
    # jax reports what a callback raises before it raises it
    logging.getLogger("jax").setLevel(logging.CRITICAL)
    installed = [checker for checker in CHECKERS if importlib.util.find_spec(checker.package) is not None]
    trial = Trial(installed)
    found = {}
    for name, planted in mistakes.mistakes().items():
        print(name, file=sys.stderr, flush=True)
        found[name] = trial.cells(planted)
    made = page(trial, found, list(dict.fromkeys(one.package for one in CHECKERS if one not in installed)))
    if output is None:
        print(made, end="")
    else:
        output.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
