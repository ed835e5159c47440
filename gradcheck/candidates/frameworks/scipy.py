"""SciPy: scipy.special.softmax minus the labels, and the loss by scipy.special.log_softmax.

SciPy has no cross-entropy and no backward: this is how its users write ŷ − y. Loss options beyond a reduction are for
functions of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from gradcheck.candidates import _function
from gradcheck.candidates._answers import Question, as_answer
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import UsageError
from gradcheck.formats import Array
from gradcheck.functions import Function


def implementation(target: str | None, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    _losses.only_its_own("scipy", target, instead=str(target))
    if device is not None:
        raise UsageError(f"scipy cannot use the device '{device}': it has none")
    function = Function(name="scipy.special.softmax", call=_loss_and_gradient)
    return lambda **request: as_answer(_function.answer(function, Question(**request)))


def _loss_and_gradient(logits: Array, labels: Array) -> tuple[Array, Array]:
    if labels.ndim == 1:
        true, labels = labels, np.zeros_like(logits)
        labels[np.arange(len(true)), true] = 1
    log_p = scipy.special.log_softmax(logits, axis=1)
    loss = -np.where(labels == 0, 0, labels * log_p).sum(axis=1)
    p = scipy.special.softmax(logits, axis=1)
    return loss, p * labels.sum(axis=1, keepdims=True) - labels
