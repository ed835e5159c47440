"""Optax: optax.losses.softmax_cross_entropy_with_integer_labels, or softmax_cross_entropy, with JAX's backward.

softcap, temperature, mask, z_loss, ignore_index and upstream are composed around them. A loss of the user's own that
uses Optax is one of JAX's: jax:MODULE:LOSS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optax

from gradcheck.candidates.frameworks import _losses, jax

_OWN = "optax's softmax_cross_entropy"


def implementation(target: str | None, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    _losses.only_its_own("optax", target, instead=f"jax:{target}")
    return jax.answering(_OWN, _losses.composed(_OWN, _rows, jax.OPERATIONS), device)


def _rows(z: Any, labels: Any, options: Mapping[str, Any]) -> Any:
    if labels.ndim == 2:
        return optax.losses.softmax_cross_entropy(z, labels)
    return optax.losses.softmax_cross_entropy_with_integer_labels(z, labels)
