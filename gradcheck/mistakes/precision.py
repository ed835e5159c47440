"""Precision: too narrow a format, digits lost to cancellation, numbers that are flushed or dropped."""

from __future__ import annotations

import numpy as np

from gradcheck import closed_form
from gradcheck.candidates import compensated, shifted
from gradcheck.exceptions import NotApplicableError
from gradcheck.formats import FORMATS, Array, Format
from gradcheck.mistakes import Planted, Sign, altered
from gradcheck.problem import Problem

_BLOCK = 128
_FILTER = 2.0**-12
"""eps/32 of bfloat16, below which ml-cross-entropy takes a block's gradient for 0."""


def _narrower(fmt: Format) -> Format:
    """The widest format that is narrower.

    Raises:
        NotApplicableError: where there is none.
    """
    found = [row for row in FORMATS.values() if row.wider == fmt.name]
    if not found:
        raise NotApplicableError(f"there is no narrower format than {fmt.name}")
    return found[-1]


def _narrow(problem: Problem) -> Array:
    return closed_form.gradient(problem, shifted.softmax, _narrower(problem.format)).astype(problem.format.dtype)


def _stored_narrow(problem: Problem) -> Array:
    found = compensated.gradient(problem)
    return found.astype(_narrower(problem.format).dtype).astype(found.dtype)


def _labels_narrow(problem: Problem) -> Array:
    if problem.labels.ndim == 1:
        return compensated.gradient(problem)
    labels = problem.labels.astype(_narrower(problem.format).dtype).astype(problem.labels.dtype)
    return compensated.gradient(altered(problem, labels=labels))


def _fixed_up(problem: Problem) -> Array:
    """A softmax in the accumulator, stored in the format; the label is subtracted from what was stored."""
    fmt = problem.format
    found = closed_form.parts(problem, FORMATS[fmt.accumulator])
    p = shifted.softmax(found.z, FORMATS[fmt.accumulator]).astype(fmt.dtype)
    stored = closed_form.minus_labels(found, p).astype(fmt.dtype)
    return closed_form.finish(problem, found, stored.astype(found.weight.dtype), fmt)


def _flushed(problem: Problem) -> Array:
    found, least = compensated.gradient(problem), problem.format.smallest_normal
    return np.where(np.abs(found) < found.dtype.type(least), found.dtype.type(0), found)


def _filtered(problem: Problem) -> Array:
    found = compensated.gradient(problem)
    for first in range(0, problem.classes, _BLOCK):
        block = found[:, first : first + _BLOCK]
        small = (np.abs(block.astype(np.float64)) < _FILTER).all(axis=1)
        block[small] = 0
    return found


_FINE = ("float32", "float64")

MISTAKES = (
    Planted(
        name="narrow",
        cause="narrow-format",
        reason="Computed in the next narrower format, and widened.",
        gradient=_narrow,
        signs=(Sign(case="plain-3", formats=_FINE),),
    ),
    Planted(
        name="stored-narrow",
        cause="narrow-format",
        reason="The gradient passes through the next narrower format on its way.",
        gradient=_stored_narrow,
        signs=(Sign(case="plain-3", formats=_FINE),),
    ),
    Planted(
        name="labels-narrow",
        cause="narrow-format",
        reason="Soft labels are kept in the next narrower format.",
        gradient=_labels_narrow,
        signs=(Sign(case="soft-plain", formats=_FINE),),
    ),
    Planted(
        name="fixed-up-after-storing",
        cause="cancellation",
        reason="1 is subtracted from a probability that was rounded to the half format already, which stable forgives.",
        gradient=_fixed_up,
        signs=(Sign(case="saturated-fix-up", by="ulp:4", formats=("float16", "bfloat16")),),
        sources=("linkedin/Liger-Kernel#1268", "linkedin/Liger-Kernel#1329", "NVIDIA/TransformerEngine#3193"),
    ),
    Planted(
        name="true-class-cancelled",
        cause="cancellation",
        reason="p − 1 at a true class whose p is close to 1, as every framework computes it and stable forgives.",
        gradient=shifted.gradient,
        signs=(
            Sign(case="saturated-gap-10", by="ulp:4"),
            Sign(case="saturated-published", by="ulp:4", formats=("float64",)),
        ),
        sources=("pytorch/pytorch#195678", "jax-ml/jax#40384", "tensorflow/tensorflow#126634"),
    ),
    Planted(
        name="subnormals-flushed",
        cause="flushed-subnormals",
        reason="Numbers below the smallest normal one are flushed to 0.",
        gradient=_flushed,
        signs=(
            # 90 below the maximum, a bfloat16 probability may be off by all of itself
            Sign(case="underflow-subnormal-gradient", formats=("float16", *_FINE)),
            Sign(case="underflow-subnormal-gradient", by="flushed"),
        ),
    ),
    Planted(
        name="gradient-filtered",
        cause="isolated-entries",
        reason="Blocks of 128 classes whose gradient is below 2^-12 throughout are dropped.",
        gradient=_filtered,
        signs=(Sign(case="saturated-tail"),),
        sources=("apple/ml-cross-entropy#14",),
    ),
)

SOUND = (
    Planted(
        name="flushing",
        reason="Numbers below the smallest normal one are flushed to 0, where --ftz accepts that.",
        gradient=_flushed,
        flush=True,
    ),
)
