"""What Python code calls: `check` and `assert_gradient` judge a gradient, `cases` and `each_case` bring rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from gradcheck import __version__, candidates, catalogue, formats, functions, losses, streaming, tolerances, versions
from gradcheck.batch import Batch
from gradcheck.candidates import Candidate
from gradcheck.checking import How
from gradcheck.exceptions import InputError, UsageError
from gradcheck.functions import Function
from gradcheck.problem import LossOption, Problem
from gradcheck.reference import Settings
from gradcheck.results import Report, Result, Verdict

Loss = Sequence[str | LossOption] | Mapping[str, object]
"""Loss options as texts, as those of a problem, or by name."""

_Test = TypeVar("_Test", bound=Callable[..., Any])


class GradientError(AssertionError):
    """A gradient that does not agree; `result` holds everything that was measured."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


def check(
    gradient: Callable[..., Any] | ArrayLike | str,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    tolerance: str = "stable",
    loss: Loss = (),
    dtype: str | None = None,
    flush: bool = False,
    repeat: int = 1,
    timeout: float = candidates.Running.timeout,
    engine: str = "mpmath",
) -> Report:
    """Compares a gradient of softmax cross-entropy with central differences in high precision.

    >>> import numpy as np
    >>> import gradcheck
    >>> def mine(logits, labels):
    ...     p = np.exp(logits - logits.max(axis=1, keepdims=True))
    ...     p /= p.sum(axis=1, keepdims=True)
    ...     p[np.arange(len(p)), labels] -= 1
    ...     return p
    >>> report = gradcheck.check(mine, np.float32([[2.0, -1.0, 0.5]]), [1])
    >>> report.passed
    True
    >>> zeros = gradcheck.check(lambda x, y: 0 * x, np.float32([[20.0, 0.0]]), [0])
    >>> [result.verdict.value for result in zeros.results]
    ['fail']

    Args:
        gradient: an array (N, k), the gradient of exactly the loss that `loss` describes; or a function of logits and
            labels that returns that of the sum over rows, or the loss and that gradient. One with a third parameter
            gets the loss options, and returns the gradient of exactly that loss. Or a name, as `--candidate` takes it.
        logits: (k,) or (N, k), in float16, bfloat16 (ml_dtypes), float32 or float64.
        labels: classes, (N,) or one number; or soft labels, (N, k).
        tolerance: as `--tolerance` takes it, for example "ulp:4".
        loss: options as `--loss` takes them, for example ["reduction=mean"]; or by name, with numbers and arrays as
            their values, for example {"weight": np.array([0.3, 0.6])}; or those of a case.
        dtype: the format that the logits are cast to; None keeps their own.
        flush: whether flushed subnormals are accepted under "stable".
        repeat: how often the function is asked; the worst answer is judged.
        timeout: seconds that an implementation which is named may take. A function that is at hand runs in this
            process, and may take as long as it likes.
        engine: "mpmath", or "flint" with the extra of that name.

    Returns:
        A report with one result, as the command line makes it.

    Raises:
        GradcheckError: where logits, labels or options cannot be understood.
    """
    if repeat < 1:
        raise UsageError(f"repeat is 1 or more, not {repeat}")
    problem = _problem(logits, labels, loss, dtype)
    results = streaming.check(
        Batch.of(problem),
        [_candidate(gradient, timeout)],
        How(tolerance=tolerances.parse(tolerance), settings=Settings(engine=engine), flush=flush, repeat=repeat),
        case="check",
    )
    settings = {"tolerance": tolerance, "flush": flush, "repeat": repeat, "engine": engine}
    made_with = versions.environment(candidates.packages())
    return Report(version=__version__, environment=made_with, settings=settings, results=tuple(results))


def assert_gradient(
    gradient: Callable[..., Any] | ArrayLike | str,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    tolerance: str = "stable",
    loss: Loss = (),
    dtype: str | None = None,
    flush: bool = False,
    repeat: int = 1,
    timeout: float = candidates.Running.timeout,
    engine: str = "mpmath",
) -> Result:
    """Asserts that a gradient agrees; what it takes is what `check` takes.

    >>> import numpy as np
    >>> import gradcheck
    >>> gradcheck.assert_gradient([[0.5, -0.25]], np.float32([[0.0, 0.0]]), [1])
    Traceback (most recent call last):
        ...
    gradcheck.api.GradientError: gradient: fail, row 0, class 1: -0.25 (reference -0.5), off by ...

    Returns:
        What was measured.

    Raises:
        GradientError: where it disagrees, or no verdict can be had; it names place, both values, size and limit.
        GradcheckError: where logits, labels or options cannot be understood.
    """
    from gradcheck.report import _sentences

    report = check(
        gradient,
        logits,
        labels,
        tolerance=tolerance,
        loss=loss,
        dtype=dtype,
        flush=flush,
        repeat=repeat,
        timeout=timeout,
        engine=engine,
    )
    (result,) = report.results
    if result.verdict is not Verdict.PASS:
        explained = f"\ndiagnosis: {said}" if (said := _sentences.diagnosis(result)) else ""
        raise GradientError(
            f"{result.candidate}: {result.verdict.value}, {_sentences.reason(result)}{explained}", result
        )
    return result


def cases(*globs: str, dtype: str = "float32") -> dict[str, Problem]:
    """The cases of the catalogue that a pattern names (all, if none is given), in a format, by name.

    A case that the format cannot hold is left out, but not all of them. Each has `logits`, `labels` and `loss`.

    >>> import gradcheck
    >>> for name, case in gradcheck.cases("saturated-gap-[24]0").items():
    ...     report = gradcheck.check("shifted", case.logits, case.labels, loss=case.loss, tolerance="ulp:4")
    ...     print(name, report.results[0].verdict.value)
    saturated-gap-20 fail
    saturated-gap-40 fail

    Raises:
        UsageError: where a pattern names no case, or the format holds none: a loop over nothing would check nothing.
    """
    fmt = formats.named(dtype)
    found = {case.name: case.problem(fmt) for case in catalogue.select(globs)}
    held = {name: problem for name, problem in found.items() if problem is not None}
    if not held:
        raise UsageError(f"{dtype} holds none of the cases {', '.join(found)}")
    return held


def each_case(*globs: str, dtypes: Sequence[str] = ("float32", "float64")) -> Callable[[_Test], _Test]:
    """A decorator that runs a test on every case of the catalogue that a pattern names, in each format that holds it.

    The test takes `case`, a Problem with `logits`, `labels` and `loss`.

    Raises:
        UsageError: where that leaves nothing to run: pytest would take such a test for one that is skipped.
    """
    import pytest

    kinds = [dtypes] if isinstance(dtypes, str) else list(dtypes)
    selected = catalogue.select(globs)
    parameters = [
        pytest.param(problem, id=f"{case.name}-{dtype}")
        for case in selected
        for dtype in kinds
        if (problem := case.problem(formats.named(dtype))) is not None
    ]
    if not parameters:
        named = ", ".join(case.name for case in selected)
        raise UsageError(f"no format of {kinds} holds one of the cases {named}")
    return pytest.mark.parametrize("case", parameters)


def _candidate(gradient: Callable[..., Any] | ArrayLike | str, timeout: float) -> Candidate:
    if isinstance(gradient, str):
        return candidates.load(gradient, candidates.Running(timeout=timeout))
    if callable(gradient):
        name = getattr(gradient, "__qualname__", None) or repr(gradient)
        return candidates.of_function(Function(name=name, call=gradient))
    _refuse_masked(gradient, "the gradient is")
    try:
        array = np.asarray(gradient)
    except Exception as error:  # an array of another library says in its own way that it is none of NumPy's
        raise InputError(f"the gradient is no array of numbers ({functions.told(error)})") from None
    return candidates.given("gradient", array[None] if array.ndim == 1 else array)


def _refuse_masked(array: object, what: str) -> None:
    """NumPy's arrays that leave out entries become plain ones without a word, whatever stands there."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{what} a masked array; .filled(…) makes plain numbers of it")


def _options(loss: Loss) -> tuple[LossOption, ...]:
    if isinstance(loss, Mapping):
        return losses.given(loss)
    ready = [option for option in loss if isinstance(option, LossOption)]
    return (*ready, *losses.parse(text for text in loss if not isinstance(text, LossOption)))


def _problem(logits: ArrayLike, labels: ArrayLike, loss: Loss, dtype: str | None) -> Problem:
    options = _options(loss)
    _refuse_masked(logits, "logits are")
    _refuse_masked(labels, "labels are")
    try:
        array, targets = np.atleast_2d(np.asarray(logits)), np.asarray(labels)
    except ValueError as error:
        raise InputError(f"logits or labels are no array ({error})") from None
    own = formats.of_dtype(array.dtype)
    fmt = formats.named(dtype) if dtype else own
    if fmt is None or (own is None and array.dtype.kind not in "iu"):
        raise InputError(f"logits are {array.dtype}; expected one of {', '.join(formats.FORMATS)}")
    array = array.astype(fmt.dtype) if own is fmt else fmt.round_array(array)
    if targets.dtype.kind not in "iuf" and formats.of_dtype(targets.dtype) is None:
        raise InputError(f"labels are {targets.dtype}; expected classes, or soft labels")
    # whole numbers name classes; for a single row as many as it has classes are its soft labels
    one_row = len(array) == 1 and targets.size == array.shape[1] > 1
    if targets.dtype.kind in "iu" and targets.ndim < 2 and not one_row:
        if targets.size and not -(2**63) <= int(targets.min()) <= int(targets.max()) < 2**63:
            raise InputError("a label does not fit into 64 bits")
        targets = np.atleast_1d(targets).astype(np.int64)
    else:
        targets = fmt.round_array(np.atleast_2d(targets))
    return Problem(logits=array, labels=targets, format=fmt, loss=options)
