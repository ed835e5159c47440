"""`gradcheck stability`: candidates across the catalogue of extreme cases."""

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
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help="float16, bfloat16, float32, float64; repeatable. Default: float32, float64.", metavar="DTYPE"
        ),
    ] = None,
    *,
    selection: _options.Selection,
    judging: _options.Judging,
    reporting: _options.Reporting,
) -> None:
    """Check candidates across the catalogue of extreme-logit cases."""
    from gradcheck import candidates, catalogue, formats, streaming
    from gradcheck.cli._judge import candidates_of, how_of, journal_of, team_of
    from gradcheck.results import Verdict

    how = how_of(judging)
    chosen = candidates_of(judging) or [candidates.load(candidates.DEFAULT)]
    kinds = [formats.named(name) for name in dict.fromkeys(dtype or ["float32", "float64"])]
    selected = [(case, fmt) for case in catalogue.select(selection.case or [], selection.tag or []) for fmt in kinds]
    soft = {case.name for case, _ in selected if catalogue.SOFT in case.tags}
    cases = " ".join(f"{case.name}:{fmt.name}" for case, fmt in selected)
    notes: list[str] = []
    crashed, answered = dict[str, bool](), set[str]()

    def results() -> Iterator[Result]:
        made = ((case.name, case.problem(fmt)) for case, fmt in selected)
        with _run.Ticker(len(selected), reporting) as tick, team_of(judging, notes) as team:
            for found in streaming.check_each(made, chosen, how, team=team, journal=journal, cases=cases):
                for result in found:
                    if result.verdict is Verdict.CRASHED:
                        crashed[result.candidate] = crashed.get(result.candidate, True) and result.case in soft
                    elif result.verdict is not Verdict.SKIPPED and result.case not in soft:
                        answered.add(result.candidate)
                    words = ["check", "--case", result.case, "--dtype", result.format.name]
                    words += _options.naming(judging, result.candidate)
                    words += _options.arguments(judging, without=_options.NOT_AGAIN)
                    yield dataclasses.replace(result, again=_options.command_line(words))
                tick()
        notes.extend(
            f"{name} crashed on soft labels alone, (N, k): --tag hard chooses the cases with class numbers, (N,)"
            for name, only in crashed.items()
            if only and name in answered
        )

    described = {"dtype": [fmt.name for fmt in kinds]}
    described |= dataclasses.asdict(selection) | dataclasses.asdict(judging)
    with journal_of(judging, reporting, notes) as journal:
        _run.finish(results(), described, reporting, notes, finished=journal.remove)
