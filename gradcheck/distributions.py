"""Random logits for `--generate`: a row of the table is a distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcheck import reading
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import Array, Float64, Format


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Draws logits of scale 1."""

    reason: str
    draw: Callable[[np.random.Generator, tuple[int, int]], Float64]


DISTRIBUTIONS: dict[str, Distribution] = {
    "normal": Distribution(
        reason="standard normal logits, as of a network before training",
        draw=lambda rng, shape: rng.normal(size=shape),
    ),
    "uniform": Distribution(
        reason="uniform logits between -1 and 1",
        draw=lambda rng, shape: rng.uniform(-1, 1, size=shape),
    ),
    "heavy-tailed": Distribution(
        reason="Student's t with 2 degrees of freedom: a few logits lead by far, as of a trained classifier",
        draw=lambda rng, shape: rng.standard_t(2, size=shape),
    ),
}


MOST = 10**9
_BYTES = 48
"""Of memory that a logit takes while it is drawn."""
DEFAULTS: dict[str, Any] = {"rows": 4, "classes": 10, "scale": 1.0, "seed": 0}


def generate(name: str, *, rows: int, classes: int, scale: float, seed: int, fmt: Format) -> tuple[Array, Array]:
    """Logits (rows, classes) in the format's dtype, rounded once, and hard labels (rows,); the same for a seed.

    Raises:
        UsageError: for an unknown distribution, an empty shape, or logits that the format cannot hold.
    """
    if name not in DISTRIBUTIONS:
        raise UnknownNameError("distribution", name, DISTRIBUTIONS)
    if rows < 1 or classes < 1:
        raise UsageError(f"{rows} rows of {classes} classes are nothing to check")
    if rows * classes > MOST:
        raise UsageError(f"{rows} rows of {classes} classes are more than the {MOST:,} logits that are drawn at once")
    reading.require(rows * classes * _BYTES, f"drawing {rows} rows of {classes} classes")
    if not np.isfinite(scale):
        raise UsageError(f"--scale {scale} is not finite")
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        logits = fmt.round_array(DISTRIBUTIONS[name].draw(rng, (rows, classes)) * scale)
    if not np.isfinite(logits.astype(np.float64)).all():
        raise UsageError(f"--scale {scale:g} draws logits past the largest {fmt.name}, {fmt.max:.4g}")
    return logits, rng.integers(0, classes, size=rows)
