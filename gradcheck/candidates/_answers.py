"""What a candidate answers, and how it is asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcheck import formats
from gradcheck.exceptions import CrashedError, NotApplicableError
from gradcheck.formats import Array, Format
from gradcheck.functions import told
from gradcheck.problem import Problem, Stage
from gradcheck.processes import broken


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a candidate makes of a problem.

    Attributes:
        gradient: (N, k), in a dtype of its own.
        loss: its value of the loss, if it has one.
        changed: the inputs that it has written to.
        summed: whether it was asked for the gradient of the sum over rows, of which a mean is taken here.
    """

    gradient: Array
    loss: float | None = None
    changed: tuple[str, ...] = ()
    summed: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A problem as code outside of gradcheck gets it.

    Attributes:
        logits: (N, k); labels: (N,) or (N, k); what is handed on to foreign code is a copy of them.
        options: the loss options by name, as numbers, arrays and texts.
        beyond: names of those that are more than a reduction, and change something.
        divisor: what a mean divides the sum over rows by; None for a sum.
        share: what a mean over these rows counts, where they are a part of a whole.
    """

    logits: Array
    labels: Array
    options: Mapping[str, Any]
    beyond: list[str]
    divisor: float | None
    share: float = 1.0

    @classmethod
    def of(cls, problem: Problem) -> Question:
        """What is asked about a problem."""
        options = [option for option in problem.loss if option.stage is not Stage.LAYOUT]
        active = [option for option in options if not option.idle(problem.labels)]
        divisor = problem.terms.divisor
        return cls(
            logits=problem.logits,
            labels=problem.labels,
            options={option.name: option.argument(problem.format) for option in options},
            beyond=[option.name for option in active if option.stage is not Stage.MEAN],
            divisor=None if divisor is None else float(divisor),
            share=float(problem.share),
        )

    @property
    def format(self) -> Format:
        """That of the logits."""
        found = formats.of_dtype(self.logits.dtype)
        assert found is not None
        return found

    def share_of_whole(self) -> float:
        """`share`, for what has been reduced over these rows alone.

        Raises:
            NotApplicableError: where that was 0/0, and the whole's mean is not.
        """
        if not self.share:
            raise NotApplicableError("the mean over these rows alone, which are a part of the whole, divides by 0")
        return self.share

    def mean(self, total: Any) -> Any:
        """What is asked for of a sum over rows: itself, or the mean, which is constant where it is over nothing."""
        if self.divisor is None:
            return total
        if self.divisor:
            return total / self.divisor
        return total * 0 + (math.nan if self.options.get("empty", "nan") == "nan" else 0.0)

    def finished(self, gradient: Array, *, whole: bool) -> Array:
        """The gradient that is asked for.

        Args:
            whole: from that of exactly the loss, over these rows; else from that of the sum.
        """
        if whole and self.share_of_whole() == 1:
            return gradient
        if not whole and self.divisor is None:
            return gradient
        wide = gradient.astype(np.float64)
        if whole:
            wide *= self.share
        else:
            wide = wide / self.divisor if self.divisor else wide * 0
        return wide.astype(gradient.dtype)


def array_of(name: str, found: object) -> Array:
    """What the user's code returned, as an array of one of the formats.

    Raises:
        CrashedError: where it is none.
    """
    if found is None:
        raise CrashedError(f"{name} returned nothing; does it lack a return?")
    if isinstance(found, np.ma.MaskedArray):
        raise CrashedError(f"{name} returned a masked array; .filled(…) makes plain numbers of it")
    try:
        array = np.array(found)  # a copy: it may use its buffer again
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CrashedError(f"{name} returned a {type(found).__name__}, which is no array ({told(error)})") from None
    if formats.of_dtype(array.dtype) is None:
        raise CrashedError(f"{name} returned {array.dtype}; expected one of {', '.join(formats.FORMATS)}")
    return array


def loss_of(name: str, found: object, asked: Question, *, whole: bool) -> float:
    """A loss that the user's code returned: a number, or one for each row, which are added up.

    Args:
        whole: whether it is the loss with its reduction; else the mean is taken here, where one is asked for.

    Raises:
        CrashedError: where it is neither.
    """
    array = array_of(name, found).astype(np.float64)
    if array.shape not in ((), (1,), asked.logits.shape[:1]):
        raise CrashedError(f"{name} returned a loss of shape {array.shape}; expected a number, or one for each row")
    total = float(array.sum())
    return total * asked.share_of_whole() if whole else float(asked.mean(total))


def changed(before: Question, after: Question) -> tuple[str, ...]:
    """Which inputs are not what they were, to the bit."""
    pairs = {"logits": (before.logits, after.logits), "labels": (before.labels, after.labels)}
    return tuple(name for name, (one, other) in pairs.items() if one.tobytes() != other.tobytes())


def copied(asked: Question) -> Question:
    """The same question with arrays of its own."""
    return dataclasses.replace(asked, logits=asked.logits.copy(), labels=asked.labels.copy())


def as_request(asked: Question) -> dict[str, Any]:
    """A question for a child process."""
    return {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)}


def as_answer(answer: Answer) -> dict[str, Any]:
    """An answer for a parent process."""
    return {
        "gradient": answer.gradient,
        "loss": answer.loss,
        "changed": list(answer.changed),
        "summed": answer.summed,
    }


def from_answer(name: str, answer: Mapping[str, Any]) -> Answer:
    """An answer from a child process.

    Raises:
        CrashedError: where it is none, because the code there has changed what answers are made with.
    """
    match answer:
        case {
            "gradient": np.ndarray() as gradient,
            "loss": float() | None as loss,
            "changed": list(names),
            "summed": bool(summed),
        }:
            return Answer(gradient=gradient, loss=loss, changed=tuple(map(str, names)), summed=summed)
    raise broken(name)
