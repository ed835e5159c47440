"""What the frameworks' files share: which loss options a function can be given, and what is composed around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from gradcheck.candidates._answers import Question
from gradcheck.exceptions import CrashedError, NotApplicableError

Loss = Callable[[Any, Any, Question], Any]
"""Logits, labels and what is asked → the loss, a number or one for each row; tensors of the framework's."""


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


def summed(name: str, loss: Any, asked: Question, *, reduced: bool) -> Any:
    """One number: the loss with its reduction, times what comes from above, and the share of the rows in a whole.

    Args:
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
    total = (loss * above).sum()
    return total * asked.share_of_whole() if reduced else asked.mean(total)
