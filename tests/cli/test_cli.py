"""The program as a user meets it: exit codes, streams, messages."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import __version__, catalogue, files, streaming
from gradcheck.cli import _options
from gradcheck.formats import FORMATS, named
from tests.conftest import DATA, WHOLE, Program, arrays

GRADCHECK = [sys.executable, "-m", "gradcheck"]


def saved(path: Path, logits: Any, labels: Any, **more: Any) -> str:
    np.savez(path, logits=logits, labels=labels, **more)
    return str(path)


@pytest.fixture
def small(tmp_path: Path) -> str:
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    return saved(tmp_path / "small.npz", logits, np.arange(3))


def shifted(path: str) -> Any:
    archive = arrays(path)
    exps = np.exp(archive["logits"] - archive["logits"].max(axis=1, keepdims=True))
    p = exps / exps.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), archive["labels"]] -= 1
    return p


# --- the main job ----------------------------------------------------------------------------------------------


def test_stability_passes_with_the_default_candidate(program: Program) -> None:
    ran = program("stability")
    assert ran.code == 0
    assert ran.err == ""
    verdicts = [line.split()[0] for line in ran.out.splitlines()[:-1] if not line.startswith(" ")]
    assert set(verdicts) == {"pass"}
    assert len(verdicts) >= 50
    assert ran.out.splitlines()[-1] == f"{len(verdicts)} results: {len(verdicts)} passed"


def test_stability_names_the_cases_that_naive_fails(program: Program) -> None:
    ran = program("stability", "--candidate", "naive")
    assert ran.code == 1
    failed = {line.split()[1] for line in ran.out.splitlines() if line.startswith("fail")}
    assert {"overflow-boundary", "overflow-sum", "overflow-beyond", "underflow-boundary", "underflow-beyond"} <= failed
    assert "plain-3" not in failed


def test_stability_names_the_offsets_that_logsumexp_fails(program: Program) -> None:
    ran = program("stability", "--candidate", "logsumexp", "--case", "offset-*", "--dtype", "float32")
    assert ran.code == 1
    failed = {line.split()[1] for line in ran.out.splitlines() if line.startswith("fail")}
    assert {"offset-plus-1e7", "offset-minus-1e7", "offset-mixed-rows"} <= failed


HARD_ONLY = """
import numpy as np


def gradient(logits, labels):
    assert labels.ndim == 1
    top = np.exp(logits - logits.max(axis=1, keepdims=True))
    return top / top.sum(axis=1, keepdims=True) - np.eye(logits.shape[1], dtype=logits.dtype)[labels]


def never(logits, labels):
    raise ValueError("no")
"""


def test_a_candidate_that_is_judged_nowhere_is_no_success(program: Program, tmp_path: Path) -> None:
    """But one of which a baseline knows it."""
    code, saved = tmp_path / "mine.py", tmp_path / "saved.json"
    code.write_text(HARD_ONLY)
    words = ["check", "--case", "plain-3", "--loss", "label_smoothing=0.1", "--candidate", f"{code}:gradient"]
    assert program(*words).code == 2
    words += ["--candidate", "shifted"]
    ran = program(*words, "--report", f"json={saved}")
    assert ran.code == 2
    assert ran.out.splitlines()[-1] == f"2 results: 1 passed, 1 skipped; {code}:gradient was judged nowhere"
    assert program(*words, "--baseline", str(saved)).code == 0
    assert program("report", str(saved)).code == 2


def test_stability_says_how_to_leave_soft_labels_out(program: Program, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(HARD_ONLY)
    cases = ["stability", "--case", "soft-*", "--case", "masked-some", "--case", "plain-3", "--dtype", "float32"]
    ran = program(*cases, "--candidate", f"{code}:gradient", "--candidate", f"{code}:never")
    assert ran.code == 2
    assert [line for line in ran.out.splitlines() if line.startswith("note:")] == [
        f"note: {code}:gradient crashed on soft labels alone, (N, k): "
        "--tag hard chooses the cases with class numbers, (N,)"
    ]
    ran = program("stability", "--case", "soft-*", "--dtype", "float32", "--candidate", f"{code}:never")
    assert "note:" not in ran.out
    ran = program(*cases, "--candidate", f"{code}:gradient", "--tag", "hard")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "2 results: 2 passed")


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.npz")))
def test_real_logits_pass(name: str, program: Program) -> None:
    dtype = ["--dtype", "bfloat16"] if name.endswith("bf16") else []
    ran = program("check", str(DATA / f"{name}.npz"), *dtype)
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "1 result: 1 passed")


def test_the_published_row(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text('{"logits": [[37.42994775023705, 0]], "labels": [0]}')
    ran = program("check", str(path), "--tolerance", "ulp:4", "--candidate", "shifted", "--candidate", "compensated")
    assert ran.code == 1
    assert "row 0, class 0: 0.0 (reference -5.55111512312577578" in ran.out
    assert re.findall(r"^(\w+) .*  (shifted|compensated)  ", ran.out, re.M) == [
        ("fail", "shifted"),
        ("pass", "compensated"),
    ]
    assert program("check", str(path)).code == 0


def test_generated_logits(program: Program) -> None:
    ran = program("check", "--generate", "normal", "--rows", "4", "--classes", "10", "--format", "json")
    assert ran.code == 0
    (result,) = json.loads(ran.out)["results"]
    assert (result["rows"], result["classes"], result["dtype"]) == (4, 10, "float32")


# --- gradients from elsewhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npy", "csv", "json"])
def test_a_gradient_that_another_program_wrote(suffix: str, small: str, tmp_path: Path, program: Program) -> None:
    for factor, code in ((1.0, 0), (1.001, 1)):
        gradient = (shifted(small) * np.float32(factor)).astype(np.float32)
        path = tmp_path / f"g.{suffix}"
        if suffix == "npy":
            np.save(path, gradient)
        elif suffix == "csv":
            path.write_text("\n".join(",".join(map(repr, row)) for row in gradient.astype(float).tolist()))
        else:
            path.write_text(json.dumps(gradient.astype(float).tolist()))
        ran = program("check", small, "--gradient", str(path))
        assert ran.code == code
        assert "float32 >" not in ran.out  # text is judged in the problem's format


def test_a_gradient_in_the_file_is_checked(small: str, tmp_path: Path, program: Program) -> None:
    archive = arrays(small)
    path = saved(tmp_path / "bad.npz", archive["logits"], archive["labels"], gradient=shifted(small) * 2)
    ran = program("check", path)
    assert ran.code == 1
    assert "gradient in the file" in ran.out
    again = next(line for line in ran.out.splitlines() if "again:" in line).split("gradcheck ", 1)[1]
    assert program(*shlex.split(again)).code == 1


def test_bit_patterns_of_a_gradient(small: str, tmp_path: Path, program: Program) -> None:
    fmt = named("bfloat16")
    np.save(tmp_path / "g.npy", fmt.round_array(shifted(small).astype(np.float64)))
    assert program("check", small, "--gradient", str(tmp_path / "g.npy")).code == 2
    ran = program("check", small, "--gradient", str(tmp_path / "g.npy"), "--gradient-dtype", "bfloat16")
    assert ran.code == 0
    assert "float32 > bfloat16" in ran.out


def test_a_part_of_the_rows_keeps_its_numbers_and_its_share(small: str, tmp_path: Path, program: Program) -> None:
    archive = arrays(small)
    wrong = shifted(small) / 3
    wrong[2, 1] *= 1.01
    path = saved(tmp_path / "mean.npz", archive["logits"], archive["labels"], gradient=wrong.astype(np.float32))
    ran = program("check", path, "--loss", "reduction=mean", "--rows", "1:3")
    assert ran.code == 1
    assert "row 2, class 1" in ran.out
    assert program("check", path, "--loss", "reduction=mean", "--rows", ":2").code == 0
    assert "2 of the input's rows" in program("check", small, "--sample", "2", "--seed", "3").out


def test_undefined_rows_are_told_even_when_all_passes(tmp_path: Path, program: Program) -> None:
    logits = np.vstack([np.full((9, 3), np.nan, np.float32), np.ones((1, 3), np.float32)])
    path = saved(tmp_path / "nan.npz", logits, np.zeros(10, int))
    for name in ("concise", "table", "markdown"):
        ran = program("check", path, "--format", name)
        assert ran.code == 0
        assert "9 rows undefined" in ran.out.replace("\n", " ")
    path = saved(tmp_path / "big.npz", np.array([[1e5, 1], [1, 2]], np.float32), np.array([1, 1]))
    assert "1 of them infinite" in program("check", path, "--dtype", "float16").out


def test_nothing_judged_is_no_pass(tmp_path: Path, program: Program) -> None:
    path = saved(tmp_path / "nan.npz", np.full((2, 3), np.nan), np.zeros(2, int))
    ran = program("check", path)
    assert ran.code == 2
    assert "undefined" in ran.out
    assert program("check", path, "--exit-zero").code == 0


# --- reports ---------------------------------------------------------------------------------------------------


def test_reports_go_where_they_are_sent(small: str, tmp_path: Path, program: Program) -> None:
    out, record, marked = tmp_path / "out.csv", tmp_path / "r.json", tmp_path / "r.md"
    ran = program(
        "check",
        small,
        "--format",
        "csv",
        "--output",
        str(out),
        "--report",
        f"json={record}",
        "--report",
        f"markdown={marked}",
    )
    assert (ran.code, ran.out) == (0, "")
    assert out.read_text().startswith("case,")
    assert json.loads(record.read_text())["summary"]["pass"] == 1
    assert marked.read_text().startswith("| case")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "r.json", "r.md", "small.npz"]


def test_a_report_replaces_what_a_link_points_to(small: str, tmp_path: Path, program: Program) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    assert program("check", small, "--format", "json", "--output", str(link)).code == 0
    assert link.is_symlink()
    assert json.loads(real.read_text())["schema_version"] == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--output", ""],
        ["--output", "/nonexistent/x"],
        ["--report", "json=/nonexistent/x"],
        ["--output", "same", "--report", "json=same"],
        ["--report", "json"],
        ["--report", "xml=x"],
        ["--format", "xml"],
        ["--color", "red"],
    ],
)
def test_targets_are_tried_before_the_work(options: list[str], small: str, program: Program) -> None:
    ran = program("check", small, *options)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1


def test_quiet_and_version(small: str, program: Program) -> None:
    assert program("check", small, "-q").out == ""
    assert program("--version").out == f"gradcheck {__version__}\n"


# --- generate and explain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("suffix", files.names())
@pytest.mark.parametrize("name", ["heavy-tailed", "extreme-largest-finite", "nonfinite-inf-row"])
def test_what_is_generated_can_be_checked(name: str, suffix: str, dtype: str, tmp_path: Path, program: Program) -> None:
    path = str(tmp_path / f"x.{suffix}")
    ran = program("generate", name, "-o", path, "--dtype", dtype)
    assert ran.code == 0
    labels = ["--labels", "argmax"] if suffix == "npy" else []
    checked = program("check", path, "--dtype", dtype, *labels)
    assert checked.code == 0, checked


def test_explain(program: Program) -> None:
    everything = program("explain").out
    for name in ("equal-70000", "compensated", "reduction", "allclose:RTOL,ATOL", "bfloat16", "heavy-tailed", "130"):
        assert f"  {name}  " in everything
    for name in ("cases", "exit-codes", "equal-70000", "compensated", "ulp", "float16", "ignore_index"):
        ran = program("explain", name)
        assert (ran.code, ran.err) == (0, "")
        assert name in ran.out
    assert program("explain", "nothing").code == 2


# --- what users do wrong ---------------------------------------------------------------------------------------

WRONG: list[tuple[list[str], str]] = [
    (["check"], "there are no logits"),
    (["check", "nosuch.npz"], "nosuch.npz: No such file"),
    (["check", "{small}", "--candidate", "shiftd"], "did you mean 'shifted'"),
    (["check", "{small}", "--dtype", "float33"], "did you mean 'float32'"),
    (["check", "{small}", "--gradient-dtype", "float33"], "did you mean 'float32'"),
    (["check", "{small}", "--tolerance", "ulp:-1"], "needs a finite number >= 0"),
    (["check", "{small}", "--tolerance", "ulp:nan"], "needs a finite number >= 0"),
    (["check", "{small}", "--tolerance", "close"], "unknown tolerance 'close'"),
    (["check", "{small}", "--loss", "reduction=avg"], "reduction is one of"),
    (["check", "{small}", "--loss", "focal=2"], "unknown loss option 'focal'"),
    (["check", "{small}", "--labels", "7"], "label 7 of row 0 is outside 0…3"),
    (["check", "{small}", "--labels=-100"], "--loss ignore_index=-100"),
    (["check", "{small}", "--labels=--5"], "--5"),
    (["check", "{small}", "--labels", "-"], "standard input is for the logits"),
    (["check", "{small}", "--digits", "4"], "--digits 4 is outside"),
    (["check", "{small}", "--digits", "many"], "whole number or auto"),
    (["check", "{small}", "--step", "2"], "--step"),
    (["check", "{small}", "--step", "2^-30000"], "2^-30000 is outside"),
    (["check", "{small}", "--step", "nan"], "--step"),
    (["check", "{small}", "--method", "magic"], "unknown method"),
    (["check", "{small}", "--rows", "5:9"], "leaves none of the 3 rows"),
    (["check", "{small}", "--rows", "x"], "--rows should read A:B"),
    (["check", "{small}", "--classes", "7"], "--classes go with --generate"),
    (["check", "{small}", "--seed", "7"], "--seed goes with"),
    (["check", "{small}", "--case", "plain-3"], "exclude each other"),
    (["check", "{small}", "--input-format", "xls"], "unknown input format"),
    (["check", "{small}", "--gradient", "{small}"], "holds no array named 'gradient'"),
    (["check", "--case", "plain-*"], "names 5 cases"),
    (["check", "--case", "plain-3", "--labels", "nosuch.npy"], "No such file"),
    (["check", "--case", "saturated-gap-1e300", "--dtype", "float16"], "cannot hold"),
    (["check", "--generate", "gaussian"], "unknown distribution 'gaussian'"),
    (["check", "--generate", "normal", "--rows", "0"], "nothing to check"),
    (["check", "--generate", "normal", "--rows", "many"], "whole number"),
    (["check", "--generate", "normal", "--classes", "99999999999"], "more than"),
    (["check", "--generate", "normal", "--scale", "1e308"], "draws logits past"),
    (["check", "-"], "needs --input-format"),
    (["stability", "--case", "plain-33"], "unknown case"),
    (["stability", "--candidate", "nothing"], "unknown candidate"),
    (["stability", "--dtype", "float8"], "unknown dtype"),
    (["generate", "nothing", "-o", "x.npz"], "unknown case or distribution"),
    (["generate", "equal-2", "-o", "x.npz", "--rows", "100"], "--rows go with a distribution"),
    (["generate", "normal", "-o", "x"], "no suffix names no file format"),
    (["generate", "normal", "-o", "/nonexistent/x.npz"], "cannot be written"),
    (["generate", "soft-plain", "-o", "x.csv"], "soft labels"),
    (["generate", "saturated-gap-1e300", "--dtype", "float16", "-o", "x.npz"], "float16 cannot hold"),
    (["check", "--case", "plain-3", "--input-format", "csv"], "--input-format goes with a file"),
    (["check", "--case", "plain-3", "--loss", "weight=@w"], "no file of logits, and no array 'w'"),
    (["check", "--case", "plain-3", "--output", "/proc/version"], "cannot be written"),
    (["check", "--case", "plain-3", "--output", "/"], "cannot be written"),
    (["check", "--case", "plain-3", "--output", "x.json/"], "cannot be written"),
    (["sweep", "--case", "plain-3", "--output", "x.jsonl"], "unknown report format 'jsonl'"),
    (["check", "{small}", "--candidate", "mine.py"], "code of your own is mine.py:FUNCTION"),
    (["check", "{small}", "--candidate", "mine"], "PATH.py:FUNCTION"),
    (["check", "{small}", "--candidate", "mine.py::f"], "should read MODULE:FUNCTION or PATH.py:FUNCTION"),
    (["derive", "--case", "saturated-gap-1e300", "--case", "overflow-huge*", "--dtype", "float16"], "unknown case"),
    (
        ["derive", "--case", "losing-gap-1e38", "--case", "saturated-gap-1e300", "--dtype", "float16"],
        "float16 can hold",
    ),
]


@pytest.mark.parametrize(
    ("words", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_clear_sentence(words: list[str], message: str, small: str, program: Program) -> None:
    ran = program(*(word.replace("{small}", small) for word in words))
    assert ran.code == 2
    assert ran.out == ""
    assert message in ran.err
    assert ran.err.startswith("gradcheck: ")
    assert len(ran.err.splitlines()) == 1


def test_unknown_options_exit_2(program: Program) -> None:
    assert program("check", "--nonsense").code == 2
    assert program("nonsense").code == 2


def test_a_hostile_name_stays_text(tmp_path: Path, program: Program) -> None:
    path = tmp_path / "e\x1b]0;pwn\x07\n.csv"
    path.write_text("1,2\n")
    for form in ("concise", "table", "markdown", "csv"):
        ran = program("check", str(path), "--labels", "0", "--tolerance", "ulp:0", "--format", form)
        assert ran.code == 1
        assert "\x1b" not in ran.out
        assert "\x07" not in ran.out
    again = next(
        line
        for line in program("check", str(path), "--labels", "0", "--tolerance", "ulp:0").out.splitlines()
        if "again" in line
    )
    command = again.split("again: gradcheck ", 1)[1]
    shell = subprocess.run(
        ["bash", "-c", f"{shlex.join(GRADCHECK)} {command}"], capture_output=True, text=True, check=False
    )
    assert shell.returncode == 1
    missing = program("check", str(tmp_path / "no\x1b[31m.csv"))
    assert "\x1b" not in missing.err


# --- streams and signals, in a process of their own -------------------------------------------------------------


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*GRADCHECK, *words], capture_output=True, check=False, **options)


def test_standard_input() -> None:
    ran = run("check", "-", "--input-format", "csv", "--labels", "0", input=b"1,2,3\n")
    assert ran.returncode == 0
    assert run("check", "-", "--input-format", "csv", "--labels", "0", input=b"").returncode == 2


@pytest.mark.parametrize(
    "words", [["stability", "--case", "equal-*"], ["explain"], ["--help"], ["check", "nosuch.npz"]]
)
def test_a_closed_pipe_is_no_error(words: list[str]) -> None:
    code = 2 if "nosuch.npz" in words else 0
    line = f"{shlex.join([*GRADCHECK, *words])} 2>&1 | true; echo ${{PIPESTATUS[0]}}"
    shell = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert shell.stdout.strip() == str(code)
    assert shell.stderr == ""


@pytest.mark.parametrize("words", [["check", "--case", "plain-3"], ["explain"], ["--version"]])
def test_a_full_disk_is_told(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([*GRADCHECK, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr == "gradcheck: standard output cannot be written (No space left on device)\n"


@pytest.mark.parametrize(("words", "code"), [(["generate", "normal", "-o"], 0), (["check", "no.npz", "--output"], 2)])
def test_messages_that_nobody_can_read_change_nothing(words: list[str], code: int, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([*GRADCHECK, *words, tmp_path / "x.npz"], stdout=full, stderr=full, check=False)
    assert ran.returncode == code
    assert (tmp_path / "x.npz").exists() == (code == 0)


def test_streams_that_are_not_there() -> None:
    line = f"{shlex.join([*GRADCHECK, 'check', '--case', 'plain-3'])} >&-"
    assert subprocess.run(["bash", "-c", line], check=False).returncode == 0
    line = f"{shlex.join([*GRADCHECK, 'check', '-', '--input-format', 'csv'])} <&-"
    shell = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (shell.returncode, shell.stderr) == (2, "gradcheck: standard input is closed\n")


def test_logits_without_labels_ask_for_them(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("1,2\n")
    ran = program("check", str(path))
    assert ran.code == 2
    assert "the logits come without labels; give --labels FILE" in ran.err
    assert program("check", str(path), "--labels", "argmin").code == 0


def test_colour_is_forced_or_forbidden(program: Program) -> None:
    words = ["check", "--case", "plain-3", "--format", "table", "--color"]
    assert "\x1b[" in program(*words, "always").out
    assert "\x1b[" not in program(*words, "never").out
    assert program(*words, "sometimes").code == 2


def test_a_case_tells_its_loss_when_it_is_written(program: Program, tmp_path: Path) -> None:
    ran = program("generate", "weighted-mean", "-o", str(tmp_path / "x.npz"))
    assert ran.code == 0
    words = re.findall(r"--loss (\S+)", ran.err)
    assert [word.partition("=")[0] for word in words] == ["weight", "reduction"]


@pytest.mark.skipif(sys.platform == "win32", reason="no terminal of its own")
def test_on_a_terminal(tmp_path: Path) -> None:
    """A table where that is what a terminal gets, a bar while it takes time, and no picture."""
    import pty

    def shown(*words: str) -> tuple[int, str]:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ |= {"COLUMNS": "100", "TERM": "xterm"}
            os.execv(GRADCHECK[0], [*GRADCHECK, *words])
        found = b""
        with contextlib.suppress(OSError):  # Linux says so that the other end is closed
            while part := os.read(terminal, 4096):
                found += part
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), found.decode()

    code, picture = shown("check", "--case", "plain-3", "--format", "png")
    assert code == 2
    assert "png is a picture: give it a file with --output" in picture
    code, table = shown("stability", "--dtype", "float32")
    assert code == 0
    assert "checking" in table
    assert "results: " in table
    assert "\x1b[32mpass" in table


def test_a_picture_goes_through_a_pipe() -> None:
    words = ["check", "--case", "plain-3", "--format", "png"]
    ran = subprocess.run([*GRADCHECK, *words], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("r.json", "{"),
        ("r.JSON", "{"),
        ("r.md", "| case |"),
        ("r.xml", "<testsuites "),
        ("r.svg", "<?xml"),
        ("r.txt", "pass  "),
        ("r", "pass  "),
        ("table", "pass  "),
    ],
)
def test_a_file_is_of_the_format_of_its_suffix(name: str, begins: str, program: Program, tmp_path: Path) -> None:
    path = tmp_path / name
    assert program("check", "--case", "plain-3", "--output", str(path)).code == 0
    assert path.read_text(encoding="utf-8").startswith(begins)
    assert program("check", "--case", "plain-3", "--output", str(path), "--format", "csv").code == 0
    assert path.read_text(encoding="utf-8").startswith("case,")


def test_an_interrupted_run_reports_what_it_has(tmp_path: Path) -> None:
    code, begun = tmp_path / "mine.py", tmp_path / "begun"
    code.write_text(f"""
import pathlib
import numpy as np

def gradient(logits, labels):
    if logits.shape[1] == 1000:
        pathlib.Path({str(begun)!r}).touch()
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True) - np.eye(logits.shape[1])[labels]
""")
    words = ["stability", "--dtype", "float64", "--method", "direct", "--candidate", f"{code}:gradient"]
    words += ["--case", "equal-1", "--case", "equal-2", "--case", "plain-1000"]
    with subprocess.Popen([*GRADCHECK, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not begun.exists():  # the case whose differences take long
            time.sleep(0.1)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "pass  equal-1 " in out
    assert "interrupted before the end" in out
    assert err == ""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("meanwhile", ["time.sleep(60)", "exec(text)"])
def test_a_signal_that_comes_early(sent: signal.Signals, meanwhile: str) -> None:
    """While modules are imported, whose dataclasses are made of text."""
    source = f"""
import os, time, gradcheck.__main__ as program
text = "os.kill(os.getpid(), {sent:d}); time.sleep(60)"
def imports():
    if {meanwhile!r} != "exec(text)":
        os.kill(os.getpid(), {sent:d})
    {meanwhile}
program._main = imports
program.main()
"""
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (128 + sent, "", "")


def test_an_interrupt_while_a_class_is_made_is_one(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> list[str]:
        raise RuntimeError("Error calling __set_name__ on 'x' instance 'y' in 'z'") from KeyboardInterrupt()

    monkeypatch.setattr("gradcheck.report.names", interrupted)
    ran = program("check", "--case", "plain-3")
    assert (ran.code, ran.out, ran.err) == (130, "", "")


def test_signals_are_answered_as_before_when_it_is_over(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in ends]
    during: list[Any] = []

    def names() -> list[str]:
        during.extend(signal.getsignal(number) for number in ends)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gradcheck.report.names", names)
        assert program("check", "--case", "plain-3").code == 130
    assert during[0] == before[0]
    assert all(callable(found) for found in during[1:])
    assert [signal.getsignal(number) for number in ends] == before
    before = [signal.signal(signal.SIGHUP, signal.SIG_IGN)]
    try:
        # as nohup has it
        assert program("check", "--case", "plain-3").code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[0])


PLACES: dict[str, tuple[list[str], dict[str, str]]] = {
    "ASCII": ([], dict.fromkeys(("LC_ALL", "LANG"), "C") | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "no assertions": (["-OO"], {"PYTHONHASHSEED": "7", "TZ": "Asia/Kolkata", "COLUMNS": "20", "TERM": "dumb"}),
    "warnings": (["-W", "error", "-X", "dev"], {"PYTHONHASHSEED": "8", "NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_says_the_same_everywhere(place: str, tmp_path: Path, program: Program) -> None:
    """Its docstrings and assertions may be gone, and its reader may know no letter beyond ASCII."""
    flags, changed = PLACES[place]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **changed}
    for words in (
        ["derive", "--case", "saturated-gap-20", "--format", "json"],
        ["check", "--case", "saturated-gap-20", "--candidate", "naive", "--format", "json"],
        ["check", "--case", "soft-plain", "--candidate", "compensated", "--candidate", "naive", "--format", "concise"],
        ["explain", "saturated-gap-20"],
    ):
        ran = subprocess.run(
            [sys.executable, *flags, "-m", "gradcheck", *words], capture_output=True, env=environment, check=False
        )
        here = program(*words)
        assert (ran.returncode, ran.stderr) == (here.code, here.err.encode()), words
        written = {here.out.encode(), here.out.encode("ascii", "backslashreplace")}
        assert ran.stdout in written, (
            words,
            *difflib.unified_diff(here.out.splitlines(), ran.stdout.decode().splitlines()),
        )


def test_the_table_in_a_narrow_terminal() -> None:
    for columns in ("1", "40", "60", "80", "100", "140"):
        ran = subprocess.run(
            [*GRADCHECK, "stability", "--case", "saturated-*", "--format", "table"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": columns},
        )
        # no digit is ever cut: what each metric shows is among the numbers of the JSON report, whole
        assert "saturated-gap-1e300" in ran.stdout.replace("\n", "")
        assert "…" not in ran.stdout
        if int(columns) >= 80:
            assert max(map(len, ran.stdout.splitlines())) <= int(columns)


def test_every_case_is_explained(program: Program) -> None:
    for name in list(catalogue.cases())[:: 1 if WHOLE else 4]:
        assert program("explain", name).code == 0


def test_a_bug_says_so(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(catalogue, "select", broken)
    ran = program("stability")
    assert ran.code == 70
    assert "this is a bug in gradcheck" in ran.err


def test_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    def hungry(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(catalogue, "select", hungry)
    ran = program("stability")
    assert ran.code == 2
    assert "out of memory" in ran.err


def test_standard_input_in_this_process(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[[1, 2]]")))
    ran = program("check", "-", "--input-format", "json", "--labels", "1", "--tolerance", "ulp:0")
    assert ran.code == 1
    assert "again:" not in ran.out  # standard input is not there again


def test_a_tag_is_explained_by_its_cases(program: Program) -> None:
    masked = program("explain", "masked").out
    assert "A mask of −inf makes NaN" in masked
    assert "  masked-first-block: " in masked
    assert "  vocabulary-151936: " in program("explain", "large").out
    assert "  class-left-out: " in program("explain", "total").out


def test_a_case_is_explained_at_length(program: Program) -> None:
    told = program("explain", "ignored-some").out
    assert "loss: ignore_index=-100 reduction=mean" in told
    assert "0 (ignored)" in told
    assert "FAIL" not in told
    assert "mean-of-all-rows, shown by stable in float64: row 4, class 1: " in told
    assert "(2 more rows)" in told
    assert "https://github.com/pytorch/pytorch/issues/11551" in program("explain", "nonfinite-ignored-row").out
    narrow = ", ".join(name for name, fmt in FORMATS.items() if fmt.max < 1e300)
    assert f"Not in {narrow}: the range" in program("explain", "offset-plus-1e300").out


def test_cases_that_the_format_cannot_hold_are_named(program: Program, tmp_path: Path) -> None:
    ran = program("fixtures", "record", "--case", "offset-plus-1e*", "-o", str(tmp_path / "o.gradcheck.toml"))
    assert ran.code == 0
    assert "note: left out, because their logits do not fit into the format: offset-plus-1e300" in ran.err


def test_derive_passes_over_cases_of_another_loss(program: Program) -> None:
    ran = program("derive", "--case", "weighted-sum", "--case", "plain-3", "--rows", "0:1")
    assert ran.code == 0
    assert "left out, because their loss is not plain cross-entropy: weighted-sum" in ran.out
    assert program("derive", "--case", "weighted-*").code == 2


def test_what_help_says_of_screening_is_what_python_gets() -> None:
    # --help imports nothing that knows it, so that it stands there a second time
    assert _options.Scale().certify == streaming.Screening().certify
    (said,) = typing.get_type_hints(_options.Scale, include_extras=True)["screen"].__metadata__
    assert f"past 2^{streaming.SCREENED_FROM.bit_length() - 1} components" in said.help
