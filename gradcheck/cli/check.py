"""`gradcheck check`: candidates on logits from a file, a distribution or a case."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradcheck.cli import _options, _run

if TYPE_CHECKING:
    from gradcheck.results import Result


@_options.expanded
def command(
    logits: _options.Logits = None,
    *,
    source: _options.Answered,
    judging: _options.Judging,
    scale: _options.Scale,
    reporting: _options.Reporting,
) -> None:
    """Check candidates on logits from a file: .npy .npz .csv .tsv .json .jsonl .safetensors."""
    from gradcheck import candidates, streaming
    from gradcheck.cli import _source
    from gradcheck.cli._judge import candidates_of, how_of, journal_of, team_of

    how, chosen = how_of(judging), candidates_of(judging)
    screening = streaming.Screening(wanted=scale.screen, certify=scale.certify, seed=source.seed or 0)
    name, batch, gradients, notes = _source.load(logits, source, judging.gradient_dtype, source.gradient or ())
    chosen += gradients or ([] if chosen else [candidates.load(candidates.DEFAULT)])

    def results() -> Iterator[Result]:
        with _run.Ticker(batch.rows, reporting) as tick, team_of(judging, notes) as team, _source.naming(name):
            for result in streaming.check(
                batch, chosen, how, case=name, team=team, screening=screening, journal=journal, on_row=tick
            ):
                yield dataclasses.replace(result, again=_again(logits, source, judging, scale, result.candidate))

    described: dict[str, object] = {"logits": logits}
    for group in (source, judging, scale):
        described |= dataclasses.asdict(group)
    with journal_of(judging, reporting, notes) as journal:
        _run.finish(results(), described, reporting, notes, finished=journal.remove)


def _again(
    logits: str | None, source: _options.Answered, judging: _options.Judging, scale: _options.Scale, candidate: str
) -> str:
    if logits == "-":
        return ""  # standard input is not there again
    words = ["check", *_options.path(logits), *_options.arguments(source, without=("gradient",))]
    words += [*_options.arguments(judging, without=_options.NOT_AGAIN), *_options.arguments(scale)]
    if candidate in (source.gradient or ()):
        words += ["--gradient", candidate]
    elif candidate != "gradient in the file":
        words += _options.naming(judging, candidate)
    return _options.command_line(words)
