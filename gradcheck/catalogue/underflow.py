"""The boundary where exp underflows in each format, and beyond.

    p_i = exp(l_i − max l)/S,    down to the smallest subnormal number

Without a shift a row that lies low sums to 0, and 0/0 is NaN. With one, probabilities below the smallest normal number
(6.1e-5 in float16, 1.2e-38 in bfloat16 and float32) are right only where subnormal numbers are kept: GPUs in fast modes
and JAX on a CPU flush them to 0, which `--ftz` accepts.
"""

from __future__ import annotations

import math

import numpy as np

from gradcheck.catalogue import Case, Labels, Logits
from gradcheck.formats import Format


def _log_smallest(fmt: Format) -> float:
    # the log of a subnormal float64 is fine; λ itself is exact
    return fmt.round(math.log(fmt.smallest_subnormal))


def _boundary(fmt: Format) -> tuple[Logits, Labels]:
    edge = _log_smallest(fmt)
    return [[edge + 1, edge, edge - 1, edge + 2], [edge + 3, edge + 3, edge + 1, edge]], [3, 2]


def _beyond(fmt: Format) -> tuple[Logits, Labels]:
    edge = 2 * _log_smallest(fmt)
    return [[edge, edge - 1, edge - 2], [2 * edge, 2 * edge, 2 * edge - 4]], [0, 1]


def _subnormal(fmt: Format) -> tuple[Logits, Labels]:
    smallest, normal = math.log(fmt.smallest_subnormal), math.log(fmt.smallest_normal)
    steps = np.linspace(smallest - 1, normal + 1, 12)
    return np.concatenate([[0.0], steps])[None, :].repeat(2, axis=0), [0, 5]


CASES = (
    Case(
        name="underflow-boundary",
        reason="All logits near the smallest x whose exp is not 0: without a shift the sum is made of subnormals.",
        make=_boundary,
    ),
    Case(
        name="underflow-beyond",
        reason="All logits so negative that every exp is 0 without a shift: 0/0.",
        make=_beyond,
    ),
    Case(
        name="underflow-subnormal-gradient",
        reason="Gradients across the subnormal range of the format, where flushing hardware answers 0.",
        make=_subnormal,
    ),
)
