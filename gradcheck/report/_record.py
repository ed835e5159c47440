"""The JSON record of a result and of a report. docs/cli.md describes it; fields are added, never changed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from gradcheck import text
from gradcheck.diagnosis import Finding
from gradcheck.metrics import Extreme
from gradcheck.profiles import Profile
from gradcheck.reference import digits_of
from gradcheck.report import _sentences
from gradcheck.results import Conduct, Confirmed, Judged, Report, Result, Tried, Unconfirmed

SCHEMA_VERSION = 1
MAXIMA = {"abs": "max_abs", "rel": "max_rel", "ulp": "max_ulp", "bound": "max_bound", "norm": "norm"}


def report_record(report: Report) -> dict[str, Any]:
    """A whole report."""
    return {
        **head(report),
        "results": [result_record(result) for result in report.results],
    }


def head(report: Report) -> dict[str, Any]:
    """All of a report but its results."""
    return {
        "schema_version": SCHEMA_VERSION,
        "gradcheck": report.version,
        "environment": dict(report.environment),
        "settings": dict(report.settings),
        "notes": list(report.notes),
        "summary": {verdict.value: n for verdict, n in report.summary.items()},
    }


def result_record(result: Result) -> dict[str, Any]:
    """One result; numbers that JSON cannot hold are strings, exact values decimal strings."""
    record: dict[str, Any] = {
        "case": result.case,
        "candidate": result.candidate,
        "dtype": result.format.name,
        "gradient_dtype": result.gradient_format.name,
        "loss": dict(result.loss),
        "rows": result.rows,
        "classes": result.classes,
        "tolerance": result.tolerance,
        "verdict": result.verdict.value,
        "reason": _sentences.reason(result),
        "again": result.again,
        "known": result.known,
        "digest": result.digest,
        "unreached_rows": result.unreached,
    }
    if result.step is not None:
        record |= {"step": result.step.name, "formula": result.step.formula, "columns": result.step.columns}
        record |= {name: getattr(result.step, name) for name in ("zeros", "thin", "beyond")}
    if isinstance(result.outcome, Tried):
        tried = result.outcome
        record["tried"] = {
            "by": tried.by or None,
            "shown": tried.shown,
            "caught": list(tried.caught),
            "cases": tried.cases,
            "why": tried.why or None,
        }
    match result.outcome:
        case Confirmed(values=values, edited=edited):
            record["confirmed"] = {"values": values, "edited": edited}
        case Unconfirmed() as wrong:
            record["unconfirmed"] = {
                "row": wrong.row,
                "class": wrong.cls,
                "frozen": text.exact(wrong.frozen),
                "derived": text.exact(wrong.derived),
                "wrong": wrong.wrong,
                "values": wrong.values,
            }
    outcome = result.judged
    if outcome is None:
        empty = (
            "worst",
            "loss_value",
            "undefined_rows",
            "nonfinite",
            "total",
            "flushed",
            "wrong_sign",
            "reference",
        )
        also = ("top", "places", *empty, "conduct", "diagnosis", "profile", "screening")
        return record | dict.fromkeys([*MAXIMA.values(), *also])
    measures, facts = outcome.measures, outcome.reference
    return record | {
        **{field: number(_value(measures.extremes[name])) for name, field in MAXIMA.items()},
        "worst": _worst(result, outcome.decision.worst),
        "top": [_worst(result, extreme) for extreme in outcome.decision.top],
        "places": {name: _place(result, extreme) for name, extreme in measures.extremes.items()},
        "failed": outcome.decision.failed,
        "judged": outcome.decision.judged,
        "limit_ulp": number(outcome.decision.limit_ulps),
        "undecided_rows": [result.row_number(row) for row in outcome.decision.undecided_rows],
        "sufficient": outcome.sufficient
        and {
            "digits": outcome.sufficient.digits,
            "step": text.power_of_two(outcome.sufficient.step_log2),
        },
        "loss_value": None if outcome.loss is None else text.exact(outcome.loss),
        "undefined_rows": measures.undefined_rows,
        "infinite_loss_rows": measures.infinite_loss_rows,
        "nonfinite": measures.nonfinite,
        "total": number(measures.total),
        "flushed": measures.flushed,
        "wrong_sign": measures.wrong_sign,
        "ignored_nonzero": measures.ignored_nonzero,
        "reference": None
        if facts is None
        else {
            "engine": facts.engine,
            "method": facts.method,
            "order": facts.order,
            "step": text.power_of_two(facts.step_log2),
            "digits": digits_of(facts.precision_bits),
            "precision_bits": facts.precision_bits,
            "uncertainty_ulp": number(facts.uncertainty_ulp),
            "certified": facts.certified,
            "evaluations": facts.evaluations,
        },
        "conduct": _conduct(result, outcome.conduct),
        "diagnosis": _diagnosis(result, outcome),
        "profile": _profile(result, outcome.profile),
        "screening": outcome.screened and dataclasses.asdict(outcome.screened),
    }


def _profile(result: Result, profile: Profile) -> dict[str, Any]:
    """By column, as one line a column is shorter than a line a number."""
    points = profile.points
    return {
        "gap": [number(point.gap) for point in points],
        "ulp": [number(point.ulp) for point in points],
        "bound_ulp": [number(point.bound_ulp) for point in points],
        "row": [result.row_number(point.row) for point in points],
        "class": [point.cls for point in points],
        "true": [point.true for point in points],
        "histogram": [list(pair) for pair in profile.histogram],
    }


def _diagnosis(result: Result, judged: Judged) -> dict[str, Any] | None:
    """What explains a failure, and what else would."""
    if not judged.diagnosis:
        return None

    def told(finding: Finding) -> dict[str, Any]:
        return {
            "cause": finding.cause,
            "evidence": _sentences.evidence(result, finding),
            "fix": finding.fix,
            "option": finding.option or None,
        }

    first, *others = judged.diagnosis
    return told(first) | {"others": [told(finding) for finding in others]}


def _conduct(result: Result, seen: Conduct) -> dict[str, Any]:
    """What was noticed of the code beside its gradient."""
    repeats, permuted, loss = seen.repeats, seen.permuted, seen.loss
    return {
        "changed_input": list(seen.changed),
        "repeats": repeats
        and {
            "runs": repeats.runs,
            "components": repeats.components,
            "most_ulp": number(repeats.most_ulp),
            "row": result.row_number(repeats.row),
            "class": repeats.cls,
        },
        "permuted": permuted
        and {
            "crash": permuted.crash or None,
            "components": permuted.components,
            "worst": _place(result, permuted.worst),
        },
        "spread_rows": seen.spread,
        "loss": loss
        and {
            "value": number(loss.value),
            "ratio": None if math.isnan(loss.ratio) else number(loss.ratio),
            "disowned": loss.disowned,
        },
    }


def _value(extreme: Extreme | None) -> float | None:
    return None if extreme is None else extreme.value


def _worst(result: Result, extreme: Extreme | None) -> dict[str, Any] | None:
    """The place nearest to its limit, or furthest past it."""
    place = _place(result, extreme)
    return None if place is None else place | {"of_limit": number(_value(extreme))}


def _place(result: Result, extreme: Extreme | None) -> dict[str, Any] | None:
    if extreme is None:
        return None
    step = result.step
    by_logit: dict[str, Any] = {} if step is None or step.logits is None else {"logit": step.logits[extreme.row]}
    if step is not None and step.values is not None:
        by_logit["of_value"] = step.values[extreme.row]
    return {
        "row": result.row_number(extreme.row),
        "class": extreme.cls if step is None or step.by_class else None,
        **by_logit,
        "candidate": text.plain(extreme.candidate),
        "candidate_hex": text.hexadecimal(extreme.candidate),
        "reference": text.exact(extreme.reference),
        "uncertainty_ulp": number(extreme.uncertainty_ulp),
        "ulp": number(extreme.ulp),
    }


def number(x: float | None) -> float | str | None:
    """A number as JSON holds it: a string where it is not finite."""
    if x is None or math.isfinite(x):
        return x
    return text.plain(x)
