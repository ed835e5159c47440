"""TensorFlow: tf.nn.sparse_softmax_cross_entropy_with_logits and its dense form, or tensorflow:MODULE:LOSS.

softcap, temperature, mask, z_loss, ignore_index and upstream are composed around them; the backward is TensorFlow's,
executed eagerly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

# it greets on standard error, where a user looks for what is wrong
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from gradcheck.candidates._answers import Answer, Question, as_answer
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import CrashedError, UsageError

OPERATIONS = _losses.Operations(
    where=tf.where, tanh=tf.tanh, logsumexp=lambda x: tf.reduce_logsumexp(x, axis=1), total=tf.reduce_sum
)


def implementation(target: str | None, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    name, loss = _losses.named(
        "tensorflow", "tensorflow's softmax_cross_entropy_with_logits", target, _rows, OPERATIONS
    )
    return answering(name, loss, device)


def answering(name: str, loss: _losses.Loss, device: str | None) -> Callable[..., dict[str, Any]]:
    """What answers with the gradient of a loss by TensorFlow.

    Raises:
        UsageError: where TensorFlow has no such device.
    """
    where = device or "CPU"
    try:
        with tf.device(where):
            tf.zeros(1)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UsageError(f"tensorflow cannot use the device '{device}': {str(error).splitlines()[0]}") from None

    def answered(**request: Any) -> dict[str, Any]:
        asked = Question(**request)
        with tf.device(where):
            logits = tf.constant(asked.logits)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = loss(logits, tf.constant(asked.labels), asked)
            gradient = tape.gradient(value, logits)
        if gradient is None:
            raise CrashedError(f"{name} returned nothing that depends on the logits")
        return as_answer(Answer(gradient=tf.convert_to_tensor(gradient).numpy(), loss=float(value)))

    return answered


def _rows(z: Any, labels: Any, options: Mapping[str, Any]) -> Any:
    if len(labels.shape) == 2:
        return tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=z)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=z)
