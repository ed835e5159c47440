"""`gradcheck explain`: what the names mean."""

from __future__ import annotations

from typing import Annotated

import typer

from gradcheck.exceptions import UnknownNameError

_EXIT_CODES = {
    "0": "every candidate agrees with the reference",
    "1": "at least one disagrees",
    "2": "could not check: usage, unreadable input, crashed candidate, inconclusive reference, nothing to check",
    "70": "a bug in gradcheck",
    "130": "interrupted; what was finished is reported",
}


def command(
    name: Annotated[
        str | None, typer.Argument(help="A case, candidate, loss option, tolerance, format, step or topic.")
    ] = None,
) -> None:
    """List, or explain, cases, candidates, loss options, tolerances, formats, steps and exit codes."""
    topics = _topics()
    if name is None:
        for topic, entries in topics.items():
            typer.echo(_listed(topic, entries))
        typer.echo("gradcheck explain NAME says more of one of them.")
    elif name in topics:
        typer.echo(_listed(name, topics[name]), nl=False)
    else:
        typer.echo(_explained(name, topics))


def _topics() -> dict[str, dict[str, str]]:
    """Every name that the program knows, by topic, with one sentence each."""
    from gradcheck import (
        candidates,
        catalogue,
        derivation,
        distributions,
        files,
        formats,
        losses,
        report,
        text,
        tolerances,
    )
    from gradcheck.reference import engines

    return {
        "cases": {case.name: case.reason for case in catalogue.cases().values()},
        "candidates": {name: candidates.summary(name) for name in candidates.names()},
        "loss": {name: losses.summary(name) for name in losses.names()},
        "tolerances": dict(tolerances.NAMES),
        "formats": {
            fmt.name: f"{fmt.precision} bits of precision, up to {text.brief(fmt.max)}, "
            f"down to {text.brief(fmt.smallest_normal)} (subnormal {text.brief(fmt.smallest_subnormal)})"
            for fmt in formats.FORMATS.values()
        },
        "distributions": {name: row.reason for name, row in distributions.DISTRIBUTIONS.items()},
        "files": {name: files.summary(name) for name in files.names()},
        "reports": {name: report.summary(name) for name in report.names()},
        "engines": {name: engines.summary(name) for name in engines.names()},
        "steps": {step.name: step.formula for step in derivation.STEPS},
        "topics": {"reference": "how step, precision and uncertainty of the reference are chosen"},
        "exit-codes": _EXIT_CODES,
    }


def _listed(topic: str, entries: dict[str, str]) -> str:
    width = max(len(name) for name in entries)
    return "\n".join([topic, *(f"  {name:<{width}}  {sentence}" for name, sentence in entries.items())]) + "\n"


def _explained(name: str, topics: dict[str, dict[str, str]]) -> str:
    from gradcheck import candidates, catalogue, losses, reference

    found = [
        f"{entry} ({topic}): {entries[entry]}"
        for topic, entries in topics.items()
        for entry in entries
        if name in (entry, entry.partition(":")[0])
    ]
    if not found:
        raise UnknownNameError("name", name, [entry for entries in topics.values() for entry in entries])
    if name in candidates.names():
        found += ["", candidates.story(name)]
    if name in losses.names():
        found += ["", losses.story(name)]
    if name == "reference":
        found += ["", reference.story()]
    if name in topics["steps"]:
        found.append(f"gradcheck derive --case plain-3 --show {name} shows it.")
    case = catalogue.cases().get(name)
    if case is not None:
        found.append(_numbers(case))
    return "\n".join(found).rstrip("\n")


def _numbers(case: object) -> str:
    from gradcheck import formats
    from gradcheck.catalogue import Case

    assert isinstance(case, Case)
    lines = [f"loss: {' '.join(case.loss)}"] if case.loss else []
    for fmt in formats.FORMATS.values():
        problem = case.problem(fmt)
        if problem is None:
            lines.append(f"{fmt.name}: not in this format, whose range does not hold its logits")
            continue
        shown = [str(value) for value in problem.logits[0, :6]]
        more = ", ..." if problem.classes > 6 else ""
        lines.append(f"{fmt.name}: {problem.rows} x {problem.classes}, row 0: [{', '.join(shown)}{more}]")
    lines.append(f"gradcheck check --case {case.name} checks it.")
    return "\n".join(lines)
