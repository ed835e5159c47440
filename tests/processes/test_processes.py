"""Code of the user's own in a child: what it does to itself harms nothing but its own answer."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gradcheck import candidates
from gradcheck.candidates import Candidate, Running
from gradcheck.exceptions import CrashedError, UsageError
from gradcheck.formats import FORMATS
from gradcheck.processes import Process
from gradcheck.processes._wire import BrokenError, receive, send
from tests.conftest import alive, make_problem

BAD = '''
import ctypes, os, sys, threading, time
import numpy as np
calls = 0
def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
def good(x, y):
    g = softmax(x); g[np.arange(len(x)), y] -= 1; return g
def hang(x, y):
    while True: time.sleep(60)
def spin(x, y):
    while True: pass
def segfault(x, y): ctypes.string_at(0)
def leave(x, y): sys.exit(3)
def vanish(x, y): os._exit(4)
def raises(x, y): raise ValueError('two\\nlines')
def prints(x, y):
    print('printed'); os.write(1, b'written'); os.system('echo from a shell'); return good(x, y)
def reads(x, y):
    assert sys.stdin.read() == ''; return good(x, y)
def second(x, y):
    """Dies every second time."""
    global calls; calls += 1
    if calls == 2: os._exit(5)
    return good(x, y)
def threads(x, y):
    threading.Thread(target=time.sleep, args=(60,), daemon=False).start(); return good(x, y)
def nothing(x, y): pass
def text(x, y): return 'abc'
def objects(x, y): return np.array([[object()]])
def complex(x, y): return good(x, y) + 0j
def masked(x, y): return np.ma.masked_array(good(x, y), mask=True)
def swapped(x, y): return good(x, y).astype(np.dtype(x.dtype).newbyteorder(">"))
def forks(x, y): os.fork(); return good(x, y)
def fork_leaves(x, y):
    if os.fork() == 0: sys.exit(0)
    os.wait(); return good(x, y)
def breaks(x, y):
    import json
    json.dumps = lambda *words, **more: "{}"
    return good(x, y)
'''


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    return path


PROBLEM = make_problem([[1.0, 2.0, 3.0]], [1], "float32")
GOOD = candidates.load("shifted").gradient(PROBLEM)


def load(path: Path, name: str, timeout: float = 20.0) -> Candidate:
    return candidates.load(f"{path}:{name}", Running(timeout=timeout))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hang", "gave no answer within 1 s and was stopped"),
        ("spin", "gave no answer within 1 s and was stopped"),
        ("segfault", "was killed by SIGSEGV"),
        ("leave", "raised SystemExit: 3"),
        ("vanish", "ended its process with exit code 4"),
        ("raises", r"raised ValueError: two lines \(bad.py, line 17\)"),
        ("nothing", "returned nothing; does it lack a return"),
        ("text", "returned <U3; expected one of float16"),
        ("objects", "returned object; expected one of"),
        ("complex", "returned complex64; expected one of"),
        ("masked", "returned a masked array"),
        ("breaks", "has broken the process that it runs in"),
    ],
)
def test_what_it_does_is_told_and_the_next_is_answered(bad: Path, name: str, said: str) -> None:
    candidate = load(bad, name, timeout=1.0 if name in ("hang", "spin") else 20.0)
    for _ in range(2):
        with pytest.raises(CrashedError, match=said):
            candidate.answer(PROBLEM)
    np.testing.assert_allclose(load(bad, "good").gradient(PROBLEM), GOOD, rtol=1e-6)


@pytest.mark.parametrize("name", ["swapped", "forks", "fork_leaves"])
def test_odd_ways_to_the_right_answer(bad: Path, name: str) -> None:
    candidate = load(bad, name)
    for classes in (3, 4, 5):  # an answer to an earlier question would have another shape
        problem = make_problem([[1.0, 2.0, 3.0, 0.0, -1.0][:classes]], [1], "float32")
        np.testing.assert_allclose(
            candidate.gradient(problem), candidates.load("shifted").gradient(problem), rtol=1e-6, atol=1e-7
        )


def test_it_is_started_again_after_it_died(bad: Path) -> None:
    candidate = load(bad, "second")
    np.testing.assert_allclose(candidate.gradient(PROBLEM), GOOD, rtol=1e-6)
    with pytest.raises(CrashedError, match="exit code 5"):
        candidate.gradient(PROBLEM)
    np.testing.assert_allclose(candidate.gradient(PROBLEM), GOOD, rtol=1e-6)


@pytest.mark.parametrize("name", ["prints", "reads", "threads"])
def test_its_streams_and_threads_are_its_own(bad: Path, name: str) -> None:
    words = ["check", "--case", "plain-3", "--candidate", f"{bad}:{name}", "--format", "concise"]
    ran = subprocess.run(
        [sys.executable, "-m", "gradcheck", *words],
        input="not for it",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["pass", "1"]
    if name == "prints":
        assert all(said in ran.stderr for said in ("printed", "written", "from a shell"))


def test_what_cannot_be_imported_crashes_each_time(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\ndef f(x, y): pass\n")
    candidate = load(broken, "f")
    for _ in range(2):
        with pytest.raises(CrashedError, match="ModuleNotFoundError: No module named 'nothing_of_this_name'"):
            candidate.answer(PROBLEM)
    slow = tmp_path / "slow.py"
    slow.write_text("import time\ntime.sleep(60)\ndef f(x, y): pass\n")
    with pytest.raises(CrashedError, match="gave no answer within 1 s"):
        load(slow, "f", timeout=1.0).answer(PROBLEM)


def test_what_is_not_there_is_said_at_once(bad: Path) -> None:
    for name, said in ((f"{bad}:nope", "has no function 'nope'; it has softmax"), ("nowhere.py:f", "there is no file")):
        with pytest.raises(UsageError, match=said):
            candidates.load(name)
    with pytest.raises(UsageError, match="--device goes with jax, keras, optax, scipy, tensorflow, torch, not with"):
        candidates.load(f"{bad}:good", Running(device="cpu"))
    with pytest.raises(UsageError, match="should read torch:MODULE:LOSS"):
        candidates.load("torch:cross_entropy")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(x, y): return 0 * x\n")
    assert load(path, "f").gradient(PROBLEM).tolist() == [[0, 0, 0]]
    path.write_text("def f(x, y): return 0 * x + 10\n")
    assert load(path, "f").gradient(PROBLEM).tolist() == [[10, 10, 10]]


def test_a_module_is_the_one_that_is_found_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, factor in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_name.py").write_text(f"def f(x, y): return 0 * x + {factor}\n")
        monkeypatch.chdir(tmp_path / name)
        assert candidates.load("same_name:f").gradient(PROBLEM).tolist() == [[factor] * 3]


@pytest.fixture
def writes_pid(tmp_path: Path) -> Path:
    """A function that hangs, and what it has started with it, which write their process numbers."""
    path = tmp_path / "writes.py"
    path.write_text(
        "import os, subprocess, time\n"
        "def f(x, y):\n"
        "    started = subprocess.Popen(['sleep', '300'])\n"
        f"    open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{started.pid}}')\n"
        "    while True: time.sleep(1)\n"
    )
    return path


def pids(path: Path) -> list[int]:
    for _ in range(200):
        if path.exists() and len(path.read_text().split()) == 2:
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.1)
    raise AssertionError("the function was not called")


def gone(found: list[int]) -> bool:
    for _ in range(100):
        if not any(map(alive, found)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_with_its_parent(writes_pid: Path, sent: signal.Signals) -> None:
    words = ["check", "--case", "plain-3", "--candidate", f"{writes_pid}:f"]
    with subprocess.Popen([sys.executable, "-m", "gradcheck", *words], stdout=subprocess.PIPE) as running:
        found = pids(writes_pid.parent / "pids")
        running.send_signal(sent)
        running.communicate(timeout=30)
    assert running.returncode == 128 + sent
    assert gone(found)


def test_it_ends_when_its_parent_is_killed(writes_pid: Path) -> None:
    words = ["check", "--case", "plain-3", "--candidate", f"{writes_pid}:f"]
    with subprocess.Popen([sys.executable, "-m", "gradcheck", *words], stdout=subprocess.PIPE) as running:
        found = pids(writes_pid.parent / "pids")
        running.kill()
    os.kill(found[1], signal.SIGKILL)  # what user code starts, a killed parent cannot end
    assert gone(found)


@pytest.mark.parametrize("end", ["os._exit(3)", "return x"])
def test_what_it_leaves_behind_ends_with_it(end: str, tmp_path: Path) -> None:
    path = tmp_path / "leaves.py"
    path.write_text(
        "import os, subprocess\n"
        "def f(x, y):\n"
        "    left = subprocess.Popen(['sleep', '300'])\n"
        f"    open({str(tmp_path / 'pids')!r}, 'w').write(f'{{left.pid}} {{left.pid}}')\n"
        f"    {end}\n"
    )
    candidate = load(path, "f")
    with contextlib.suppress(CrashedError):
        candidate.answer(PROBLEM)
    found = pids(tmp_path / "pids")
    del candidate
    assert gone(found)


def test_a_timeout_ends_what_it_has_started(writes_pid: Path) -> None:
    candidate = load(writes_pid, "f", timeout=3.0)
    with pytest.raises(CrashedError, match="within 3 s"):
        candidate.answer(PROBLEM)
    assert gone(pids(writes_pid.parent / "pids"))


def test_messages_carry_every_format(tmp_path: Path) -> None:
    """Arrays, empty ones among them, come out as they went in; a stream that ends is noticed."""
    message = {
        "plain": [1, 2.5, "ü", None, {"deep": True}],
        "empty": np.zeros((0, 3)),
        "number": np.float64(3.0).reshape(()),
        "whole": np.arange(3),
        "flags": np.array([True, False]),
        "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
        **{name: np.arange(6).reshape(2, 3).astype(fmt.dtype) for name, fmt in FORMATS.items()},
    }
    path = tmp_path / "wire"
    with path.open("wb") as stream:
        send(stream, message)
    with path.open("rb") as stream:
        found = receive(stream)
    for key, value in message.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            assert found[key].shape == value.shape
            assert found[key].tobytes() == value.tobytes()
        else:
            assert found[key] == value
    whole = path.read_bytes()
    for end in (0, 4, 8, len(whole) - 1):
        path.write_bytes(whole[:end])
        with path.open("rb") as stream, pytest.raises(BrokenError):
            receive(stream)


def test_a_process_is_closed_with_its_owner(bad: Path) -> None:
    process = Process("x", "gradcheck.candidates._piece", {"target": f"{bad}:softmax"})
    assert process(arguments=[np.zeros((1, 2))])["value"].tolist() == [[0.5, 0.5]]
    assert process._child is not None
    pid = process._child._popen.pid
    assert alive(pid)
    process.close()
    assert gone([pid])
    assert process(arguments=[np.zeros((1, 2))])["value"].tolist() == [[0.5, 0.5]]
    process.close()


def test_code_is_found_and_run_where_it_was_named(
    bad: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in another process, which works elsewhere: its names are relative to the folder that they were given in."""
    (tmp_path / "inner.py").write_text("from bad import good")
    script = "import sys, numpy, bad; numpy.save(sys.argv[3], bad.good(*map(numpy.load, sys.argv[1:3])))"
    (tmp_path / "run.py").write_text(script)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    here, gone = Running(folder=str(tmp_path)), Running(folder=str(tmp_path / "gone"))
    command = f"{sys.executable} run.py {{logits}} {{labels}} {{gradient}}"

    def of_command(running: Running) -> Candidate:
        return candidates.of_command(command, suffix=".npy", running=running, gradient_dtype=None)

    for candidate in (candidates.load("bad.py:good", here), candidates.load("inner:good", here), of_command(here)):
        there = pickle.loads(pickle.dumps(candidate))
        assert np.array_equal(there.gradient(PROBLEM), GOOD)
        assert {path.name for path in there.sources} & {"bad.py", "inner.py", "run.py"}
    for candidate in (candidates.load("bad.py:good", gone), of_command(gone)):
        with pytest.raises(CrashedError, match="gone'"):
            candidate.gradient(PROBLEM)
