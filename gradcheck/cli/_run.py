"""From results to standard output, files and an exit code: what every checking command ends with."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

from gradcheck import __version__, exits, versions, writing
from gradcheck.cli._options import Reporting, Writing
from gradcheck.exceptions import InputError, UnknownNameError, UsageError, visible

if TYPE_CHECKING:
    from rich.progress import Progress

    from gradcheck.report import Style
    from gradcheck.results import Report, Result


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How a report becomes text: the names of its formats, and `(name, report, style) -> text`."""

    names: Sequence[str]
    render: Callable[[str, Report, Style], str | bytes]


def finish(
    results: Iterator[Result],
    settings: dict[str, Any],
    reporting: Reporting,
    notes: Sequence[str] = (),
    rendering: Rendering | None = None,
    finished: Callable[[], None] = lambda: None,
) -> None:
    """Takes the results as they come, writes the reports, and leaves with the exit code; also when interrupted.

    Args:
        notes: read when all results have come, so that they may grow with them.
        rendering: another than a report's own.
        finished: called when all reports are written, unless it was interrupted.
    """
    from gradcheck import candidates
    from gradcheck import report as reports
    from gradcheck.results import Report

    rendering = rendering or Rendering(names=reports.names(), render=reports.render)
    ways = targets(reporting, rendering.names)
    compared = _against(reporting.baseline)
    done: list[Result] = []
    interrupted = False
    try:
        for result in results:
            done.append(compared(result))
    except KeyboardInterrupt:
        interrupted = True
    said = (*notes, "interrupted before the end") if interrupted else tuple(notes)
    made_with = versions.environment(candidates.packages())
    report = Report(version=__version__, environment=made_with, settings=settings, results=tuple(done), notes=said)
    write(lambda name, style: rendering.render(name, report, style), reporting, ways, verbose=reporting.verbose)
    if interrupted:
        raise typer.Exit(exits.INTERRUPTED)
    finished()
    raise typer.Exit(0 if reporting.exit_zero else exit_code(report))


def exit_code(report: Report) -> int:
    """0 where every candidate agrees, 1 where one disagrees, 2 where something, or one of them, could not be checked.

    What a baseline knows does not count, but as something that was checked.
    """
    from gradcheck.results import Verdict

    found = {result.verdict for result in report.results if not result.known}
    if Verdict.FAIL in found:
        return exits.DISAGREES
    judged = any(result.verdict is not Verdict.SKIPPED for result in report.results)
    passed_over = {result.candidate for result in report.results if not result.known} & {*report.passed_over}
    unchecked = passed_over or found & {Verdict.CRASHED, Verdict.INCONCLUSIVE}
    return exits.CANNOT_CHECK if unchecked or not judged else 0


def _against(baseline: str | None) -> Callable[[Result], Result]:
    """Marks the results that a saved report holds already."""
    if baseline is None:
        return lambda result: result
    from gradcheck.report import _saved
    from gradcheck.results import Verdict

    record = _saved.read(baseline)

    def compared(result: Result) -> Result:
        known = result.verdict is not Verdict.PASS and _saved.known(record, result)
        return dataclasses.replace(result, known=known)

    return compared


def targets(where: Writing, known: Sequence[str]) -> list[tuple[str, str]]:
    """Every report that goes to a file, as (format, file), found possible before anything is computed.

    Raises:
        UsageError, InputError: for a format that is not among `known`, or a file that cannot be written.
    """
    from gradcheck import report as reports

    if where.color not in ("auto", "always", "never"):
        raise UnknownNameError("colour", where.color, ("auto", "always", "never"))
    found = []
    for text in where.report or []:
        name, equals, path = text.partition("=")
        if not equals:
            raise UsageError(f"--report should read FORMAT=FILE, not '{text}'")
        found.append((name, path))
    if where.output is not None:
        found.append((where.format or _of_suffix(where.output, known, reports.names()), where.output))
    for name in [name for name, _ in found] + ([where.format] if where.format else []):
        if name not in known:
            raise UnknownNameError("report format", name, known)
        if name in reports.names():
            reports.require(name)
    paths = [path for _, path in found]
    for path in paths:
        if not path or not os.path.isdir(folder := os.path.dirname(os.path.realpath(path))):
            raise InputError(f"{path}: there is no folder '{folder}'" if path else "a report needs a file to go to")
        if (
            path.endswith(os.sep)
            or os.path.isdir(path)
            or not os.access(path if os.path.exists(path) else folder, os.W_OK)
        ):
            raise InputError(f"{path}: cannot be written")
        if paths.count(path) > 1:
            raise UsageError(f"{path}: two reports cannot go to one file")
    return found


def _of_suffix(path: str, known: Sequence[str], reports: Sequence[str]) -> str:
    """The format that a file's name asks for, be it one that is not `known` to a command."""
    suffix = os.path.splitext(path)[1][1:].lower()
    name = {"md": "markdown", "xml": "junit"}.get(suffix, suffix)
    return name if name in {*known, *reports} else "concise"


def write(
    render: Callable[[str, Style], str | bytes],
    where: Writing,
    ways: list[tuple[str, str]],
    *,
    verbose: bool = False,
) -> None:
    """Renders to standard output, unless the report goes to a file, and to every file."""
    from gradcheck.report import Style

    if where.output is None and not where.quiet:
        terminal = sys.stdout.isatty()
        name = where.format or ("table" if terminal else "concise")
        style = Style(
            width=_width() if terminal or name == "table" else None,
            color=_colored(where.color, terminal),
            verbose=verbose,
        )
        shown = render(name, style)
        if isinstance(shown, str):
            sys.stdout.write(shown)
        elif terminal:
            raise UsageError(f"{name} is a picture: give it a file with --output")
        else:
            sys.stdout.buffer.write(shown)
        sys.stdout.flush()
        _summarize(name, render)
    for name, path in ways:
        shown = render(name, Style(verbose=verbose))
        writing.replace(path, shown.encode(errors="backslashreplace") if isinstance(shown, str) else shown)


def tell(notes: Iterable[str]) -> None:
    """Says on standard error what is to be known of the input, for a command whose output has no place for it."""
    for note in notes:
        typer.echo(f"note: {visible(note)}", err=True)


def _width() -> int:
    import shutil

    # as rich does, COLUMNS wins; a pipe has no width, and 120 fits the table
    return shutil.get_terminal_size((120, 24)).columns


def _colored(when: str, terminal: bool) -> bool:
    if when != "auto":
        return when == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (terminal and os.environ.get("TERM") != "dumb")


def _summarize(name: str, render: Callable[[str, Style], str | bytes]) -> None:
    """Adds the summary that goes with an output format to the file that the CI system gives for it."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    from gradcheck import report as reports
    from gradcheck.report import Style

    wanted = reports.companion(name) if name in reports.names() else None
    if wanted is None:
        return
    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(str(render(wanted, Style())))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


class Ticker:
    """A progress bar on standard error, once the work has taken a second and a terminal is there to show it."""

    def __init__(self, total: int, reporting: Reporting) -> None:
        wanted = not (reporting.no_progress or reporting.quiet)
        self._enabled = wanted and sys.stderr.isatty()
        self._total, self._done = total, 0
        self._start = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Callable[[], None]:
        return self._tick

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _tick(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=self._rate())
        elif self._enabled and time.monotonic() - self._start > 1:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            rate = TextColumn("{task.fields[rate]}")
            columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("checking", total=self._total, completed=self._done, rate=self._rate())
            self._bar.start()

    def _rate(self) -> str:
        return f"{self._done / (time.monotonic() - self._start):.3g}/s"
