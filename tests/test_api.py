"""What Python code calls, shown sound gradients and lies."""

from __future__ import annotations

import contextlib
import decimal
import faulthandler
import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import CodeType, FrameType
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
from mpmath.libmp import libelefun

import gradcheck
import gradcheck.api
from gradcheck import GradientError, assert_gradient, each_case, formats, reference
from gradcheck.exceptions import GradcheckError, InputError
from gradcheck.problem import Problem
from gradcheck.results import Judged

LOGITS = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, 20.0]], dtype=np.float32)
LABELS = np.array([0, 2])


def sound(logits: Any, labels: Any) -> Any:
    """The sum of the others at the true class."""
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows = np.arange(len(logits))
    total = exps.sum(axis=1, keepdims=True)
    gradient = exps / total
    exps[rows, labels] = 0
    gradient[rows, labels] = -exps.sum(axis=1) / total[:, 0]
    return gradient


def zeros(logits: Any, labels: Any) -> Any:
    return np.zeros_like(logits)


def test_functions_and_arrays() -> None:
    result = assert_gradient(sound, LOGITS, LABELS, tolerance="ulp:4")
    assert result.candidate == "sound"
    assert_gradient(sound(LOGITS, LABELS), LOGITS, LABELS)
    assert_gradient(sound(LOGITS, LABELS)[0], LOGITS[0], 0)
    assert_gradient(sound, LOGITS, LABELS, loss=["reduction=mean"])
    assert_gradient(sound(LOGITS, LABELS) / np.float32(2), LOGITS, LABELS, loss=["reduction=mean"])
    half = LOGITS.astype(ml_dtypes.bfloat16)
    assert_gradient(sound(half.astype(np.float32), LABELS).astype(half.dtype), half, LABELS)
    soft = np.array([[0.25, 0.5, 0.25], [0, 0, 1]], dtype=np.float32)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    assert_gradient(p - soft, LOGITS, soft)


def test_a_zero_backward_is_rejected_at_a_gap_of_20() -> None:
    """Which allclose and torch.autograd.gradcheck accept."""
    with pytest.raises(GradientError) as caught:
        assert_gradient(zeros, [[20.0, 0.0]], [0], tolerance="ulp:4")
    text = str(caught.value)
    for part in (
        "zeros: fail, row 0, class ",
        "0.0 (reference",
        "e-09)",
        "ulp:4 allows 4",
        "past the limit",
        "\ndiagnosis: ",
    ):
        assert part in text
    assert caught.value.result.verdict == "fail"
    with pytest.raises(GradientError):
        assert_gradient(zeros, [[20.0, 0.0]], [0])


def test_what_is_no_array_of_logits_or_labels_is_said() -> None:
    with pytest.raises(InputError, match="logits or labels are no array"):
        assert_gradient(sound, [[1.0, 2.0], [3.0]], [0, 0])
    with pytest.raises(InputError, match="a label does not fit into 64 bits"):
        assert_gradient(sound, LOGITS, np.array([2**63, 0], np.uint64))


def test_just_inside_and_just_past() -> None:
    one_ulp = sound(LOGITS, LABELS)
    one_ulp[0, 0] = np.nextafter(one_ulp[0, 0], np.float32(1))
    assert_gradient(one_ulp, LOGITS, LABELS, tolerance="ulp:3")
    one_ulp[0, 0] += 8 * np.spacing(one_ulp[0, 0])
    with pytest.raises(GradientError, match="row 0, class 0"):
        assert_gradient(one_ulp, LOGITS, LABELS, tolerance="ulp:3")


def test_functions_that_take_options_get_them() -> None:
    seen = {}

    def mine(logits: Any, labels: Any, loss: Any) -> Any:
        seen.update(loss)
        kept = labels != -100
        gradient = sound(logits, np.where(kept, labels, 0)) / np.float32(kept.sum())
        gradient[~kept] = 0
        return gradient

    assert_gradient(mine, LOGITS, [0, -100], loss=["ignore_index=-100", "reduction=mean"])
    assert seen == {"ignore_index": -100, "reduction": "mean"}
    with pytest.raises(GradientError, match="skipped, sound takes no loss options, and the loss has ignore_index"):
        assert_gradient(sound, LOGITS, [0, -100], loss=["ignore_index=-100"])


def test_crashes_and_nonsense() -> None:
    with pytest.raises(GradientError, match=r"crashed, .* raised ZeroDivisionError"):
        assert_gradient(lambda logits, labels: 1 / 0, LOGITS, LABELS)
    for wrong in ({"labels": [0, 7]}, {"tolerance": "x"}, {"logits": [["a"]]}, {"loss": ["x=1"]}, {"dtype": "int8"}):
        with pytest.raises(GradcheckError):
            assert_gradient(**({"gradient": sound, "logits": LOGITS, "labels": LABELS} | wrong))  # type: ignore[arg-type]


@each_case("saturated-gap-20", "plain-*", dtypes=("float32",))
def test_each_case(case: Problem) -> None:
    loss = [f"{option.name}={option.value}" for option in case.loss]
    assert_gradient(sound, case.logits, case.labels, loss=loss, tolerance="ulp:64")


def test_public_names() -> None:
    assert set(gradcheck.__all__) <= set(dir(gradcheck.api)) | {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gradcheck.nothing


def test_check_returns_a_report() -> None:
    report = gradcheck.check(sound, LOGITS, LABELS, tolerance="ulp:4", repeat=2)
    assert report.passed
    assert report.settings["tolerance"] == "ulp:4"
    assert len(report.results) == 1
    assert not gradcheck.check(np.zeros_like(LOGITS), LOGITS, LABELS).passed
    assert gradcheck.check("compensated", LOGITS, LABELS, engine="flint").passed
    assert not gradcheck.check(sound, np.full((1, 3), np.nan), [0]).passed  # nothing was judged


@pytest.mark.parametrize("wrong", [{"repeat": 0}, {"timeout": -1.0}, {"timeout": float("nan")}, {"engine": "none"}])
def test_settings_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(GradcheckError):
        gradcheck.check("shifted" if "timeout" not in wrong else "torch:x", LOGITS, LABELS, **wrong)


def test_what_is_no_array() -> None:
    with pytest.raises(GradcheckError, match="the gradient is no array of numbers"):
        gradcheck.check([[1, 2], [3]], LOGITS, LABELS)


def test_a_loss_in_the_logits_format_beside_a_wider_gradient() -> None:
    def mixed(logits: Any, labels: Any) -> Any:
        wide = logits.astype(np.float64)
        loss = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(wide)), labels]
        return np.float32(loss.sum()), sound(wide, labels)

    (result,) = gradcheck.check(mixed, LOGITS, LABELS).results
    assert isinstance(result.outcome, Judged)
    assert result.outcome.conduct.loss is None


def test_cases_by_name_and_format() -> None:
    found = gradcheck.cases("plain-*", "soft-plain")
    assert {"plain-3", "plain-mean", "soft-plain"} <= set(found)
    case = found["plain-mean"]
    assert gradcheck.check("shifted", case.logits, case.labels, loss=case.loss).passed
    assert "offset-plus-1e7" not in gradcheck.cases("offset-*", dtype="float16")
    with pytest.raises(GradcheckError):
        gradcheck.cases("nothing-*")


# --- callers who have set things, and threads of theirs -------------------------------------------------------------


def settings() -> dict[str, object]:
    """What is the whole process's, and no library's to change."""
    flint, torch = sys.modules.get("flint"), sys.modules.get("torch")
    umask = os.umask(0)
    os.umask(umask)
    return {
        "mpmath": (mpmath.mp.prec, mpmath.mp.dps, mpmath.mp.pretty, mpmath.iv.prec),
        "flint": flint and (flint.ctx.prec, flint.ctx.cap, flint.ctx.threads),
        "NumPy": (np.geterr(), np.geterrcall(), np.getbufsize(), np.get_printoptions()),
        "random": (random.getstate(), repr(np.random.get_state())),  # noqa: NPY002 - it is what others may use
        "decimal": repr(decimal.getcontext()),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "warnings": [*warnings.filters],
        "umask": umask,
        "place": (os.getcwd(), [*sys.path], dict(os.environ)),
        "locale": locale.setlocale(locale.LC_ALL),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "limits": (sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.getswitchinterval()),
        "hooks": (sys.excepthook, threading.excepthook, sys.gettrace(), gc.isenabled(), faulthandler.is_enabled()),
        "logging": (logging.root.level, [*logging.root.handlers], logging.raiseExceptions),
        "torch": torch
        and (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.initial_seed()),
    }


WRONG = np.zeros_like(LOGITS)
OUTCOMES: dict[str, tuple[Any, dict[str, Any], type[Exception] | None]] = {
    "pass": (sound, {}, None),
    "fail": (WRONG, {}, GradientError),
    "raises": (lambda x, y: 1 / 0, {}, GradientError),
    "named": ("compensated", {"tolerance": "ulp:4"}, None),
    "usage": (sound, {"tolerance": "none"}, GradcheckError),
    "loss": (WRONG, {"loss": {"z_loss": 0.5, "softcap": 3.0}}, GradientError),
    "half": (WRONG, {"dtype": "float16", "repeat": 2}, GradientError),
}


@pytest.mark.parametrize("engine", ["mpmath", "flint"])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_nothing_is_left_changed(outcome: str, engine: str) -> None:
    gradient, more, error = OUTCOMES[outcome]
    before = settings()
    with pytest.raises(error) if error else contextlib.nullcontext():
        gradcheck.assert_gradient(gradient, LOGITS, LABELS, engine=engine, **more)
    assert settings() == before


@pytest.mark.torch
def test_nothing_is_left_changed_by_a_framework() -> None:
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            before = settings()
            assert gradcheck.check("torch", LOGITS, LABELS).passed
            assert settings() == before
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def careless() -> Iterator[None]:
    """As a caller may have set what there is to be set."""
    places = [name for name in ("de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "C") if settable(name)]
    precision, decimals, here = mpmath.mp.prec, decimal.getcontext().prec, locale.setlocale(locale.LC_ALL)
    mpmath.mp.dps, decimal.getcontext().prec = 3, 2
    try:
        locale.setlocale(locale.LC_ALL, places[0])
        with (
            np.errstate(all="raise"),
            warnings.catch_warnings(),
            np.printoptions(precision=2, threshold=1, suppress=True),
        ):
            warnings.simplefilter("error")
            yield
    finally:
        locale.setlocale(locale.LC_ALL, here)
        mpmath.mp.prec, decimal.getcontext().prec = precision, decimals


def settable(name: str) -> bool:
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_ALL, before)
    return True


@pytest.mark.parametrize("engine", ["mpmath", "flint"])
def test_what_a_caller_has_set_changes_no_result(engine: str) -> None:
    def found() -> list[str]:
        losses: list[dict[str, object]] = [{}, {"z_loss": 0.25, "softcap": 2.5}, {"temperature": 0.7}]
        return [
            repr(gradcheck.check(gradient, logits, [0, 1], loss=loss, engine=engine).results)
            for logits in (LOGITS[:2], np.array([[1e200, -1e200, 0], [800, 0, 1e-300]]))
            for loss in losses
            for gradient in ("shifted", np.zeros_like(logits), "naive")
        ]

    plain = found()
    with careless():
        before = settings()
        assert found() == plain
        assert settings() == before


def slowed(code: Callable[[CodeType], bool]) -> Callable[..., Any]:
    """Lets other threads go first before each line of some code."""

    def lines(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            time.sleep(1e-4)
        return lines

    return lambda frame, event, argument: lines if code(frame.f_code) else None


@pytest.mark.parametrize("engine", ["mpmath", "flint"])
def test_eight_threads_find_what_one_does(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a format, and so in a precision, of its own; the engines' packages have one for all."""
    if engine == "mpmath":
        constant: Any = libelefun.ln2_fixed
        kept = next(cell.cell_contents for cell in constant.__closure__ if hasattr(cell.cell_contents, "memo_prec"))
        slow = slowed(lambda code: code is constant.__code__)
    else:
        names = ("share", "_series", "_general", "_total", "exps", "_evaluation")
        slow = slowed(lambda code: code.co_filename.endswith("flint.py") and code.co_name in names)

    def found(number: int) -> str:
        fmt = formats.named(list(formats.FORMATS)[number % 4])
        rng = np.random.default_rng(number)
        logits = fmt.round_array(rng.normal(size=(1, 3 + number)) * 3 ** (number // 4))
        report = gradcheck.check("naive", logits, [1], engine=engine, loss={"softcap": 30.0} if number % 3 == 0 else {})
        return repr(report.results)

    def begun(number: int) -> str:
        sys.settrace(slow)
        together.wait()
        return found(number)

    together = threading.Barrier(8, timeout=60)
    alone = list(map(found, range(8)))
    if engine == "mpmath":
        kept.memo_prec = -1
    before = settings()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(begun, range(8))) == alone
    assert settings() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("engine", ["mpmath", "flint"])
def test_a_copy_of_a_process_whose_threads_are_at_work(engine: str) -> None:
    """What a thread holds in the moment of the fork, nobody would let go of in the copy."""
    problem = gradcheck.cases("plain-1000")["plain-1000"]
    wide = reference.compute(problem, problem.format, reference.Settings(engine=engine))

    def found() -> str:
        return repr(gradcheck.check(WRONG, LOGITS, LABELS, engine=engine).results)

    def works() -> None:
        # nothing but that: until Python 3.12 every cached property has a lock, which a copy would inherit, too
        while not over.is_set():
            wide.exact_row(0)

    alone, over = found(), threading.Event()
    before = {name: settings()[name] for name in ("mpmath", "flint", "NumPy")}
    threads = [threading.Thread(target=works) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, about just this
                child = os.fork()
            if not child:
                signal.alarm(60)
                os._exit(0 if before.items() <= settings().items() and found() == alone else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
