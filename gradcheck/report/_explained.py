"""A case of the catalogue at length: its story, its numbers, and who fails it by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gradcheck import text
from gradcheck.catalogue import Case
from gradcheck.formats import FORMATS
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Reference
from gradcheck.report import _grid, _sentences
from gradcheck.results import Judged, Result, Tried, Verdict

_ROWS, _CLASSES = 3, 6
"""How many are shown."""


def case_page(
    case: Case, story: str, exact: Reference, problem: Problem, checked: Sequence[Result], planted: Sequence[Result]
) -> str:
    """What there is to say of a case.

    Args:
        exact: the reference of `problem`, in one of the formats that hold the case.
        checked: built-in candidates on it, in every such format.
        planted: the mistakes that it is to show, in every such format.
    """
    lines = [f"{case.name}: {case.reason}", f"tags: {', '.join(case.tags)}"]
    lines += [f"loss: {' '.join(case.loss)}"] if case.loss else []
    lines += ["", story, "", *_numbers(exact, problem), "", *_candidates(checked)]
    missing = [name for name in FORMATS if all(result.format.name != name for result in checked)]
    if missing:
        lines.append(f"Not in {', '.join(missing)}: the range does not hold its logits.")
    if planted:
        lines += ["", "Mistakes that it is there to show (gradcheck selftest --mistake NAME):", *_mistakes(planted)]
    if case.sources:
        lines += ["", "Where it comes from:", *(f"  {link(source)}" for source in case.sources)]
    lines += ["", f"gradcheck check --case {case.name} checks it, gradcheck generate {case.name} -o FILE writes it."]
    return "\n".join(lines)


def link(source: str) -> str:
    """The address of a thread, from OWNER/REPOSITORY#NUMBER; GitHub forwards that of an issue to a pull request's."""
    repository, _, number = source.partition("#")
    return f"https://github.com/{repository}/issues/{number}"


def _numbers(exact: Reference, problem: Problem) -> Iterator[str]:
    fmt = problem.format
    yield f"{problem.rows:,} x {problem.classes:,} in {fmt.name}:"
    weights = problem.terms.label_weights()
    lines = [["row", "class", "logit", "label weight", "exact gradient"]]
    for row in range(min(problem.rows, _ROWS)):
        for cls in _shown(problem, row):
            judged = problem.status[row] == RowStatus.JUDGED
            uncertainty = exact.values.in_ulps_at(exact.values.uncertainty, (row, cls))
            gradient = text.reference(exact.exact(row, cls), fmt, uncertainty) if judged else _unjudged(problem, row)
            logit = text.candidate(float(problem.logits[row, cls]), fmt)
            weight = text.brief(float(weights[row, cls])) if judged else text.NOTHING
            lines.append([str(row), str(cls), logit, weight, gradient])
    yield from (f"  {line}" for line in _grid.plain(lines))
    if problem.classes > _CLASSES:
        yield "  (of each row the first classes, the label's, the largest logit's and the last)"
    if problem.rows > _ROWS:
        yield f"  ({problem.rows - _ROWS} more rows)"


def _unjudged(problem: Problem, row: int) -> str:
    return "0 (ignored)" if problem.status[row] == RowStatus.IGNORED else "undefined"


def _shown(problem: Problem, row: int) -> list[int]:
    """The classes to show of a row."""
    if problem.classes <= _CLASSES:
        return list(range(problem.classes))
    logits = problem.logits[row].astype(np.float64)
    labels = problem.labels[row]
    label = int(labels) if problem.labels.ndim == 1 else int(np.argmax(labels.astype(np.float64)))
    chosen = {0, 1, 2, max(label, 0), int(np.argmax(np.where(np.isnan(logits), -np.inf, logits))), problem.classes - 1}
    return sorted(chosen)


def _candidates(checked: Sequence[Result]) -> Iterator[str]:
    yield "Built-in candidates, by their largest error in ulp, and of what stable allows:"
    kinds = [name for name in FORMATS if any(result.format.name == name for result in checked)]
    cells = {(result.candidate, result.format.name): _cell(result) for result in checked}
    names = list(dict.fromkeys(result.candidate for result in checked))
    lines = [["", *kinds], *([name, *(cells[name, kind] for kind in kinds)] for name in names)]
    yield from (f"  {line}" for line in _grid.plain(lines, 1))


def _cell(result: Result) -> str:
    if not isinstance(result.outcome, Judged):
        return result.verdict.value
    ulp, bound = (result.outcome.measures.extremes[name] for name in ("ulp", "bound"))
    if ulp is None or bound is None:
        return "nothing to judge" if result.verdict is not Verdict.FAIL else "FAIL"
    return f"{'FAIL ' if result.verdict is Verdict.FAIL else ''}{text.brief(ulp.value)} ulp ({text.brief(bound.value)})"


def _mistakes(planted: Sequence[Result]) -> Iterator[str]:
    """Each mistake with all that shows it, in the last of the formats."""
    last = {(result.candidate, tried.by): result for result in planted if isinstance(tried := result.outcome, Tried)}
    for name in dict.fromkeys(name for name, _ in last):
        ways = [by for one, by in last if one == name]
        result = last[name, ways[0]]
        assert isinstance(result.outcome, Tried)
        how = f"shown by {' and '.join(ways)} in {result.format.name}"
        yield f"  {name}, {how}: {_sentences.measured(result, result.outcome)}"
