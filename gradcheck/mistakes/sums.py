"""The sum over classes: its precision, its blocks, and what belongs into it."""

from __future__ import annotations

import math

import numpy as np

from gradcheck import closed_form
from gradcheck.formats import Array, Format, named
from gradcheck.mistakes import Planted, Sign, with_softmax

_BLOCK = 128
_LANES = 32


def _sequential(logits: Array, fmt: Format, accumulator: Format) -> Array:
    exps = np.exp(closed_form.shift(logits))
    total = np.add.accumulate(exps.astype(accumulator.dtype), axis=1)[:, -1:]
    return closed_form.divide(exps, total.astype(closed_form.accumulator(fmt)), fmt)


def _in_itself(logits: Array, fmt: Format) -> Array:
    return _sequential(logits, fmt, fmt)


def _one_accumulator(logits: Array, fmt: Format) -> Array:
    return _sequential(logits, fmt, named(fmt.accumulator))


def _counted(logits: Array, fmt: Format) -> Array:
    # the mean of the exps times their number, which the format may not hold
    exps = np.exp(closed_form.shift(logits))
    wide = closed_form.accumulator(fmt)
    count = np.asarray(logits.shape[1]).astype(fmt.dtype).astype(wide)
    return closed_form.divide(exps, exps.astype(wide).mean(axis=1, keepdims=True) * count, fmt)


def _online(
    logits: Array,
    fmt: Format,
    *,
    size: int = _BLOCK,
    start: float = -math.inf,
    rescaled: bool = True,
    guarded: bool = True,
    tail: bool = True,
) -> Array:
    """Softmax by blocks with a running maximum, as kernels do; what is switched off is a mistake."""
    wide = closed_form.accumulator(fmt)
    z = logits.astype(wide)
    ends = [*range(size, z.shape[1] + 1, size)]
    if not ends or (tail and ends[-1] < z.shape[1]):
        ends.append(z.shape[1])
    largest, total = np.full((len(z), 1), start, wide), np.zeros((len(z), 1), wide)
    first = 0
    for end in ends:
        block = z[:, first:end]
        above = np.maximum(largest, block.max(axis=1, keepdims=True))
        anchor = np.where(np.isneginf(above), 0, above).astype(wide) if guarded else above
        last = end == ends[-1]
        scale = np.exp(largest - anchor) if rescaled or not last else np.ones_like(total)
        total = total * scale + np.exp(block - anchor).sum(axis=1, keepdims=True)
        largest, first = above, end
    return np.asarray(np.exp(z - largest) / total).astype(fmt.dtype)


def _lanes(logits: Array, fmt: Format) -> Array:
    """Lane j sums every 32nd class, the lanes are added up at the end."""
    exps = np.exp(closed_form.shift(logits))
    wide = closed_form.accumulator(fmt)
    padded = np.zeros((len(exps), -(-exps.shape[1] // _LANES) * _LANES), wide)
    padded[:, : exps.shape[1]] = exps
    lanes = np.add.accumulate(padded.reshape(len(exps), -1, _LANES), axis=1)[:, -1]
    return closed_form.divide(exps, lanes.sum(axis=1, keepdims=True), fmt)


def _last_class_left_out(logits: Array, fmt: Format) -> Array:
    exps = np.exp(closed_form.shift(logits))
    return closed_form.divide(exps, closed_form.row_sum(exps[:, :-1], fmt), fmt)


def _padding_let_in(logits: Array, fmt: Format) -> Array:
    padding = np.zeros((len(logits), -logits.shape[1] % _BLOCK), fmt.dtype)
    padded = np.exp(np.concatenate([logits, padding], axis=1) - logits.max(axis=1, keepdims=True))
    return closed_form.divide(padded[:, : logits.shape[1]], closed_form.row_sum(padded, fmt), fmt)


_HALF, _FINE = ("float16", "bfloat16"), ("float32", "float64")

MISTAKES = (
    Planted(
        name="sum-in-half",
        cause="half-precision-sum",
        reason="The sum is made in the half format itself: it stops growing, or overflows.",
        gradient=with_softmax(_in_itself),
        signs=(Sign(case="equal-70000", formats=_HALF),),
    ),
    Planted(
        name="sum-in-one-accumulator",
        cause="half-precision-sum",
        reason="One float32 accumulator for thousands of terms: every addition rounds.",
        gradient=with_softmax(_one_accumulator),
        signs=(
            Sign(case="saturated-crowd", formats=("float32",)),
            Sign(case="vocabulary-crowd", formats=("float32",)),
        ),
    ),
    Planted(
        name="count-in-half",
        cause="half-precision-sum",
        reason="The number of classes is converted to float16, and is inf from 65,520 on.",
        gradient=with_softmax(_counted),
        signs=(Sign(case="equal-65536", formats=("float16",)),),
        sources=("jax-ml/jax#40409",),
    ),
    Planted(
        name="stale-rescale",
        cause="stale-block-max",
        reason="Online softmax that does not rescale its sum when the last block raises the maximum.",
        gradient=with_softmax(lambda logits, fmt: _online(logits, fmt, rescaled=False)),
        signs=(Sign(case="order-last-block"), Sign(case="order-range-800")),
    ),
    Planted(
        name="stale-rescale-large",
        cause="stale-block-max",
        reason="The same with blocks of 4,096 classes: rows of one block never show it.",
        gradient=with_softmax(lambda logits, fmt: _online(logits, fmt, rescaled=False, size=4096)),
        signs=(Sign(case="order-late-40000"),),
    ),
    Planted(
        name="maximum-from-zero",
        cause="overflow-unshifted",
        reason="A running maximum that starts at 0, not at −inf: rows that lie low underflow.",
        gradient=with_softmax(lambda logits, fmt: _online(logits, fmt, start=0.0)),
        signs=(
            Sign(case="offset-minus-1e3"),
            Sign(case="underflow-beyond", formats=("bfloat16", "float32", "float64")),
        ),
    ),
    Planted(
        name="masked-block",
        cause="masked-nan",
        reason="A running maximum of −inf is subtracted from itself where the first block is all masked.",
        gradient=with_softmax(lambda logits, fmt: _online(logits, fmt, guarded=False)),
        signs=(Sign(case="masked-first-block"), Sign(case="masked-first-block", by="nonfinite")),
    ),
    Planted(
        name="tail-left-out",
        cause="wrong-sum",
        reason="The last block is left out of the sum where it is not full.",
        gradient=with_softmax(lambda logits, fmt: _online(logits, fmt, tail=False)),
        signs=(Sign(case="order-dominant-last"), Sign(case="vocabulary-last-dominates")),
    ),
    Planted(
        name="tail-left-out-large",
        cause="wrong-sum",
        reason="The same with blocks of 1,024 classes.",
        gradient=with_softmax(lambda logits, fmt: _online(logits, fmt, tail=False, size=1024)),
        signs=(Sign(case="order-late-40000"),),
    ),
    Planted(
        name="class-left-out",
        cause="wrong-sum",
        reason="The last class is left out of the sum: among 50,257 in float32 only the row's sum shows it.",
        gradient=with_softmax(_last_class_left_out),
        signs=(Sign(case="plain-3"), Sign(case="vocabulary-50257", by="total", formats=_FINE)),
    ),
    Planted(
        name="padding-let-in",
        cause="wrong-sum",
        reason="Padding to a multiple of 128 is summed with the classes: in a long row only its sum shows it.",
        gradient=with_softmax(_padding_let_in),
        signs=(Sign(case="equal-2"), Sign(case="vocabulary-50257", by="total", formats=_FINE)),
    ),
)

SOUND = (
    Planted(name="online", reason="Blocks of 128 with a running maximum.", gradient=with_softmax(_online)),
    Planted(name="lanes", reason="32 lanes, as a warp sums.", gradient=with_softmax(_lanes)),
)
