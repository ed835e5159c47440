"""Where the time of `gradcheck stability` goes, with one candidate at its defaults, in one run.

    python benchmarks/stability.py

Phases are timed one after the other on one core; the whole is the command itself, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from gradcheck import __version__, candidates, catalogue, checking, reference, report, tolerances
from gradcheck.formats import named
from gradcheck.problem import Problem
from gradcheck.reference import Reference, Settings
from gradcheck.report import Style
from gradcheck.results import Report, Result

FORMATS = ("float32", "float64")

_T = TypeVar("_T")


def timed(run: Callable[[], _T]) -> tuple[float, _T]:
    """Seconds, and what came of it."""
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, found


def problems() -> dict[tuple[str, str], Problem]:
    """The catalogue as the default run takes it."""
    every = {(case.name, name): case.problem(named(name)) for case in catalogue.select() for name in FORMATS}
    return {key: problem for key, problem in every.items() if problem is not None}


def judged(made: dict[tuple[str, str], Problem], exact: dict[tuple[str, str], Reference]) -> Iterator[Result]:
    """Every problem judged, where its reference is there already."""
    for (case, name), problem in made.items():
        yield from checking.check(
            problem,
            [candidates.load(candidates.DEFAULT)],
            checking.How(tolerance=tolerances.Stable(), settings=Settings()),
            case=case,
            exactly=lambda *_, key=(case, name): exact[key],
        )


def main() -> None:
    """One line a phase."""
    command = [sys.executable, "-m", "gradcheck", "stability", "--quiet"]
    start, _ = timed(lambda: subprocess.run([*command[:3], "--version"], check=True, capture_output=True))
    imports, _ = timed(lambda: subprocess.run([sys.executable, "-c", "import gradcheck.checking"], check=True))
    whole, _ = timed(lambda: subprocess.run(command, check=True))
    building, made = timed(problems)
    making, exact = timed(
        lambda: {key: reference.compute(problem, problem.format, Settings()) for key, problem in made.items()}
    )
    judging, results = timed(lambda: tuple(judged(made, exact)))
    text, _ = timed(
        lambda: report.render("table", Report(version=__version__, settings={}, results=results), Style(width=120))
    )
    print(f"{whole:.2f} s  gradcheck stability: {len(results)} results, of which")
    for seconds, what in (
        (imports, "Python, NumPy, mpmath and the core are imported"),
        (start, "the command line alone starts (--version)"),
        (building, "problems are built, rounded into their formats and folded into terms"),
        (making, "references are made"),
        (judging, "the candidate answers and is judged"),
        (text, "the table is rendered"),
    ):
        print(f"{seconds:.2f} s  {what}")


if __name__ == "__main__":
    main()
