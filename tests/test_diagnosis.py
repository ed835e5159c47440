"""The diagnosis: every planted mistake gets its own name, from its gradient alone; right gradients none; two are mixed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import catalogue, diagnosis, losses, mistakes, reference, tolerances
from gradcheck.diagnosis import CAUSES, Finding
from gradcheck.exceptions import GradcheckError
from gradcheck.formats import FORMATS, Format
from gradcheck.metrics import Comparison, failing
from gradcheck.mistakes import Planted, Sign
from gradcheck.problem import Problem
from gradcheck.reference import Settings
from gradcheck.selftest import FLAGS
from tests.conftest import EVERY_FORMAT, Program, make_problem, real

MISTAKES = {name: one for name, one in mistakes.mistakes().items() if one.cause}
SIGNS = [(one, sign) for one in MISTAKES.values() for sign in one.signs]

AMBIGUOUS = {
    # every row is 0, and a probability of 1 - 5e-5, or one that float16 cannot tell from 0, may be the reason
    ("zeros", "saturated-gap-20"),
    ("clipped", "losing-gap-18"),
    # in float16 all of 2^16 probabilities are subnormal, and 0
    ("count-in-half", "equal-65536"),
    # 2 + 2e-4 times 1e4 is 3 times p, which in half formats the rounding of lse may be, too
    ("z-loss-unasked", "offset-plus-1e4"),
    # both rows have p = 1e-8, and are 0.0099 times what is due
    ("epsilon-in-log", "losing-one-in-1e8"),
    ("smoothing-forgotten", "smoothing-saturated"),
    ("weights-of-ignored-rows", "combined-weight-ignored"),
    ("z-loss-uncapped", "combined-softcap-z-loss"),
}
"""What one case alone cannot tell apart in some format: its name is among the others then, or there is none."""


def diagnosed(problem: Problem, gradient: Any, tolerance: str = "stable") -> tuple[Finding, ...] | None:
    """What is said of a gradient; None where nothing fails."""
    exact = reference.compute(problem, problem.format, Settings())
    bound = tolerances.stable_bound(exact)
    failed = failing(Comparison(exact, gradient), tolerances.parse(tolerance).limits(exact.values, bound))
    return diagnosis.diagnose(problem, gradient, exact, bound, failed) if failed.any() else None


@np.errstate(all="ignore")
def answer(one: Planted, problem: Problem) -> Any:
    return one.candidate.gradient(problem)


def test_names_are_known() -> None:
    assert {one.cause for one in MISTAKES.values()} <= set(CAUSES) - {"mixed", "unknown"}
    # what no gradient shows
    assert set(mistakes.mistakes()) - set(MISTAKES) == {"input-overwritten", "loss-of-mean", "unsteady"}


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_every_mistake_gets_its_name_where_it_is_planted(fmt: Format) -> None:
    wrong, named = {}, 0
    for one, sign in SIGNS:
        problem = catalogue.cases()[sign.case].problem(fmt)
        if fmt.name not in sign.formats or problem is None:
            continue
        said = diagnosed(problem, answer(one, problem), "stable" if sign.by in FLAGS else sign.by)
        if said is None:
            assert sign.by in FLAGS  # the gradient itself passes
            continue
        named += 1
        if said[0].cause != one.cause and (one.name, sign.case) not in AMBIGUOUS:
            wrong[one.name, sign.case] = [finding.cause for finding in said]
    assert wrong == {}
    assert named > 60


# --- on logits of real models ------------------------------------------------------------------------------------

LOSSES = (
    (),
    ("reduction=mean",),
    ("label_smoothing=0.1",),
    ("weight", "reduction=mean"),
    ("weight", "label_smoothing=0.2"),
    ("ignore_index=-100", "reduction=mean"),
    ("z_loss=0.01",),
    ("softcap=15",),
    ("temperature=0.5",),
    ("upstream",),
)


def problems(name: str, seed: int, rows: int = 12) -> Iterator[Problem]:
    """Rows of a file under many losses, drawn by a seed."""
    whole, _ = real(name)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(whole.rows, min(rows, whole.rows), replace=False))
    for options in LOSSES:
        labels, texts = whole.labels[chosen].copy(), []
        for option in options:
            if option == "weight":
                texts.append("weight=" + ",".join(f"{x:.3g}" for x in rng.uniform(0.2, 3, whole.classes)))
            elif option == "upstream":
                texts.append("upstream=" + ",".join(f"{x:.3g}" for x in rng.normal(size=len(chosen))))
            else:
                texts.append(option)
        if "ignore_index=-100" in options:
            labels[::3] = -100
        if whole.classes > 2000 and "weight" in options:
            continue
        yield Problem(logits=whole.logits[chosen], labels=labels, format=whole.format, loss=losses.parse(texts))


def tally(name: str, seed: int) -> tuple[Counter[str], Counter[str], dict[str, Counter[str]]]:
    """How often each mistake was diagnosed, how often rightly or honestly not at all, and the wrong names."""
    seen: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong: dict[str, Counter[str]] = {}
    for problem in problems(name, seed):
        for one in MISTAKES.values():
            try:
                gradient = answer(one, problem)
            except GradcheckError:
                continue
            said = diagnosed(problem, gradient)
            if said is None:
                continue
            seen[one.name] += 1
            if one.cause in (finding.cause for finding in said):
                right[one.name] += 1
            elif said[0].cause not in ("unknown", "mixed"):
                wrong.setdefault(one.name, Counter())[said[0].cause] += 1
    return seen, right, wrong
