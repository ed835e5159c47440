"""PyTorch: torch.nn.functional.cross_entropy, or torch:MODULE:LOSS, with torch's backward.

softcap, temperature, mask, z_loss and upstream are composed around its cross_entropy with tensor operations. A loss of
the user's own is a function, a torch.nn.Module (class or instance) or a torch.autograd.Function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from gradcheck import formats, functions
from gradcheck.candidates._answers import Answer, Question, as_answer, changed
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import CrashedError, NotApplicableError, UsageError
from gradcheck.formats import Array

_OWN = "torch's cross_entropy"
_TAKEN = ("ignore_index", "label_smoothing", "mask", "softcap", "temperature", "upstream", "weight", "z_loss")
"""The loss options that it is given, or that are composed around it."""


def implementation(target: str | None, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    try:
        where = torch.device(device or "cpu")
        torch.zeros(1, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"torch cannot use the device '{device}': {str(error).splitlines()[0]}") from None
    name = _OWN if target is None else f"torch:{target}"
    loss = _own if target is None else _of_users(name, target)
    return lambda **request: as_answer(_answer(name, loss, Question(**request), where))


def _answer(name: str, loss: _losses.Loss, asked: Question, device: torch.device) -> Answer:
    logits, labels = _tensor(asked.logits, device).requires_grad_(), _tensor(asked.labels, device)
    value = loss(logits, labels, asked)
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
    _losses.refuse_others(_OWN, asked, _TAKEN)
    _losses.refuse_rules(_OWN, options, own)
    if "mask" in options and "label_smoothing" in options:
        raise NotApplicableError(f"{_OWN} smooths over masked classes, too")
    z = logits
    if "softcap" in options:
        z = options["softcap"] * torch.tanh(z / options["softcap"])
        z = z.masked_fill(torch.isneginf(logits), -torch.inf)
    if "temperature" in options:
        z = z / options["temperature"]
    if "mask" in options:
        masked = ~_tensor(options["mask"], z.device)
        # not -inf, whose product with a label of 0 is NaN
        z = z.masked_fill(masked, torch.finfo(z.dtype).min)
        labels = labels.masked_fill(masked, 0) if labels.ndim == 2 else labels
    keywords: dict[str, Any] = {name: options[name] for name in ("label_smoothing", "ignore_index") if name in options}
    if "weight" in options:
        keywords["weight"] = _tensor(options["weight"], z.device)
    reduction = options.get("reduction", "none").partition(":")[0]
    by_row = "z_loss" in options or not isinstance(options.get("upstream", 1.0), int | float)
    keywords["reduction"] = "none" if by_row else reduction
    loss = torch.nn.functional.cross_entropy(z, labels, **keywords)
    if "z_loss" in options:
        kept = labels != options["ignore_index"] if "ignore_index" in options and labels.ndim == 1 else 1.0
        loss = loss + options["z_loss"] * torch.logsumexp(z, dim=1) ** 2 * kept
    above = options.get("upstream", 1.0)
    if not isinstance(above, int | float):
        above = _tensor(above, z.device)
    total: torch.Tensor = (loss * above).sum()
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
        accepted: set[str] = set()
    elif isinstance(found, torch.nn.Module):
        accepted = _losses.named_in(found.forward)
    else:
        accepted = _losses.named_in(found.__init__ if is_class else found)

    def loss(logits: torch.Tensor, labels: torch.Tensor, asked: Question) -> torch.Tensor:
        given = _tensors(_losses.keywords(name, accepted, asked), logits.device)
        if is_class and issubclass(found, torch.autograd.Function):
            value = call(found.apply, {}, logits, labels)
        elif is_class:
            made = functions.Function(name=name, call=found, folder=function.folder)(**given)
            value = call(made.to(logits.device) if isinstance(made, torch.nn.Module) else made, {}, logits, labels)
        else:
            value = call(found, given, logits, labels)
        options = _tensors(asked.options, value.device)
        summed: torch.Tensor = _losses.summed(
            name, value, dataclasses.replace(asked, options=options), reduced=given.get("reduction") == "mean"
        )
        return summed

    return loss


def _tensors(options: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: _tensor(value, device) if isinstance(value, np.ndarray) else value for name, value in options.items()}


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
