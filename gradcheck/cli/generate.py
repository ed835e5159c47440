"""`gradcheck generate`: logits and labels of a case or a distribution, as a file."""

from __future__ import annotations

from typing import Annotated

import typer

from gradcheck.exceptions import UnknownNameError, UsageError


def command(
    name: Annotated[
        str, typer.Argument(help="A case of the catalogue, or normal, uniform, heavy-tailed.", metavar="NAME")
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="Where to: .npy .npz .csv .tsv .json .jsonl .safetensors.", metavar="FILE"),
    ],
    rows: Annotated[int | None, typer.Option(help="Rows of a distribution. Default: 4.", metavar="N")] = None,
    classes: Annotated[int | None, typer.Option(help="Classes of a distribution. Default: 10.", metavar="N")] = None,
    scale: Annotated[
        float | None, typer.Option(help="Scale of a distribution's logits. Default: 1.", metavar="X")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of a distribution. Default: 0.", metavar="N", min=0)] = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16, float32 or float64.", metavar="DTYPE")] = "float32",
) -> None:
    """Write logits and labels of a catalogue case or a distribution to a file."""
    from pathlib import Path

    from gradcheck import catalogue, distributions, files, formats, text

    fmt = formats.named(dtype)
    case = catalogue.cases().get(name)
    drawing = {"rows": rows, "classes": classes, "scale": scale, "seed": seed}
    drawn = {flag: value for flag, value in drawing.items() if value is not None}
    if case is not None:
        if drawn:
            raise UsageError(f"a case's numbers are its own: --{', --'.join(drawn)} go with a distribution")
        problem = case.problem(fmt)
        if problem is None:
            raise UsageError(f"case '{name}' has logits that {fmt.name} cannot hold")
        logits, labels = problem.logits, problem.labels
    elif name in distributions.DISTRIBUTIONS:
        logits, labels = distributions.generate(name, fmt=fmt, **distributions.DEFAULTS | drawn)
    else:
        raise UnknownNameError("case or distribution", name, [*catalogue.cases(), *distributions.DISTRIBUTIONS])
    files.save(Path(output), logits, labels)
    typer.echo(f"{text.name(output)}: {logits.shape[0]} x {logits.shape[1]} logits in {fmt.name}", err=True)
    if case is not None and case.loss:
        typer.echo(f"the case's loss: {' '.join(f'--loss {option}' for option in case.loss)}", err=True)
