"""`gradcheck check`: candidates on logits from a file, a distribution or a case."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from gradcheck.cli import _options, _run

if TYPE_CHECKING:
    from gradcheck.results import Result


@_options.expanded
def command(
    logits: Annotated[str | None, typer.Argument(help="A file of logits, or - for standard input.")] = None,
    *,
    source: _options.Source,
    judging: _options.Judging,
    reporting: _options.Reporting,
) -> None:
    """Check candidates on logits from a file: .npy .npz .csv .tsv .json .jsonl."""
    from gradcheck import candidates
    from gradcheck.cli import _source
    from gradcheck.cli._judge import Judge, candidates_of

    judge, chosen = Judge(judging), candidates_of(judging)
    name, problem, gradients, notes = _source.load(logits, source, judging.gradient_dtype)
    chosen += gradients or ([] if chosen else [candidates.load(candidates.DEFAULT)])
    rows = _source.chosen_rows(source, problem)
    numbers = None
    if rows is not None:
        problem, numbers = problem.take(rows), tuple(rows.tolist())
        chosen = [candidates.part(one, rows) if one in gradients else one for one in chosen]
        notes.append(_source.part_note(rows))

    def results() -> Iterator[Result]:
        with _run.Ticker(problem.rows, reporting) as tick:
            for result in judge.results(problem, chosen, name, tick):
                again = _again(logits, source, judging, result.candidate)
                yield dataclasses.replace(result, row_numbers=numbers, again=again)

    described = {"logits": logits} | dataclasses.asdict(source) | dataclasses.asdict(judging)
    _run.finish(results(), described, reporting, tuple(notes))


def _again(logits: str | None, source: _options.Source, judging: _options.Judging, candidate: str) -> str:
    if logits == "-":
        return ""  # standard input is not there again
    words = ["check", *_options.path(logits), *_options.arguments(source)]
    words += _options.arguments(judging, without=("candidate", "command"))
    if candidate != source.gradient and candidate != "gradient in the file":
        words += _options.naming(judging, candidate)
    return _options.command_line(words)
