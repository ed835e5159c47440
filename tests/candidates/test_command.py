"""Programs as candidates: a C program that is right, and programs that fail in every way that there is."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import SOUND, Program, alive, wait_for

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "kernel.c"
PLACES = "{logits} {labels} {gradient}"
KERNEL = f"{SOUND}import sys\nnp.save(sys.argv[3], f(np.load(sys.argv[1]), np.load(sys.argv[2])))\n"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, and one that leaves out a class."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("c")
    source = EXAMPLE.read_text()
    assert source.count("i < classes; i++) total +=") == 1
    (folder / "wrong.c").write_text(source.replace("i < classes; i++) total +=", "i < classes - 1; i++) total +="))
    for name, path in (("kernel", EXAMPLE), ("wrong", folder / "wrong.c")):
        subprocess.run([compiler, "-O2", "-o", str(folder / name), str(path), "-lm"], check=True)
    return folder


def python(code: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {PLACES}"


def test_a_c_program(compiled: Path, program: Program) -> None:
    for case in ("plain-3", "plain-1000", "saturated-gap-20"):
        ran = program("check", "--case", case, "--command", f"{compiled}/kernel {PLACES}")
        assert ran.code == 0, ran.out
    ran = program("check", "--case", "plain-1000", "--command", f"{compiled}/wrong {PLACES}")
    assert ran.code == 1
    words = shlex.split(ran.out.split("again: ")[1].splitlines()[0])
    assert program(*words[1:]).code == 1
    ran = program("stability", "--case", "plain-*", "--dtype", "float32", "--command", f"{compiled}/kernel {PLACES}")
    assert ran.code == 0
    ran = program("check", "--case", "plain-3", "--loss", "softcap=30", "--command", f"{compiled}/kernel {PLACES}")
    assert ran.code == 2
    assert "the loss has softcap, and the command no {loss} that would tell the program" in ran.out
    ran = program("check", "--case", "plain-3", "--dtype", "float64", "--command", f"{compiled}/kernel {PLACES}")
    assert ran.code == 2
    assert "ended with exit code 2: " in ran.out
    assert "neither float32 logits nor int64 labels" in ran.out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), "the program was killed by SIGSEGV"),
        (python("import time; time.sleep(60)"), "the program did not end within 1 s and was stopped"),
        (
            python("import sys; print('out', flush=True); sys.exit('no kernel')"),
            "ended with exit code 1: out no kernel",
        ),
        (python("pass"), "ended without an error and wrote no gradient"),
        (
            python("import sys; d = open(sys.argv[1], 'rb').read(); open(sys.argv[3], 'wb').write(d[:-7])"),
            "gradient.npy: the header of the array promises shape (2, 3) of float32, 24 bytes; there are 17",
        ),
        (python("import sys; open(sys.argv[3], 'wb')"), "the program's gradient.npy: is empty"),
        (
            python("import sys, numpy; numpy.save(sys.argv[3], numpy.zeros((3, 2), 'f4'))"),
            "the program's gradient.npy: the gradient has shape (3, 2), the logits (2, 3)",
        ),
        (f"./nowhere {PLACES}", "'./nowhere' cannot be run: No such file"),
        (python("import os, sys; os.mkfifo(sys.argv[3])"), "the program wrote a gradient that is no file"),
        (python("import os, sys; os.mkdir(sys.argv[3])"), "the program wrote a gradient that is no file"),
        (python("import os, shutil, sys; shutil.rmtree(os.path.dirname(sys.argv[1]))"), "wrote no gradient"),
        (
            python(
                "import subprocess, time; subprocess.Popen(['sleep', '99'], start_new_session=True); time.sleep(99)"
            ),
            "did not end within 1 s",
        ),
        (python("import sys; print('x' * 10**8); sys.exit(7)"), "ended with exit code 7: xxx"),
        (python("print('\\x1b[31m' * 9); raise SystemExit(1)"), r"\x1b[31m\x1b[31m"),
    ],
)
def test_what_goes_wrong_is_told(
    command: str, said: str, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # a cold start may take more than a second
    timeout = "1" if "within 1 s" in said else "60"
    ran = program("check", "--case", "plain-3", "--timeout", timeout, "--command", command, "--candidate", "shifted")
    assert ran.code == 2
    assert said in ran.out
    assert "2 results: 1 passed, 1 crashed" in ran.out
    assert "\x1b" not in ran.out
    assert not list(tmp_path.iterdir())


def test_a_program_that_leaves_another_behind(program: Program, tmp_path: Path) -> None:
    """It has ended, and its answer counts; what holds its streams is not waited for, and ends."""
    script = tmp_path / "kernel.py"
    script.write_text(
        f"{KERNEL}import subprocess\n"
        "left = subprocess.Popen(['sleep', '300'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(left.pid))\n"
    )
    ran = program("check", "--case", "plain-3", "--command", f"{shlex.quote(sys.executable)} {script} {PLACES}")
    assert ran.code == 0, ran.out
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_program_ends_with_the_run(sent: signal.Signals, tmp_path: Path) -> None:
    """With what it has started, and its files with it."""
    (tmp_path / "kernel.py").write_text(
        "import os, subprocess, time\n"
        "left = subprocess.Popen(['sleep', '300'])\n"
        "open('begun', 'w').write(f'{os.getpid()} {left.pid}')\n"
        "os.rename('begun', 'pids')\n"
        "time.sleep(300)\n"
    )
    (tmp_path / "temporary").mkdir()
    words = ["check", "--case", "plain-3", "--command", f"{shlex.quote(sys.executable)} kernel.py {PLACES}"]
    with subprocess.Popen(
        [sys.executable, "-m", "gradcheck", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path / "temporary")},
    ) as running:
        wait_for((tmp_path / "pids").exists, "the program")
        running.send_signal(sent)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (128 + sent, b"")
    assert b"interrupted before the end" in out
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_for(lambda: not any(map(alive, pids)), "the program to end")
    assert not list((tmp_path / "temporary").iterdir())


def test_inputs_that_are_gone_were_written_to(program: Program, tmp_path: Path) -> None:
    script = tmp_path / "kernel.py"
    script.write_text(f"{KERNEL}import os\nos.remove(sys.argv[1])\n")
    ran = program("check", "--case", "plain-3", "--command", f"{shlex.quote(sys.executable)} {script} {PLACES}")
    assert ran.code == 1
    assert "it overwrites its input (logits)" in ran.out


def test_no_shell_sees_it(program: Program, tmp_path: Path) -> None:
    there = tmp_path / "there"
    ran = program("check", "--case", "plain-3", "--command", f"echo ; touch {there} $(touch {there}) {PLACES}")
    assert ran.code == 2
    assert not there.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--command", "./kernel {logits} {labels}"], "has no place for {gradient}"),
        (["--command", "./kernel '{logits} {labels} {gradient}"], "No closing quotation"),
        (["--command", f"x {PLACES}", "--exchange", "csv"], "unknown exchange format 'csv'"),
        (["--command", f"x {PLACES}", "--timeout", "0"], "a timeout is from 0 to 1e+06 seconds, not 0"),
        (["--timeout", "nan"], "a timeout is from 0"),
        (["--timeout", "1e300"], "a timeout is from 0"),
        (["--candidate", "frameworks"], "unknown candidate 'frameworks'"),
        (["--device", "cpu"], "--device goes with --candidate jax, keras"),
    ],
)
def test_what_cannot_be_understood(words: list[str], said: str, program: Program) -> None:
    ran = program("check", "--case", "plain-3", *words)
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("exchange", ["npy", "safetensors"])
def test_files_in_every_format(dtype: str, exchange: str, tmp_path: Path, program: Program) -> None:
    """A program that reads the loss, too, and writes the gradient of exactly that loss."""
    script = tmp_path / "kernel.py"
    script.write_text(
        "import json, sys\n"
        "import numpy as np\n"
        "from gradcheck import candidates, files, formats, losses\n"
        "from gradcheck.problem import Problem\n"
        "logits, labels, gradient, loss = sys.argv[1:]\n"
        "held = files.load(logits, dtype="
        f"{dtype!r})\n"
        "y, _ = files.load_labels(labels, held.layout, held.format)\n"
        "options = losses.given(json.load(open(loss)))\n"
        "problem = Problem(logits=held.logits, labels=y, format=held.format, loss=options)\n"
        "from pathlib import Path\n"
        "files.save_one(Path(gradient), 'gradient', candidates.load('wide' if "
        f"{dtype != 'float64'} else 'shifted').gradient(problem))\n"
    )
    command = f"{shlex.quote(sys.executable)} {script} {PLACES} {{loss}}"
    words = ["check", "--generate", "normal", "--rows", "3", "--classes", "4", "--dtype", dtype, "--exchange", exchange]
    options = ["--loss", "reduction=mean", "--loss", "weight=1,2,3,4", "--loss", "label_smoothing=0.1"]
    ran = program(*words, *options, "--command", command)
    assert ran.code == 0, ran.out
    assert f"  {dtype}  " in ran.out


def test_code_that_was_just_mended_is_not_what_is_cached_of_it(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's cache of a file's code goes by its size and the second of its change."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    own = tmp_path / "own.py"
    for text, code in ((SOUND, 0), (SOUND.replace("-= 1", "-= 2"), 1)):
        own.write_text(text)
        os.utime(own, (10**9, 10**9))
        assert program("check", "--case", "plain-3", "--candidate", f"{own}:f").code == code
    assert list(tmp_path.iterdir()) == [own]
