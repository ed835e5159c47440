"""The softmax itself: shifts, guards, and functions that are taken for it."""

from __future__ import annotations

import numpy as np

from gradcheck import closed_form
from gradcheck.candidates import compensated, log_softmax, logsumexp, naive, shifted, wide
from gradcheck.formats import Array, Format
from gradcheck.mistakes import Planted, Sign, hard, with_softmax
from gradcheck.problem import Problem

_CLIP = 1e-7
_EPSILON = 1e-6
_LOG2_E = 1.4426950408889634


def _parts(problem: Problem) -> tuple[closed_form.Parts, Array]:
    """The parts of the gradient, and a softmax with nothing wrong, in float64."""
    found = closed_form.parts(problem, problem.format)
    exps = np.exp(closed_form.shift(found.z.astype(np.float64)))
    return found, exps / exps.sum(axis=1, keepdims=True)


def _shifted_by(shift: Array, logits: Array, fmt: Format) -> Array:
    """A softmax that subtracts something else than the row's maximum."""
    exps = np.exp(logits - shift)
    return closed_form.divide(exps, closed_form.row_sum(exps, fmt), fmt)


def _by_first(logits: Array, fmt: Format) -> Array:
    return _shifted_by(logits[:, :1], logits, fmt)


def _by_column(logits: Array, fmt: Format) -> Array:
    return _shifted_by(logits.max(axis=0, keepdims=True), logits, fmt)


def _over_rows(logits: Array, fmt: Format) -> Array:
    return shifted.softmax(np.ascontiguousarray(logits.T), fmt).T


def _by_batch(logits: Array, fmt: Format) -> Array:
    return _shifted_by(logits.max(), logits, fmt)


def _twice(logits: Array, fmt: Format) -> Array:
    return shifted.softmax(shifted.softmax(logits, fmt), fmt)


def _sigmoid(logits: Array, fmt: Format) -> Array:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _power_for_exp(logits: Array, fmt: Format) -> Array:
    # (1 + x/1024)^1024, by squaring
    exps = np.maximum(1 + closed_form.shift(logits) / fmt.dtype.type(1024), fmt.dtype.type(0))
    for _ in range(10):
        exps = exps * exps
    return closed_form.divide(exps, closed_form.row_sum(exps, fmt), fmt)


def _reciprocal(logits: Array, fmt: Format) -> Array:
    exps = np.exp(closed_form.shift(logits))
    total = closed_form.row_sum(exps, fmt)
    return np.asarray(exps.astype(total.dtype) * (1 / total)).astype(fmt.dtype)


def _exp2(logits: Array, fmt: Format) -> Array:
    wide = closed_form.accumulator(fmt)
    exps = np.exp2(closed_form.shift(logits).astype(wide) * wide.type(_LOG2_E))
    return closed_form.divide(exps, exps.sum(axis=1, keepdims=True), fmt)


def _true(problem: Problem) -> Array:
    """The probability of each row's label, (N,); in ignored rows that of class 0."""
    _, p = _parts(problem)
    return np.asarray(p[np.arange(problem.rows), np.where(problem.terms.kept, hard(problem), 0)])


def _clipped(problem: Problem) -> Array:
    gradient, true = compensated.gradient(problem), _true(problem)
    inside = (true > _CLIP) & (true < 1 - _CLIP) | ~problem.terms.kept
    return np.where(inside[:, None], gradient, gradient.dtype.type(0))


def _epsilon(problem: Problem) -> Array:
    gradient, true = compensated.gradient(problem), _true(problem)
    return (gradient.astype(np.float64) * (true / (true + _EPSILON))[:, None]).astype(gradient.dtype)


def _by_quotient(problem: Problem) -> Array:
    """Σ_j −q_j/p_j · p_j·(δ_ij − p_i), by the chain rule."""
    fmt = problem.format
    found = closed_form.parts(problem, fmt)
    p = shifted.softmax(found.z, fmt).astype(found.weight.dtype)
    q = problem.terms.label_weights().astype(p.dtype)
    times = np.where(q == 0, 0, -q / p) * p
    inner = times - p * times.sum(axis=1, keepdims=True)
    return closed_form.finish(problem, found, inner, fmt)


def _by_probabilities(problem: Problem) -> Array:
    found, p = _parts(problem)
    q = problem.terms.label_weights()
    return closed_form.finish(problem, found, np.where(q == 0, 0.0, -q / p), problem.format)


def _zero_times_mask(problem: Problem) -> Array:
    gradient = compensated.gradient(problem)
    if problem.labels.ndim == 1:
        return gradient
    _, p = _parts(problem)
    return (gradient.astype(np.float64) - problem.labels.astype(np.float64) * 0 * np.log(p)).astype(gradient.dtype)


def _mask_added_twice(logits: Array, fmt: Format) -> Array:
    lowest = fmt.dtype.type(-fmt.max)
    return shifted.softmax(np.where(logits == lowest, logits + lowest, logits), fmt)


def _stops_at_mask(logits: Array, fmt: Format) -> Array:
    after = np.cumsum(np.isneginf(logits), axis=1) > 0
    return shifted.softmax(np.where(after, fmt.dtype.type(-np.inf), logits), fmt)


MISTAKES = (
    Planted(
        name="unshifted",
        cause="overflow-unshifted",
        reason="exp without a shift overflows and underflows.",
        gradient=naive.gradient,
        signs=(Sign(case="overflow-beyond"), Sign(case="underflow-beyond")),
    ),
    Planted(
        name="shifted-by-first",
        cause="wrong-row-max",
        reason="Shifted by the first logit, not by the largest.",
        gradient=with_softmax(_by_first),
        signs=(Sign(case="losing-gap-1e4"),),
    ),
    Planted(
        name="shifted-by-batch",
        cause="wrong-row-max",
        reason="Shifted by the largest logit of the batch: rows that lie low underflow, and a NaN spreads.",
        gradient=with_softmax(_by_batch),
        watched=True,
        signs=(
            Sign(case="offset-mixed-rows"),
            Sign(case="nonfinite-nan-row", by="nonfinite"),
            Sign(case="nonfinite-nan-row", by="spread"),
        ),
    ),
    Planted(
        name="shifted-by-column",
        cause="wrong-row-max",
        reason="The maximum is taken over the rows, not over the classes.",
        gradient=with_softmax(_by_column),
        signs=(Sign(case="plain-3"),),
    ),
    Planted(
        name="softmax-over-rows",
        cause="transposed",
        reason="Softmax over the rows of each class.",
        gradient=with_softmax(_over_rows),
        signs=(Sign(case="plain-10"),),
    ),
    Planted(
        name="division-free",
        cause="division-free",
        reason="exp(l − lse): the rounding of lse, in proportion to the logits, scales every probability.",
        gradient=logsumexp.gradient,
        signs=(Sign(case="offset-plus-1e4"), Sign(case="offset-minus-1e7", formats=("bfloat16", "float32", "float64"))),
    ),
    Planted(
        name="softmax-twice",
        cause="softmax-twice",
        reason="Probabilities are handed to a loss that takes logits.",
        gradient=with_softmax(_twice),
        signs=(Sign(case="plain-3"),),
    ),
    Planted(
        name="sigmoid",
        cause="other-convention",
        reason="σ(l) − y: a sigmoid in place of the softmax.",
        gradient=with_softmax(_sigmoid),
        signs=(Sign(case="plain-3"),),
    ),
    Planted(
        name="power-for-exp",
        cause="inaccurate-exp",
        reason="(1 + x/1024)^1024 in place of exp x: right to three digits near 0, and to none at −40.",
        gradient=with_softmax(_power_for_exp),
        signs=(Sign(case="plain-1000", formats=("float16", "float32", "float64")),),
    ),
    Planted(
        name="clipped",
        cause="clipped-probabilities",
        reason="Probabilities are clipped to [1e-7, 1 − 1e-7], where the derivative is 0.",
        gradient=_clipped,
        signs=(Sign(case="losing-gap-18"), Sign(case="losing-gap-18", by="flushed")),
    ),
    Planted(
        name="epsilon-in-log",
        cause="clipped-probabilities",
        reason="log(p + 1e-6) scales the row by p/(p + 1e-6): 0.01 at p = 1e-8; half formats hide the rest.",
        gradient=_epsilon,
        signs=(Sign(case="losing-one-in-1e8"),),
    ),
    Planted(
        name="quotient",
        cause="wrt-probabilities",
        reason="−y/p times p by the chain rule: 0/0 where the true class underflows.",
        gradient=_by_quotient,
        signs=(Sign(case="losing-underflow"),),
    ),
    Planted(
        name="wrt-probabilities",
        cause="wrt-probabilities",
        reason="−y/p: the gradient with respect to the probabilities.",
        gradient=_by_probabilities,
        signs=(Sign(case="plain-3"),),
    ),
    Planted(
        name="zero-times-mask",
        cause="masked-nan",
        reason="0·log 0 for a masked class with soft label 0: NaN.",
        gradient=_zero_times_mask,
        signs=(Sign(case="masked-soft-label-0"),),
        sources=("google-deepmind/optax#896",),
    ),
    Planted(
        name="mask-added-twice",
        cause="masked-nan",
        reason="The format's lowest number is added to what is masked already: −inf, and NaN where all are.",
        gradient=with_softmax(_mask_added_twice),
        signs=(Sign(case="masked-finfo-min-all"),),
    ),
    Planted(
        name="stops-at-mask",
        cause="masked-nan",
        reason="The first −inf is taken for the end of the row: right where masks stand at the end, and only there.",
        gradient=with_softmax(_stops_at_mask),
        watched=True,
        signs=(Sign(case="softcap-padding", by="order"), Sign(case="masked-some")),
    ),
)

SOUND = (
    Planted(name="shifted", reason="exp(l − max)/S − y.", gradient=shifted.gradient),
    Planted(name="compensated", reason="The true class as minus the sum of the others.", gradient=compensated.gradient),
    Planted(name="log-softmax", reason="exp((l − max) − log S) − y.", gradient=log_softmax.gradient),
    Planted(name="wide", reason="In the next wider format, rounded once.", gradient=wide.gradient),
    Planted(name="reciprocal", reason="exp(l − max)·(1/S) − y.", gradient=with_softmax(_reciprocal)),
    Planted(name="exp2", reason="2^((l − max)·log2 e), as GPUs compute it.", gradient=with_softmax(_exp2)),
    Planted(
        name="by-batch-of-one",
        reason="Every row by itself: no row may know of another.",
        gradient=lambda problem: np.concatenate(
            [compensated.gradient(problem.take(np.array([n]))) for n in range(problem.rows)]
        ),
    ),
)
