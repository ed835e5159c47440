"""Worker processes: tasks go out, results come back in order, and no process outlives its work.

Whatever is behind it is a `concurrent.futures.Executor`. A task is a function that can be imported, and arguments that
can be pickled.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from gradcheck.exceptions import WorkersError
from gradcheck.stored import File

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

_AHEAD = 3
"""Tasks for each worker that are under way, so that none waits for the next, nor do many results for their turn."""
_BREAKDOWNS = 3
"""How often in a row workers may die without anything coming back."""
SAFE_PATH = "PYTHONSAFEPATH"
"""What keeps Python from looking for modules in a script's folder, or in the current one."""
_PATIENCE = 1.0
"""Seconds in which a worker that is told to end may end what it has started itself."""


class Team(Protocol):
    """What gives tasks to somebody."""

    jobs: int
    lost: int

    def map(self, function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
        """The results, in order, as they come."""
        ...

    def sees(self, file: File) -> bool:
        """Whether everybody who works here can read this file."""
        ...


class Alone:
    """Nobody but this process."""

    jobs, lost = 1, 0

    def map(self, function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[_Found]:
        """The results, in order."""
        return map(function, items)

    def sees(self, file: File) -> bool:
        """It is this process that has opened it."""
        return True


ALONE = Alone()


class Workers:
    """Several processes.

    Attributes:
        lost: how often workers have died, and been replaced.

    Args:
        start: begins an executor for so many jobs, which is shut down without waiting.
        sees: whether all of them can read a file; those on this machine can.
    """

    def __init__(
        self,
        jobs: int,
        start: Callable[[int], Executor] | None = None,
        sees: Callable[[File], bool] = lambda _: True,
    ) -> None:
        self.jobs, self.lost = jobs, 0
        self._sees = sees
        self._start = start or _Processes
        self._executor: Executor | None = None

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
        try:
            while True:
                with contextlib.suppress(StopIteration):
                    while len(under_way) < _AHEAD * self.jobs:
                        item = next(left)
                        under_way.append((item, self._submit(function, item)))
                if not under_way:
                    return
                _, future = under_way[0]
                try:
                    found = future.result()
                except (BrokenExecutor, CancelledError):
                    breakdowns += 1
                    # all that a breakdown has cost at once fails with one and the same exception
                    self.lost += len({id(_loss(done)) for _, done in under_way if _loss(done)})
                    if breakdowns > _BREAKDOWNS:
                        raise WorkersError(
                            f"worker processes were killed {breakdowns} times in a row; if memory ran out, fewer "
                            "--jobs need less of it"
                        ) from None
                    for place, (item, done) in enumerate(under_way):
                        if done.cancelled() or _loss(done):
                            under_way[place] = item, self._submit(function, item)
                    continue
                under_way.popleft()
                breakdowns = 0
                yield found
        finally:
            for _, future in under_way:
                future.cancel()

    def sees(self, file: File) -> bool:
        """Whether all of them can read this file."""
        return self._sees(file)

    def end(self) -> None:
        """Ends every worker, whatever it is doing."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, function: Callable[[_Item], _Found], item: _Item) -> Future[_Found]:
        if self._executor is not None:
            try:
                return self._executor.submit(function, item)
            except BrokenExecutor:
                self.end()
        self._executor = self._start(self.jobs)
        return self._executor.submit(function, item)


def _loss(future: Future[Any]) -> BaseException | None:
    """Why there is no result, where a worker that died is why."""
    error = future.exception() if future.done() and not future.cancelled() else None
    return error if isinstance(error, BrokenExecutor) else None


class _Processes(Executor):
    """Processes with a pipe each, and nothing in common: one that is killed, at whatever moment, harms no other.

    They are forked from a clean process which has imported what they need, or started anew. The pool of
    `concurrent.futures` has one pipe for all results: a worker that is killed while it answers stops it for ever.
    """

    def __init__(self, jobs: int) -> None:
        if "forkserver" in multiprocessing.get_all_start_methods() and sys.platform != "darwin":
            self._context: Any = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(["gradcheck.streaming"])
        else:
            self._context = multiprocessing.get_context("spawn")
        self._ended = False
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._running: list[BaseProcess] = []
        self._lock = threading.Lock()
        self._leaders = [threading.Thread(target=self._lead, daemon=True) for _ in range(jobs)]
        try:
            for leader in self._leaders:
                leader.start()
        except RuntimeError:
            self.shutdown(wait=False, cancel_futures=True)
            raise WorkersError(f"the system starts no {jobs} processes; fewer --jobs need less of it") from None

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        """As every executor does."""
        if self._ended:
            raise RuntimeError("these processes have been ended")
        future: Future[Any] = Future()
        self._tasks.put((future, (function, arguments, keywords)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes: with what they are doing, or, if that is to be waited for, after it."""
        self._ended = not wait
        if cancel_futures:
            with contextlib.suppress(queue.Empty):
                while True:
                    task = self._tasks.get_nowait()
                    if task is not None:
                        task[0].cancel()
        for _ in self._leaders:
            self._tasks.put(None)
        if wait:
            for leader in self._leaders:
                leader.join()
        with self._lock:
            self._ended = True
            _end(self._running)

    def _lead(self) -> None:
        """Gives tasks to a process, one by one, and to another one where that dies."""
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C is the main thread's to answer, and must not meet processes that are just starting; the tracker of
            # Python's own, where it starts later, would undo that
            with safely():
                resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        worker: _Worker | None = None
        for future, task in iter(self._tasks.get, None):
            if future.set_running_or_notify_cancel():
                worker = self._done(future, task, worker)
            # they may be large, and the next ones long in coming
            del future, task

    def _done(self, future: Future[Any], task: Any, worker: _Worker | None) -> _Worker | None:
        """Has a task done; the worker that did it, if it is still there."""
        try:
            # a copy, no view of a buffer: Python 3.13 complains on standard error where the buffer goes first, and an
            # error's traceback, or this thread at the end of the program, would keep the view
            message = bytes(ForkingPickler.dumps(task))
            try:
                worker = worker or self._begun()
                worker.pipe.send_bytes(message)
                answer = worker.pipe.recv_bytes()
            except (EOFError, OSError) as error:
                if worker is not None:
                    _end([worker.process])
                worker = None
                raise BrokenExecutor("a worker process has died") from error
            good, found = ForkingPickler.loads(answer)
        except BaseException as error:
            good, found = False, error
        if good:
            future.set_result(found)
        else:
            future.set_exception(found)
        return worker

    def _begun(self) -> _Worker:
        here, there = self._context.Pipe()
        with self._lock, there, safely() as was_safe:
            if self._ended:
                raise BrokenExecutor("these processes have been ended")
            process = self._context.Process(target=_work, args=(there, was_safe), daemon=True)
            process.start()
            self._running = [*(one for one in self._running if one.is_alive()), process]
        return _Worker(process, here)


_starting = threading.Lock()


@contextlib.contextmanager
def safely() -> Iterator[bool]:
    """Starts Python's own helpers so that they do not look for their modules in the current folder first.

    Other people's files may lie there. What is given is whether that was so before.
    """
    with _starting:
        was = os.environ.get(SAFE_PATH)
        os.environ[SAFE_PATH] = "1"
        try:
            yield bool(was)
        finally:
            if was is None:
                del os.environ[SAFE_PATH]
            else:
                os.environ[SAFE_PATH] = was


class _Worker(NamedTuple):
    """A process, and this end of its pipe."""

    process: BaseProcess
    pipe: Connection


def _end(processes: Sequence[BaseProcess]) -> None:
    """Has processes end what they have started, and ends those that do not."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    until = time.monotonic() + _PATIENCE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()


class _Ended(SystemExit):
    """What a worker is doing is wanted no more."""


def _work(pipe: Connection, safe: bool) -> None:
    """What a worker does: Ctrl-C is its parent's to answer, and it ends with its parent.

    Args:
        safe: whether programs that it starts, too, look for no modules in their scripts' folders.
    """
    if not safe:
        os.environ.pop(SAFE_PATH, None)
    try:
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        parent = multiprocessing.parent_process()
        assert parent is not None
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()
        while True:
            pipe.send_bytes(answered(pipe.recv_bytes(), "a worker process"))
    except (_Ended, EOFError, OSError):
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # processes of other people's code go with this one, and whatever those have started
        atexit._run_exitfuncs()


def answered(task: bytes, where: str) -> bytes:
    """The answer to a task, both pickled: whether it was done, and what it returned or raised."""
    try:
        function, arguments, keywords = ForkingPickler.loads(task)
        return bytes(ForkingPickler.dumps((True, function(*arguments, **keywords)), 5))
    except _Ended:
        raise
    except BaseException as error:
        error.add_note(f"In {where}:\n{traceback.format_exc()}")
        try:
            return bytes(ForkingPickler.dumps((False, error), 5))
        except Exception:
            return bytes(ForkingPickler.dumps((False, RuntimeError("\n".join(traceback.format_exception_only(error))))))


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise _Ended


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)
