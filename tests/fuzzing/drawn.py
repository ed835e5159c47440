"""What is drawn rather than mutated: problems with what is known of their gradient, and command lines."""

from __future__ import annotations

import io
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import typer
from hypothesis import given, reject
from hypothesis import strategies as st

import gradcheck
from gradcheck import exits, reference, report
from gradcheck.__main__ import main
from gradcheck.cli import app
from gradcheck.exact import to_fraction
from gradcheck.exceptions import GradcheckError
from gradcheck.formats import FORMATS, Format
from gradcheck.problem import Problem, RowStatus
from gradcheck.report import Style
from gradcheck.results import Verdict
from tests.conftest import SOUND, make_problem

# --- problems ---------------------------------------------------------------------------------------------------------

_PARTS = (
    ["temperature=0.5", "temperature=3", "softcap=30", "softcap=2.5"],
    ["label_smoothing=0.1", "label_smoothing=1"],
    ["reduction=mean", "reduction=sum", "reduction=mean:rows"],
    ["z_loss=0.0001", "z_loss=1"],
    ["upstream=-2", "upstream=1e-3", "upstream=65504"],
)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A few rows of extreme logits in any format, with loss options that go with their labels."""
    fmt = draw(st.sampled_from(list(FORMATS.values())))
    rows, classes = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    edges = [0.0, -0.0, 1.0, 88.0, -104.0, 745.0, fmt.max, -fmt.max, fmt.smallest_subnormal, fmt.smallest_normal]
    edges += [-np.inf, *([np.inf, np.nan] if draw(st.booleans()) else [])]
    number = st.one_of(st.sampled_from(edges), st.floats(-60, 60), st.floats(allow_nan=False, allow_infinity=False))
    logits = draw(st.lists(st.lists(number, min_size=classes, max_size=classes), min_size=rows, max_size=rows))
    if draw(st.booleans()):
        each = st.sampled_from([0.0, 1.0, 0.25, 1 / 3, fmt.smallest_subnormal, 7.0])
        labels: Any = draw(st.lists(st.lists(each, min_size=classes, max_size=classes), min_size=rows, max_size=rows))
    else:
        labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    loss = [draw(st.sampled_from(part)) for part in _PARTS if draw(st.integers(0, 3)) == 0]
    if isinstance(labels[0], int) and draw(st.integers(0, 3)) == 0:
        loss.append(f"ignore_index={draw(st.sampled_from([0, 1, -100]))}")
    with np.errstate(over="ignore"):
        try:
            return make_problem(logits, labels, fmt, loss)
        except GradcheckError:  # a sentence, for what does not go together
            reject()


def _verdict(gradient: Any, problem: Problem, tolerance: str, engine: str = "mpmath") -> Verdict:
    report = gradcheck.check(
        gradient, problem.logits, problem.labels, loss=problem.loss, tolerance=tolerance, engine=engine
    )
    return report.results[0].verdict


def _moved(value: float, fmt: Format, steps: int) -> float:
    """A number so many steps of its format away from 0; negative where it is 0."""
    for _ in range(steps):
        value = fmt.next_up(value) if value > 0 else fmt.next_down(value)
    return value


@given(problem=problems(), place=st.integers(0, 20), engine=st.sampled_from(["mpmath", "flint"]))
def known(problem: Problem, place: int, engine: str) -> None:
    """A sound form passes, so does the rounded gradient; neither does once one component is wrong, or no number."""
    fmt = problem.format
    try:
        status = problem.status
    except GradcheckError:
        return
    defined = np.flatnonzero(status != RowStatus.UNDEFINED)
    sound = _verdict("shifted", problem, "stable", engine)
    if not defined.size:
        assert sound is Verdict.SKIPPED, sound
        return
    exact = reference.compute(problem, fmt, reference.Settings(engine=engine))
    right = np.array([[fmt.round(to_fraction(value)) for value in exact.exact_row(row)] for row in range(problem.rows)])
    if not np.isfinite(right).all():
        return
    # where the format can hold neither l/T nor half again of the gradient, infinity is the implementation's failure
    held = np.abs(problem.logits, where=np.isfinite(problem.logits), out=np.zeros_like(problem.logits)).max()
    if float(held) / float(problem.terms.temperature) <= fmt.max and np.abs(right).max() < fmt.max / 2:
        assert sound in (Verdict.PASS, Verdict.SKIPPED), sound
    assert _verdict(fmt.round_array(right), problem, "ulp:1", engine) is Verdict.PASS
    row, cls = int(defined[place % defined.size]), place % problem.classes
    for wrong in (_moved(right[row, cls], fmt, 3), np.nan, np.inf):
        lie = right.copy()
        lie[row, cls] = wrong
        with np.errstate(over="ignore"):
            assert _verdict(fmt.round_array(lie), problem, "ulp:1", engine) is Verdict.FAIL, (row, cls, wrong)


# --- command lines ----------------------------------------------------------------------------------------------------

_LEFT_OUT = {"jobs", "scheduler", "help", "install_completion", "show_completion"}
"""Options whose runs start other processes, or wait for other machines."""

_GOOD = {
    "candidate": ["shifted", "naive", "wide", "own.py:f", "none.py:f"],
    "command": ["true", "false {gradient}", "none-such {logits}"],
    "case": ["saturated-gap-20", "saturated-*", "plain"],
    "tag": ["masked"],
    "generate": ["normal", "heavy-tailed"],
    "name": ["normal", "uniform"],
    "labels": ["argmax", "0", "plain.csv"],
    "loss": ["reduction=mean", "label_smoothing=0.1", "weight=1,2", "mask=1,0,1"],
    "dtype": ["float16", "bfloat16", "float32", "float64"],
    "gradient_dtype": ["float16", "float64"],
    "rows": ["0:2", "1:", "3"],
    "scale": ["2", "1e4"],
    "tolerance": ["stable", "ulp:4", "torch", "norm:1e-3", "allclose:1e-5,1e-8"],
    "digits": ["auto", "30", "120"],
    "step": ["auto", "2^-20", "1e-6"],
    "method": ["direct", "incremental"],
    "engine": ["mpmath", "flint"],
    "order": ["2", "4", "8"],
    "format": ["json", "table", "csv", "markdown", "junit", "github", "html", "svg"],
    "report": ["json=made.json", "csv=made.csv", "html=made.html"],
    "output": ["made.out", "made.npz", "folder/none"],
    "timeout": ["5"],
    "logits": ["plain.csv", "none.npz", "."],
    "input_format": ["csv", "npz"],
    "color": ["always", "never"],
    "baseline": ["saved.json", "plain.csv"],
}
_FILES = {
    "plain.csv": "1,2\n3,4\n",
    "own.py": SOUND,
    "saved.json": str(report.render("json", gradcheck.check("naive", np.array([[900, 0]], np.float32), [0]), Style())),
}
"""What is in the current folder."""
_ODD = ["", "-", "0", "-1", "nan", "inf", "1e999", "9" * 30, "\x1b[31m", "é\u202e", "=", ":", "a=b=c", "/dev/null", "*"]


def _leaves(command: Any, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        return [leaf for name, inner in command.commands.items() for leaf in _leaves(inner, (*words, name))]
    return [(words, command)]


COMMAND = typer.main.get_command(app)
_COMMANDS = [leaf for leaf in _leaves(COMMAND) if leaf[0][0] != "selftest"]


def _value(name: str) -> st.SearchStrategy[str]:
    good = st.sampled_from(_GOOD.get(name, ["1", "2", "none"]))
    return st.one_of(good, good, good, st.sampled_from(_ODD), st.text(max_size=6))


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """The words after the program's name."""
    words, command = draw(st.sampled_from(_COMMANDS))
    line = list(words)
    parameters = [parameter for parameter in command.params if parameter.name not in _LEFT_OUT]
    chosen = draw(st.lists(st.sampled_from(parameters), max_size=5)) if parameters else []
    # a whole catalogue takes minutes
    if words[0] in ("stability", "derive") and "case" in {parameter.name for parameter in parameters}:
        line += ["--case", "saturated-gap-20"]
    for parameter in chosen:
        value = [] if getattr(parameter, "is_flag", False) else [draw(_value(str(parameter.name)))]
        if parameter.param_type_name == "argument":
            line += value
        elif value and value[0] == "*" and parameter.name in ("case", "tag"):
            continue
        else:
            line += [draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts])), *value]
    return line


class _Stream(io.TextIOWrapper):
    """What is written, as a terminal's stream that is none."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)

    @property
    def text(self) -> str:
        """All of it."""
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


@given(words=command_lines())
def said(words: list[str]) -> None:
    """Every command line ends with a code of the contract, and never with a traceback or a control character."""
    for name, content in _FILES.items():
        if not Path(name).exists():
            Path(name).write_text(content)
    out, err = _Stream(), _Stream()
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["gradcheck", *words]),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1,2\n"))),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert code in (0, None, exits.DISAGREES, exits.CANNOT_CHECK), (words, code, err.text)
    assert "Traceback" not in err.text, (words, err.text)
    shown = re.sub("\x1b\\[[0-9;]*m", "", out.text + err.text) if "--color" in words else out.text + err.text
    odd = {char for char in shown if unicodedata.category(char) == "Cc"} - {"\n"}
    assert not odd, (words, odd)
