"""JAX: cross-entropy through jax.nn.log_softmax, or jax:MODULE:LOSS, with JAX's backward.

JAX has no cross-entropy of its own: this is how its users write it. softcap, temperature, mask, z_loss, ignore_index
and upstream are composed around it. 64-bit numbers are switched on for float64 logits, and off for others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradcheck.candidates._answers import Answer, Question, as_answer
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import UsageError

OPERATIONS = _losses.Operations(
    where=jnp.where, tanh=jnp.tanh, logsumexp=lambda x: jax.scipy.special.logsumexp(x, axis=1), total=jnp.sum
)


def implementation(target: str | None, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    name, loss = _losses.named("jax", "jax.nn.log_softmax", target, _rows, OPERATIONS)
    return answering(name, loss, device)


def answering(name: str, loss: _losses.Loss, device: str | None) -> Callable[..., dict[str, Any]]:
    """What answers with the gradient of a loss by JAX.

    Raises:
        UsageError: where JAX has no such device.
    """
    try:
        where = jax.devices(device)[0] if device else jax.devices()[0]
    except RuntimeError as error:
        raise UsageError(f"jax cannot use the device '{device}': {str(error).splitlines()[0]}") from None

    def answered(**request: Any) -> dict[str, Any]:
        asked = Question(**request)
        # as its users have it: with 64-bit numbers on, any constant would make a float32 loss one of float64
        jax.config.update("jax_enable_x64", asked.logits.dtype == np.float64)
        with jax.default_device(where):
            value, gradient = jax.value_and_grad(lambda logits: loss(logits, jnp.asarray(asked.labels), asked))(
                jnp.asarray(asked.logits)
            )
            return as_answer(Answer(gradient=np.asarray(gradient), loss=float(value)))

    return answered


def _rows(z: Any, labels: Any, options: Mapping[str, Any]) -> Any:
    log_p = jax.nn.log_softmax(z, axis=1)
    if labels.ndim == 2:
        return -(labels * log_p).sum(axis=1)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
