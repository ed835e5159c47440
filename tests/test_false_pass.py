"""What might end with 0 though nothing was checked, or was wrong: each trap is tried, and none may."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import exits
from gradcheck.cli import _run
from gradcheck.exceptions import GradcheckError
from gradcheck.results import Report
from tests.conftest import Program

LOGITS = np.array([[1, 2, 3], [2, 3, 4]], np.float32)
RIGHT = (np.exp(LOGITS - 4) / np.exp(LOGITS - 4).sum(axis=1, keepdims=True) - np.eye(3)[[0, 1]]).astype(np.float32)
NAN, INF = np.float32(np.nan), np.float32(np.inf)

FILES: dict[str, dict[str, Any]] = {
    "right": {"gradient": RIGHT},
    "only-nan": {"logits": NAN * LOGITS},
    "only-inf": {"logits": INF * LOGITS},
    "only-minus-inf": {"logits": -INF * LOGITS},
    "no-rows": {"logits": LOGITS[:0], "labels": np.zeros(0, int)},
    "no-classes": {"logits": LOGITS[:, :0]},
    # each of these broadcasts to the logits' shape
    "one-row": {"logits": LOGITS[[0, 0]], "labels": [0, 0], "gradient": RIGHT[:1]},
    "flat-row": {"logits": LOGITS[[0, 0]], "labels": [0, 0], "gradient": RIGHT[0]},
    "one-column": {"gradient": RIGHT[:, :1]},
    "number": {"gradient": np.float32(0)},
    "stacked": {"gradient": RIGHT[None]},
    "one-label": {"labels": [0]},
    "transposed": {"gradient": RIGHT.T},
    "nan-gradient": {"gradient": NAN * RIGHT},
    "one-nan": {"gradient": np.where(np.eye(2, 3) > 0, NAN, RIGHT)},
    "zeros": {"gradient": 0 * RIGHT},
}
OWN = """\
import numpy as np, os, sys, unittest
def skips(x, y): raise unittest.SkipTest("no")
def missing(x, y): raise NotImplementedError
def nothing(x, y): return None
def nan(x, y): return np.full_like(x, np.nan)
def row(x, y): return np.zeros((1, x.shape[1]), x.dtype)
def empty(x, y): return x[:0]
def number(x, y): return 0.0
def objects(x, y): return np.zeros(x.shape, object)
def masked(x, y): return np.ma.masked_all(x.shape, x.dtype)
def leaves(x, y): os._exit(0)
def exits(x, y): sys.exit(0)
def complex(x, y): return np.zeros(x.shape, complex)
def bool(x, y): return np.zeros(x.shape, bool)
"""
NAMES = [line[4:].partition("(")[0] for line in OWN.splitlines() if line.startswith("def ")]
NUMBERS = ("nan", "-1", "inf", "")
CHECK = ["check", "right.npz"]
TRAPS: list[list[str]] = [
    *(["check", f"{name}.npz"] for name in FILES if name != "right"),
    *([*CHECK, "--gradient", f"{name}.npz"] for name in ("one-column", "number", "transposed", "one-nan", "zeros")),
    *([*CHECK, "--tolerance", f"{rule}:{most}"] for rule in ("ulp", "rel", "abs", "norm") for most in NUMBERS),
    *([*CHECK, "--tolerance", f"allclose:{pair}"] for pair in ("nan,0", "0,nan", "-1,0", "0,1e999")),
    *([*CHECK, "--tolerance", rule] for rule in ("", "nan", "-1")),
    *([*CHECK, "--candidate", f"own.py:{name}"] for name in NAMES),
    *([*CHECK, "--rows", rows] for rows in ("2:2", "5:9", "1:1", ":0")),
    *([*CHECK, "--loss", f"{name}=nan"] for name in ("temperature", "label_smoothing", "upstream", "softcap")),
    *([*CHECK, "--loss", option] for option in ("temperature=inf", "temperature=0", "z_loss=inf", "mask=0,0,0")),
    [*CHECK, "--sample", "0"],
    [*CHECK, "--loss", "reduction=mean", "--loss", "weight=0,0,0"],
    [*CHECK, "--loss", "ignore_index=0", "--labels", "0"],
    [*CHECK, "--loss", "upstream=0"],
    [*CHECK, "--step", "1"],
    [*CHECK, "--digits", "5"],
    [*CHECK, "--command", "true {logits} {gradient}"],
    [*CHECK, "--command", "true"],
    [*CHECK, "--command", ""],
    [*CHECK, "--candidate", ""],
    [*CHECK, "--candidate", "own.py:nan", "--screen", "--certify", "0"],
    [*CHECK, "--candidate", "own.py:nan", "--jobs", "2"],
    [*CHECK, "--loss", "label_smoothing=0.1", "--candidate", "shifted", "--candidate", "own.py:row"],
    [*CHECK, "--gradient", "zeros.npz", "--gradient", "right.npz"],
    [*CHECK, "--gradient", "right.npz", "--gradient", "zeros.npz"],
    ["check", "only-nan.npz", "--screen"],
    ["check", "zeros.npz", "--baseline", "none.json"],
    ["check", "zeros.npz", "--baseline", "empty.json"],
    ["check", "--generate", "normal", "--rows", "0"],
    ["check", "--generate", "normal", "--classes", "0"],
    ["check", "--generate", "normal", "--scale", "nan"],
    ["check", "--case", "none-such*"],
    ["check"],
    ["check", "none.npz"],
    ["stability", "--case", "none-such*"],
    ["stability", "--tag", "none-such"],
    ["stability", "--case", "plain-3", "--tag", "masked"],
    ["stability", "--case", "plain-3", "--candidate", "own.py:leaves"],
    ["stability", "--case", "plain-3", "--candidate", "own.py:nan"],
    ["stability", "--case", "masked-*", "--dtype", ""],
    ["derive", "--case", "none-such"],
    ["derive", "only-nan.npz"],
    ["sweep", "--case", "none-such"],
    ["sweep", "only-nan.npz"],
    ["fixtures", "verify", "."],
    ["fixtures", "verify", "none"],
    ["fixtures", "verify", "empty.gradcheck.toml"],
    ["report", "empty.json"],
    ["report", "no-results.json"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, arrays in FILES.items():
        np.savez(f"{name}.npz", **{"logits": LOGITS, "labels": np.array([0, 1]), **arrays})
    Path("own.py").write_text(OWN)
    Path("empty.json").write_text("{}")
    Path("no-results.json").write_text(json.dumps({"schema_version": 1, "gradcheck": "0.1.0", "results": []}))
    Path("empty.gradcheck.toml").write_text("")


@pytest.mark.parametrize("words", TRAPS, ids=" ".join)
def test_no_trap_ends_with_0(words: list[str], program: Program) -> None:
    ran = program(*words)
    assert ran.code in (exits.DISAGREES, exits.CANNOT_CHECK), ran.out + ran.err
    assert "Traceback" not in ran.err


def test_the_file_without_a_trap_passes(program: Program) -> None:
    assert program(*CHECK).code == 0


def test_a_program_that_says_0_is_caught(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "exit_code", lambda report: 0)
    with pytest.raises(AssertionError):
        test_no_trap_ends_with_0(["check", "only-nan.npz"], program)


GRADIENT: list[Any] = [RIGHT[:1], RIGHT[0], RIGHT[:, :1], 0.0, RIGHT.T, RIGHT[None], NAN * RIGHT, [], None, "none"]
GRADIENT += [np.ma.masked_array(RIGHT, mask=True), [[None] * 3] * 2, lambda x, y: None, lambda x, y: RIGHT[:1]]


@pytest.mark.parametrize("gradient", GRADIENT, ids=lambda gradient: str(type(gradient).__name__))
def test_no_gradient_passes_by_its_shape(gradient: Any) -> None:
    gradcheck.assert_gradient(RIGHT, LOGITS, [0, 1])
    with pytest.raises((AssertionError, GradcheckError)):
        gradcheck.assert_gradient(gradient, LOGITS, [0, 1])


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (LOGITS[:0], []),
        (LOGITS[:, :0], [0, 1]),
        (NAN * LOGITS, [0, 1]),
        (np.ma.masked_array(LOGITS, mask=True), [0, 1]),
        (LOGITS, np.ma.masked_array([0, 1], mask=True)),
        (LOGITS, 0),
        (LOGITS, [0]),
        (LOGITS, [[0, 1]]),
        (LOGITS, [True, False]),
        (LOGITS, [0.0, 1.0]),
        (LOGITS, [NAN, 0]),
    ],
)
def test_no_problem_passes_by_what_it_lacks(logits: Any, labels: Any) -> None:
    with pytest.raises((AssertionError, GradcheckError)):
        gradcheck.assert_gradient(RIGHT[: len(logits)], logits, labels)


@pytest.mark.parametrize(
    "select",
    [
        lambda: gradcheck.cases("none-such*"),
        lambda: gradcheck.each_case("none-such*"),
        lambda: gradcheck.each_case("plain-3", dtypes=[]),
        lambda: gradcheck.cases("offset-plus-1e7", dtype="float16"),
        lambda: gradcheck.each_case("offset-plus-1e7", dtypes="float16"),
    ],
)
def test_a_loop_over_no_case_is_refused(select: Callable[[], object]) -> None:
    with pytest.raises(GradcheckError):
        select()


def test_a_report_of_nothing_has_not_passed() -> None:
    report = Report(version="0", settings={}, results=())
    assert not report.passed
    assert _run.exit_code(report) == exits.CANNOT_CHECK
