"""A dask cluster: what it costs to ask it, and what a second worker is worth.

    pip install '.[dask,flint]' && python benchmarks/cluster.py [ROWS]

It starts a scheduler and workers as processes on loopback, and measures in one run: a check by one process and by one
and two workers (ROWS rows of 1,000 classes, 12,000 by default), an empty task, and tasks of 1, 8 and 32 MiB. Times are
of one machine at one time, on which scheduler, workers and this process share the processors: read the ratios.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import distributed
import numpy as np

from gradcheck import candidates, cluster, streaming, tolerances
from gradcheck.batch import Batch
from gradcheck.checking import How
from gradcheck.formats import named
from gradcheck.problem import Problem
from gradcheck.reference import Settings
from gradcheck.workers import Team

GRADCHECK = [sys.executable, "-m", "gradcheck"]
SIZES = (1, 8, 32)


def main() -> None:
    """Everything, a line a figure."""
    rows = int(sys.argv[1]) if len(sys.argv) == 2 else 12_000
    version = importlib.metadata.version("distributed")
    print(f"{platform.machine()}, {os.cpu_count()} cores, distributed {version}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        address = stack.enter_context(scheduler(folder))
        stack.enter_context(worker(folder, address))
        empty(address)
        shipped(address)
        results(address)
        words = ["check", "--generate", "normal", "--rows", str(rows), "--classes", "1000", "--no-screen"]
        print(f"\n{rows} x 1000 float32, every component a central difference, flint; whole processes")
        alone = seconds(words)
        print(f"one process: {alone:.1f} s")
        for count in (1, 2):
            if count == 2:
                stack.enter_context(worker(folder, address))
            took = seconds([*words, "--scheduler", address])
            print(f"{count} worker{'s' * (count > 1)}: {took:.1f} s, {alone / took:.2f} times as fast as one process")
        took = seconds([*words, "--jobs", "2"])
        print(f"--jobs 2: {took:.1f} s, {alone / took:.2f} times as fast")


@contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    """A scheduler; its address."""
    told = folder / "scheduler.json"
    with process("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told)):
        while not (told.exists() and told.read_text()):
            time.sleep(0.05)
        yield json.loads(told.read_text())["address"]


@contextmanager
def worker(folder: Path, address: str) -> Iterator[None]:
    """Another worker, when it is there."""
    with distributed.Client(address, set_as_default=False) as client:
        before = len(client.nthreads())
        with process("worker", address, "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)):
            client.wait_for_workers(before + 1)
            yield


@contextmanager
def process(what: str, *words: str) -> Iterator[None]:
    """A part of a cluster."""
    started = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        started.kill()
        started.wait()


def empty(address: str) -> None:
    """What joining costs, and a task that does nothing."""
    start = time.perf_counter()
    with cluster.joined(address, None) as team:
        print(f"\njoining, with versions compared: {time.perf_counter() - start:.2f} s")
        with executor(address) as shared:
            once = timed(lambda: [shared.submit(len, b"").result() for _ in range(200)]) / 200
            many = timed(lambda: [future.result() for future in [shared.submit(len, b"") for _ in range(1000)]]) / 1000
        some = timed(lambda: list(team.map(len, [b""] * 500))) / 500
    print(f"an empty task, one after another: {1e3 * once:.1f} ms; 1,000 under way: {1e3 * many:.1f} ms a task")
    print(f"through Workers.map, three under way for each worker: {1e3 * some:.1f} ms a task")


def shipped(address: str) -> None:
    """What tasks cost by their bytes."""
    for size in SIZES:
        count = max(4, 128 // size)
        with cluster.joined(address, None) as team:
            list(team.map(len, [bytes(size << 20)]))
            took = timed(lambda: list(team.map(len, (os.urandom(1024) * (size << 10) for _ in range(count)))))  # noqa: B023
        print(f"tasks of {size} MiB: {count * size * 1.048576 / took:.0f} MB/s, {1e3 * took / count:.0f} ms a task")


def results(address: str) -> None:
    """How large tasks and results of parts are."""
    rng = np.random.default_rng(0)
    float32 = named("float32")
    logits = float32.round_array(rng.normal(size=(200, 1000)))
    problem = Problem(logits=logits, labels=rng.integers(1000, size=200), format=float32)
    how = How(tolerance=tolerances.parse("stable"), settings=Settings(engine="flint"))
    sizes: list[tuple[int, int]] = []
    with cluster.joined(address, None) as team:
        chosen = [candidates.load("shifted")]
        list(streaming.check(Batch.of(problem), chosen, how, case="x", team=Watching(team, sizes)))
    for task, found in sizes:
        print(f"a part of a check: {task:,} bytes go out, {found:,} come back")


class Watching:
    """A team of which is noted how large its tasks and results are."""

    def __init__(self, team: Team, sizes: list[tuple[int, int]]) -> None:
        self._team, self._sizes = team, sizes
        self.jobs, self.lost = team.jobs, team.lost

    def map(self, function: Any, items: Any) -> Iterator[Any]:
        """The results, in order."""
        from multiprocessing.reduction import ForkingPickler

        items = list(items)
        for item, found in zip(items, self._team.map(function, items), strict=True):
            self._sizes.append((len(ForkingPickler.dumps(item, 5)), len(ForkingPickler.dumps(found, 5))))
            yield found

    def sees(self, file: Any) -> bool:
        """Whether all can read a file."""
        return self._team.sees(file)


@contextmanager
def executor(address: str) -> Iterator[Executor]:
    """What is behind a team."""
    with distributed.Client(address, set_as_default=False) as client:
        shared = cluster._Shared(client, address, None, lambda _: None)
        try:
            yield shared
        finally:
            shared.shutdown(wait=False)


def seconds(words: list[str]) -> float:
    """The best of two runs of the program."""
    return min(timed(lambda: subprocess.run([*GRADCHECK, *words, "-q", "--engine", "flint"], check=True)) for _ in "12")


def timed(work: Any) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
