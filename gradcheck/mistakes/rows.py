"""Rows, and how code treats what it is given: ignored rows, inputs, repetition, the loss beside the gradient."""

from __future__ import annotations

import itertools

import numpy as np

from gradcheck import closed_form
from gradcheck.candidates import compensated, shifted
from gradcheck.formats import Array
from gradcheck.mistakes import Planted, Sign, altered, hard
from gradcheck.problem import Problem

_ROWS = 16
_LAST_COUNT = 256
"""Where adding 1 in bfloat16 stops."""


def _not_zeroed(problem: Problem) -> Array:
    labels, kept = hard(problem), problem.terms.kept
    found = compensated.gradient(problem)
    others = tuple(option for option in problem.loss if option.name not in ("ignore_index", "reduction", "empty"))
    counted = altered(problem, loss=others, labels=np.where(kept, labels, 0))
    wide = compensated.gradient(counted).astype(np.float64) / float(problem.terms.divisor or 1)
    return np.where(kept[:, None], found, wide.astype(found.dtype))


def _times_zero(problem: Problem) -> Array:
    found, fmt = compensated.gradient(problem), problem.format
    p = shifted.softmax(closed_form.parts(problem, fmt).z, fmt)
    return np.where(problem.terms.kept[:, None], found, p * fmt.dtype.type(0))


def _unwritten(problem: Problem) -> Array:
    found = compensated.gradient(problem)
    whole = problem.rows // _ROWS * _ROWS
    found[whole:] = 0
    return found


def _counted_in_half(problem: Problem) -> Array:
    found, divisor = compensated.gradient(problem), problem.terms.divisor
    if divisor is None or divisor <= _LAST_COUNT:
        return found
    return np.asarray((found.astype(np.float64) * float(divisor) / _LAST_COUNT).astype(found.dtype))


def _softmax(logits: Array) -> Array:
    """In float64: these mistakes are not numerical."""
    wide = logits.astype(np.float64)
    exps = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(exps / exps.sum(axis=1, keepdims=True))


def _minus_one_hot(p: Array, labels: Array) -> Array:
    if labels.ndim == 2:
        wide = labels.astype(np.float64)
        return np.asarray(p * wide.sum(axis=1, keepdims=True) - wide)
    p[np.arange(len(p)), labels] -= 1
    return p


def _in_place(logits: Array, labels: Array) -> Array:
    logits[:] = _minus_one_hot(_softmax(logits), labels)
    return logits


def _with_mean_loss(logits: Array, labels: Array) -> tuple[float, Array]:
    p = _softmax(logits)
    picked = p[np.arange(len(p)), labels] if labels.ndim == 1 else np.exp((labels * np.log(p)).sum(axis=1))
    return float(-np.log(picked).mean()), _minus_one_hot(p, labels).astype(logits.dtype)


_runs = itertools.count()


def _unsteady(logits: Array, labels: Array) -> Array:
    found = _minus_one_hot(_softmax(logits), labels).astype(logits.dtype)
    # as where atomic additions race: one run in two ends one ulp away
    return np.nextafter(found, found.dtype.type(np.inf)) if next(_runs) % 2 else found


MISTAKES = (
    Planted(
        name="ignored-not-zeroed",
        cause="ignored-rows",
        reason="Ignored rows keep a gradient, that of class 0.",
        gradient=_not_zeroed,
        signs=(Sign(case="ignored-some"), Sign(case="ignored-some", by="ignored")),
        sources=("PaddlePaddle/Paddle#28622",),
    ),
    Planted(
        name="ignored-times-zero",
        cause="ignored-rows",
        reason="Ignored rows are multiplied by 0: NaN stays NaN.",
        gradient=_times_zero,
        signs=(Sign(case="nonfinite-ignored-row"),),
        sources=("pytorch/pytorch#11551",),
    ),
    Planted(
        name="rows-unwritten",
        cause="isolated-entries",
        reason="Rows past the last whole block of 16 are never written.",
        gradient=_unwritten,
        signs=(Sign(case="plain-300-rows"),),
    ),
    Planted(
        name="rows-counted-in-half",
        cause="scaled",
        reason="The rows of a mean are counted one by one in bfloat16, which stops at 256.",
        gradient=_counted_in_half,
        signs=(Sign(case="plain-300-rows"),),
    ),
    Planted(
        name="input-overwritten",
        reason="The gradient is written into the logits' own memory.",
        function=_in_place,
        signs=(Sign(case="plain-10", by="input"),),
        sources=("linkedin/Liger-Kernel#272",),
    ),
    Planted(
        name="loss-of-mean",
        reason="The loss that comes with the gradient of a sum is a mean.",
        function=_with_mean_loss,
        signs=(Sign(case="plain-10", by="loss"),),
    ),
    Planted(
        name="unsteady",
        reason="The same question is answered otherwise the second time.",
        function=_unsteady,
        signs=(Sign(case="plain-10", by="repeats"),),
    ),
)
