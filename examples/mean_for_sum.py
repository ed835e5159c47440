"""A NumPy gradient of the mean over rows, where that of the sum is due: wrong by a factor of N.

$ gradcheck check --generate normal --rows 4 --classes 5 --candidate examples/mean_for_sum.py:gradient
fail  normal-4x5-seed-0 …
"""

from __future__ import annotations

from typing import Any

import numpy as np


def gradient(logits: Any, labels: Any) -> Any:
    """(ŷ − y)/N."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), labels] -= 1
    return p / len(p)
