"""For tests: `assert_gradient` checks a function, `each_case` runs a test on every case of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from gradcheck import candidates, catalogue, checking, formats, losses, tolerances
from gradcheck.candidates import Candidate
from gradcheck.exceptions import InputError
from gradcheck.functions import Function
from gradcheck.problem import Problem
from gradcheck.reference import Settings
from gradcheck.results import Result, Verdict

_Test = TypeVar("_Test", bound=Callable[..., Any])


class GradientError(AssertionError):
    """A gradient that does not agree; `result` holds everything that was measured."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


def assert_gradient(
    gradient: Callable[..., Any] | ArrayLike,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    tolerance: str = "stable",
    loss: Sequence[str] | Mapping[str, object] = (),
    dtype: str | None = None,
    flush: bool = False,
) -> Result:
    """Asserts that a gradient of softmax cross-entropy agrees with central differences in high precision.

    Args:
        gradient: an array (N, k), the gradient of exactly the loss that `loss` describes; or a function of logits and
            labels that returns that of the sum over rows. One with a third parameter gets the loss options, and
            returns the gradient of exactly that loss.
        logits: (k,) or (N, k), in float16, bfloat16 (ml_dtypes), float32 or float64.
        labels: classes, (N,) or one number; or soft labels, (N, k).
        tolerance: as `--tolerance` takes it, for example "ulp:4".
        loss: options as `--loss` takes them, for example ["reduction=mean"]; or by name, with numbers and arrays as
            their values, for example {"weight": np.array([0.3, 0.6])}.
        dtype: the format that the logits are cast to; None keeps their own.
        flush: whether flushed subnormals are accepted under "stable".

    Returns:
        What was measured.

    Raises:
        GradientError: where it disagrees, or no verdict can be had; it names place, both values, size and limit.
        GradcheckError: where logits, labels or options cannot be understood.
    """
    from gradcheck.report import _sentences

    problem = _problem(logits, labels, loss, dtype)
    if callable(gradient):
        name = getattr(gradient, "__qualname__", None) or repr(gradient)
        candidate = candidates.of_function(Function(name=name, call=gradient))
    else:
        array = np.asarray(gradient)
        candidate = candidates.given("gradient", array[None] if array.ndim == 1 else array)
    result = _checked(problem, candidate, tolerance, flush=flush)
    if result.verdict is not Verdict.PASS:
        raise GradientError(f"{candidate.name}: {result.verdict.value}, {_sentences.reason(result)}", result)
    return result


def each_case(*globs: str, dtypes: Sequence[str] = ("float32", "float64")) -> Callable[[_Test], _Test]:
    """A decorator that runs a test on every case of the catalogue that a pattern names, in each format that holds it.

    The test takes `case`, a Problem with `logits`, `labels` and `loss`.
    """
    import pytest

    kinds = [dtypes] if isinstance(dtypes, str) else list(dtypes)
    parameters = [
        pytest.param(problem, id=f"{case.name}-{dtype}")
        for case in catalogue.select(globs)
        for dtype in kinds
        if (problem := case.problem(formats.named(dtype))) is not None
    ]
    return pytest.mark.parametrize("case", parameters)


def _problem(
    logits: ArrayLike, labels: ArrayLike, loss: Sequence[str] | Mapping[str, object], dtype: str | None
) -> Problem:
    options = losses.given(loss) if isinstance(loss, Mapping) else losses.parse(loss)
    try:
        array, targets = np.atleast_2d(np.asarray(logits)), np.asarray(labels)
    except ValueError as error:
        raise InputError(f"logits or labels are no array ({error})") from None
    own = formats.of_dtype(array.dtype)
    fmt = formats.named(dtype) if dtype else own
    if fmt is None or (own is None and array.dtype.kind not in "iu"):
        raise InputError(f"logits are {array.dtype}; expected one of {', '.join(formats.FORMATS)}")
    array = array.astype(fmt.dtype) if own is fmt else fmt.round_array(array.astype(np.float64))
    if targets.dtype.kind not in "iuf" and formats.of_dtype(targets.dtype) is None:
        raise InputError(f"labels are {targets.dtype}; expected classes, or soft labels")
    # whole numbers name classes; for a single row as many as it has classes are its soft labels
    one_row = len(array) == 1 and targets.size == array.shape[1] > 1
    if targets.dtype.kind in "iu" and targets.ndim < 2 and not one_row:
        if targets.size and not -(2**63) <= int(targets.min()) <= int(targets.max()) < 2**63:
            raise InputError("a label does not fit into 64 bits")
        targets = np.atleast_1d(targets).astype(np.int64)
    else:
        targets = fmt.round_array(np.atleast_2d(targets).astype(np.float64))
    return Problem(logits=array, labels=targets, format=fmt, loss=options)


def _checked(problem: Problem, candidate: Candidate, tolerance: str, *, flush: bool) -> Result:
    (result,) = checking.check(
        problem,
        [candidate],
        case="assert_gradient",
        tolerance=tolerances.parse(tolerance),
        settings=Settings(),
        flush=flush,
    )
    return result
