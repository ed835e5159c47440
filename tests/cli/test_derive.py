"""`gradcheck derive` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
from pathlib import Path

import pytest

from gradcheck.derivation import NAMES
from tests.conftest import DATA, Program

MINE = """
import numpy as np
print("imported")

def softmax(logits):
    print("called")
    e = np.exp(logits - logits.max())
    return e / e.sum()

def wrong_sign(logits):
    y = softmax(logits)
    return np.where(np.eye(len(y)) == 1, y * (1 - y), np.outer(y, y)).astype(y.dtype)

def no_minus(logits, label):
    return (np.arange(len(logits)) == label) / softmax(logits)

def leaves(logits):
    raise SystemExit(0)
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


def failing(out: str) -> list[str]:
    return [line.split()[3] for line in out.splitlines() if line.startswith("fail ")]


def test_an_easy_row_passes_and_a_saturated_one_fails_where_it_divides(program: Program) -> None:
    ran = program("derive", "--case", "plain-3")
    assert ran.code == 0
    assert [line.split()[3] for line in ran.out.splitlines()[:-1]] == list(NAMES)
    for dtype in ("float32", "float64"):
        ran = program("derive", "--case", "losing-underflow", "--dtype", dtype)
        assert ran.code == 1
        assert failing(ran.out) == ["output-loss", "chain-sum"]
        assert "infinite or 0/0; the fused form ŷ − y does not divide" in ran.out


def test_pieces_are_found_at_their_own_step(program: Program, mine: str) -> None:
    for option, name, steps in (
        ("--softmax", "softmax", []),
        ("--softmax-jacobian", "wrong_sign", ["softmax-jacobian"]),
        ("--loss-gradient", "no_minus", ["output-loss"]),
    ):
        ran = program("derive", "--case", "plain-3", option, f"{mine}:{name}")
        assert failing(ran.out) == steps
        assert ran.code == bool(steps)
        assert "called" not in ran.out  # what a function prints is no part of the report
    words = shlex.split(
        program("derive", "--case", "plain-3", "--softmax-jacobian", f"{mine}:wrong_sign")
        .out.split("again: ")[1]
        .splitlines()[0]
    )
    assert words[-4:] == ["--softmax-jacobian", f"{mine}:wrong_sign", "--show", "softmax-jacobian"]
    assert program(*words[1:]).code == 1


def test_a_piece_that_cannot_be_imported_is_a_crash_of_its_steps(program: Program, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:")
    ran = program("derive", "--case", "plain-3", "--softmax", f"{broken}:f")
    assert ran.code == 2
    assert "raised SyntaxError" in ran.out
    assert "2 crashed" in ran.out


def test_a_module_in_the_current_folder(program: Program, mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(mine))
    assert program("derive", "--case", "plain-3", "--softmax", "mine:softmax").code == 0


def test_a_piece_that_crashes_is_no_bug_of_ours(program: Program, mine: str) -> None:
    ran = program("derive", "--case", "plain-3", "--softmax-jacobian", f"{mine}:leaves")
    assert ran.code == 2
    assert "leaves raised SystemExit: 0 (mine.py, line " in ran.out
    assert "12 passed, 1 crashed" in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--show", "softmx-jacobian"], "did you mean 'softmax-jacobian'"),
        (["--softmax", "nowhere.py:f"], "there is no file 'nowhere.py'"),
        (["--softmax", "nowhere:f"], "there is no module 'nowhere'"),
        (["--softmax", "softmax"], "should read MODULE:FUNCTION"),
        (["--softmax", "os:nothing"], "'os' has no function 'nothing'"),
        (["--gradient", "x.npy"], "--gradient"),
        (["--digits", "4"], "--digits 4 is outside"),
        (["--format", "xml"], "unknown report format"),
        (["--show", "fused", "--format", "jsonl"], "unknown report format"),
        (["--case", "nothing-*"], "unknown case"),
    ],
)
def test_what_cannot_be_understood(words: list[str], said: str, program: Program) -> None:
    ran = program("derive", "--case", "plain-3", *words)
    assert ran.code == 2
    assert ran.out == ""
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_reports_name_the_step(program: Program) -> None:
    record = json.loads(program("derive", "--case", "plain-3", "--format", "json").out)
    assert [result["step"] for result in record["results"]] == list(NAMES)
    by_step = {result["step"]: result for result in record["results"]}
    assert by_step["logarithm"]["worst"]["class"] is None
    assert "logit" in by_step["hessian"]["worst"]
    assert "logit" not in by_step["fused"]["worst"]
    assert by_step["fused"]["reference"]["uncertainty_ulp"] < 2.0**-30
    rows = list(csv.DictReader(io.StringIO(program("derive", "--case", "plain-3", "--format", "csv").out)))
    assert [row["step"] for row in rows] == list(NAMES)
    table = program("derive", "--case", "plain-3", "--format", "table").out
    assert "∂ŷᵢ(" not in table
    assert "ŷᵢ(δᵢₙ − ŷₙ)" in table
    assert "| softmax-jacobian |" in program("derive", "--case", "plain-3", "--format", "markdown").out
    # other commands say nothing of steps
    (result,) = json.loads(program("check", "--case", "plain-3", "--format", "json").out)["results"]
    assert "step" not in result


def test_one_step_at_length(program: Program, tmp_path: Path) -> None:
    out = program("derive", "--case", "plain-3", "--show", "softmax-off-diagonal").out
    assert out.count("i = 0") == 6  # two rows, three matrices
    assert out.splitlines()[6].split()[:4] == ["i", "=", "0", "-"]
    components = list(
        csv.DictReader(io.StringIO(program("derive", "--case", "plain-3", "--show", "hessian", "--format", "csv").out))
    )
    assert len(components) == 2 * 9
    (step,) = json.loads(program("derive", "--case", "plain-3", "--show", "output-loss", "--format", "json").out)[
        "steps"
    ]
    assert [component["class"] for component in step["components"]] == [0, 1, 2, 0, 1, 2]
    long = program("derive", str(DATA / "langid_sentences_f32.npz"), "--rows", "3:5", "--show", "fused")
    assert "the 16 nearest to their bound, or furthest past it, of 284:" in long.out
    assert "row 3, class" in long.out
    assert program("derive", "--case", "plain-3", "--show", "fused", "--format", "markdown").out.count("\n|---:|") == 1
    path = tmp_path / "x.json"
    assert program("derive", "--case", "plain-3", "--show", "fused", "--report", f"json={path}").code == 0
    assert json.loads(path.read_text())["steps"][0]["step"] == "fused"


def test_several_cases_and_what_is_said_of_them(program: Program) -> None:
    ran = program("derive", "--case", "saturated-gap-1*", "--case", "nonfinite-*", "--dtype", "float32")
    assert "saturated-gap-1e300  " not in ran.out
    assert "note: left out, because their logits do not fit into the format: saturated-gap-1e300" in ran.out
    assert "saturated-gap-10 " in ran.out
    assert "undefined (NaN or inf) left out" in ran.out
    ran = program("derive", str(DATA / "langid_sentences_f32.npz"), "--rows", "0:30", "--show", "hessian")
    assert "142 classes: steps that go by logits are checked at 28 of the logits in each row" in ran.out
    assert "matrices are checked in 16 of 30 rows" in ran.out
    assert "30 of the input's rows were checked" in ran.out
    other = program(
        "derive", str(DATA / "langid_sentences_f32.npz"), "--rows", "0:1", "--show", "hessian", "--seed", "1"
    )
    assert other.code == 0


def test_nothing_to_look_at(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"logits": [["nan", 1]], "labels": [0]}')
    ran = program("derive", str(path))
    assert ran.code == 2
    assert "13 skipped" in ran.out
