"""`gradcheck check`: candidates on logits from a file, a distribution or a case."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradcheck.cli import _options, _run
from gradcheck.exceptions import UsageError

if TYPE_CHECKING:
    from gradcheck.candidates import Candidate
    from gradcheck.formats import Array
    from gradcheck.problem import Problem
    from gradcheck.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where logits and labels come from."""

    generate: Annotated[
        str | None,
        typer.Option(help="Random logits instead of a file: normal, uniform, heavy-tailed.", metavar="NAME"),
    ] = None
    case: Annotated[str | None, typer.Option(help="A case of the catalogue instead of a file.", metavar="NAME")] = None
    labels: Annotated[
        str | None,
        typer.Option(help="A file, a class number, argmax or argmin. Default: 'labels' in the file.", metavar="WHAT"),
    ] = None
    gradient: Annotated[
        str | None, typer.Option(help="A gradient that another program wrote, to be checked.", metavar="FILE")
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(help="float16, bfloat16, float32 or float64; casts the logits. Default: the file's own."),
    ] = None
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help="A loss option, such as reduction=mean or ignore_index=-100; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None
    input_format: Annotated[
        str | None,
        typer.Option(help="npy, npz, csv, tsv, json or jsonl. Default: by suffix.", metavar="NAME"),
    ] = None
    rows: Annotated[
        str | None,
        typer.Option(help="A part of the rows as A:B; with --generate how many to draw.", metavar="A:B"),
    ] = None
    sample: Annotated[int | None, typer.Option(help="Check N rows drawn at random.", metavar="N", min=1)] = None
    classes: Annotated[int, typer.Option(help="Classes to draw with --generate.")] = 10
    scale: Annotated[float, typer.Option(help="Scale of the logits with --generate.")] = 1.0
    seed: Annotated[int, typer.Option(help="Seed of --generate and --sample.", min=0)] = 0


@_options.expanded
def command(
    logits: Annotated[str | None, typer.Argument(help="A file of logits, or - for standard input.")] = None,
    *,
    source: Source,
    judging: _options.Judging,
    reporting: _options.Reporting,
) -> None:
    """Check candidates on logits from a file: .npy .npz .csv .tsv .json .jsonl."""
    from gradcheck import candidates, formats, tolerances
    from gradcheck.check import check

    settings = _run.reference_settings(judging)
    tolerance = tolerances.parse(judging.tolerance, flush=judging.ftz)
    judged_in = formats.named(judging.gradient_dtype) if judging.gradient_dtype else None
    chosen = [candidates.load(name) for name in judging.candidate or []]
    name, problem, gradients, notes = _problem(logits, source)
    chosen += gradients or ([] if chosen else [candidates.load(candidates.DEFAULT)])
    rows = _rows(source, problem)
    numbers = None
    if rows is not None:
        problem, numbers = problem.take(rows), tuple(rows.tolist())
        chosen = [dataclasses.replace(one, gradient=_part(one, rows)) if one in gradients else one for one in chosen]
        notes.append(f"{len(rows)} of the input's rows were checked; row numbers are the input's")

    def results() -> Iterator[Result]:
        with _run.Ticker(problem.rows, reporting) as tick:
            for result in check(
                problem,
                chosen,
                case=name,
                tolerance=tolerance,
                settings=settings,
                gradient_format=judged_in,
                flush=judging.ftz,
                on_row=tick,
            ):
                again = _again(logits, source, judging, result.candidate)
                yield dataclasses.replace(result, row_numbers=numbers, again=again)

    described = {"logits": logits} | dataclasses.asdict(source) | dataclasses.asdict(judging)
    _run.finish(results(), described, reporting, tuple(notes))


def _problem(logits: str | None, source: Source) -> tuple[str, Problem, list[Candidate], list[str]]:
    """The problem's name, the problem, the gradients that came with it, and notes on both."""
    from gradcheck import cases, distributions, files, formats, losses
    from gradcheck.problem import Problem

    given = [
        flag for flag, value in (("LOGITS", logits), ("--generate", source.generate), ("--case", source.case)) if value
    ]
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude each other" if given else "there are no logits"
        raise UsageError(f"{what}; give a file, --generate NAME or --case NAME")
    if source.case is not None:
        fmt = formats.named(source.dtype or "float32")
        (case, *more) = cases.select([source.case])
        if more:
            raise UsageError(
                f"--case '{source.case}' names {1 + len(more)} cases; 'gradcheck stability' takes patterns"
            )
        made = case.problem(fmt)
        if made is None:
            raise UsageError(f"case '{case.name}' has logits that {fmt.name} cannot hold")
        if source.loss:
            made = dataclasses.replace(made, loss=losses.parse(source.loss))
        return case.name, made, _gradients(source, made.logits.shape, None), []
    notes: list[str] = []
    own: Array | None = None
    gradient: Array | None = None
    if source.generate is not None:
        fmt = formats.named(source.dtype or "float32")
        array, own = distributions.generate(
            source.generate,
            rows=_count(source.rows),
            classes=source.classes,
            scale=source.scale,
            seed=source.seed,
            fmt=fmt,
        )
        name = f"{source.generate}-{array.shape[0]}x{array.shape[1]}-seed-{source.seed}"
    else:
        assert logits is not None
        loaded = files.load(logits, input_format=source.input_format, dtype=source.dtype)
        array, own, gradient, fmt = loaded.logits, loaded.labels, loaded.gradient, loaded.format
        notes += loaded.notes
        name = logits
    labels, note = _labels(source, array, own, fmt)
    notes += [note] if note else []
    problem = Problem(logits=array, labels=labels, format=fmt, loss=losses.parse(source.loss or []))
    return name, problem, _gradients(source, array.shape, gradient), notes


def _labels(source: Source, logits: Array, own: Array | None, fmt: Any) -> tuple[Array, str | None]:
    import numpy as np

    from gradcheck import files

    wanted = source.labels
    if wanted is None:
        if own is None:
            raise UsageError("the logits come without labels; give --labels FILE, a class number, argmax or argmin")
        return own, None
    values = logits.astype(np.float64)
    if wanted == "argmax":
        return np.argmax(np.where(np.isnan(values), -np.inf, values), axis=1), None
    if wanted == "argmin":
        return np.argmin(np.where(np.isnan(values), np.inf, values), axis=1), None
    if wanted.lstrip("-").isdecimal():
        if len(wanted) > 18:
            raise UsageError(f"--labels {wanted} is no class number")
        return np.full(logits.shape[0], int(wanted), dtype=np.int64), None
    return files.load_labels(wanted, logits.shape, fmt)


def _gradients(source: Source, shape: tuple[int, ...], own: Array | None) -> list[Candidate]:
    from gradcheck import candidates, files

    found = [] if own is None else [candidates.given("gradient in the file", own)]
    if source.gradient is not None:
        array = files.load_gradient(source.gradient, shape, source.dtype)
        found.append(candidates.given(source.gradient, array))
    return found


def _count(rows: str | None) -> int:
    if rows is None:
        return 4
    if not rows.isdecimal() or len(rows) > 9:
        raise UsageError(f"--rows with --generate is a whole number, not '{rows}'")
    return int(rows)


def _rows(source: Source, problem: Problem) -> Any:
    """The numbers of the rows to check, or None for all."""
    import numpy as np

    rows = np.arange(problem.rows)
    if source.rows is not None and source.generate is None:
        first, colon, last = source.rows.partition(":")
        try:
            bounds = [int(bound) if bound else None for bound in (first, last)]
        except ValueError:
            bounds = []
        if not colon or not bounds:
            raise UsageError(f"--rows should read A:B, not '{source.rows}'")
        rows = rows[slice(*bounds)]
        if not rows.size:
            raise UsageError(f"--rows {source.rows} leaves none of the {problem.rows} rows")
    if source.sample is not None and source.sample < len(rows):
        rows = np.sort(np.random.default_rng(source.seed).choice(rows, size=source.sample, replace=False))
    return rows if len(rows) < problem.rows else None


def _part(candidate: Candidate, rows: Any) -> Any:
    whole = candidate.gradient
    return lambda problem: whole(problem)[rows]


def _again(logits: str | None, source: Source, judging: _options.Judging, candidate: str) -> str:
    words = ["check", *([logits] if logits else []), *_options.arguments(source)]
    words += _options.arguments(judging, without=("candidate",))
    if candidate != source.gradient and candidate != "gradient in the file":
        words += ["--candidate", candidate]
    return _options.command_line(words)
