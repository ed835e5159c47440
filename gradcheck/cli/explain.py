"""`gradcheck explain`: what the names mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gradcheck.exceptions import UnknownNameError

if TYPE_CHECKING:
    from gradcheck.catalogue import Case

_EXIT_CODES = {
    "0": "every candidate agrees with the reference",
    "1": "at least one disagrees",
    "2": "could not check: usage, unreadable input, crashed or unjudged candidate, inconclusive reference",
    "70": "a bug in gradcheck",
    "130": "interrupted; what was finished is reported",
    "143, 129": "the same by SIGTERM, by SIGHUP",
}


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A case, candidate, mistake, loss option, tolerance, format, step or topic.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """List, or explain, cases, candidates, mistakes, loss options, tolerances, formats, steps and exit codes."""
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
        diagnosis,
        distributions,
        files,
        formats,
        losses,
        mistakes,
        report,
        selftest,
        text,
        tolerances,
    )
    from gradcheck.reference import engines

    return {
        "cases": {case.name: case.reason for case in catalogue.cases().values()},
        "tags": {tag: text.count(n, "case") for tag, n in catalogue.tags().items()},
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
        "mistakes": {name: one.reason for name, one in mistakes.mistakes().items()},
        "sound": {name: one.reason for name, one in mistakes.sound().items()},
        "signs": {name: what for name, (what, _) in selftest.FLAGS.items()},
        "causes": dict(diagnosis.CAUSES),
        "steps": {step.name: step.formula for step in derivation.STEPS},
        "topics": {"reference": "how step, precision and uncertainty of the reference are chosen"},
        "exit-codes": _EXIT_CODES,
    }


def _listed(topic: str, entries: dict[str, str]) -> str:
    width = max(len(name) for name in entries)
    return "\n".join([topic, *(f"  {name:<{width}}  {sentence}" for name, sentence in entries.items())]) + "\n"


def _explained(name: str, topics: dict[str, dict[str, str]]) -> str:
    from gradcheck import candidates, catalogue, losses, mistakes, reference

    case = catalogue.cases().get(name)
    if case is not None:
        return _case(case)
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
    if name in topics["tags"]:
        found += ["", *_tagged(name)]
    if name in topics["signs"]:
        shown = [one for one in mistakes.mistakes().values() if any(sign.by == name for sign in one.signs)]
        found += [f"  {one.name}: {one.reason}" for one in shown]
    if name in topics["mistakes"] or name in topics["sound"]:
        found.append(_mistake(name))
    return "\n".join(found).rstrip("\n")


def _case(case: Case) -> str:
    """A case with everything that can be computed about it."""
    from gradcheck import candidates, catalogue, checking, formats, mistakes, reference, selftest, tolerances
    from gradcheck.report import _explained

    problems = {fmt: made for fmt in formats.FORMATS.values() if (made := case.problem(fmt)) is not None}
    exact = {fmt.name: reference.compute(one, fmt, reference.Settings()) for fmt, one in problems.items()}
    built_in = [candidates.load(name) for name in candidates.names() if name not in candidates.packages()]
    checked = [
        result
        for one in problems.values()
        for result in checking.check(
            one,
            built_in,
            checking.How(tolerance=tolerances.Stable(), settings=reference.Settings()),
            case=case.name,
            exactly=lambda _, fmt: exact[fmt.name],
        )
    ]
    shows = [one for one in mistakes.mistakes().values() if any(sign.case == case.name for sign in one.signs)]
    planted = [result for result in selftest.run(shows, list(problems), [case]) if result.case == case.name]
    fmt, problem = list(problems.items())[-1]
    return _explained.case_page(case, catalogue.story(case), exact[fmt.name], problem, checked, planted)


def _tagged(tag: str) -> list[str]:
    """The cases that carry a tag, after the story of a phenomenon."""
    from gradcheck import catalogue

    cases = [case for case in catalogue.cases().values() if tag in case.tags]
    told = [catalogue.story(cases[0]), ""] if cases[0].phenomenon == tag else []
    return [*told, *(f"  {case.name}: {case.reason}" for case in cases)]


def _mistake(name: str) -> str:
    """Where a planted mistake shows, and where it comes from."""
    from gradcheck import mistakes
    from gradcheck.report import _explained

    one = (mistakes.mistakes() | mistakes.sound())[name]
    lines = [f"  {sign.by} shows it on {sign.case}, in {', '.join(sign.formats)}" for sign in one.signs]
    lines += [f"  a diagnosis calls it {one.cause}"] if one.cause else []
    lines += [f"  {_explained.link(source)}" for source in one.sources]
    return "\n".join([*lines, f"gradcheck selftest --mistake {name} -v tries it."])
