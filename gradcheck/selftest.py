"""The selftest: mistakes are planted, and each must be caught where it says so; sound variants must not be.

Everything is judged as a user's candidate would be, by `checking`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gradcheck import catalogue, checking, reference, tolerances
from gradcheck.catalogue import Case
from gradcheck.formats import Format
from gradcheck.mistakes import Planted, Sign
from gradcheck.problem import Problem
from gradcheck.reference import Reference, Settings
from gradcheck.results import Judged, Outcome, Result, Skipped, Tried, Verdict

FLAGS: dict[str, tuple[str, Callable[[Judged], bool]]] = {
    "total": ("a row's sum is off by more than rounding explains", lambda judged: _of_total(judged) > 1),
    "nonfinite": ("components are NaN or infinite", lambda judged: bool(judged.measures.nonfinite)),
    "wrong-sign": ("components have the wrong sign", lambda judged: bool(judged.measures.wrong_sign)),
    "flushed": ("components are 0 where a nonzero value is due", lambda judged: bool(judged.measures.flushed)),
    "ignored": ("ignored rows are not 0", lambda judged: bool(judged.measures.ignored_nonzero)),
    "spread": ("rows are not finite because of other rows", lambda judged: bool(judged.conduct.spread)),
    "input": ("the input is overwritten", lambda judged: bool(judged.conduct.changed)),
    "order": ("it is wrong in another order", lambda judged: judged.conduct.permuted is not None),
    "repeats": ("answers differ", lambda judged: judged.conduct.repeats is not None),
    "loss": ("the loss beside the gradient is another", lambda judged: judged.conduct.loss is not None),
}
"""What is noticed beside the verdict, by name: what it means, and whether a result shows it."""

_STABLE = tolerances.Stable()
_RUNS = 2
"""How often code that may answer otherwise is asked."""


def run(
    planted: Sequence[Planted],
    kinds: Sequence[Format],
    cases: Sequence[Case],
    on_case: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """One result for each sign of a mistake and each sound variant, format by format.

    Args:
        cases: on which everything is tried; a case that only a sign names is tried with the mistake alone.
        on_case: called after each case in each format, for whoever shows progress.
    """
    for fmt in kinds:
        trial, interrupted = _Trial(planted, fmt), False
        try:
            for case in trial.needed(cases):
                trial.add(case, everywhere=case in cases)
                on_case()
        except KeyboardInterrupt:
            interrupted = True
        for one in planted:
            yield from trial.results(one, partly=interrupted)
        if interrupted:
            raise KeyboardInterrupt


def steps(planted: Sequence[Planted], kinds: Sequence[Format], cases: Sequence[Case]) -> int:
    """How often `on_case` will be called."""
    return sum(len(_Trial(planted, fmt).needed(cases)) for fmt in kinds)


class _Trial:
    """What is planted, tried in one format."""

    def __init__(self, planted: Sequence[Planted], fmt: Format) -> None:
        self._format = fmt
        self._planted = [one for one in planted if not one.signs or _signs(one, fmt)]
        self._problems: dict[str, Problem] = {}
        self._found: dict[tuple[str, str, str], Outcome] = {}
        """By mistake, case and tolerance."""

    def needed(self, cases: Sequence[Case]) -> list[Case]:
        """The cases to try, in catalogue order: those that are asked for, and those that a sign names."""
        named = {sign.case for one in self._planted for sign in _signs(one, self._format)}
        asked = {case.name for case in cases} | named
        return [case for case in catalogue.cases().values() if case.name in asked]

    def add(self, case: Case, *, everywhere: bool) -> None:
        """Tries a case: with everything that is planted, or only with what names it."""
        problem = case.problem(self._format)
        if problem is None:
            return
        self._problems[case.name] = problem
        exact = reference.compute(problem, self._format, Settings())
        for rule, chosen in self._rules(case.name, everywhere=everywhere).items():
            for flush in (False, True):
                some = [one for one in chosen if one.flush == flush]
                self._judge(case.name, problem, exact, some, rule, flush=flush)

    def _rules(self, case: str, *, everywhere: bool) -> dict[str, list[Planted]]:
        """Which of them to judge by which tolerance."""
        named = [(one, sign) for one in self._planted for sign in _signs(one, self._format) if sign.case == case]
        here = [one for one, _ in named]
        rules = {str(_STABLE): self._planted if everywhere else [one for one in self._planted if one in here]}
        for one, sign in named:
            if sign.by not in FLAGS and sign.by not in rules:
                rules[sign.by] = []
            if sign.by not in FLAGS and one not in rules[sign.by]:
                rules[sign.by].append(one)
        return rules

    def _judge(
        self, case: str, problem: Problem, exact: Reference, chosen: Sequence[Planted], rule: str, *, flush: bool
    ) -> None:
        results = checking.check(
            problem,
            [one.candidate for one in chosen],
            checking.How(
                tolerance=tolerances.parse(rule), settings=exact.settings, flush=flush, repeat=_RUNS, diagnosed=False
            ),
            case=case,
            exactly=lambda *_: exact,
        )
        for result in results:
            self._found[result.candidate, case, rule] = result.outcome

    def results(self, one: Planted, *, partly: bool = False) -> Iterator[Result]:
        """What is to be said of a mistake, sign by sign, or of a sound variant; of a part, what has been tried."""
        under_stable = {
            case: outcome
            for (name, case, rule), outcome in self._found.items()
            if name == one.name and rule == str(_STABLE) and not isinstance(outcome, Skipped)
        }
        if one.signs:
            caught = tuple(case for case, outcome in under_stable.items() if outcome.verdict is Verdict.FAIL)
            for sign in _signs(one, self._format):
                if partly and (one.name, sign.case, _rule(sign.by)) not in self._found:
                    continue
                yield self._result(one, sign.case, self._tried(one, sign, caught, len(under_stable)))
        elif under_stable:
            alarms = {case: outcome for case, outcome in under_stable.items() if _held_against(outcome)}
            shown = max(alarms or under_stable, key=lambda case: _size(under_stable[case]))
            yield self._result(one, shown, _sound(under_stable[shown], tuple(alarms), len(under_stable)))

    def _tried(self, one: Planted, sign: Sign, caught: tuple[str, ...], cases: int) -> Tried:
        outcome = self._found.get((one.name, sign.case, _rule(sign.by)))
        judged, why = (outcome, "") if isinstance(outcome, Judged) else (None, _why(outcome, sign.case))
        shown = judged is not None and (FLAGS[sign.by][1](judged) if sign.by in FLAGS else bool(judged.decision.failed))
        return Tried(by=sign.by, shown=shown, judged=judged, caught=caught, cases=cases, why=why)

    def _result(self, one: Planted, case: str, tried: Tried) -> Result:
        problem = self._problems.get(case)
        return Result(
            case=case,
            candidate=one.name,
            format=self._format,
            gradient_format=self._format,
            loss={option.name: option.value for option in problem.loss} if problem else {},
            rows=problem.rows if problem else 0,
            classes=problem.classes if problem else 0,
            tolerance=_rule(tried.by),
            outcome=tried,
            digest=problem.digest if problem else "",
        )


def _signs(one: Planted, fmt: Format) -> list[Sign]:
    return [sign for sign in one.signs if fmt.name in sign.formats]


def _rule(by: str) -> str:
    """The tolerance that is judged by, where a mistake is to show by this, or a sound variant by nothing."""
    return str(_STABLE) if by in FLAGS or not by else by


def _sound(outcome: Outcome, alarms: tuple[str, ...], cases: int) -> Tried:
    judged, why = (outcome, "") if isinstance(outcome, Judged) else (None, _why(outcome, ""))
    return Tried(by="", shown=bool(alarms), judged=judged, caught=alarms, cases=cases, why=why)


def _held_against(outcome: Outcome) -> bool:
    """Whether anything is said against a sound variant."""
    return outcome.verdict is not Verdict.PASS or (isinstance(outcome, Judged) and _of_total(outcome) > 1)


def _of_total(judged: Judged) -> float:
    return judged.measures.total or 0.0


def _size(outcome: Outcome) -> float:
    """How near a result is to its limit, or how far past it."""
    if not isinstance(outcome, Judged) or outcome.decision.worst is None:
        return -1.0
    return max(outcome.decision.worst.value, _of_total(outcome))


def _why(outcome: Outcome | None, case: str) -> str:
    """Why there is nothing to judge."""
    match outcome:
        case None:
            return f"case '{case}' was not tried: there is none of that name in this format"
        case Judged() | Tried():
            return ""
        case _:
            return str(getattr(outcome, "reason", ""))
