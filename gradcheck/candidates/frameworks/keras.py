"""Keras: keras.losses.sparse_categorical_crossentropy and its dense form, from logits, or keras:MODULE:LOSS.

The backend is the one that Keras is set to (KERAS_BACKEND: tensorflow, jax or torch), and so is the backward. softcap,
temperature, mask, z_loss, ignore_index and upstream are composed around them with keras.ops.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

# TensorFlow, where it is the backend, greets on standard error
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from gradcheck import plugins
from gradcheck.candidates import frameworks
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import UsageError

OPERATIONS = _losses.Operations(
    where=keras.ops.where, tanh=keras.ops.tanh, logsumexp=lambda x: keras.ops.logsumexp(x, axis=1), total=keras.ops.sum
)


def implementation(target: str | None, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    name, loss = _losses.named(
        "keras", "keras's categorical_crossentropy", target, _rows, OPERATIONS, takes=["label_smoothing"]
    )
    backend = keras.config.backend()
    if backend not in plugins.names(frameworks):
        raise UsageError(f"keras has no backward on its backend '{backend}'; KERAS_BACKEND names another")
    module = importlib.import_module(f"{frameworks.__name__}.{backend}")
    answering: Callable[..., dict[str, Any]] = module.answering(name, loss, device)
    return answering


def _rows(z: Any, labels: Any, options: Mapping[str, Any]) -> Any:
    smoothing = options.get("label_smoothing", 0.0)
    if len(labels.shape) == 1 and not smoothing:
        return keras.losses.sparse_categorical_crossentropy(labels, z, from_logits=True)
    if len(labels.shape) == 1:
        labels = keras.ops.one_hot(labels, z.shape[1], dtype=z.dtype)
    return keras.losses.categorical_crossentropy(labels, z, from_logits=True, label_smoothing=smoothing)
