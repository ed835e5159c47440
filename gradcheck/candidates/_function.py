"""A NumPy function of the user's own as a candidate.

It takes logits (N, k) and labels, (N,) or (N, k), as NumPy arrays of the problem's format, and returns the gradient of
the sum over rows, (N, k), or the loss and that gradient; a mean is taken of it here. One with a third parameter gets
the loss options by name, numbers as numbers and arrays as arrays of the problem's format, and returns the gradient of
exactly that loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gradcheck import functions
from gradcheck.candidates._answers import Answer, Question, array_of, as_answer, changed, copied, loss_of
from gradcheck.exceptions import NotApplicableError
from gradcheck.functions import Function


def implementation(target: str, device: str | None) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    function = functions.load(target)
    return lambda **request: as_answer(answer(function, Question(**request)))


def answer(function: Function, asked: Question) -> Answer:
    """What a function makes of a problem.

    Raises:
        NotApplicableError: where the loss has an option that the function does not take.
        CrashedError: where it raises, or returns no array of numbers.
    """
    whole = _takes_options(function)
    if asked.beyond and not whole:
        raise NotApplicableError(f"{function.name} takes no loss options, and the loss has {', '.join(asked.beyond)}")
    given = copied(asked)
    arguments = [given.logits, given.labels, *([dict(asked.options)] if whole else [])]
    found, loss = function(*arguments), None
    if isinstance(found, tuple) and len(found) == 2:
        loss = loss_of(function.name, found[0], asked, whole=whole)
        found = found[1]
    gradient = array_of(function.name, found)
    return Answer(
        gradient=asked.finished(gradient, whole=whole),
        loss=loss,
        changed=changed(before=asked, after=given),
        summed=not whole,
    )


def _takes_options(function: Function) -> bool:
    """Whether it has a third parameter; what cannot be asked has none."""
    try:
        parameters = inspect.signature(function.call).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in parameters) > 2
