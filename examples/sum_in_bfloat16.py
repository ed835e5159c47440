"""A NumPy gradient whose softmax is summed in bfloat16 itself, term by term: right for few classes, wrong for many.

$ gradcheck check --generate normal --classes 100 --dtype bfloat16 --candidate examples/sum_in_bfloat16.py:gradient
pass  normal-4x100-seed-0 …

$ gradcheck check --generate normal --classes 1000 --dtype bfloat16 --candidate examples/sum_in_bfloat16.py:gradient
fail  normal-4x1000-seed-0 …
"""

from __future__ import annotations

from typing import Any

import numpy as np


def gradient(logits: Any, labels: Any) -> Any:
    """ŷ − y, all of it in the logits' own format but for exp, which is rounded into it."""
    half = logits.dtype
    exps = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float32)).astype(half)
    total = np.zeros(len(logits), dtype=half)
    for column in exps.T:
        total = (total + column).astype(half)
    p = (exps / total[:, None]).astype(half)
    p[np.arange(len(p)), labels] -= half.type(1)
    return p
