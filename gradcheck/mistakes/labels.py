"""Labels: left out, shifted, permuted, taken for a distribution."""

from __future__ import annotations

import dataclasses

import numpy as np

from gradcheck import closed_form
from gradcheck.candidates import compensated, shifted
from gradcheck.formats import Array
from gradcheck.mistakes import Planted, Sign, altered, hard
from gradcheck.problem import Problem


def _omitted(problem: Problem) -> Array:
    fmt = problem.format
    found = closed_form.parts(problem, fmt)
    return closed_form.finish(problem, found, shifted.softmax(found.z, fmt).astype(found.weight.dtype), fmt)


def _shifted(problem: Problem) -> Array:
    if problem.labels.ndim == 2:
        return compensated.gradient(altered(problem, labels=np.roll(problem.labels, 1, axis=1)))
    kept = problem.terms.kept
    labels = np.where(kept, (problem.labels + 1) % problem.classes, problem.labels)
    return compensated.gradient(altered(problem, labels=labels))


def _permuted(problem: Problem) -> Array:
    return compensated.gradient(altered(problem, labels=np.roll(problem.labels, 1, axis=0)))


def _off_simplex(problem: Problem) -> Array:
    fmt = problem.format
    found = closed_form.parts(problem, fmt)
    found = dataclasses.replace(found, weight=np.ones_like(found.weight))
    return closed_form.assembled(problem, found, shifted.softmax, fmt)


def _narrow(problem: Problem) -> Array:
    outside = problem.terms.kept & (hard(problem).astype(np.int16) != problem.labels)
    # a class that is none is never subtracted
    return np.where(outside[:, None], _omitted(problem), compensated.gradient(problem))


def _predicted(problem: Problem) -> Array:
    labels = hard(problem)
    with np.errstate(invalid="ignore"):
        best = np.argmax(problem.terms.logits.astype(np.float64), axis=1)
    return compensated.gradient(altered(problem, labels=np.where(problem.terms.kept, best, labels)))


MISTAKES = (
    Planted(
        name="labels-omitted",
        cause="labels-omitted",
        reason="ŷ where ŷ − y is due: the label is left out.",
        gradient=_omitted,
        signs=(Sign(case="plain-3"),),
    ),
    Planted(
        name="labels-shifted",
        cause="labels-shifted",
        reason="Every label is off by one class.",
        gradient=_shifted,
        signs=(Sign(case="plain-3"),),
    ),
    Planted(
        name="labels-permuted",
        cause="labels-permuted",
        reason="Every row gets the label of the row before.",
        gradient=_permuted,
        signs=(Sign(case="plain-10"),),
    ),
    Planted(
        name="labels-predicted",
        cause="labels-permuted",
        reason="The predicted class stands in for the label: the row is right where the model is.",
        gradient=_predicted,
        signs=(Sign(case="losing-gap-18"),),
    ),
    Planted(
        name="labels-in-16-bits",
        cause="labels-omitted",
        reason="Labels are kept in 16 bits: class 39,990 becomes class -25,546, which is none.",
        gradient=_narrow,
        signs=(Sign(case="order-late-40000"),),
    ),
    Planted(
        name="labels-off-simplex",
        cause="other-convention",
        reason="ŷ − y where Σy·ŷ − y is due: labels are taken to sum to 1.",
        gradient=_off_simplex,
        signs=(Sign(case="soft-off-simplex"), Sign(case="weighted-sum")),
    ),
)
