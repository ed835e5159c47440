"""ŷ − y without the loss at the true class: there it is minus the sum of the others, not p − 1.

$ gradcheck check --case saturated-gap-20 --candidate examples/three_lines.py:gradient --tolerance ulp:4
pass  saturated-gap-20 …
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def gradient(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    """The gradient of the sum over rows, (N, k), for hard labels, (N,)."""
    wide = np.promote_types(logits.dtype, np.float32)  # what half precision sums in
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = (p / p.sum(axis=1, keepdims=True, dtype=wide)).astype(p.dtype)

    true = np.arange(len(p)), labels
    p[true] = 0
    p[true] = -p.sum(axis=1, dtype=wide)
    return p
