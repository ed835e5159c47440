"""A training run's dump: how fast it is checked, in how much memory, and whether one wrong component is found.

    pip install . && python benchmarks/dump.py [ROWS CLASSES]

It writes float32 logits and their gradient to a temporary folder (780 × 128,256 components, 2 × 400 MB), checks them
as a user would, and measures beside it, in the same run, what reading both files and one exp take with NumPy, and what
central differences of everything would. Times are of whole processes on one machine at one time: read the ratios.
Linux only: memory is what /proc says of the process and all its children, shared pages counted once.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GRADCHECK = [sys.executable, "-m", "gradcheck"]
JOBS = 2
READING = """
import sys, time, numpy as np
start = time.perf_counter()
logits, gradient = (np.load(path) for path in sys.argv[1:])
np.exp(logits)
print(time.perf_counter() - start)
"""
IN_BLOCKS = """
import sys, time, numpy as np
start = time.perf_counter()
block = np.empty(1 << 20, np.float32)
for number, path in enumerate(sys.argv[1:]):
    with open(path, "rb") as stream:
        stream.seek(128)
        while count := stream.readinto(block):
            if not number:
                np.exp(block[: count // 4], out=block[: count // 4])
print(time.perf_counter() - start)
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A process: seconds, the most memory in MB, its exit code and what it wrote."""

    seconds: float
    memory: float
    code: int
    out: str


def main() -> None:
    """Everything, a line a figure."""
    shape = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) == 3 else (780, 128_256)
    count = shape[0] * shape[1]
    print(f"{platform.machine()}, {os.cpu_count()} cores, NumPy {np.__version__}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, shape)
        whole = [float(alone(READING, folder)) for _ in range(3)]
        blocks = [float(alone(IN_BLOCKS, folder)) for _ in range(3)]
        print(f"\n{shape[0]} x {shape[1]} = {count:,} components, float32")
        print(f"reading both files with numpy.load, and one exp: {sorted(whole)[1]:.2f} s (of {spread(whole)})")
        print(f"the same in blocks that stay in the cache:       {sorted(blocks)[1]:.2f} s (of {spread(blocks)})")
        start = run(["check", "--case", "plain-3", "-q"], watched=True)
        print(f"start: {start.seconds:.2f} s, {start.memory:.0f} MB")
        for engine in ("mpmath", "flint"):
            for jobs in (1, JOBS):
                options = ("--engine", engine, "--jobs", str(jobs))
                seconds = min(check(folder, *options).seconds for _ in range(2))
                # looking at memory takes time of its own
                most = check(folder, *options, watched=True).memory - start.memory
                print(
                    f"screened, {engine}, --jobs {jobs}: {seconds:.1f} s, {count / seconds:,.0f} components a second, "
                    f"{seconds / sorted(whole)[1]:.1f} times numpy.load and exp, {most:.0f} MB above start"
                )
            part = max(1, 200_000 // shape[1])
            full = check(folder, "--engine", engine, "--no-screen", "--rows", f"0:{part}")
            hours = (full.seconds - start.seconds) * shape[0] / part / 3600
            print(f"central differences of all, {engine}, one process: {hours:.2f} hours, from {part} rows")
        planted(folder, shape)
    print()
    for engine, rows in (("mpmath", 2000), ("flint", 12_000)):
        shared(engine, rows)


def make(folder: Path, shape: tuple[int, int]) -> None:
    """Normal logits of scale 3, random labels, and a float32 gradient of them."""
    rng = np.random.default_rng(0)
    logits, gradient = (
        np.lib.format.open_memmap(folder / f"{what}.npy", "w+", np.float32, shape) for what in ("logits", "gradient")
    )
    labels = rng.integers(0, shape[1], shape[0])
    for row, label in enumerate(labels.tolist()):
        logits[row] = 3 * rng.standard_normal(shape[1], dtype=np.float32)
        p = np.exp(logits[row] - logits[row].max())
        p /= p.sum()
        p[label] -= 1
        gradient[row] = p
    np.save(folder / "labels.npy", labels)


def alone(code: str, folder: Path) -> str:
    """What a script prints that is given both files."""
    paths = [str(folder / "logits.npy"), str(folder / "gradient.npy")]
    return subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True).stdout


def check(folder: Path, *options: str, watched: bool = False) -> Run:
    """The dump checked."""
    files = [str(folder / "logits.npy"), "--labels", str(folder / "labels.npy")]
    return run(["check", *files, "--gradient", str(folder / "gradient.npy"), "--format", "json", *options], watched)


def planted(folder: Path, shape: tuple[int, int]) -> None:
    """One component, wrong by a few times what a sound algorithm may err, at the first place, the last, and between."""
    gradient = np.load(folder / "gradient.npy", mmap_mode="r+")
    middle = shape[0] // 2
    for row, cls in ((0, 0), (0, shape[1] - 1), (1, 0), (middle, shape[1] // 3), (shape[0] - 1, shape[1] - 1)):
        right = gradient[row, cls].copy()
        gradient[row, cls] = right + np.float32(1e-3) * abs(right)
        gradient.flush()
        result = json.loads((found := check(folder, "--jobs", str(JOBS))).out)["results"][0]
        gradient[row, cls] = right
        gradient.flush()
        worst = result["worst"]
        hit = (found.code, result["failed"], worst["row"], worst["class"]) == (1, 1, row, cls)
        size = f"{worst['of_limit']:.3g} times its limit"
        print(f"one wrong component, row {row}, class {cls}: {'found' if hit else 'NOT FOUND'}, {size}")


def shared(engine: str, rows: int) -> None:
    """What a second process is worth where everything is a central difference."""
    words = [
        "check",
        "--generate",
        "normal",
        "--rows",
        str(rows),
        "--classes",
        "1000",
        "--no-screen",
        "--engine",
        engine,
    ]
    one, two = ([run([*words, "-q", "--jobs", jobs]) for _ in range(2)] for jobs in ("1", "2"))
    single, double = (min(found.seconds for found in runs) for runs in (one, two))
    print(
        f"{engine}, {rows} x 1000 float32, every component: {single:.1f} s alone, "
        f"{single / double:.2f} times as fast by two"
    )


def run(words: list[str], watched: bool = False) -> Run:
    """A run of the program; its memory is looked at where it is watched."""
    start = time.perf_counter()
    most = 0.0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([*GRADCHECK, *words], stdout=out)
        while watched and process.poll() is None:
            most = max(most, sum(memory(pid) for pid in tree(process.pid)))
            time.sleep(0.02)
        process.wait()
        seconds = time.perf_counter() - start
        out.seek(0)
        return Run(seconds=seconds, memory=most, code=process.returncode, out=out.read())


def tree(pid: int) -> list[int]:
    """A process and its children's children."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    except OSError:
        pass  # it has ended meanwhile
    return found


def memory(pid: int) -> float:
    """Its proportional share of what is in memory, in MB."""
    try:
        match = re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(match[1]) / 1024 if match else 0.0


def spread(seconds: list[float]) -> str:
    """All of them."""
    return ", ".join(f"{one:.2f}" for one in sorted(seconds))


if __name__ == "__main__":
    main()
