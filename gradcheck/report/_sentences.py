"""What a result says, in one sentence; and a report, in one line."""

from __future__ import annotations

import math

from gradcheck import text
from gradcheck.diagnosis import Finding
from gradcheck.metrics import Extreme
from gradcheck.results import (
    Confirmed,
    Crashed,
    Judged,
    Permuted,
    Report,
    Result,
    Skipped,
    StepFacts,
    Tried,
    Unconfirmed,
    Verdict,
)


def reason(result: Result) -> str:
    """Why the result is what it is: place, both values, size, limit."""
    match result.outcome:
        case Skipped(reason=why) | Crashed(reason=why):
            return text.name(why)
        case Judged() as judged:
            return _judged(result, judged)
        case Confirmed(values=values, edited=edited):
            by_hand = ", though the fixture was edited since it was recorded ('fixtures update' seals it again)"
            return f"central differences confirm {text.count(values, 'value')}{by_hand if edited else ''}"
        case Unconfirmed() as wrong:
            return (
                f"row {wrong.row}, class {wrong.cls}: the fixture holds {text.decimal(wrong.frozen, 34)}, central "
                f"differences give {text.decimal(wrong.derived, 34)}; {text.count(wrong.wrong, 'value')} of "
                f"{wrong.values:,} {'is' if wrong.wrong == 1 else 'are'} wrong"
            )
        case Tried() as tried:
            return _tried(result, tried)


def _tried(result: Result, tried: Tried) -> str:
    """What was said of a candidate of which it is known whether it is right."""
    said = measured(result, tried)
    if not tried.by:
        if not tried.shown:
            return f"nothing is held against it on {text.count(tried.cases, 'case')}; nearest to its limit: {said}"
        return f"a false alarm on {text.count(len(tried.caught), 'case')} ({', '.join(tried.caught)}): {said}"
    how = f"shown by {tried.by}" if tried.shown else f"not shown by {tried.by}"
    return f"{how}: {said}; stable fails it on {len(tried.caught)} of {text.count(tried.cases, 'case')}"


def word(result: Result) -> str:
    """What became of it, in a word or two: the verdict, or of a selftest whether a mistake was caught."""
    match result.outcome:
        case Tried(by="", shown=shown):
            return "false alarm" if shown else "let pass"
        case Tried(shown=shown):
            return "caught" if shown else "escaped"
        case _:
            return result.verdict.value


def measured(result: Result, tried: Tried) -> str:
    """What a selftest measured at its case."""
    judged = tried.judged
    if judged is None:
        return f"there was nothing to judge{f': {text.name(tried.why)}' if tried.why else ''}"
    if judged.decision.worst is None:
        return f"no component was judged{findings(result, judged)}"
    size = f"{text.brief(judged.decision.worst.value)} times what {result.tolerance} allows"
    return f"{place(judged.decision.worst, result)}, {size}{findings(result, judged)}"


def _judged(result: Result, judged: Judged) -> str:
    worst = judged.decision.worst
    if worst is None:
        return "no component was judged"
    against = _limit(result.tolerance, judged.decision.limit_ulps)
    match judged.verdict:
        case Verdict.FAIL if not judged.decision.failed:
            return f"the gradient is right as it stands, but {conduct(result, judged)}"
        case Verdict.FAIL:
            return (
                f"{place(worst, result)}, off by {text.brief(worst.ulp)} ulp where {against}; "
                f"{'' if judged.decision.counted else 'at least '}"
                f"{text.count(judged.decision.failed, 'component')} of {judged.decision.judged:,} "
                f"{'is' if judged.decision.failed == 1 else 'are'} past the limit{findings(result, judged)}"
            )
        case Verdict.INCONCLUSIVE if result.unreached and not judged.decision.undecided_rows:
            so_far = f"as far as was checked the largest error is {text.brief(worst.value)} of its limit"
            return f"{so_far}{findings(result, judged)}"
        case Verdict.INCONCLUSIVE:
            rows = text.count(len(judged.decision.undecided_rows), "row")
            if judged.sufficient is not None:
                step = text.power_of_two(judged.sufficient.step_log2)
                advice = f"--digits {judged.sufficient.digits} --step {step} would do, or auto for both"
            elif result.step is not None:
                advice = "without --digits and --step the format chooses both"
            else:
                advice = "an error is too near its limit, or an exact value to 0, for any precision that is tried"
            return f"the reference is too uncertain for a verdict under {result.tolerance} ({rows} undecided): {advice}"
        case _:
            return f"the largest error is {text.brief(worst.value)} of its limit{findings(result, judged)}"


def _limit(tolerance: str, ulps: float) -> str:
    if tolerance == "stable":
        return f"a sound algorithm stays within {text.brief(ulps)}"
    return f"{tolerance} allows {text.brief(ulps)}"


def place(extreme: Extreme, result: Result) -> str:
    """Where a component stands, with the candidate's value and the reference's."""
    fmt = result.gradient_format
    return (
        f"{address(result, extreme.row, extreme.cls)}: {text.candidate(extreme.candidate, fmt)} "
        f"(reference {text.reference(extreme.reference, fmt, extreme.uncertainty_ulp)})"
    )


def top(result: Result) -> list[str]:
    """The worst components that were asked for, one a line."""
    if not isinstance(result.outcome, Judged):
        return []
    lines = []
    for rank, extreme in enumerate(result.outcome.decision.top, start=1):
        off = f"{text.brief(extreme.ulp)} ulp, {text.brief(extreme.value)} times its limit"
        lines.append(f"{rank}. {place(extreme, result)}, off by {off}")
    return lines


def address(result: Result, row: int, cls: int) -> str:
    """Where a component stands: its row, its class, and the logit that it is the derivative by, if that is another."""
    where = f"row {result.row_number(row)}"
    if result.step is None or result.step.by_class:
        where += f", class {cls}"
    if result.step is not None and result.step.logits is not None:
        where += f" by logit {result.step.logits[row]}"
    if result.step is not None and result.step.values is not None and result.step.values[row]:
        where += ", ŷ itself"
    return where


def findings(result: Result, judged: Judged) -> str:
    """What was noticed beside the verdict, each after a semicolon."""
    measures = judged.measures
    found = [
        f"{text.count(n, 'component')} {what}"
        for n, what in (
            (measures.nonfinite, "not finite"),
            (measures.wrong_sign, "of the wrong sign"),
            (measures.flushed, "0 where a nonzero value is due"),
            (measures.ignored_nonzero, "not 0 in ignored rows"),
        )
        if n
    ]
    if measures.total is not None and measures.total > 1:
        found.append(f"a row's sum is off by {text.brief(measures.total)} times what rounding explains")
    if result.step is not None and judged.verdict is Verdict.FAIL:
        found += _underflow(result.step)
    if judged.verdict is Verdict.FAIL and result.format is not result.gradient_format:
        found.append(f"it is {result.gradient_format.name} for {result.format.name} logits, and judged as such")
    found += [said for said in [conduct(result, judged)] if said]
    found += [note for note in (unjudged(result), decided(result)) if note]
    return "".join(f"; {finding}" for finding in found)


def conduct(result: Result, judged: Judged) -> str:
    """What was noticed of the code beside its gradient; may be empty."""
    seen, found = judged.conduct, []
    if seen.changed:
        found.append(f"it overwrites its input ({' and '.join(seen.changed)})")
    match seen.permuted:
        case Permuted(crash=str(why)) if why:
            found.append(f"with its rows and classes in another order it fails: {text.name(why)}")
        case Permuted(components=n, worst=Extreme() as worst):
            found.append(
                f"with its rows and classes in another order {text.count(n, 'component')} "
                f"{'is' if n == 1 else 'are'} wrong, the worst by {text.brief(worst.ulp)} ulp at {place(worst, result)}"
            )
    if seen.repeats is not None:
        where = address(result, seen.repeats.row, seen.repeats.cls)
        found.append(
            f"{seen.repeats.runs} runs differ in {text.count(seen.repeats.components, 'component')}, by up to "
            f"{text.brief(seen.repeats.most_ulp)} ulp ({where})"
        )
    if seen.spread:
        found.append(
            f"{text.count(seen.spread, 'row')} not finite only because of other rows of NaN or inf in the batch"
        )
    if seen.loss is not None:
        ratio = "" if math.isnan(seen.loss.ratio) else f", {text.brief(seen.loss.ratio)} times it"
        disowned = seen.loss.disowned and not judged.decision.failed
        found.append(
            f"the loss that comes with it, {text.brief(seen.loss.value)}, is not the one described{ratio}"
            + (", and its gradient is not: the backward is that of another loss" if disowned else "")
        )
    return "; ".join(found)


def evidence(result: Result, finding: Finding) -> str:
    """What shows a finding, with the row's number in the input."""
    said = finding.evidence
    for row in finding.rows:
        said = said.replace("{row}", str(result.row_number(row)), 1)
    return said


def diagnosis(result: Result) -> str:
    """What explains a failure, in one sentence; empty where nothing failed."""
    if result.judged is None or not result.judged.diagnosis:
        return ""
    first, *others = result.judged.diagnosis
    option = f" ({first.option})" if first.option else ""
    also = f"; or {' or '.join(finding.cause for finding in others)}" if others else ""
    return f"{first.cause}: {evidence(result, first)}; {first.fix}{option}{also}"


def _underflow(step: StepFacts) -> list[str]:
    """Why a step that divides by ŷ fails where the fused form does not."""
    found = []
    if step.zeros:
        found.append(f"ŷ is 0 in the format at {text.count(step.zeros, 'place')}, where −y/ŷ is infinite or 0/0")
    if step.thin:
        found.append(f"{text.count(step.thin, 'factor')} below the normal range, with few digits left")
    if found:
        found.append("the fused form ŷ − y does not divide")
    if step.beyond:
        found.append(f"{text.count(step.beyond, 'exact value')} past the format's largest")
    return found


def unjudged(result: Result) -> str:
    """The rows that no candidate could be judged on, or nothing; every format tells it of passing results, too."""
    if not isinstance(result.outcome, Judged) or result.step is not None:  # a note tells it of all steps
        return ""
    rows = result.outcome.measures.undefined_rows
    return f"{text.count(rows, 'row')} undefined (NaN, inf, or a mean of 0/0) and not judged" if rows else ""


def decided(result: Result) -> str:
    """How many components were decided how; nothing where all of them were compared with central differences."""
    found = [f"{text.count(result.unreached, 'row')} not reached"] if result.unreached else []
    judged = result.outcome if isinstance(result.outcome, Judged) else None
    if judged is not None and judged.screened is not None:
        facts = judged.screened
        found.append(
            f"{text.count(facts.bound, 'component')} decided by the closed form in float64 and its error bound, "
            f"{facts.differences:,} by central differences in {text.count(facts.rows, 'row')} "
            f"({facts.undecided:,} left open, {facts.drawn:,} drawn at random)"
        )
    return "; ".join(found)


def told(result: Result, *, verbose: bool) -> str:
    """The sentence that goes with a result outside a table's cells; nothing where the cells say it all."""
    if result.verdict is Verdict.PASS and not verbose:
        noticed = conduct(result, result.outcome) if isinstance(result.outcome, Judged) else ""
        return "; ".join(said for said in (noticed, unjudged(result), decided(result)) if said)
    return reason(result)


_BAR = 30


def histogram(result: Result) -> list[str]:
    """How many components err by how many ulps, a line each, drawn in characters."""
    counts = () if result.judged is None else result.judged.profile.histogram
    if not counts:
        return []
    most = max(count for _, count in counts)
    names = ["not finite" if power is None else f"<= {text.brief(2.0**power)} ulp" for power, _ in counts]
    width = max(map(len, names))
    digits = max(len(f"{count:,}") for _, count in counts)
    lines = [
        f"{name.rjust(width)}  {f'{count:,}'.rjust(digits)}  {'#' * max(1, round(_BAR * count / most))}"
        for name, (_, count) in zip(names, counts, strict=True)
    ]
    screened = None if result.judged is None else result.judged.screened
    # of a dump it is drawn for a few rows alone
    return [f"in the {text.count(screened.rows, 'row')} with central differences:", *lines] if screened else lines


def summary(report: Report) -> str:
    """How many results have each verdict, in one line; of a selftest, how many mistakes were caught."""
    if any(isinstance(result.outcome, Tried) for result in report.results):
        return _selftested(report)
    counts = [f"{n} {_PLURAL[verdict]}" for verdict, n in report.summary.items() if n]
    if known := sum(result.known for result in report.results):
        counts.append(f"{known} of them known from the baseline")
    never = "".join(f"; {text.name(name)} was judged nowhere" for name in report.passed_over)
    return f"{text.count(len(report.results), 'result')}: {', '.join(counts) or 'nothing was checked'}{never}"


def _selftested(report: Report) -> str:
    found = [(result.candidate, result.outcome) for result in report.results if isinstance(result.outcome, Tried)]
    mistakes = {name for name, tried in found if tried.by}
    sound = {name for name, tried in found if not tried.by}
    escaped = {name for name, tried in found if tried.by and not tried.shown}
    alarms = {name for name, tried in found if not tried.by and tried.shown}
    said = []
    if mistakes:
        said.append(f"{text.count(len(mistakes), 'mistake')}: {_all_but(len(escaped), 'caught', 'escaped')}")
    if sound:
        said.append(f"{text.count(len(sound), 'sound variant')}: {_all_but(len(alarms), 'let pass', 'flagged')}")
    kinds = dict.fromkeys(result.format.name for result in report.results)
    return f"{'; '.join(said)} ({', '.join(kinds)})"


def _all_but(wrong: int, right: str, what: str) -> str:
    return f"{wrong} {what}" if wrong else f"all {right}"


_PLURAL = {
    Verdict.PASS: "passed",
    Verdict.FAIL: "failed",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.SKIPPED: "skipped",
    Verdict.CRASHED: "crashed",
}
