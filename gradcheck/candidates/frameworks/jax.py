"""JAX: cross-entropy through jax.nn.log_softmax, or jax:MODULE:LOSS, with JAX's backward.

JAX has no cross-entropy of its own: this is how its users write it. softcap, temperature, mask, z_loss, ignore_index
and upstream are composed around it. 64-bit numbers are switched on for float64 logits, and off for others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradcheck import functions
from gradcheck.candidates._answers import Answer, Question, as_answer
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import CrashedError, UsageError

_OWN = "jax.nn.log_softmax"
_TAKEN = ("ignore_index", "mask", "softcap", "temperature", "upstream", "z_loss")
"""The loss options that are composed around it."""


def implementation(target: str | None, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    try:
        where = jax.devices(device)[0] if device else jax.devices()[0]
    except RuntimeError as error:
        raise UsageError(f"jax cannot use the device '{device}': {str(error).splitlines()[0]}") from None
    name = _OWN if target is None else f"jax:{target}"
    loss = _own if target is None else _of_users(name, target)

    def answered(**request: Any) -> dict[str, Any]:
        asked = Question(**request)
        # as its users have it: with 64-bit numbers on, any constant would make a float32 loss one of float64
        jax.config.update("jax_enable_x64", asked.logits.dtype == np.float64)
        with jax.default_device(where):
            return as_answer(_answer(name, loss, asked))

    return answered


def _answer(name: str, loss: _losses.Loss, asked: Question) -> Answer:
    value, gradient = jax.value_and_grad(lambda logits: loss(logits, jnp.asarray(asked.labels), asked))(
        jnp.asarray(asked.logits)
    )
    return Answer(gradient=np.asarray(gradient), loss=float(value))


def _own(logits: Any, labels: Any, asked: Question) -> Any:
    options = asked.options
    _losses.refuse_others(_OWN, asked, _TAKEN)
    _losses.refuse_rules(
        _OWN, options, {"reduction": ("none", "sum", "mean", "mean:rows", "mean:count"), "empty": ("nan", "zero")}
    )
    z = logits
    if "softcap" in options:
        z = jnp.where(jnp.isneginf(logits), -jnp.inf, options["softcap"] * jnp.tanh(z / options["softcap"]))
    if "temperature" in options:
        z = z / options["temperature"]
    if "mask" in options:
        # not -inf, whose product with a label of 0 is NaN
        z = jnp.where(options["mask"], z, jnp.finfo(z.dtype).min)
        labels = jnp.where(options["mask"], labels, 0) if labels.ndim == 2 else labels
    log_p = jax.nn.log_softmax(z, axis=1)
    kept: Any = True
    if labels.ndim == 2:
        loss = -(labels * log_p).sum(axis=1)
    else:
        if "ignore_index" in options:
            kept = labels != options["ignore_index"]
        loss = -jnp.take_along_axis(log_p, jnp.where(kept, labels, 0)[:, None], axis=1)[:, 0]
    if "z_loss" in options:
        loss = loss + options["z_loss"] * jax.scipy.special.logsumexp(z, axis=1) ** 2
    return _losses.summed(_OWN, jnp.where(kept, loss, 0), asked, reduced=False)


def _of_users(name: str, target: str) -> _losses.Loss:
    call = functions.load(target)
    accepted = _losses.named_in(call.call)

    def called(logits: Any, labels: Any, asked: Question) -> Any:
        given = _losses.keywords(name, accepted, asked)
        found = call(logits, labels, **given)
        if not hasattr(found, "shape"):
            raise CrashedError(f"{name} returned a {type(found).__name__}; expected an array, the loss")
        return _losses.summed(name, found, asked, reduced=given.get("reduction") == "mean")

    return called
