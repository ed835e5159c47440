"""A dask cluster as a team: many machines, or processes of this one that dask starts.

A task goes to the scheduler as bytes that only a worker reads, and its answer comes back as bytes. Versions are
compared before: results must not depend on who has found them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import os
import pickle
import pkgutil
import platform
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from multiprocessing import resource_tracker
from multiprocessing.reduction import ForkingPickler
from typing import Any

from gradcheck import versions
from gradcheck.exceptions import MissingExtraError, WorkersError
from gradcheck.stored import File
from gradcheck.workers import SAFE_PATH, Workers, answered, safely

LOCAL = "local"
"""The address of a cluster that is started here, and ends with its work."""

_ANSWER = 10.0
"""Seconds in which a scheduler answers, and in which it has a worker."""
_START = 120.0
"""Seconds in which workers start here."""
_PATIENCE = 30.0
"""Seconds in which workers answer, and others come where all have gone."""
_LOOK = 0.5
"""Seconds between two looks at who is there."""
_LEAVE = 5.0
"""Seconds in which a cluster takes note that nothing is wanted any more."""
_ROOM = 1 << 30
"""Bytes of tasks that are under way: this process holds them, and so does the scheduler."""
_END = 1 << 16
"""Bytes at either end of a file by which it is told from another."""
_NAMED = 3
"""Workers that an error names."""
_NOISY = ("distributed", "tornado", "asyncio")
_PYTHON, _SOURCE = "Python", "source"

_Versions = tuple[tuple[str, str], ...]


@contextlib.contextmanager
def joined(address: str, jobs: int | None, forget: Callable[[], None] | None = None) -> Iterator[Workers]:
    """The workers of a cluster, for as long as the block lasts.

    Args:
        address: of a scheduler, which is left as it was found; or `LOCAL`.
        jobs: how many tasks are under way at a time, at most; of a cluster that is started here, its workers.
        forget: called in every worker, before and after: what it keeps of other runs may be old.

    Raises:
        MissingExtraError: where dask is not installed.
        WorkersError: where nobody answers, or somebody has other versions.
    """
    try:
        import distributed
    except ModuleNotFoundError:
        raise MissingExtraError("--scheduler", "dask", "distributed") from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(warnings.catch_warnings())
        # what differs is told once, by us
        warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
        warnings.filterwarnings("ignore", "Sending large graph")
        if address == LOCAL:
            count = jobs or _processors()
            client = stack.enter_context(_connected(stack.enter_context(_started(count))))
            there = _present(client, count, _START)
            if len(there) < count:
                raise WorkersError(f"{len(there)} of {count} worker processes have started within {_START:g} s")
            most = None
        else:
            client = stack.enter_context(_connected(address))
            there = _present(client, 1, _ANSWER)
            if not there:
                raise WorkersError(
                    f"the scheduler at {address} has no worker, nor got one within {_ANSWER:g} s; "
                    "'dask worker' starts one"
                )
            most = jobs
        client.sync(_compare, client)
        if forget is not None:
            _run(client, forget)
            stack.callback(_forgotten, client, forget)

        def left(count: int) -> None:
            team.lost += count

        def start(_: int) -> Executor:
            return _Shared(client, address, most, left)

        team = Workers(min(most or len(there), len(there)), start, _Eyes(client))
        stack.enter_context(team)
        yield team


# --- what is there ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what dask logs; what matters becomes an exception."""
    for family in _NOISY:
        logging.getLogger(family)
    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.split(".")[0] in _NOISY and isinstance(logger, logging.Logger)
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        if logger.level or logger.name in _NOISY:
            logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _connected(address: Any) -> Iterator[Any]:
    """A client of a scheduler, or of a cluster that was started here."""
    import distributed
    from distributed.comm.addressing import get_address_host_port

    made: Future[Any] = Future()

    def make() -> None:
        try:
            if isinstance(address, str):
                # a client that is not made to its end waits for itself
                get_address_host_port(address)
            made.set_result(distributed.Client(address, timeout=_ANSWER, set_as_default=False))
        except BaseException as error:
            made.set_exception(error)

    # some protocols wait for ever where they are not installed
    threading.Thread(target=make, daemon=True).start()
    try:
        client = made.result(_ANSWER + 2)
    except KeyboardInterrupt:
        # one that is left half made closes itself when it is forgotten, and complains where that takes long
        with contextlib.suppress(Exception):
            made.result(_LEAVE).close(timeout=_LEAVE)
        raise
    except OSError:
        raise WorkersError(
            f"no scheduler answers at {address} within {_ANSWER:g} s; 'dask scheduler' starts one and says its address"
        ) from None
    except Exception as error:
        said = str(error) or type(error).__name__
        raise WorkersError(f"--scheduler {address}: {said}; an address reads tcp://HOST:PORT") from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=_LEAVE)


@contextlib.contextmanager
def _started(count: int) -> Iterator[Any]:
    """A cluster of so many processes; they are gone when the block is left, and so is what they have started."""
    import dask
    import distributed

    with tempfile.TemporaryDirectory(prefix="gradcheck-", ignore_cleanup_errors=True) as folder, _environment_kept():
        # the scheduler takes a folder from there alone
        with safely() as safe, _masked(), dask.config.set({"temporary-directory": folder}):
            cluster = distributed.LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL + 1,
                memory_limit=0,
                local_directory=folder,
            )
        try:
            # as `safely` does, for processes that dask starts when it likes; not for what these start
            environ = {
                f"distributed.nanny.pre-spawn-environ.{SAFE_PATH}": "1",
                f"distributed.nanny.environ.{SAFE_PATH}": "1" if safe else "",
            }
            with dask.config.set(environ):
                cluster.scale(count)
                yield cluster
        finally:
            # dask would wait for what they are doing
            for nanny in list(cluster.workers.values()):
                nanny.auto_restart = False
                if nanny.pid is not None:
                    _kill(nanny.pid)
            with contextlib.suppress(Exception):
                cluster.close(timeout=_LEAVE)


def _kill(pid: int) -> None:
    """Ends a process, and all that it has started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """What dask sets for its processes it sets here, and leaves: it is as it was, afterwards."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _masked() -> Iterator[None]:
    """Threads that are started here, and their processes, leave Ctrl-C, and a terminal that is gone, to this one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # a terminal that is gone is this one's to answer, too
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    # the tracker of Python's own, where it starts later, would undo what follows; it ignores other signals itself
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _processors() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _present(client: Any, count: int, seconds: float) -> list[str]:
    """The workers' addresses, when there are so many, or when the time is over."""
    until = time.monotonic() + seconds
    while True:
        found = _workers(client)
        if len(found) >= count or time.monotonic() > until:
            return found
        time.sleep(0.05)


def _workers(client: Any) -> list[str]:
    try:
        return list(client.nthreads(callback_timeout=_PATIENCE))
    except Exception as error:
        raise WorkersError(f"the scheduler no longer answers ({type(error).__name__})") from error


def _run(client: Any, function: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    """What a function returns in every worker, or its exception."""
    found: dict[str, Any] = client.sync(_asked, client, function, *arguments)
    return found


async def _asked(client: Any, function: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    try:
        replies = await asyncio.wait_for(client.run(function, *arguments, on_error="return"), _PATIENCE)
    except Exception as error:
        raise WorkersError(
            f"the cluster's workers do not answer within {_PATIENCE:g} s ({type(error).__name__})"
        ) from error
    # a worker that has just gone is nobody's trouble
    return {address: reply for address, reply in replies.items() if not isinstance(reply, OSError)}


def _forgotten(client: Any, forget: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        client.sync(client.run, forget, on_error="ignore", callback_timeout=_LEAVE)


class _Eyes:
    """Which files all workers see as they are here."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._seen: dict[tuple[str, int, int], bool] = {}

    def __call__(self, file: File) -> bool:
        key = file.path, file.size, file.changed
        if key not in self._seen:
            here = _look(file.path)
            same = here is not None and here[:2] == key[1:]
            self._seen[key] = same and all(reply == here for reply in _run(self._client, _look, file.path).values())
        return self._seen[key]


def _look(path: str) -> tuple[int, int, str] | None:
    """Size, time and ends of a file, where it can be read."""
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            ends = stream.read(_END)
            stream.seek(max(0, status.st_size - _END))
            ends += stream.read(_END)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, hashlib.sha256(ends).hexdigest()


# --- versions -----------------------------------------------------------------------------------------------------


@functools.cache
def _versions() -> _Versions:
    """What has to be the same everywhere, in the order in which it is compared."""
    python = _minor(platform.python_version())
    return (_PYTHON, python), *versions.versions().items(), (_SOURCE, versions.source())


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


async def _compare(client: Any) -> None:
    """Asks every worker.

    Raises:
        WorkersError: where one has others.
    """
    faults: dict[str, str] = {}
    for name, here in _versions():
        if name == _SOURCE:
            replies = await _asked(client, versions.source)
        elif name == _PYTHON:
            replies = await _asked(client, platform.python_version)
            replies = {address: _minor(str(reply)) for address, reply in replies.items()}
        else:
            replies = await _asked(client, pkgutil.resolve_name, f"{versions.MODULES[name]}:__version__")
        for address, there in replies.items():
            if there != here:
                faults.setdefault(address, _fault(name, None if isinstance(there, Exception) else there, here))
    if faults:
        raise WorkersError(_told(faults))


def _fault(name: str, there: object, here: str) -> str:
    if name == _SOURCE:
        return f"another gradcheck {versions.versions()['gradcheck']} than here (its source differs)"
    if there is None:
        return f"no {name} (pip install {name}=={here} there)"
    return f"{name} {there}, here {here}"


def _told(faults: dict[str, str]) -> str:
    named = [f"worker {address}: {fault}" for address, fault in list(faults.items())[:_NAMED]]
    more = [f"and {len(faults) - _NAMED} more"] if len(faults) > _NAMED else []
    return "; ".join([*named, *more, "all sides need the same versions"])


# --- tasks --------------------------------------------------------------------------------------------------------

_TURN = threading.Lock()
"""The engines have one precision for a whole process: its tasks take turns, however many threads it has."""


def _done(payload: bytes, wanted: _Versions) -> bytes:
    """What a worker does: the answer to a task.

    Raises:
        WorkersError: where it is another version's.
    """
    import distributed

    address = distributed.get_worker().address
    here = dict(_versions())
    for name, there in wanted:
        if here.get(name) != there:
            raise WorkersError(_told({address: _fault(name, here.get(name), there)}))
    with _TURN:
        return answered(payload, f"worker process {address}")


class _Call:
    """Becomes what `_done` returns, where it is unpickled: the scheduler, which reads tasks, needs no gradcheck."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def __reduce__(self) -> tuple[object, ...]:
        return _done, (self._payload, _versions())


class _Shared(Executor):
    """Tasks given to a cluster, and somebody who sees to it that each of them ends.

    Args:
        most: how many are under way at a time.
        left: told how many workers have gone.
    """

    def __init__(self, client: Any, address: str, most: int | None, left: Callable[[int], None]) -> None:
        self._client, self._address, self._most, self._left = client, address, most, left
        self._there = set(_workers(client))
        self._sizes: dict[Future[Any], int] = {}
        self._changed = threading.Condition(threading.RLock())
        self._failure: WorkersError | None = None
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        """As every executor does; waits until there is room."""
        future: Future[Any] = Future()
        try:
            task = bytes(ForkingPickler.dumps((function, arguments, keywords), 5))
        except Exception as error:
            future.set_exception(error)
            return future
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._fits(len(task)))
            if self._failure is not None:
                raise self._failure
            self._sizes[future] = len(task)
        future.add_done_callback(self._gone)
        call = pickle.dumps(_Call(task), 5)
        try:
            theirs = self._client.submit(pickle.loads, call, pure=False)
        except Exception as error:
            _conclude(future, WorkersError(f"the scheduler at {self._address} takes no task: {error}"))
            return future
        settled = asyncio.run_coroutine_threadsafe(self._settle(theirs, future), self._client.loop.asyncio_loop)
        future.add_done_callback(lambda _: settled.cancel())
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes back what is under way, unless that is to be waited for."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: not self._sizes)
            futures = list(self._sizes)
        for future in futures:
            future.cancel()
        self._ended.set()
        if self._failure is None:
            # a worker may have gone just now
            with contextlib.suppress(WorkersError):
                self._look()

    def _fits(self, size: int) -> bool:
        if self._most is not None and len(self._sizes) >= self._most:
            return False
        # what is larger than all room goes alone
        return not self._sizes or sum(self._sizes.values()) + size <= _ROOM

    def _gone(self, future: Future[Any]) -> None:
        with self._changed:
            del self._sizes[future]
            self._changed.notify_all()

    async def _settle(self, theirs: Any, ours: Future[Any]) -> None:
        """Waits for an answer; dask forgets a task that nobody waits for."""
        try:
            answer = await theirs.result()
        except Exception as error:
            _conclude(ours, await self._explained(error))
        else:
            try:
                good, found = ForkingPickler.loads(answer)
            except Exception as error:
                good, found = False, error
            if good:
                with contextlib.suppress(InvalidStateError):
                    ours.set_result(found)
            else:
                _conclude(ours, found)
        finally:
            theirs.release()

    async def _explained(self, error: Exception) -> WorkersError:
        """Why dask has no answer."""
        import distributed

        if self._failure is not None:
            return self._failure
        if isinstance(error, WorkersError):
            return error
        if isinstance(error, distributed.KilledWorker):
            return WorkersError(
                f"{error.allowed_failures + 1} workers died of one and the same part; if memory ran out, give each of "
                "them more of it, or start fewer"
            )
        if isinstance(error, ImportError | AttributeError):
            # a worker that has come since cannot even read a task
            try:
                await _compare(self._client)
            except WorkersError as found:
                return found
        if isinstance(error, CancelledError):
            return WorkersError(
                f"the cluster at {self._address} has dropped what was under way: its scheduler has gone"
            )
        return WorkersError(f"the cluster at {self._address} gave a task back: {type(error).__name__}: {error}")

    def _watch(self) -> None:
        """Fails what is under way where nobody is left who could do it."""
        last_seen = time.monotonic()
        while not self._ended.wait(_LOOK):
            try:
                if self._look():
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > _PATIENCE:
                    raise WorkersError(
                        f"all workers of the cluster at {self._address} have gone, and none came within {_PATIENCE:g} s"
                    )
            except WorkersError as error:
                if not self._ended.is_set():
                    self._fail(error)
                return

    def _look(self) -> bool:
        """Whether there are workers.

        Raises:
            WorkersError: where there is no scheduler.
        """
        if self._client.status != "running":
            raise WorkersError(f"the scheduler at {self._address} has gone")
        before, self._there = self._there, set(_workers(self._client))
        self._left(len(before - self._there))
        return bool(self._there)

    def _fail(self, error: WorkersError) -> None:
        with self._changed:
            self._failure = error
            futures = list(self._sizes)
            self._changed.notify_all()
        for future in futures:
            _conclude(future, error)


def _conclude(future: Future[Any], error: BaseException) -> None:
    """Ends what may have ended already."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)
