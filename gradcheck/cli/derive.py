"""`gradcheck derive`: the derivation of ŷ − y, step by step, on the user's own logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from gradcheck.cli import _options, _run
from gradcheck.exceptions import UnknownNameError, UsageError

if TYPE_CHECKING:
    from gradcheck.derivation import Study
    from gradcheck.results import Result

_PIECES = "Pieces of your own, as MODULE:FUNCTION or PATH.py:FUNCTION"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pieces:
    """Functions of the user's own that take the place of a built-in piece."""

    softmax: Annotated[
        str | None,
        typer.Option(help="Takes logits (k,), returns ŷ (k,).", rich_help_panel=_PIECES, metavar="FUNCTION"),
    ] = None
    softmax_jacobian: Annotated[
        str | None,
        typer.Option(help="Takes logits (k,), returns ∂ŷᵢ/∂lₙ (k, k).", rich_help_panel=_PIECES, metavar="FUNCTION"),
    ] = None
    loss_gradient: Annotated[
        str | None,
        typer.Option(
            help="Takes logits (k,) and label, returns ∂L/∂ŷ (k,).", rich_help_panel=_PIECES, metavar="FUNCTION"
        ),
    ] = None
    fused: Annotated[
        str | None,
        typer.Option(
            help="Takes logits (k,) and label, returns ∂L/∂l (k,).", rich_help_panel=_PIECES, metavar="FUNCTION"
        ),
    ] = None
    batch_mean: Annotated[
        str | None,
        typer.Option(
            help="Takes logits (N, k) and labels, returns the mean loss's gradient (N, k).",
            rich_help_panel=_PIECES,
            metavar="FUNCTION",
        ),
    ] = None


@_options.expanded
def command(
    logits: _options.Logits = None,
    show: Annotated[
        str | None,
        typer.Option(help="Show one step at length: as table, concise, markdown, csv or json.", metavar="STEP"),
    ] = None,
    *,
    source: _options.Source,
    pieces: Pieces,
    rule: _options.Rule,
    reporting: _options.Reporting,
) -> None:
    """Check the derivation of ŷ - y step by step: softmax, its Jacobian, the loss, the chain rule, the fused form."""
    from gradcheck import candidates, derivation, tolerances
    from gradcheck.cli import _judge, _source
    from gradcheck.report import _derivation

    if show is not None and show not in derivation.NAMES:
        raise UnknownNameError("step", show, derivation.NAMES)
    given = {name.replace("_", "-"): spec for name, spec in dataclasses.asdict(pieces).items() if spec is not None}
    running = candidates.Running(timeout=rule.timeout)
    loaded = {piece: candidates.piece(spec, running) for piece, spec in given.items()}
    tolerance = tolerances.parse(rule.tolerance)
    digits, step_log2 = _judge.digits_of(rule), _judge.step_log2_of(rule)
    problems, notes = list(_source.load_each(logits, source, seeded=True)), list[str]()
    if len(problems) > 1:
        # of several cases, those that are about another loss are passed over
        others = [name for name, problem, _ in problems if derivation.beyond(problem)]
        problems = [loaded for loaded in problems if loaded[0] not in others]
        if not problems:
            raise UsageError("none of these cases is of plain cross-entropy, whose derivation this is")
        notes += [f"left out, because their loss is not plain cross-entropy: {', '.join(others)}"] if others else []
    studied: list[Study] = []

    def results() -> Iterator[Result]:
        names = (show,) if show else derivation.NAMES
        with _run.Ticker(len(problems) * len(names), reporting) as tick:
            for name, problem, said in problems:
                steps = derivation.Derivation(
                    problem,
                    case=name,
                    tolerance=tolerance,
                    pieces=loaded,
                    digits=digits,
                    step_log2=step_log2,
                    flush=rule.ftz,
                    seed=source.seed or 0,
                )
                notes.extend([*said, *_derivation.sampling(steps)])
                for study in steps.studies(names):
                    result = dataclasses.replace(study.result, again=_again(study.result, logits, source, pieces, rule))
                    studied.append(dataclasses.replace(study, result=result))
                    tick()
                    yield result

    described: dict[str, object] = {"logits": logits, "show": show}
    for group in (source, pieces, rule):
        described |= dataclasses.asdict(group)
    at_length = _run.Rendering(
        names=_derivation.NAMES, render=lambda form, report, style: _derivation.render(form, studied, report.notes)
    )
    _run.finish(results(), described, reporting, notes, at_length if show else None)


def _again(result: Result, logits: str | None, source: _options.Source, pieces: Pieces, rule: _options.Rule) -> str:
    if logits == "-":
        return ""  # standard input is not there again
    assert result.step is not None
    words = ["derive", *_options.path(logits), *(["--case", result.case] if source.case else [])]
    words += [*_options.arguments(source, without=("case",)), *_options.arguments(pieces), *_options.arguments(rule)]
    return _options.command_line([*words, "--show", result.step.name])
