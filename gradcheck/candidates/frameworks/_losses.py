"""What the frameworks' files share: which loss options a function can be given, and what is composed around it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gradcheck import functions
from gradcheck.candidates._answers import Question
from gradcheck.exceptions import CrashedError, NotApplicableError, UsageError

Loss = Callable[[Any, Any, Question], Any]
"""Logits, labels and what is asked → the loss that is asked for, a number; tensors of the framework's."""
Rows = Callable[[Any, Any, Mapping[str, Any]], Any]
"""Logits, labels and options → the cross-entropy of each row, (N,)."""

COMPOSED = ("ignore_index", "mask", "softcap", "temperature", "upstream", "z_loss")
"""The loss options that are composed around a framework's own loss."""


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Those of a framework that are composed; on tensors of its own, and numbers beside them.

    Attributes:
        where: of a condition, what is where it holds, what is elsewhere.
        logsumexp: (N, k) → (N,).
        total: the sum of all elements.
    """

    where: Callable[[Any, Any, Any], Any]
    tanh: Callable[[Any], Any]
    logsumexp: Callable[[Any], Any]
    total: Callable[[Any], Any]


def named_in(signature: Callable[..., Any]) -> set[str]:
    """The parameters that can be given by keyword."""
    try:
        parameters = inspect.signature(signature).parameters.values()
    except (TypeError, ValueError):
        return set()
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {parameter.name for parameter in parameters if parameter.kind in keyword}


def keywords(name: str, accepted: set[str], asked: Question) -> dict[str, Any]:
    """The loss options for a function with these parameters; `upstream` is no matter of its own.

    Raises:
        NotApplicableError: where the loss has one that the function does not take.
    """
    missing = [option for option in asked.beyond if option not in accepted and option != "upstream"]
    if missing:
        raise NotApplicableError(f"{name} has no parameter {', '.join(missing)}, which the loss has")
    given = {option: value for option, value in asked.options.items() if option in accepted and option != "upstream"}
    reduction = given.pop("reduction", "none")
    refuse_rules(name, given, {"empty": ("nan", "zero", "zero-if-ignored")})
    if "reduction" in accepted:
        # a mean by another rule is taken here of what there is for each row, as no mean at all is
        own = "mean:rows" if asked.labels.ndim == 2 else "mean:weights"
        given["reduction"] = "mean" if reduction == own else reduction if ":" not in reduction else "none"
    return given


def only_its_own(package: str, target: str | None, *, instead: str) -> None:
    """For a package in which a loss of the user's own is not differentiated.

    Raises:
        UsageError: where one is named; `instead` is what it should be given as.
    """
    if target is not None:
        raise UsageError(f"what is differentiated in '{package}:{target}' is not {package}'s: give it as {instead}")


def refuse_others(name: str, asked: Question, taken: Collection[str]) -> None:
    """For what a framework's own cross-entropy has not.

    Raises:
        NotApplicableError: where the loss has another option than these, and it changes something.
    """
    found = [option for option in asked.beyond if option not in taken]
    if found:
        raise NotApplicableError(f"{name} has no {', '.join(found)}")


def refuse_rules(name: str, options: Mapping[str, Any], own: Mapping[str, tuple[str, ...]]) -> None:
    """For rules that are another library's.

    Args:
        own: by option, the texts that are no rule of another.

    Raises:
        NotApplicableError: where the loss follows one.
    """
    for option, value in options.items():
        if isinstance(value, str) and value not in own.get(option, ()):
            raise NotApplicableError(f"{name} does not know {option}={value}")


def transformed(name: str, logits: Any, labels: Any, asked: Question, operations: Operations) -> tuple[Any, Any]:
    """Logits and labels as a cross-entropy without softcap, temperature and mask must get them.

    Raises:
        NotApplicableError: where it would smooth over what a mask takes out.
    """
    options, z = asked.options, logits
    if "mask" in options and "label_smoothing" in options:
        raise NotApplicableError(f"{name} smooths over masked classes, too")
    if "softcap" in options:
        z = options["softcap"] * operations.tanh(z / options["softcap"])
        z = operations.where(logits == -math.inf, -math.inf, z)
    if "temperature" in options:
        z = z / options["temperature"]
    if "mask" in options:
        # not -inf, whose product with a label of 0 is NaN
        z = operations.where(options["mask"], z, -asked.format.max)
        labels = operations.where(options["mask"], labels, 0) if asked.labels.ndim == 2 else labels
    return z, labels


def named(
    package: str, own: str, target: str | None, rows: Rows, operations: Operations, *, takes: Iterable[str] = ()
) -> tuple[str, Loss]:
    """A loss with its name: a framework's own, or the user's where one is named.

    Args:
        own: the name of the framework's; rows, takes: see `composed`.
    """
    if target is None:
        return own, composed(own, rows, operations, takes=takes)
    name = f"{package}:{target}"
    return name, of_users(name, target, operations.total)


def composed(name: str, rows: Rows, operations: Operations, *, takes: Iterable[str] = ()) -> Loss:
    """A framework's own cross-entropy of each row, and all that `--loss` can ask for around it.

    Args:
        rows: transformed logits, labels and the options → (N,); no label is ignored.
        takes: options that it takes itself, beside those that are composed.
    """
    rules = {
        "reduction": ("none", "sum", "mean", "mean:rows", "mean:count"),
        "empty": ("nan", "zero"),
    }

    def loss(logits: Any, labels: Any, asked: Question) -> Any:
        options = asked.options
        refuse_others(name, asked, (*COMPOSED, *takes))
        refuse_rules(name, options, rules)
        z, labels = transformed(name, logits, labels, asked, operations)
        kept = None
        if "ignore_index" in options and asked.labels.ndim == 1:
            kept = labels != options["ignore_index"]
            # what a row that is left out holds may be NaN, and 0 times its gradient is, too
            labels, z = operations.where(kept, labels, 0), operations.where(kept[:, None], z, 0.0)
        found = rows(z, labels, options)
        if "z_loss" in options:
            found = found + options["z_loss"] * operations.logsumexp(z) ** 2
        if kept is not None:
            found = operations.where(kept, found, 0.0)
        return summed(name, found, asked, operations.total, reduced=False)

    return loss


def of_users(name: str, target: str, total: Callable[[Any], Any]) -> Loss:
    """A function of the user's own, which takes and returns arrays of a framework's.

    Args:
        total: the framework's sum of all elements.
    """
    call = functions.load(target)
    accepted = named_in(call.call)

    def called(logits: Any, labels: Any, asked: Question) -> Any:
        given = keywords(name, accepted, asked)
        found = call(logits, labels, **given)
        if not hasattr(found, "shape"):
            raise CrashedError(f"{name} returned a {type(found).__name__}; expected an array, the loss")
        return summed(name, found, asked, total, reduced=given.get("reduction") == "mean")

    return called


def summed(name: str, loss: Any, asked: Question, total: Callable[[Any], Any], *, reduced: bool) -> Any:
    """One number: the loss with its reduction, times what comes from above, and the share of the rows in a whole.

    Args:
        total: the framework's sum of all elements.
        loss: a tensor, () or (N,).
        reduced: whether a loss for each row has been divided already, where a mean is asked for.
    """
    above = asked.options.get("upstream", 1.0)
    shape = tuple(loss.shape)
    if shape not in ((), asked.logits.shape[:1]):
        raise CrashedError(f"{name} returned a loss of shape {shape}; expected a number, or one for each row")
    if shape == ():
        if not isinstance(above, int | float):
            raise NotApplicableError(f"{name} returns a single number, and upstream has one for each row")
        return loss * above * asked.share_of_whole()
    found = total(loss * above)
    return found * asked.share_of_whole() if reduced else asked.mean(found)
