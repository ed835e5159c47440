"""Factors: signs, means taken twice, of too much or of the wrong parts, gradients from above."""

from __future__ import annotations

import numpy as np

from gradcheck.candidates import compensated
from gradcheck.formats import Array
from gradcheck.mistakes import Planted, Sign, without
from gradcheck.problem import Problem


def _times(problem: Problem, factor: float | Array) -> Array:
    """The gradient times a factor, or one for each row, rounded once more."""
    gradient = compensated.gradient(problem)
    wide = gradient.astype(np.float64) * np.reshape(factor, (-1, 1))
    return np.asarray(wide.astype(gradient.dtype))


def _divisor(problem: Problem) -> float:
    return float(problem.terms.divisor or 1)


def _kept(problem: Problem) -> float:
    return float(problem.terms.kept.sum())


def _mean_of_all_rows(problem: Problem) -> Array:
    if problem.terms.divisor is None:
        return compensated.gradient(problem)
    return _times(problem, _kept(problem) / problem.rows)


def _mean_of_halves(problem: Problem) -> Array:
    if problem.terms.divisor is None or problem.rows < 2:
        return compensated.gradient(problem)
    halves = np.array_split(np.arange(problem.rows), 2)
    return np.concatenate([_times(problem.alone(rows), 0.5) for rows in halves])


def _upstream(problem: Problem) -> Array:
    return np.array([float(factor) for factor in problem.terms.upstream])


def _upstream_of_first_row(problem: Problem) -> Array:
    return _times(without(problem, "upstream"), _upstream(problem)[0])


def _nothing_over_nothing(problem: Problem) -> Array:
    gradient = compensated.gradient(problem)
    return np.full_like(gradient, np.nan) if problem.terms.divisor == 0 else gradient


MISTAKES = (
    Planted(
        name="sign",
        cause="sign",
        reason="y − ŷ: the sign is wrong.",
        gradient=lambda problem: -compensated.gradient(problem),
        signs=(Sign(case="plain-3"), Sign(case="plain-3", by="wrong-sign")),
    ),
    Planted(
        name="doubled",
        cause="scaled",
        reason="Twice the gradient, as where it is added up in two places.",
        gradient=lambda problem: _times(problem, 2.0),
        signs=(Sign(case="plain-3"),),
    ),
    Planted(
        name="mean-twice",
        cause="scaled",
        reason="The mean is taken twice: divided by N, and by N again.",
        gradient=lambda problem: _times(problem, 1 / _divisor(problem)),
        signs=(Sign(case="plain-mean"),),
    ),
    Planted(
        name="mean-forgotten",
        cause="scaled",
        reason="The sum over rows where the mean is due.",
        gradient=lambda problem: _times(problem, _divisor(problem)),
        signs=(Sign(case="plain-mean"),),
    ),
    Planted(
        name="mean-over-classes",
        cause="scaled",
        reason="Divided by the number of classes, too, as the mean over an array's elements is.",
        gradient=lambda problem: _times(problem, 1 / problem.classes),
        signs=(Sign(case="plain-mean"),),
    ),
    Planted(
        name="mean-of-all-rows",
        cause="other-convention",
        reason="The mean counts ignored rows.",
        gradient=_mean_of_all_rows,
        signs=(Sign(case="ignored-some"),),
    ),
    Planted(
        name="mean-of-halves",
        cause="scaled",
        reason="The mean of two micro-batches' means, whatever they hold.",
        gradient=_mean_of_halves,
        signs=(Sign(case="ignored-uneven"),),
        sources=("huggingface/transformers#34191",),
    ),
    Planted(
        name="mean-over-nothing",
        cause="other-convention",
        reason="0/0 where every row is ignored.",
        gradient=_nothing_over_nothing,
        signs=(Sign(case="ignored-all"), Sign(case="weighted-nothing")),
        sources=("pytorch/pytorch#70348",),
    ),
    Planted(
        name="upstream-of-first-row",
        cause="option-missing",
        reason="The gradient from above is taken for one number, the first row's.",
        gradient=_upstream_of_first_row,
        signs=(Sign(case="upstream-per-row"),),
        sources=("linkedin/Liger-Kernel#968", "linkedin/Liger-Kernel#678"),
    ),
    Planted(
        name="upstream-forgotten",
        cause="option-missing",
        reason="The gradient from above is left out.",
        gradient=lambda problem: compensated.gradient(without(problem, "upstream")),
        signs=(Sign(case="upstream-per-row"), Sign(case="upstream-loss-scale")),
    ),
)
