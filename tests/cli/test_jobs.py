"""Several processes: the same results, and nobody left behind, however the run ends."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import streaming
from gradcheck.formats import named
from tests.conftest import SOUND, wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")

GRADCHECK = [sys.executable, "-m", "gradcheck"]
ROWS, CLASSES = 1400, 3000
ROWS_OF_PART = streaming._PART_OF_CODE // CLASSES
LOST = "a worker process was killed; what was under way was done again"


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@dataclasses.dataclass(frozen=True)
class Family:
    """A run in a process group of its own, and all that descends from it, told by its environment."""

    leader: subprocess.Popen[str]
    mark: str

    @property
    def members(self) -> dict[int, str]:
        """Command lines by process."""
        folders = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
        mine = [folder for folder in folders if self.mark.encode() in read(folder / "environ")]
        return {int(folder.name): read(folder / "cmdline").replace(b"\0", b" ").decode() for folder in mine}

    def end(self) -> tuple[int, str, str]:
        """Exit code and both streams, when nobody is left."""
        out, err = self.leader.communicate(timeout=120)
        wait_for(lambda: not self.members, "every process to end")
        return self.leader.returncode, out, err


Start = Callable[..., Family]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    families: list[Family] = []

    def begun(*words: object) -> Family:
        mark = uuid.uuid4().hex
        # as a terminal starts it, whoever has started these tests
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        leader = subprocess.Popen(
            [*GRADCHECK, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GRADCHECK_TEST": mark},
        )
        signal.signal(signal.SIGINT, before)
        families.append(Family(leader, mark))
        return families[-1]

    yield begun
    for family in families:
        for pid in family.members:
            os.kill(pid, signal.SIGKILL)
        family.leader.communicate()


# --- the results do not depend on it ----------------------------------------------------------------------------------


def same(start: Start, folder: Path, *words: object) -> dict[str, Any]:
    """That one process and two say the same in every format; what they say."""
    said = []
    for jobs in (1, 2):
        reports = [word for name in ("json", "junit") for word in ("--report", f"{name}={jobs}.{name}")]
        family = start(*words, "--jobs", jobs, "--format", "table", "-v", *reports)
        code, out, err = family.end()
        assert err == ""
        text = (folder / f"{jobs}.json").read_text().replace(f'"jobs": {jobs},', '"jobs": 0,')
        said.append((code, out, text, (folder / f"{jobs}.junit").read_text()))
    assert said[0] == said[1]
    found: dict[str, Any] = json.loads(said[0][2])
    assert said[0][0] == (1 if any(result["verdict"] == "fail" for result in found["results"]) else 0)
    return found


def test_of_what_is_generated(start: Start, tmp_path: Path) -> None:
    words = ["--generate", "normal", "--rows", 64, "--classes", CLASSES, "--dtype", "float64", "--engine", "flint"]
    naive = ["--candidate", "shifted", "--candidate", "naive", "--scale", 150]
    found = same(start, tmp_path, "check", *words, *naive)
    assert [result["verdict"] for result in found["results"]] == ["pass", "fail"]
    assert found["results"][1]["failed"] > 0


def test_of_a_gradient_from_a_file(start: Start, tmp_path: Path) -> None:
    """Rows are those of the file, and the mean is over those that are not ignored."""
    rng = np.random.default_rng(0)
    bfloat16 = named("bfloat16")
    logits = bfloat16.round_array(rng.normal(size=(80, CLASSES)))
    labels = rng.integers(CLASSES, size=80)
    labels[[7, 33]] = -100
    exps = np.exp(logits.astype(np.float64))
    gradient = exps / exps.sum(axis=1, keepdims=True)
    gradient[np.arange(80), labels] -= 1
    gradient[labels == -100] = 0
    gradient /= 78
    gradient[[20, 50], 40] *= 1.5
    bits = [array.view(np.uint16) for array in (logits, bfloat16.round_array(gradient))]
    np.savez(tmp_path / "own.npz", logits=bits[0], labels=labels, gradient=bits[1])
    words = ["check", "own.npz", "--dtype", "bfloat16", "--loss", "reduction=mean", "--loss", "ignore_index=-100"]
    words += ["--gradient-dtype", "bfloat16", "--no-screen", "--engine", "flint", "--top", "3", "--tolerance", "ulp:4"]
    (result,) = same(start, tmp_path, *words, "--rows", "5:")["results"]
    assert (result["verdict"], result["failed"], result["rows"]) == ("fail", 2, 75)
    assert [place["row"] for place in result["top"][:2]] in ([20, 50], [50, 20])
    (result,) = same(start, tmp_path, *words, "--sample", "70", "--seed", "1")["results"]
    assert result["rows"] == 70


def test_of_a_few_wide_rows(start: Start, tmp_path: Path) -> None:
    words = ["check", "--generate", "normal", "--rows", 2, "--classes", 50_000, "--engine", "flint", "--no-screen"]
    (result,) = same(start, tmp_path, *words)["results"]
    assert result["judged"] == 100_000


def test_of_the_catalogue(start: Start, tmp_path: Path) -> None:
    words = ["stability", "--case", "overflow-*", "--case", "plain-*", "--candidate", "naive", "--candidate", "shifted"]
    verdicts = {result["verdict"] for result in same(start, tmp_path, *words)["results"]}
    assert verdicts == {"pass", "fail"}


# --- however it ends --------------------------------------------------------------------------------------------------

OWN = (
    """\
import os, subprocess, time
from pathlib import Path
HERE = Path(__file__).parent
def g(x, y):
    \"\"\"Waits where a logit says so, with a process that it has started, and tells who it is.\"\"\"
    if x.max() > 50:
        started = subprocess.Popen(["sleep", "300"])
        told = HERE / f"{int(x.max())}.new"
        told.write_text(f"{os.getppid()} {os.getpid()} {started.pid}")
        told.rename(told.with_suffix(".pids"))
        while not (HERE / "go").exists():
            time.sleep(0.02)
        started.kill()
    return f(x, y)
def leaves(x, y):
    subprocess.Popen(["sleep", "300"])
    return f(x, y)
"""
    + SOUND
)
PROGRAM = """\
import os, sys
sys.path.insert(0, os.path.dirname(__file__))
import numpy as np, own
np.save(sys.argv[3], own.g(np.load(sys.argv[1]), np.load(sys.argv[2])))
"""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A run of which two parts wait, the fourth and the fifth, and all before them are done."""

    family: Family
    workers: list[int]
    others: list[int]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Logits that stay in their file."""
    logits = np.random.default_rng(0).normal(size=(ROWS, CLASSES)).astype(np.float32)
    logits[3 * ROWS_OF_PART, 0], logits[4 * ROWS_OF_PART, 0] = 60, 61
    np.savez(tmp_path / "big.npz", logits=logits, labels=np.arange(ROWS))
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


WORDS = ["check", "big.npz", "--screen", "--engine", "flint", "--format", "json"]
OF_A_FUNCTION = ["--candidate", "own.py:g"]
OF_A_PROGRAM = ["--command", f"{sys.executable} program.py {{logits}} {{labels}} {{gradient}}"]


def waiting(start: Start, folder: Path, *words: str) -> Waiting:
    family = start(*WORDS, "--jobs", 2, *(words or OF_A_FUNCTION))
    paths = [folder / "60.pids", folder / "61.pids"]
    wait_for(lambda: all(path.exists() for path in paths) or family.leader.poll() is not None, "parts to begin")
    pids = [[int(pid) for pid in path.read_text().split()] for path in paths]
    assert pids[0][0] != pids[1][0]
    assert {pid for three in pids for pid in three} < set(family.members)
    return Waiting(family, [three[0] for three in pids], [pid for three in pids for pid in three[1:]])


@pytest.mark.parametrize(
    ("sent_to", "sent"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGINT), (os.kill, signal.SIGTERM)]
)
@pytest.mark.parametrize("words", [OF_A_FUNCTION, OF_A_PROGRAM])
def test_an_interrupt_reports_what_is_done(
    sent_to: Callable[[int, int], None], sent: signal.Signals, words: list[str], big: Path, start: Start
) -> None:
    run = waiting(start, big, *words)
    sent_to(run.family.leader.pid, sent)
    code, out, err = run.family.end()
    assert (code, err) == (128 + sent, "")
    (result,) = json.loads(out)["results"]
    assert (result["verdict"], result["judged"]) == ("inconclusive", 3 * ROWS_OF_PART * CLASSES)
    assert result["unreached_rows"] == ROWS - 3 * ROWS_OF_PART
    assert json.loads(out)["notes"] == ["interrupted before the end"]


def test_an_interrupt_while_workers_start(start: Start) -> None:
    family = start("check", "--generate", "normal", "--rows", 90, "--classes", CLASSES, "--no-screen", "--jobs", 2)
    wait_for(lambda: any("forkserver" in line for line in family.members.values()), "the first of them")
    os.killpg(family.leader.pid, signal.SIGINT)
    code, out, err = family.end()
    assert (code, err) == (130, "")
    assert "interrupted before the end" in out


def test_a_killed_worker_changes_nothing(big: Path, start: Start) -> None:
    run = waiting(start, big)
    os.kill(run.workers[0], signal.SIGKILL)
    os.kill(run.others[1], signal.SIGKILL)  # what code of the user's own has started, a killed worker cannot end
    (big / "go").touch()
    code, out, err = run.family.end()
    assert (code, err) == (0, "")
    alone = start(*WORDS, *OF_A_FUNCTION, "--jobs", 1).end()
    found, wanted = json.loads(out), json.loads(alone[1])
    assert (found.pop("notes"), wanted.pop("notes")) == ([LOST], [])
    assert (found["settings"].pop("jobs"), wanted["settings"].pop("jobs")) == (2, 1)
    assert found == wanted
    assert found["results"][0]["unreached_rows"] == 0


@pytest.mark.parametrize("words", [OF_A_FUNCTION, OF_A_PROGRAM])
def test_nobody_outlives_a_killed_parent(words: list[str], big: Path, start: Start) -> None:
    run = waiting(start, big, *words)
    run.family.leader.kill()
    assert run.family.end() == (-signal.SIGKILL, "", "")


def test_what_code_leaves_behind_ends_with_the_run(big: Path, start: Start) -> None:
    code, _, err = start(*WORDS, "--candidate", "own.py:leaves", "--rows", "0:350", "--jobs", 2).end()
    assert (code, err) == (0, "")


def test_a_file_that_is_cut_while_it_is_read(big: Path, start: Start) -> None:
    run = waiting(start, big)
    os.truncate(big / "big.npz", ROWS * CLASSES)
    (big / "go").touch()
    code, out, err = run.family.end()
    assert (code, out) == (2, "")
    assert re.fullmatch(r"gradcheck: big\.npz: ends after 4200000 of \d+ bytes: it has changed since .*\n", err)


def test_a_reader_that_leaves_is_no_error(start: Start) -> None:
    words = ["check", "--generate", "normal", "--rows", 70, "--classes", CLASSES, "--no-screen", "--engine", "flint"]
    family = start(*words, "--jobs", 2)
    assert family.leader.stdout is not None
    family.leader.stdout.close()
    family.leader.stdout = None
    code, _, err = family.end()
    assert (code, err) == (0, "")


@pytest.mark.parametrize("jobs", ["0", "x", "-1", "1.5"])
def test_a_number_of_jobs_is_a_whole_one(jobs: str, start: Start) -> None:
    code, out, err = start("check", "--case", "plain-3", "--jobs", jobs).end()
    assert (code, out) == (2, "")
    assert "--jobs" in err
    assert "Traceback" not in err
