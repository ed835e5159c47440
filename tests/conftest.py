"""What many tests need: problems from a line, the command line in this process, real logits."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

# pytester takes out of sys.modules what its inner session was the first to import; these look for themselves there
from gradcheck import candidates, catalogue, files, losses, mistakes, processes, report  # noqa: F401
from gradcheck.formats import FORMATS, Array, Format, named
from gradcheck.problem import Problem
from gradcheck.reference import engines  # noqa: F401

if "COVERAGE_PROCESS_CONFIG" in os.environ:
    _killed = processes._end

    def _counted(popen: subprocess.Popen[bytes], life: int) -> None:
        """What is killed is not counted: a child that goes by itself, as it does when its parent is gone, is."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), life)  # closes the end that the child listens to
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(timeout=30)
        _killed(popen, life)

    processes._end = _counted

DATA = Path(__file__).parent / "data"
EVERY_FORMAT = tuple(FORMATS.values())

KILLS = int(os.environ.get("GRADCHECK_TEST_KILLS", "3"))
"""Moments at which a run is killed; a hundred take some minutes."""
SEED = int(os.environ.get("GRADCHECK_TEST_SEED", random.SystemRandom().randrange(2**32)))
"""Of those moments; a test that fails shows it."""

SOUND = """\
import numpy as np
def f(x, y):
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), y] -= 1
    return p
"""
"""The source of a sound gradient, for files that tests write."""

WHOLE = bool(os.environ.get("GRADCHECK_TEST_WHOLE"))
"""Whether those tests try all that otherwise try a part of what is alike."""


def alive(pid: int) -> bool:
    """Whether a process is there, and more than what is left of one."""
    state = Path(f"/proc/{pid}/stat")
    try:
        return state.read_text().split(") ")[1][0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Waits until something is so, for a minute at most."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)


class Killing:
    """A command that is killed at random moments, in the current folder.

    Attributes:
        whole: what it does where it is left alone.
        takes: seconds that this took.
        rng: of the moments.
    """

    def __init__(self, words: Sequence[str], name: str) -> None:
        self._words = [sys.executable, "-m", "gradcheck", *words]
        self.rng = random.Random(f"{SEED} {name}")
        print(f"GRADCHECK_TEST_SEED={SEED}")
        started = time.monotonic()
        self.whole = self.run()
        self.takes = time.monotonic() - started

    def run(self) -> subprocess.CompletedProcess[bytes]:
        """Lets it run to its end."""
        return subprocess.run(self._words, capture_output=True, check=False)

    def kill(self, *, writing: bool = False) -> None:
        """Begins it, and kills it at any moment of the time that it takes.

        Args:
            writing: at any moment after something in the folder has changed, instead.
        """
        before = seen()
        run = subprocess.Popen(self._words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if writing:
            while run.poll() is None and seen() == before:
                pass
            time.sleep(self.rng.choice([0, self.rng.uniform(0, 0.005), self.rng.uniform(0, 0.05)]))
        else:
            time.sleep(self.rng.uniform(0, self.takes))
        run.kill()
        run.wait()


def seen() -> set[tuple[str, int]]:
    """What is in the current folder."""
    return {(entry.name, entry.inode()) for entry in os.scandir()}


def make_problem(logits: Any, labels: Any, fmt: str | Format = "float64", loss: Sequence[str] = ()) -> Problem:
    """A problem from nested lists; labels are hard where they are whole numbers."""
    fmt = named(fmt) if isinstance(fmt, str) else fmt
    labels = np.asarray(labels)
    return Problem(
        logits=fmt.round_array(np.asarray(logits, dtype=np.float64)),
        labels=labels.astype(np.int64) if labels.ndim == 1 else fmt.round_array(labels.astype(np.float64)),
        format=fmt,
        loss=losses.parse(loss),
    )


def arrays(path: str | Path) -> dict[str, Array]:
    """All arrays of an .npz file, which is closed again."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def real(name: str, fmt: str | None = None, loss: Sequence[str] = ("reduction=mean",)) -> tuple[Problem, Any]:
    """Real logits as a problem, cast to `fmt` if given, and the archive they come from."""
    archive = arrays(DATA / f"{name}.npz")
    logits: Array = archive["logits"]
    own = named("bfloat16") if logits.dtype == np.uint16 else named(logits.dtype.name)
    exact = logits.view(own.dtype).astype(np.float64)
    target = named(fmt) if fmt else own
    problem = Problem(
        logits=target.round_array(exact), labels=archive["labels"], format=target, loss=losses.parse(loss)
    )
    return problem, archive


@pytest.fixture
def one_byte(monkeypatch: pytest.MonkeyPatch) -> Format:
    """A format of one byte, as one more row of the table; NumPy knows its dtype as little as bfloat16."""
    row = dataclasses.replace(
        named("float16"), name="float8_e5m2", precision=3, dtype=np.dtype(ml_dtypes.float8_e5m2), wider="float16"
    )
    monkeypatch.setitem(FORMATS, row.name, row)
    return row


@dataclass(frozen=True)
class Ran:
    """What a run of the program left behind."""

    code: int
    out: str
    err: str


Program = Callable[..., Ran]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The whole program in this process, its exit code and both its streams."""
    from gradcheck.__main__ import main

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["gradcheck", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return Ran(left.value.code if isinstance(left.value.code, int) else 0, captured.out, captured.err)

    return run
