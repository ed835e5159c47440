"""Worker processes: tasks go out, results come back in order, and no process outlives its work.

Whatever is behind it is a `concurrent.futures.Executor`. A task is a function that can be imported, and arguments that
can be pickled.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Protocol, TypeVar

from gradcheck.exceptions import WorkersError

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

_AHEAD = 3
"""Tasks for each worker that are under way, so that none waits for the next, nor do many results for their turn."""
_BREAKDOWNS = 3
"""How often in a row workers may die without anything coming back."""


class Team(Protocol):
    """What gives tasks to somebody."""

    jobs: int
    lost: int

    def map(self, function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
        """The results, in order, as they come."""
        ...


class Alone:
    """Nobody but this process."""

    jobs, lost = 1, 0

    def map(self, function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
        """The results, in order."""
        return map(function, items)


ALONE = Alone()


class Workers:
    """Several processes.

    Attributes:
        lost: how often workers have died, and been replaced.

    Args:
        start: begins an executor for so many jobs.
    """

    def __init__(self, jobs: int, start: Callable[[int], Executor] | None = None) -> None:
        self.jobs, self.lost = jobs, 0
        self._start = start or _processes
        self._executor: Executor | None = None
        self._before: set[int | None] = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def map(self, function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
        """The results, in order, as they come; what a worker that died was doing is done again.

        Raises:
            WorkersError: where they die again and again.
        """
        left = iter(items)
        under_way: collections.deque[tuple[_Item, Future[_Found]]] = collections.deque()
        breakdowns = 0
        while True:
            with contextlib.suppress(StopIteration):
                while len(under_way) < _AHEAD * self.jobs:
                    item = next(left)
                    under_way.append((item, self._submit(function, item)))
            if not under_way:
                return
            item, future = under_way[0]
            try:
                found = future.result()
            except BrokenExecutor:
                self.lost += 1
                breakdowns += 1
                self.end()
                if breakdowns > _BREAKDOWNS:
                    raise WorkersError(
                        f"worker processes were killed {breakdowns} times in a row; if memory ran out, fewer --jobs "
                        "need less of it"
                    ) from None
                under_way = collections.deque(
                    (again, done if _has_result(done) else self._submit(function, again)) for again, done in under_way
                )
                continue
            under_way.popleft()
            breakdowns = 0
            yield found

    def end(self) -> None:
        """Ends every worker, whatever it is doing."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process.pid not in self._before:
                process.kill()

    def _submit(self, function: Callable[[_Item], _Found], item: _Item) -> Future[_Found]:
        if self._executor is None:
            self._before = {process.pid for process in multiprocessing.active_children()}
            self._executor = self._start(self.jobs)
        try:
            return self._executor.submit(function, item)
        except BrokenExecutor as error:
            # told where its result is asked for, as of one that broke later
            failed: Future[_Found] = Future()
            failed.set_exception(error)
            return failed


def _has_result(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and not isinstance(future.exception(), BrokenExecutor)


def _processes(jobs: int) -> Executor:
    """Processes that are forked from a clean one which has imported what they need, or started anew."""
    if "forkserver" in multiprocessing.get_all_start_methods() and sys.platform != "darwin":
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gradcheck.streaming"])
    else:
        context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)


def _begin() -> None:
    """What a worker does first: Ctrl-C is its parent's to answer, and it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
