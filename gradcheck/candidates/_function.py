"""A function of the user's own as a candidate.

It takes logits (N, k) and labels, (N,) or (N, k), as NumPy arrays of the problem's format, and returns the gradient of
the sum over rows, (N, k); a mean is taken of it here. One with a third parameter gets the loss options by name, numbers
as numbers and arrays as arrays of the problem's format, and returns the gradient of exactly that loss.
"""

from __future__ import annotations

import inspect

import numpy as np

from gradcheck import formats
from gradcheck.exceptions import CrashedError, NotApplicableError
from gradcheck.formats import Array
from gradcheck.functions import Function, told
from gradcheck.problem import Problem, Stage


def gradient(function: Function, problem: Problem) -> Array:
    """The gradient of the problem's loss, (N, k), in the function's own dtype.

    Raises:
        NotApplicableError: where the loss has an option that the function does not take.
        CrashedError: where it raises, or returns no array of numbers.
    """
    arguments = [problem.logits.copy(), problem.labels.copy()]
    whole = _takes_options(function)
    options = [option for option in problem.loss if option.stage is not Stage.LAYOUT]
    if whole:
        found = function(*arguments, {option.name: option.argument(problem.format) for option in options})
    else:
        others = [option.name for option in options if option.stage is not Stage.MEAN]
        if others:
            raise NotApplicableError(f"{function.name} takes no loss options, and the loss has {', '.join(others)}")
        found = function(*arguments)
    array = array_of(function, found)
    divisor = problem.terms.divisor
    if not whole and divisor is not None:
        array = (array.astype(np.float64) / float(divisor)).astype(array.dtype) if divisor else array * 0
    return array


def array_of(function: Function, found: object) -> Array:
    """What a function returned, as an array of one of the formats.

    Raises:
        CrashedError: where it is none.
    """
    if found is None:
        raise CrashedError(f"{function.name} returned nothing; does it lack a return?")
    try:
        array = np.array(found)  # a copy: it may use its buffer again
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CrashedError(
            f"{function.name} returned a {type(found).__name__}, which is no array ({told(error)})"
        ) from None
    if formats.of_dtype(array.dtype) is None:
        raise CrashedError(f"{function.name} returned {array.dtype}; expected one of {', '.join(formats.FORMATS)}")
    return array


def _takes_options(function: Function) -> bool:
    """Whether it has a third parameter; what cannot be asked has none."""
    try:
        parameters = inspect.signature(function.call).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in parameters) > 2
