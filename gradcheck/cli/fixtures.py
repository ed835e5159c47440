"""`gradcheck fixtures`: frozen exact gradients, recorded, verified, updated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradcheck import exits
from gradcheck.cli import _options, _run
from gradcheck.exceptions import InputError, UsageError

if TYPE_CHECKING:
    from gradcheck.fixtures import Recorded
    from gradcheck.results import Result

app = typer.Typer(help="Frozen exact gradients: record, verify, update.", no_args_is_help=True)

_Paths = Annotated[list[str], typer.Argument(help="Files *.gradcheck.toml, or folders of them.", metavar="PATH...")]


@app.command()
@_options.expanded
def record(
    logits: _options.Logits = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="The fixture file, NAME.gradcheck.toml.", metavar="FILE")
    ] = "",
    name: Annotated[str | None, typer.Option(help="Default: the case's, or the file's.", metavar="NAME")] = None,
    why: Annotated[str, typer.Option(help="Why this fixture exists.", metavar="TEXT")] = "",
    result: Annotated[
        str | None,
        typer.Option(help="A saved JSON report: the worst row of each failing result.", metavar="RESULTS.json"),
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add to a file that is there.")] = False,
    tolerance: Annotated[
        str | None,
        typer.Option(
            help="What the fixture's candidates must meet. Default: stable, or that of the result.", metavar="RULE"
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Built-in candidates to check; repeatable.", metavar="NAME")
    ] = None,
    *,
    source: _options.Source,
) -> None:
    """Freeze the exact gradient of a file, of cases, or of failing results."""
    from pathlib import Path

    from gradcheck import candidates, fixtures, text, tolerances

    if not output:
        raise UsageError("--output FILE is missing: where the fixture goes, NAME.gradcheck.toml")
    if tolerance is not None:
        tolerances.parse(tolerance)
    if result and logits is not None:
        raise UsageError("LOGITS and --result exclude each other")
    names = tuple(candidate or [candidates.DEFAULT])
    for one in names:
        if ":" in one:
            raise UsageError(f"'{one}' is code, which no fixture runs; 'fixtures verify --candidate {one}' does")
        candidates.load(one)
    found = _failing(result) if result else _problems(logits, source, name)
    new = [
        dataclasses.replace(one, why=why or one.why, tolerance=tolerance or one.tolerance, candidates=names)
        for one in found
    ]
    fixtures.record(Path(output), new, append=append)
    typer.echo(f"{text.name(output)}: {text.count(len(new), 'fixture')} recorded", err=True)


@app.command()
@_options.expanded
def verify(
    paths: _Paths,
    deep: Annotated[bool, typer.Option("--deep", help="Derive the frozen values again, too.")] = False,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="In place of the fixtures' own: a built-in, MODULE:FUNCTION or PATH.py:FUNCTION.", metavar="NAME"
        ),
    ] = None,
    tolerance: Annotated[str | None, typer.Option(help="In place of the fixtures' own.", metavar="RULE")] = None,
    *,
    reporting: _options.Reporting,
) -> None:
    """Compare candidates with the frozen values; with --deep the frozen values with central differences."""
    from gradcheck import candidates, fixtures, verification

    files = fixtures.find(paths)
    chosen = [candidates.load(name) for name in candidate] if candidate else None
    held = [fixture for path in files for fixture in fixtures.load(path)]

    def results() -> Iterator[Result]:
        with _run.Ticker(len(held), reporting) as tick:
            for fixture in held:
                yield from verification.verify(fixture, deep=deep, chosen=chosen, tolerance=tolerance)
                tick()

    settings = {"paths": paths, "deep": deep, "candidate": candidate, "tolerance": tolerance}
    _run.finish(results(), settings, reporting)


@app.command()
def update(
    paths: _Paths,
    check: Annotated[bool, typer.Option("--check", help="Show what would change, and change nothing.")] = False,
) -> None:
    """Derive the frozen values again; what holds stays as it is, to the digit."""
    from gradcheck import fixtures, text

    changed = 0
    for path in fixtures.find(paths):
        found = fixtures.update(path)
        if found.diff:
            changed += 1
            typer.echo("\n".join(map(text.name, found.diff.split("\n"))), nl=False)
            if not check:
                found.write()
    done = "would change" if check else "changed"
    typer.echo(f"{text.count(changed, 'file')} {done}", err=True)
    if check and changed:
        raise typer.Exit(exits.DISAGREES)


@app.command()
def schema() -> None:
    """Print the JSON schema of fixture files."""
    from gradcheck import fixtures

    typer.echo(json.dumps(fixtures.schema(), indent=2, ensure_ascii=False))


def _problems(logits: str | None, source: _options.Source, name: str | None) -> list[Recorded]:
    from pathlib import Path

    import numpy as np

    from gradcheck import catalogue
    from gradcheck.cli import _source
    from gradcheck.fixtures import Recorded

    found = []
    for case, problem, notes in _source.load_each(logits, source):
        _run.tell(notes)
        own = catalogue.cases().get(case) if source.case else None
        label = name or (case if own or source.generate else Path(case).name)
        # a fixture of some rows is a problem of its own
        found.append(
            Recorded(name=label, problem=problem.alone(np.arange(problem.rows)), why=own.reason if own else "")
        )
    if name and len(found) > 1:
        raise UsageError(f"--name names one fixture, and there are {len(found)} cases")
    return found


def _failing(path: str) -> list[Recorded]:
    """The worst row of each failing gradient of a saved report, each as a problem of its own."""
    from gradcheck.report import _saved

    report = _saved.read(path)
    found: dict[tuple[str, str], Recorded] = {}
    for result in report["results"]:
        if result["verdict"] != "fail" or not result.get("worst") or "step" in result:
            continue
        try:
            one = _worst_row(report, result)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: the result of '{result['case']}' cannot be made again ({error!r})") from None
        found.setdefault((one.name, one.problem.format.name), one)
    if not found:
        raise InputError(f"{path}: has no failing gradient")
    return list(found.values())


def _worst_row(report: dict[str, Any], result: dict[str, Any]) -> Recorded:
    import numpy as np

    from gradcheck import catalogue
    from gradcheck.cli import _source
    from gradcheck.fixtures import Recorded

    case, row = str(result["case"]), int(result["worst"]["row"])
    others = {"case", "dtype", "rows", "sample", "loss", "axis"}
    known = {field.name for field in dataclasses.fields(_options.Source)} - others
    given = {key: value for key, value in report["settings"].items() if key in known and value is not None}
    if "generate" in given:
        given["rows"] = report["settings"].get("rows")
    else:
        given.pop("seed", None)
    in_catalogue = case in catalogue.cases()
    if report["settings"].get("logits") == "-":
        raise InputError(f"'{case}' came from standard input, which is not there again")
    source = _options.Source(
        **given,
        case=[case] if in_catalogue else None,
        dtype=result["dtype"],
        loss=[f"{key}={value}" for key, value in result["loss"].items()] or None,
    )
    _, batch, _, _ = _source.load(None if in_catalogue or source.generate else case, source)
    if not 0 <= row < batch.rows:
        raise ValueError(f"there is no row {row}")
    one = batch.problem(np.array([row])).alone(np.array([0]))
    plain = tuple(option for option in one.loss if option.name not in ("reduction", "axis"))
    return Recorded(
        name=f"{case.rpartition('/')[2]}-row-{row}",
        problem=dataclasses.replace(one, loss=plain),
        why=f"{result['candidate']} failed it: {result['reason']}"[:400],
        tolerance=str(result["tolerance"]),
    )
