"""PyTorch: torch.nn.functional.cross_entropy, or torch:MODULE:LOSS, with torch's backward.

softcap, temperature, mask, z_loss and upstream are composed around its cross_entropy with tensor operations. A loss of
the user's own is a function, a torch.nn.Module (class or instance) or a torch.autograd.Function, whose options are the
parameters of its `forward`.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gradcheck import formats, functions
from gradcheck.candidates._answers import Answer, Question, as_answer, changed
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import CrashedError, UsageError
from gradcheck.formats import Array

_OWN = "torch's cross_entropy"
_GIVEN = ("ignore_index", "label_smoothing", "weight")
"""The loss options that it is given, beside a reduction."""
OPERATIONS = _losses.Operations(
    where=torch.where, tanh=torch.tanh, logsumexp=lambda x: torch.logsumexp(x, dim=1), total=torch.sum
)


def implementation(target: str | None, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    name = _OWN if target is None else f"torch:{target}"
    return answering(name, _own if target is None else _of_users(name, target), device)


def answering(name: str, loss: _losses.Loss, device: str | None) -> Callable[..., dict[str, Any]]:
    """What answers with the gradient of a loss by PyTorch.

    Raises:
        UsageError: where PyTorch has no such device.
    """
    try:
        where = torch.device(device or "cpu")
        torch.zeros(1, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"torch cannot use the device '{device}': {str(error).splitlines()[0]}") from None
    return lambda **request: as_answer(_answer(name, loss, Question(**request), where))


def _answer(name: str, loss: _losses.Loss, asked: Question, device: torch.device) -> Answer:
    logits, labels = _tensor(asked.logits, device).requires_grad_(), _tensor(asked.labels, device)
    options = {key: _tensor(one, device) if isinstance(one, np.ndarray) else one for key, one in asked.options.items()}
    value = loss(logits, labels, dataclasses.replace(asked, options=options))
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        raise CrashedError(f"{name} returned nothing that depends on the logits")
    torch.autograd.backward(value)
    if logits.grad is None:
        raise CrashedError(f"{name} left the logits without a gradient")
    after = dataclasses.replace(asked, logits=_array(logits.detach()), labels=_array(labels))
    return Answer(gradient=_array(logits.grad), loss=float(value.detach()), changed=changed(before=asked, after=after))


def _own(logits: torch.Tensor, labels: torch.Tensor, asked: Question) -> torch.Tensor:
    options = asked.options
    own = {"reduction": ("none", "sum", "mean", "mean:rows" if labels.ndim == 2 else "mean:weights"), "empty": ("nan",)}
    _losses.refuse_others(_OWN, asked, (*_losses.COMPOSED, *_GIVEN))
    _losses.refuse_rules(_OWN, options, own)
    z, labels = _losses.transformed(_OWN, logits, labels, asked, OPERATIONS)
    keywords: dict[str, Any] = {name: options[name] for name in _GIVEN if name in options}
    reduction = options.get("reduction", "none").partition(":")[0]
    by_row = "z_loss" in options or not isinstance(options.get("upstream", 1.0), int | float)
    keywords["reduction"] = "none" if by_row else reduction
    loss = torch.nn.functional.cross_entropy(z, labels, **keywords)
    if "z_loss" in options:
        kept = labels != options["ignore_index"] if "ignore_index" in options and labels.ndim == 1 else 1.0
        loss = loss + options["z_loss"] * OPERATIONS.logsumexp(z) ** 2 * kept
    total: torch.Tensor = (loss * options.get("upstream", 1.0)).sum()
    return asked.mean(total) if by_row else total * asked.share_of_whole()


def _of_users(name: str, target: str) -> _losses.Loss:
    function = functions.load(target)
    found: Any = function.call

    def call(loss: Any, given: dict[str, Any], logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = functions.Function(name=name, call=loss, folder=function.folder)(logits, labels, **given)
        if not isinstance(value, torch.Tensor):
            raise CrashedError(f"{name} returned a {type(value).__name__}; expected a tensor, the loss")
        return value

    is_class = isinstance(found, type)
    if is_class and issubclass(found, torch.autograd.Function):
        more = _parameters(found)
        accepted = set(more)
    elif isinstance(found, torch.nn.Module):
        accepted = _losses.named_in(found.forward)
    else:
        accepted = _losses.named_in(found.__init__ if is_class else found)

    def loss(logits: torch.Tensor, labels: torch.Tensor, asked: Question) -> torch.Tensor:
        given = _losses.keywords(name, accepted, asked)
        if is_class and issubclass(found, torch.autograd.Function):
            value = call(lambda *tensors: found.apply(*tensors, *_positional(more, given)), {}, logits, labels)
        elif is_class:
            made = functions.Function(name=name, call=found, folder=function.folder)(**given)
            value = call(made.to(logits.device) if isinstance(made, torch.nn.Module) else made, {}, logits, labels)
        else:
            value = call(found, given, logits, labels)
        summed: torch.Tensor = _losses.summed(
            name, value, asked, OPERATIONS.total, reduced=given.get("reduction") == "mean"
        )
        return summed

    return loss


def _parameters(function: type[torch.autograd.Function]) -> dict[str, Any]:
    """What `forward` takes beside logits and labels, and not by keyword alone, with its defaults."""
    try:
        found = list(inspect.signature(function.forward).parameters.values())
    except (TypeError, ValueError):
        return {}
    # with a setup_context of its own it gets no context
    first = 2 if function.setup_context is not torch.autograd.Function.setup_context else 3
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {one.name: one.default for one in found[first:] if one.kind in positional}


def _positional(parameters: dict[str, Any], given: dict[str, Any]) -> list[Any]:
    """What `apply` is given in order, as far as anything is; what is due and not given `forward` misses itself."""
    last = max((number for number, name in enumerate(parameters, 1) if name in given), default=0)
    values = [given.get(name, default) for name, default in parameters.items()][:last]
    return list(itertools.takewhile(lambda value: value is not inspect.Parameter.empty, values))


def _tensor(array: Array, device: torch.device) -> torch.Tensor:
    """A tensor of the same format; a dtype that is none of NumPy's own, as bfloat16, goes as bits."""
    fmt = formats.of_dtype(array.dtype)
    if fmt is not None and fmt.nameless:
        bits = torch.from_numpy(array.view(f"i{array.itemsize}").copy())
        return bits.view(getattr(torch, fmt.name)).to(device)
    return torch.from_numpy(array.copy()).to(device)


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.cpu().contiguous()
    fmt = formats.FORMATS.get(str(tensor.dtype).removeprefix("torch."))
    if fmt is not None and fmt.nameless:
        bits = tensor.view(getattr(torch, f"int{8 * tensor.itemsize}")).numpy()
        return np.asarray(bits.view(fmt.dtype))
    return np.asarray(tensor.numpy())
