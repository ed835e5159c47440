"""`gradcheck generate`: logits and labels of a case or a distribution, as a file."""

from __future__ import annotations

from typing import Annotated

import typer

from gradcheck.exceptions import UnknownNameError, UsageError


def command(
    name: Annotated[str, typer.Argument(help="A case of the catalogue, or normal, uniform, heavy-tailed.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="Where to: .npy .npz .csv .tsv .json .jsonl.", metavar="FILE"),
    ],
    rows: Annotated[int, typer.Option(help="Rows of a distribution.")] = 4,
    classes: Annotated[int, typer.Option(help="Classes of a distribution.")] = 10,
    scale: Annotated[float, typer.Option(help="Scale of a distribution's logits.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of a distribution.", min=0)] = 0,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16, float32 or float64.")] = "float32",
) -> None:
    """Write logits and labels of a catalogue case or a distribution to a file."""
    from pathlib import Path

    from gradcheck import cases, distributions, files, formats

    fmt = formats.named(dtype)
    case = cases.catalogue().get(name)
    if case is not None:
        problem = case.problem(fmt)
        if problem is None:
            raise UsageError(f"case '{name}' has logits that {fmt.name} cannot hold")
        logits, labels = problem.logits, problem.labels
    elif name in distributions.DISTRIBUTIONS:
        logits, labels = distributions.generate(name, rows=rows, classes=classes, scale=scale, seed=seed, fmt=fmt)
    else:
        raise UnknownNameError("case or distribution", name, [*cases.catalogue(), *distributions.DISTRIBUTIONS])
    files.save(Path(output), logits, labels)
    typer.echo(f"{output}: {logits.shape[0]} x {logits.shape[1]} logits in {fmt.name}", err=True)
    if case is not None and case.loss:
        typer.echo(f"the case's loss: {' '.join(f'--loss {option}' for option in case.loss)}", err=True)
