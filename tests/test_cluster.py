"""A dask cluster: the same results, one clear sentence where it cannot be, and nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

from gradcheck import __version__, candidates, cluster, stored, versions
from gradcheck.exceptions import GradcheckError, InputError, WorkersError
from gradcheck.stored import File
from tests.cli import test_jobs
from tests.cli.test_jobs import CLASSES, ROWS_OF_PART, WORDS, Start
from tests.conftest import SOUND, Program, alive, wait_for
from tests.test_workers import RAISED, itself, limited, raises

ROOT = Path(__file__).parent.parent
HERE = os.pathsep.join([str(ROOT), *sys.path])

start, big, limited = test_jobs.start, test_jobs.big, limited


# --- clusters, and what they do ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Cluster:
    """A scheduler and workers, as their users start them."""

    folder: Path
    address: str = ""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def schedule(self) -> None:
        told = self.folder / "scheduler.json"
        words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        # it needs no gradcheck
        path = without(self.folder / "without")
        self.scheduler = self._begun("scheduler", *words, "--scheduler-file", str(told), path=path)
        wait_for(lambda: told.exists() and told.read_text(), "a scheduler")
        self.address = json.loads(told.read_text())["address"]

    def work(self, path: str = HERE, threads: int = 1) -> subprocess.Popen[bytes]:
        words = [self.address, "--nthreads", str(threads), "--no-dashboard", "--no-nanny"]
        self.workers.append(self._begun("worker", *words, "--local-directory", str(self.folder), path=path))
        return self.workers[-1]

    def _begun(self, what: str, *words: str, path: str = HERE) -> subprocess.Popen[bytes]:
        with (self.folder / f"{what}-{uuid.uuid4().hex}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *words],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )

    def ready(self, count: int) -> None:
        """Waits for workers."""
        with distributed.Client(self.address, set_as_default=False) as client:
            wait_for(lambda: len(client.nthreads()) == count, "workers")

    def end(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()


def begun(folder: Path, *threads: int) -> Cluster:
    made = Cluster(folder)
    try:
        made.schedule()
        for number in threads:
            made.work(threads=number)
        made.ready(len(threads))
    except BaseException:
        made.end()
        raise
    return made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers, one of which has two threads; no test harms them."""
    made = begun(tmp_path_factory.mktemp("shared"), 1, 2)
    yield made
    made.end()


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """What makes clusters of a test's own, with workers of so many threads."""
    made: list[Cluster] = []

    def make(*threads: int) -> Cluster:
        folder = tmp_path / f"cluster-{len(made)}"
        folder.mkdir()
        made.append(begun(folder, *threads))
        return made[-1]

    yield make
    for one in made:
        one.end()


def waits(number: int, folder: Path) -> int:
    """Tells that it has begun, and waits until it may go on."""
    (folder / f"{number}.begun").touch()
    wait_for(lambda: (folder / "go").exists(), "leave to go on")
    return number


def takes_time(_: int) -> tuple[int, float, float]:
    began = time.monotonic()
    time.sleep(0.02)
    return os.getpid(), began, time.monotonic()


def dies(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def length(content: bytes) -> int:
    return len(content)


def gives_a_function(_: int) -> Any:
    return lambda: None


def mixed(spans: list[tuple[float, float]]) -> bool:
    """Whether two of them overlap."""
    spans = sorted(spans)
    return any(begins < ended for (_, ended), (begins, _) in itertools.pairwise(spans))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_ANSWER", 1.5)
    monkeypatch.setattr(cluster, "_PATIENCE", 2.0)
    monkeypatch.setattr(cluster, "_LOOK", 0.1)


# --- the results ------------------------------------------------------------------------------------------------------


def dumped(folder: Path) -> list[str]:
    """A dump of three tasks, of which one component is wrong."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(120, CLASSES)).astype(np.float32)
    labels = rng.integers(CLASSES, size=120)
    exps = np.exp(logits.astype(np.float64))
    gradient = exps / exps.sum(axis=1, keepdims=True)
    gradient[np.arange(120), labels] -= 1
    gradient[77, 5] *= 1.1
    np.savez(folder / "dump.npz", logits=logits, labels=labels, gradient=gradient.astype(np.float32))
    return ["check", str(folder / "dump.npz"), "--no-screen", "--engine", "flint"]


@pytest.mark.parametrize("lies", ["in memory", "where workers read it", "where they do not see it"])
def test_a_dump_is_found_alike(
    lies: str, shared: Cluster, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, sent = dumped(tmp_path), []

    class Counted(cluster._Call):
        def __init__(self, payload: bytes) -> None:
            super().__init__(payload)
            sent.append(len(payload))

    monkeypatch.setattr(cluster, "_Call", Counted)
    if lies != "in memory":
        monkeypatch.setattr(stored, "LARGE", 1 << 20)
    if lies == "where they do not see it":
        monkeypatch.setattr(cluster, "_look", lambda path: None)
    same(shared, program, words, code=1)
    size = 2 * 120 * CLASSES * 4  # logits and gradient
    assert sum(sent) < size / 20 if lies == "where workers read it" else size < sum(sent) < 1.1 * size


def test_cases_are_found_alike(shared: Cluster, program: Program) -> None:
    same(shared, program, ["stability", "--case", "plain-*", "--case", "overflow-*", "--candidate", "naive"], code=1)


def test_a_wide_row_is_found_alike(shared: Cluster, program: Program) -> None:
    words = ["--generate", "normal", "--rows", "2", "--classes", "50000", "--engine", "flint", "--no-screen"]
    same(shared, program, ["check", *words], code=0)


def test_code_of_ones_own_is_found_alike(shared: Cluster, program: Program, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(test_jobs.OWN)
    words = ["check", "--generate", "normal", "--rows", "200", "--classes", str(CLASSES), "--engine", "flint"]
    same(shared, program, [*words, "--candidate", f"{tmp_path}/own.py:f"], code=0)


def same(shared: Cluster, program: Program, words: list[str], code: int) -> None:
    here = program(*words, "--format", "json")
    there = program(*words, "--format", "json", "--scheduler", shared.address)
    assert (here.code, here.err) == (there.code, there.err) == (code, "")
    assert there.out.replace(f'"scheduler": "{shared.address}"', '"scheduler": null') == here.out
    assert there.out != here.out


def test_the_command_that_shows_it_again_names_no_cluster(shared: Cluster, program: Program) -> None:
    for words in (["check", "--case", "plain-3"], ["stability", "--case", "plain-3"]):
        ran = program(*words, "--format", "json", "--scheduler", shared.address, "--jobs", "1")
        (result, *_) = json.loads(ran.out)["results"]
        assert "--scheduler" not in result["again"]
        assert "--jobs" not in result["again"]


def keeps(name: str) -> str:
    """What a run that was killed leaves behind."""
    return candidates._kept(name, candidates.Running()).name


def test_code_that_has_changed_is_another(shared: Cluster, program: Program, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    words = ["stability", "--case", "plain-3", "--candidate", f"{own}:f", "--scheduler", shared.address]
    own.write_text(SOUND)
    with distributed.Client(shared.address, set_as_default=False) as client:
        client.run(keeps, f"{own}:f")
    own.write_text(SOUND.replace("-= 1", "-= 2"))
    assert program(*words).code == 1
    own.write_text(SOUND)
    assert program(*words).code == 0


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_results_come_in_order_from_all_workers(shared: Cluster) -> None:
    with cluster.joined(shared.address, None) as team:
        assert (team.jobs, team.lost) == (2, 0)
        assert list(team.map(itself, range(40))) == list(range(40))
        assert list(team.map(itself, [])) == []
        assert len({pid for pid, *_ in team.map(takes_time, range(20))}) == 2
        nested = [(number, *team.map(itself, range(3))) for number in team.map(itself, range(4))]
        assert nested == [(number, 0, 1, 2) for number in range(4)]
    assert team.lost == 0


def test_a_cluster_keeps_nothing_that_nobody_waits_for(shared: Cluster, tmp_path: Path) -> None:
    def known(dask_scheduler: Any) -> int:
        return len(dask_scheduler.tasks)

    def items() -> Iterator[int]:
        yield from range(5)
        raise InputError("no more")

    with (
        cluster.joined(shared.address, None) as team,
        distributed.Client(shared.address, set_as_default=False) as client,
    ):
        assert list(team.map(itself, range(9))) == list(range(9))
        wait_for(lambda: not any(client.has_what().values()), "results to be dropped")
        with pytest.raises(InputError):
            list(team.map(functools.partial(waits, folder=tmp_path), items()))
        wait_for(lambda: not client.run_on_scheduler(known), "tasks to be dropped")
        time.sleep(0.5)  # by the workers, too
        (tmp_path / "go").touch()
        wait_for(lambda: not any(client.processing().values()), "the cluster to be idle")
        assert len(list(tmp_path.glob("*.begun"))) <= 3


def test_tasks_of_one_process_take_turns(shared: Cluster) -> None:
    with cluster.joined(shared.address, None) as team:
        found = list(team.map(takes_time, range(40)))
    for process in {pid for pid, *_ in found}:
        assert not mixed([(began, ended) for pid, began, ended in found if pid == process])
    assert mixed([(began, ended) for _, began, ended in found])


def test_no_more_is_under_way_than_is_asked_for(shared: Cluster) -> None:
    with cluster.joined(shared.address, 1) as team:
        assert team.jobs == 1
        found = list(team.map(takes_time, range(20)))
    assert not mixed([(began, ended) for _, began, ended in found])


def test_an_exception_is_the_same_here(shared: Cluster) -> None:
    with cluster.joined(shared.address, None) as team:
        for name, make in RAISED.items():
            found, wanted = team.map(raises, ["fine", name]), make()
            assert next(found) == "fine"
            with pytest.raises(type(wanted)) as caught:
                next(found)
            assert type(caught.value) is type(wanted)
            assert str(caught.value) == str(wanted)
            if not isinstance(wanted, GradcheckError):
                (note,) = caught.value.__notes__
                assert note.startswith("In worker process tcp://127.0.0.1:")
                assert "in raises" in note
        for name, said in (("Unspeakable", "what it says"), ("Inexact", "argument")):
            with pytest.raises(Exception, match=said):
                list(team.map(raises, [name]))


def test_what_cannot_be_sent_is_an_error(shared: Cluster) -> None:
    unspeakable: list[Any] = [lambda: None]
    with cluster.joined(shared.address, None) as team:
        with pytest.raises(Exception, match=r"pickle|local object"):
            list(team.map(itself, unspeakable))
        with pytest.raises(Exception, match=r"pickle|local object"):
            list(team.map(gives_a_function, [0]))
        assert list(team.map(itself, range(3))) == [0, 1, 2]


def test_little_is_under_way_at_a_time(shared: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_ROOM", 30_000)
    most = 0

    def items() -> Iterator[bytes]:
        nonlocal most
        for number in range(40):
            under_way = team._executor._sizes.values() if isinstance(team._executor, cluster._Shared) else []
            assert sum(under_way) <= 30_000 or len(under_way) == 1
            most = max(most, len(under_way))
            yield bytes(100_000 if number == 20 else 10_000)

    with cluster.joined(shared.address, None) as team:
        found = list(team.map(length, items()))
    assert found == [100_000 if number == 20 else 10_000 for number in range(40)]
    assert most == 2


def test_a_large_task_is_sent_without_a_word(shared: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    with cluster.joined(shared.address, None) as team:
        assert list(team.map(length, [bytes(1 << 25)] * 3)) == [1 << 25] * 3
    assert capfd.readouterr() == ("", "")


def test_a_file_that_all_see(shared: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(200_000))
    status = path.stat()
    file = File(path=str(path), name="numbers", size=status.st_size, changed=status.st_mtime_ns)
    with cluster.joined(shared.address, None) as team:
        assert team.sees(file)
        assert not team.sees(dataclasses.replace(file, path=f"{path}-2"))
        assert not team.sees(dataclasses.replace(file, size=199_999))
        assert not team.sees(dataclasses.replace(file, changed=file.changed - 1))
        monkeypatch.setattr(cluster, "_run", None)
        assert team.sees(file)  # is not asked twice
    with cluster.joined(shared.address, None) as team:
        look = cluster._look
        monkeypatch.undo()
        monkeypatch.setattr(cluster, "_run", lambda *_: {"one": look(str(path)), "other": other(path)})
        assert not team.sees(file)


def other(path: Path) -> object:
    """What a worker says whose file differs in its last byte."""
    status = path.stat()
    path.write_bytes(bytes(199_999) + b"1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return cluster._look(str(path))


def test_what_was_set_is_set_again(shared: Cluster) -> None:
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado", "asyncio")]
    before = [logger.level for logger in loggers], list(warnings.filters)
    with cluster.joined(shared.address, None):
        assert not any(logger.isEnabledFor(logging.CRITICAL) for logger in loggers)
    assert ([logger.level for logger in loggers], list(warnings.filters)) == before


# --- versions ---------------------------------------------------------------------------------------------------------


def another(folder: Path, change: str, to: str, file: str = "__init__.py") -> str:
    """A path on which gradcheck differs in one place."""
    shutil.copytree(ROOT / "gradcheck", folder / "gradcheck")
    changed = folder / "gradcheck" / file
    text = changed.read_text()
    assert change in text
    changed.write_text(text.replace(change, to))
    return f"{folder}{os.pathsep}{HERE}"


def without(folder: Path) -> str:
    """A path on which there is no gradcheck."""
    folder.mkdir()
    (folder / "gradcheck.py").write_text("raise ModuleNotFoundError(\"No module named 'gradcheck'\", name='gradcheck')")
    return f"{folder}{os.pathsep}{HERE}"


def faked(folder: Path, module: str, version: str) -> str:
    folder.mkdir()
    (folder / f"{module}.py").write_text(f"__version__ = {version!r}")
    return f"{folder}{os.pathsep}{HERE}"


def test_every_worker_is_asked_for_its_versions(
    clusters: Callable[..., Cluster], tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = clusters(1)
    one.work(path=without(tmp_path / "a"))
    one.work(path=faked(tmp_path / "b", "mpmath", "0.1"))
    one.work(path=faked(tmp_path / "c", "flint", "0.1"))
    one.work(path=another(tmp_path / "d", f'"{__version__}"', '"0.0.9"'))
    one.work(path=another(tmp_path / "e", "softmax", "Softmax"))
    one.ready(6)
    ran = program("check", "--case", "plain-3", "--scheduler", one.address)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("gradcheck: worker tcp://127.0.0.1:")
    assert ran.err.endswith("; and 2 more; all sides need the same versions\n")
    assert ran.err.count("\n") == 1
    assert ran.err.count("worker tcp") == 3
    monkeypatch.setattr(cluster, "_NAMED", 9)
    with pytest.raises(WorkersError) as caught, cluster.joined(one.address, None):
        pass
    told = sorted(part.partition(": ")[2] for part in str(caught.value).split("; ")[:-1])
    assert told == sorted(
        [
            f"no gradcheck (pip install gradcheck=={__version__} there)",
            f"mpmath 0.1, here {versions.versions()['mpmath']}",
            f"python-flint 0.1, here {versions.versions()['python-flint']}",
            f"gradcheck 0.0.9, here {__version__}",
            f"another gradcheck {__version__} than here (its source differs)",
        ]
    )


@pytest.mark.parametrize("kind", ["without", "another", "older"])
def test_a_worker_that_comes_later_is_asked_too(kind: str, clusters: Callable[..., Cluster], tmp_path: Path) -> None:
    one = clusters(1)
    if kind == "without":
        path, said = without(tmp_path / "a"), f"no gradcheck (pip install gradcheck=={__version__} there)"
    elif kind == "another":
        path, said = another(tmp_path / "a", "softmax", "Softmax"), "its source differs"
    else:
        path, said = another(tmp_path / "a", "def _done(", "def _did(", "cluster.py"), "its source differs"
    with cluster.joined(one.address, None) as team:

        def items() -> Iterator[int]:
            for number in range(100_000):
                if number == 5:
                    one.work(path=path)
                yield number

        with pytest.raises(WorkersError) as caught:
            for _ in team.map(takes_time, items()):
                pass
    assert str(caught.value).startswith("worker tcp://127.0.0.1:")
    assert said in str(caught.value)
    assert str(caught.value).endswith("; all sides need the same versions")


def test_it_needs_an_extra(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    ran = program("check", "--case", "plain-3", "--scheduler", "local")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "gradcheck: --scheduler needs the package 'distributed': pip install 'gradcheck[dask]'\n"


# --- nobody answers ---------------------------------------------------------------------------------------------------


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[dict[str, str]]:
    """Addresses at which no scheduler is."""
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = {"silent": silent, "nobody": closed}
        found = {name: f"tcp://127.0.0.1:{one.getsockname()[1]}" for name, one in ports.items()}
        closed.close()
        yield {**found, "web": f"tcp://127.0.0.1:{web.server_address[1]}", "unknown": "tcp://nowhere.invalid:8786"}
    web.shutdown()
    web.server_close()


@pytest.mark.parametrize("who", ["silent", "nobody", "web", "unknown"])
def test_somebody_else_answers_or_nobody(
    who: str, elsewhere: dict[str, str], impatient: None, program: Program
) -> None:
    began = time.monotonic()
    ran = program("check", "--case", "plain-3", "--scheduler", elsewhere[who])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"gradcheck: no scheduler answers at {elsewhere[who]} within 1.5 s; ")
    assert ran.err.count("\n") == 1
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("address", ["", "8786", "host", "tcp://h:x", "foo://x:1", "ucx://127.0.0.1:1"])
def test_what_is_no_address(address: str, impatient: None, program: Program) -> None:
    ran = program("check", "--case", "plain-3", "--scheduler", address)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"gradcheck: --scheduler {address}: ")
    assert ran.err.endswith("an address reads tcp://HOST:PORT\n")
    assert ran.err.count("\n") == 1


def test_a_scheduler_without_workers(clusters: Callable[..., Cluster], impatient: None, program: Program) -> None:
    one = clusters()
    ran = program("check", "--case", "plain-3", "--scheduler", one.address)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"gradcheck: the scheduler at {one.address} has no worker, nor got one within 1.5 s; 'dask worker' starts one\n"
    )


# --- somebody goes ----------------------------------------------------------------------------------------------------


def test_what_a_lost_worker_was_doing_is_done_again(
    clusters: Callable[..., Cluster], tmp_path: Path, start: Start
) -> None:
    one = clusters(1, 1)
    (tmp_path / "own.py").write_text(test_jobs.OWN)
    words = ["stability", "--case", "overflow-*", "--dtype", "float32", "--candidate", f"{tmp_path}/own.py:g"]
    family = start(*words, "--format", "json", "--scheduler", one.address)
    wait_for(lambda: list(tmp_path.glob("*.pids")), "a part that waits")
    pids = [int(pid) for path in tmp_path.glob("*.pids") for pid in path.read_text().split()]
    os.kill(pids[0], signal.SIGKILL)
    (tmp_path / "go").touch()
    code, out, err = family.end()
    with contextlib.suppress(ProcessLookupError):  # what code has started, a killed worker cannot end
        os.kill(pids[2], signal.SIGKILL)
    assert (code, err) == (0, "")
    found, wanted = json.loads(out), json.loads(start(*words, "--format", "json").end()[1])
    assert found.pop("notes") == ["a worker of the cluster was lost; what was under way there was done again"]
    assert wanted.pop("notes") == []
    assert found.pop("settings") != wanted.pop("settings")
    assert found == wanted


def test_all_workers_go(clusters: Callable[..., Cluster], tmp_path: Path, impatient: None) -> None:
    one = clusters(1, 1)
    with cluster.joined(one.address, None) as team:
        found = team.map(functools.partial(waits, folder=tmp_path), range(9))
        threading.Thread(target=killing, args=(one.workers, tmp_path), daemon=True).start()
        began = time.monotonic()
        with pytest.raises(WorkersError, match=r"all workers of the cluster at .* have gone, and none came within 2 s"):
            next(found)
        assert time.monotonic() - began < 10
    assert team.lost == 2


def test_others_come_in_their_place(
    clusters: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # who has gone since is seen when the work ends
    monkeypatch.setattr(cluster, "_LOOK", 60.0)
    one = clusters(1)
    with cluster.joined(one.address, None) as team:
        found = team.map(functools.partial(waits, folder=tmp_path), range(9))

        def replace() -> None:
            killing(one.workers[:1], tmp_path)
            (tmp_path / "go").touch()
            one.work()

        threading.Thread(target=replace, daemon=True).start()
        assert list(found) == list(range(9))
        team.end()
        assert team.lost == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_scheduler_goes(
    how: signal.Signals, clusters: Callable[..., Cluster], tmp_path: Path, impatient: None
) -> None:
    one = clusters(1)
    assert one.scheduler is not None
    began = time.monotonic()
    said = "has gone" if how is signal.SIGKILL else "no longer answers"
    with cluster.joined(one.address, None) as team:
        found = team.map(functools.partial(waits, folder=tmp_path), range(9))
        threading.Thread(target=killing, args=([one.scheduler], tmp_path, how), daemon=True).start()
        with pytest.raises(WorkersError, match=said):
            next(found)
    assert time.monotonic() - began < 20


def test_a_part_that_kills_its_workers_is_given_up(clusters: Callable[..., Cluster]) -> None:
    one = clusters(1, 1, 1, 1)
    with cluster.joined(one.address, None) as team:
        found = team.map(dies, [3])
        with pytest.raises(WorkersError, match="4 workers died of one and the same part; if memory ran out"):
            list(found)


def killing(processes: list[subprocess.Popen[bytes]], folder: Path, how: signal.Signals = signal.SIGKILL) -> None:
    wait_for(lambda: list(folder.glob("*.begun")), "a part that waits")
    for process in processes:
        process.send_signal(how)


# --- it is not wanted any more ----------------------------------------------------------------------------------------


def interrupted(start: Start, folder: Path, *words: str, sent: signal.Signals = signal.SIGINT) -> list[int]:
    """Interrupts a run while parts of it wait; the processes that were at it."""
    family = start(*WORDS, "--candidate", f"{folder}/own.py:g", *words)
    paths = [folder / "60.pids", folder / "61.pids"]
    wait_for(lambda: all(path.exists() for path in paths) or family.leader.poll() is not None, "parts to begin")
    pids = [int(pid) for path in paths for pid in path.read_text().split()]
    # a terminal's Ctrl-C is sent to all of them
    (os.killpg if sent is signal.SIGINT else os.kill)(family.leader.pid, sent)
    code, out, err = family.end()
    assert (code, err) == (128 + sent, "")
    (result,) = json.loads(out)["results"]
    assert result["verdict"] == "inconclusive"
    # of the three parts before them the last may have been on its way
    assert result["judged"] in [parts * ROWS_OF_PART * CLASSES for parts in (1, 2, 3)]
    assert json.loads(out)["notes"] == ["interrupted before the end"]
    return pids


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_no_process(
    sent: signal.Signals, big: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (big / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(big / "temporary"))
    pids = interrupted(start, big, "--scheduler", "local", "--jobs", "2", sent=sent)
    assert not any(map(alive, pids))
    assert not list((big / "temporary").iterdir())


def test_an_interrupt_while_workers_start(start: Start) -> None:
    family = start("check", "--generate", "normal", "--rows", 90, "--classes", CLASSES, "--scheduler", "local")
    wait_for(lambda: any("spawn_main" in line for line in family.members.values()), "the first of them")
    os.killpg(family.leader.pid, signal.SIGINT)
    code, _, err = family.end()
    assert (code, err) == (130, "")


def test_an_interrupt_leaves_a_cluster_idle(big: Path, start: Start, shared: Cluster) -> None:
    pids = interrupted(start, big, "--scheduler", shared.address)
    (big / "go").touch()
    with distributed.Client(shared.address, set_as_default=False) as client:
        wait_for(lambda: not any(client.processing().values()), "the cluster to be idle")
        assert len(client.nthreads()) == 2
    # what the run had started is gone, the workers are not
    wait_for(lambda: not any(alive(pid) for pid in (*pids[1:3], *pids[4:])), "children of the workers to end")
    assert alive(pids[0])
    with cluster.joined(shared.address, None) as team:
        assert list(team.map(itself, range(9))) == list(range(9))


def test_a_cluster_that_is_started_here_ends_with_its_work(program: Program, start: Start, tmp_path: Path) -> None:
    words = dumped(tmp_path)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a dashboard's port, which is not wanted
            stack.enter_context(socket.create_server(("127.0.0.1", 8787)))
        family = start(*words, "--scheduler", "local", "--format", "json")
        here = program(*words, "--format", "json")
        code, out, err = family.end()
    assert (code, err) == (1, "")
    assert out.replace('"scheduler": "local"', '"scheduler": null') == here.out
    pids: set[int] = set()
    before = dict(os.environ)
    with pytest.raises(WorkersError, match="killed"):
        failing(pids)
    (pid,) = pids
    assert not alive(pid)
    # dask sets here, and leaves, what its processes are to have
    assert dict(os.environ) == before


def failing(pids: set[int]) -> None:
    """Leaves a cluster of one process by an exception."""
    with cluster.joined("local", 1) as team:
        assert team.jobs == 1
        pids.update(pid for pid, *_ in team.map(takes_time, range(3)))
        assert all(map(alive, pids))
        list(team.map(raises, ["WorkersError"]))
