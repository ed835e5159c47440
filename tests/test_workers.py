"""Work that is shared among processes: what comes back, and what becomes of processes that die or are not wanted."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from gradcheck import exceptions, workers
from gradcheck.exceptions import GradcheckError, MissingExtraError, RowError, WorkersError
from gradcheck.workers import ALONE, Workers
from tests.conftest import alive, wait_for

ROOT = Path(__file__).parent.parent


# --- tasks: what a worker can import --------------------------------------------------------------------------------


def itself(number: int) -> int:
    return number


def own_pid(_: int) -> int:
    time.sleep(0.02)  # so that one process does not do it all
    return os.getpid()


def interrupted(number: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return number


def slowly(number: int) -> int:
    time.sleep(0.02)
    return number


def in_disorder(number: int, folder: Path) -> int:
    """The first of three ends when the others have."""
    (folder / str(number)).touch()
    if number % 3 == 0:
        wait_for(lambda: all((folder / str(number + ahead)).exists() for ahead in (1, 2)), "those that come after")
    return number


class Unspeakable(Exception):
    """Does not survive being pickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (lambda: None), ()


class Inexact(Exception):
    """Cannot be made again of what it was made of."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


RAISED: dict[str, Callable[[], BaseException]] = {
    "UsageError": lambda: exceptions.UsageError("--this and --that"),
    "InputError": lambda: exceptions.InputError("file: ends early"),
    "RowError": lambda: RowError("row {row}: label 7", 1),
    "UnknownNameError": lambda: exceptions.UnknownNameError("case", "plain-33", ["plain-3", "equal-1"]),
    "NotApplicableError": lambda: exceptions.NotApplicableError("no answer to that"),
    "MissingExtraError": lambda: MissingExtraError("--engine flint", "flint", "python-flint"),
    "CrashedError": lambda: exceptions.CrashedError("f raised ValueError"),
    "WorkersError": lambda: WorkersError("killed"),
    "MemoryError": lambda: MemoryError("no more"),
    "ValueError": lambda: ValueError("a bug", {"of": 1}),
}


def raises(name: str) -> str:
    if name == "Unspeakable":
        raise Unspeakable("what it says")
    if name == "Inexact":
        raise Inexact(1, 2)
    if name in RAISED:
        raise RAISED[name]()
    return name


def half_an_answer(self: Connection, buffer: bytes) -> None:
    os.write(self.fileno(), b"\0\0\1\0" + bytes(100))
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(number: int, dying: int, how: str, marker: Path) -> int:
    """One of them kills its process the first time."""
    if number == dying and not marker.exists():
        marker.touch()
        if how == "answering":
            Connection._send_bytes = half_an_answer  # type: ignore[attr-defined]
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(number: int, dying: int) -> int:
    if number == dying:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def stays(number: int, folder: Path) -> None:
    """Runs on, with a process that it has started; one of two ends that and resists, the other lets go of both."""
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as started:
        (folder / "new").mkdir(exist_ok=True)
        (folder / "new" / str(number)).write_text(f"{os.getpid()} {started.pid}")
        (folder / "new" / str(number)).rename(folder / f"{number}.pids")
        try:
            time.sleep(300 * (number % 2 == 0))
        finally:
            started.kill()
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(300)


def at_work(folder: Path, count: int = 2) -> list[int]:
    wait_for(lambda: len(list(folder.glob("*.pids"))) >= count, "tasks to begin")
    return [int(pid) for path in folder.glob("*.pids") for pid in path.read_text().split()]


# --- what comes back ------------------------------------------------------------------------------------------------


def pool(jobs: int) -> Executor:
    """Python's own, which breaks as a whole."""
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("forkserver"))


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """What never comes back is told, not waited for."""

    def late(*_: object) -> None:
        raise AssertionError("nothing comes back")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def team() -> Iterator[Workers]:
    with Workers(3) as workers:
        yield workers


@pytest.mark.parametrize("start", [None, ThreadPoolExecutor, pool])
def test_results_come_in_order(start: Callable[[int], Executor] | None, tmp_path: Path) -> None:
    with Workers(3, start) as team:
        found = team.map(functools.partial(in_disorder, folder=tmp_path), range(12))
        assert list(found) == list(range(12))
        assert list(team.map(itself, [])) == []
        assert team.lost == 0


def test_an_executor_that_is_waited_for_does_what_it_has_taken() -> None:
    with workers._Processes(2) as executor:
        futures = [executor.submit(slowly, number=number) for number in range(6)]
    assert [future.result() for future in futures] == list(range(6))
    assert multiprocessing.active_children() == []
    with pytest.raises(RuntimeError, match="have been ended"):
        executor.submit(itself, 0)


def test_alone_is_a_team() -> None:
    assert (ALONE.jobs, ALONE.lost, list(ALONE.map(itself, range(3)))) == (1, 0, [0, 1, 2])
    taken: list[int] = []
    next(ALONE.map(itself, (taken.append(n) or n for n in range(9))))  # type: ignore[func-returns-value]
    assert taken == [0]


def test_items_are_taken_when_their_turn_comes(team: Workers) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(60):
            taken += 1
            yield number

    for seen, number in enumerate(team.map(itself, items())):
        assert number == seen
        assert taken <= seen + workers._AHEAD * team.jobs
    assert taken == 60


def test_an_exception_is_the_same_here(team: Workers) -> None:
    kinds = {kind.__name__ for kind in vars(exceptions).values() if isinstance(kind, type)}
    assert {name for name in kinds if name.endswith("Error")} - set(RAISED) == {"GradcheckError"}
    for name, make in RAISED.items():
        found, wanted = team.map(raises, ["fine", name, "never seen"]), make()
        assert next(found) == "fine"
        with pytest.raises(type(wanted)) as caught:
            next(found)
        assert type(caught.value) is type(wanted)
        assert str(caught.value) == str(wanted)
        # what is a bug is reported with where it was
        assert isinstance(wanted, GradcheckError) or any("in raises" in note for note in caught.value.__notes__)
        if isinstance(caught.value, RowError):
            assert str(caught.value.numbered([5, 70])) == "row 70: label 7"
        if isinstance(caught.value, MissingExtraError):
            assert (caught.value.extra, caught.value.package) == ("flint", "python-flint")
    for name, said in (("Unspeakable", "what it says"), ("Inexact", "argument")):
        with pytest.raises(Exception, match=said):
            list(team.map(raises, [name]))
    unspeakable: list[Any] = [lambda: None]
    with pytest.raises(Exception, match="local object"):
        list(team.map(itself, unspeakable))
    assert list(team.map(raises, ["fine"])) == ["fine"]
    assert team.lost == 0


def test_maps_share_the_processes(team: Workers) -> None:
    first = set(team.map(own_pid, range(12)))
    assert first | set(team.map(own_pid, range(12))) == first
    assert len(first) == 3
    assert os.getpid() not in first
    seen = []
    for number in team.map(itself, range(8)):
        inner = team.map(own_pid, range(5))
        assert next(inner) in first
        inner.close()  # type: ignore[attr-defined]
        seen.append((number, *team.map(itself, range(2))))
    assert seen == [(number, 0, 1) for number in range(8)]


# --- workers that die -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dying", [0, 1, 7, 11])
@pytest.mark.parametrize(("how", "start"), [("working", None), ("answering", None), ("working", pool)])
def test_what_a_killed_worker_was_doing_is_done_again(
    dying: int, how: str, start: Callable[[int], Executor] | None, tmp_path: Path
) -> None:
    task = functools.partial(dies_once, dying=dying, how=how, marker=tmp_path / "died")
    with Workers(2, start) as team:
        assert list(team.map(task, range(12))) == list(range(12))
        assert team.lost == 1
        assert list(team.map(itself, range(12))) == list(range(12))
    assert (tmp_path / "died").exists()


def test_an_outer_map_survives_what_happens_in_an_inner_one(tmp_path: Path) -> None:
    for start in (None, pool):
        marker = tmp_path / str(start)
        with Workers(2, start) as team:
            task = functools.partial(dies_once, dying=1, how="working", marker=marker)
            found = [(number, *team.map(task, range(4))) for number in team.map(own_pid, range(12))]
        assert [numbers for _, *numbers in found] == [[0, 1, 2, 3]] * 12
        assert marker.exists()


class Brief(ThreadPoolExecutor):
    """Takes a few tasks and then no more, so that some have been taken that will not be done."""

    def __init__(self, jobs: int) -> None:
        super().__init__(1)
        self._left = 4 * jobs

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        self._left -= 1
        if self._left < 0:
            raise BrokenExecutor
        return super().submit(function, *arguments, **keywords)


def test_what_an_executor_has_taken_and_not_done_is_done_again() -> None:
    with Workers(2, Brief) as team:
        assert list(team.map(slowly, range(20))) == list(range(20))
        outer = [(number, len(list(team.map(slowly, range(3))))) for number in team.map(itself, range(10))]
    assert outer == [(number, 3) for number in range(10)]


def test_workers_that_always_die_are_given_up(team: Workers) -> None:
    found = team.map(functools.partial(dies, dying=5), range(12))
    seen: list[int] = []
    with pytest.raises(WorkersError, match="killed 4 times in a row; if memory ran out, fewer --jobs need less of it"):
        seen.extend(number for number in found)
    assert list(team.map(itself, range(12))) == list(range(12))
    assert team.lost >= 4


# --- workers that are not wanted any more ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, exceptions.InputError])
def test_leaving_ends_every_process(error: type[BaseException], tmp_path: Path) -> None:
    pids: list[int] = []

    def items() -> Iterator[int]:
        yield from range(2)
        pids.extend(at_work(tmp_path))
        raise error

    with pytest.raises(error), Workers(2) as team:
        list(team.map(functools.partial(stays, folder=tmp_path), items()))
    assert len(pids) == 4
    assert not any(map(alive, pids))
    assert multiprocessing.active_children() == []


def test_an_interrupt_is_not_theirs_to_answer(team: Workers) -> None:
    assert list(team.map(interrupted, range(6))) == list(range(6))
    assert team.lost == 0


def test_they_end_with_their_parent(tmp_path: Path) -> None:
    source = f"""
import functools, pathlib
from gradcheck.workers import Workers
from tests.test_workers import stays
with Workers(2) as team:
    list(team.map(functools.partial(stays, folder=pathlib.Path({str(tmp_path)!r})), range(9)))
"""
    with subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stderr=subprocess.PIPE, text=True) as parent:
        pids = at_work(tmp_path)
        assert all(map(alive, pids[:1]))
        parent.kill()
        _, err = parent.communicate(timeout=60)
    wait_for(lambda: not any(map(alive, pids)), "workers to end")
    assert err == ""
