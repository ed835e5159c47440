"""A report made again from its JSON record, so that it can be shown in any format and judged again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from mpmath import libmp
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gradcheck import formats, tolerances
from gradcheck.diagnosis import Finding
from gradcheck.exact import Dyadic
from gradcheck.exceptions import GradcheckError, InputError, visible
from gradcheck.metrics import Decision, Extreme, Measures
from gradcheck.profiles import Point, Profile
from gradcheck.report._record import MAXIMA
from gradcheck.results import (
    Conduct,
    Confirmed,
    Crashed,
    Judged,
    LossValue,
    Outcome,
    Permuted,
    ReferenceFacts,
    Repeats,
    Report,
    Result,
    Screened,
    Skipped,
    StepFacts,
    Sufficient,
    Tried,
    Unconfirmed,
    Verdict,
)

_BITS = 256
"""More than the decimal digits of a record tell."""


_MOST = 2**60


def _hexadecimal(written: str) -> str:
    try:
        float.fromhex(written)
    except OverflowError:
        raise ValueError("is beyond float64") from None
    return written


def _decimal(written: str) -> str:
    if len(written) > 400 or not re.fullmatch(r"-?\d+\.?\d*(e[+-]?\d+)?|nan|-?inf", written):
        raise ValueError("is no decimal number of at most 400 characters")
    return written


def _two_to_the(written: str) -> str:
    if not re.fullmatch(r"2\^-?\d{1,6}", written):
        raise ValueError("is no power of two")
    return written


Count = Annotated[int, Field(ge=0, le=_MOST)]
Size = Annotated[float, Field(ge=0)]
# whoever wrote the record may have meant it for the reader's terminal
Name = Annotated[str, AfterValidator(visible)]
Hexadecimal = Annotated[str, Field(max_length=100), AfterValidator(_hexadecimal)]
Decimal = Annotated[str, AfterValidator(_decimal)]
Power = Annotated[str, AfterValidator(_two_to_the)]
FormatName = Annotated[str, AfterValidator(lambda name: formats.named(name).name)]
Rule = Annotated[str, AfterValidator(lambda rule: str(tolerances.parse(rule)) and rule)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Place(_Model):
    row: Count
    cls: Count | None = Field(alias="class")
    logit: Count | None = None
    of_value: bool | None = None
    candidate: float
    candidate_hex: Hexadecimal
    reference: Decimal
    uncertainty_ulp: float
    ulp: float
    of_limit: float | None = None


class _Places(_Model):
    abs: _Place | None
    rel: _Place | None
    ulp: _Place | None
    norm: _Place | None
    bound: _Place | None


class _Reference(_Model):
    engine: Name
    method: Name
    order: Count
    step: Power
    precision_bits: Annotated[int, Field(ge=1, le=2**24)]
    uncertainty_ulp: float
    certified: bool
    evaluations: Count


class _Repeats(_Model):
    runs: Count
    components: Count
    most_ulp: float
    row: Count
    cls: Count = Field(alias="class")


class _Permuted(_Model):
    crash: Name | None
    components: Count
    worst: _Place | None


class _Loss(_Model):
    value: float
    ratio: float | None
    disowned: bool = False


class _Conduct(_Model):
    changed_input: tuple[Name, ...]
    repeats: _Repeats | None
    permuted: _Permuted | None
    spread_rows: Count
    loss: _Loss | None


class _Cause(_Model):
    cause: Name
    evidence: Name
    fix: Name
    option: Name | None


class _Finding(_Cause):
    others: tuple[_Cause, ...] = ()


class _Profile(_Model):
    gap: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]
    ulp: tuple[Size, ...]
    bound_ulp: tuple[Size, ...]
    row: tuple[Count, ...]
    cls: tuple[Count, ...] = Field(alias="class")
    true: tuple[bool, ...]
    histogram: tuple[tuple[Annotated[int, Field(ge=-1, le=60)] | None, Annotated[int, Field(ge=1, le=_MOST)]], ...]


class _Screening(_Model):
    bound: Count
    differences: Count
    undecided: Count
    drawn: Count
    rows: Count


class _Sufficient(_Model):
    digits: Count
    step: Power


class _Tried(_Model):
    by: Name | None
    shown: bool
    caught: tuple[Name, ...]
    cases: Count
    why: Name | None = None


class _Confirmed(_Model):
    values: Count
    edited: bool


class _Unconfirmed(_Model):
    row: Count
    cls: Count = Field(alias="class")
    frozen: Decimal
    derived: Decimal
    wrong: Count
    values: Count


class _Result(_Model):
    case: Name
    candidate: Name
    dtype: FormatName
    gradient_dtype: FormatName
    loss: dict[Name, Name]
    rows: Count
    classes: Count
    tolerance: Rule
    verdict: Verdict
    reason: Name
    again: Name
    known: bool
    digest: Name
    unreached_rows: Count = 0
    step: Name | None = None
    formula: Name = ""
    columns: Count | None = None
    zeros: Count = 0
    thin: Count = 0
    beyond: Count = 0
    tried: _Tried | None = None
    confirmed: _Confirmed | None = None
    unconfirmed: _Unconfirmed | None = None
    worst: _Place | None
    top: tuple[_Place, ...] | None
    places: _Places | None
    max_abs: float | None
    max_rel: float | None
    max_ulp: float | None
    max_bound: float | None
    norm: float | None
    failed: Count | None = None
    judged: Count | None = None
    limit_ulp: float | None = None
    undecided_rows: tuple[Count, ...] = ()
    sufficient: _Sufficient | None = None
    loss_value: Decimal | None
    undefined_rows: Count | None
    infinite_loss_rows: Count = 0
    nonfinite: Count | None
    total: float | None
    flushed: Count | None
    wrong_sign: Count | None
    ignored_nonzero: Count = 0
    reference: _Reference | None
    conduct: _Conduct | None
    diagnosis: _Finding | None
    profile: _Profile | None
    screening: _Screening | None = None


class _Report(_Model):
    gradcheck: Name
    environment: dict[Name, Name] = {}
    settings: dict[str, Any]
    notes: tuple[Name, ...]
    results: tuple[_Result, ...]


def report(record: Mapping[str, Any], path: str) -> Report:
    """The report that a record was made of.

    Args:
        path: where the record is from, for an error.

    Raises:
        InputError: where it lacks what this gradcheck needs to show it.
    """
    try:
        read = _Report.model_validate(record)
        results = tuple(_Again(result).result() for result in read.results)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:5])
        raise InputError(f"{path}: {where}: {first['msg']}; was it saved by another version of gradcheck?") from None
    except (GradcheckError, ValueError, KeyError) as error:
        raise InputError(f"{path}: {error}") from None
    return Report(
        version=read.gradcheck,
        environment=read.environment,
        settings=read.settings,
        results=results,
        notes=read.notes,
    )


class _Again:
    """One result. Its places get rows of their own, whose numbers in the input are those of the record."""

    def __init__(self, read: _Result) -> None:
        self.read = read
        self.rows: list[int] = []
        self.logits: list[int | None] = []
        self.values: list[bool | None] = []

    def result(self) -> Result:
        read = self.read
        outcome = self.outcome()
        step = None
        if read.step is not None:
            step = StepFacts(
                name=read.step,
                formula=read.formula,
                columns=read.columns,
                zeros=read.zeros,
                thin=read.thin,
                beyond=read.beyond,
                by_class=not any(place.cls is None for place in self.all_places()),
                logits=tuple(logit or 0 for logit in self.logits) if any(n is not None for n in self.logits) else None,
                values=tuple(map(bool, self.values)) if any(n is not None for n in self.values) else None,
            )
        return Result(
            case=read.case,
            candidate=read.candidate,
            format=formats.named(read.dtype),
            gradient_format=formats.named(read.gradient_dtype),
            loss=read.loss,
            rows=read.rows,
            classes=read.classes,
            tolerance=read.tolerance,
            outcome=outcome,
            again=read.again,
            row_numbers=tuple(self.rows),
            step=step,
            known=read.known,
            digest=read.digest,
            unreached=read.unreached_rows,
        )

    def outcome(self) -> Outcome:
        read = self.read
        if read.tried is not None:
            return Tried(
                by=read.tried.by or "",
                shown=read.tried.shown,
                judged=None if read.failed is None else self.judged(),
                caught=read.tried.caught,
                cases=read.tried.cases,
                why=read.tried.why or "",
            )
        if read.confirmed is not None:
            return Confirmed(values=read.confirmed.values, edited=read.confirmed.edited)
        if read.unconfirmed is not None:
            wrong = read.unconfirmed
            return Unconfirmed(
                row=wrong.row,
                cls=wrong.cls,
                frozen=_exact(wrong.frozen),
                derived=_exact(wrong.derived),
                wrong=wrong.wrong,
                values=wrong.values,
            )
        if read.verdict is Verdict.SKIPPED:
            return Skipped(reason=read.reason)
        if read.verdict is Verdict.CRASHED:
            return Crashed(reason=read.reason)
        return self.judged()

    def all_places(self) -> list[_Place]:
        read = self.read
        return [place for place in (read.worst, *(read.top or ()), *self.places().values()) if place is not None]

    def places(self) -> dict[str, _Place | None]:
        found = self.read.places
        return {} if found is None else dict(found)

    def row(self, number: int, place: _Place | None = None) -> int:
        self.rows.append(number)
        self.logits.append(None if place is None else place.logit)
        self.values.append(None if place is None else place.of_value)
        return len(self.rows) - 1

    def extreme(self, place: _Place | None, value: float | None) -> Extreme | None:
        if place is None or value is None:
            return None
        exact = _exact(place.reference)
        return Extreme(
            value=value,
            row=self.row(place.row, place),
            cls=place.cls or 0,
            candidate=float.fromhex(place.candidate_hex),
            reference=exact if isinstance(exact, Dyadic) else Dyadic(0, 0),
            uncertainty_ulp=place.uncertainty_ulp,
            ulp=place.ulp,
        )

    def judged(self) -> Judged:
        read = self.read
        if None in (
            read.places,
            read.failed,
            read.judged,
            read.nonfinite,
            read.flushed,
            read.wrong_sign,
            read.undefined_rows,
        ):
            raise InputError(f"the result of '{read.case}' has a verdict and no measures")
        facts = read.reference
        return Judged(
            verdict=read.verdict,
            measures=Measures(
                extremes={
                    name: self.extreme(place, getattr(read, MAXIMA[name])) for name, place in self.places().items()
                },
                nonfinite=read.nonfinite or 0,
                wrong_sign=read.wrong_sign or 0,
                flushed=read.flushed or 0,
                ignored_nonzero=read.ignored_nonzero,
                total=read.total,
                undefined_rows=read.undefined_rows or 0,
                infinite_loss_rows=read.infinite_loss_rows,
            ),
            decision=Decision(
                failed=read.failed or 0,
                judged=read.judged or 0,
                undecided_rows=[self.row(number) for number in read.undecided_rows],
                worst=self.extreme(read.worst, None if read.worst is None else read.worst.of_limit),
                limit_ulps=math.nan if read.limit_ulp is None else read.limit_ulp,
                top=tuple(found for place in read.top or () if (found := self.extreme(place, place.of_limit))),
            ),
            reference=None
            if facts is None
            else ReferenceFacts(
                engine=facts.engine,
                method=facts.method,
                order=facts.order,
                step_log2=_power(facts.step),
                precision_bits=facts.precision_bits,
                uncertainty_ulp=facts.uncertainty_ulp,
                certified=facts.certified,
                evaluations=facts.evaluations,
            ),
            loss=None if read.loss_value is None else _exact(read.loss_value),
            sufficient=None
            if read.sufficient is None
            else Sufficient(digits=read.sufficient.digits, step_log2=_power(read.sufficient.step)),
            conduct=self.conduct(),
            diagnosis=self.diagnosis(),
            profile=self.profile(),
            screened=None if read.screening is None else Screened(**read.screening.model_dump()),
        )

    def conduct(self) -> Conduct:
        seen = self.read.conduct
        if seen is None:
            return Conduct()
        repeats, permuted, loss = seen.repeats, seen.permuted, seen.loss
        return Conduct(
            changed=seen.changed_input,
            repeats=None
            if repeats is None
            else Repeats(
                runs=repeats.runs,
                components=repeats.components,
                most_ulp=repeats.most_ulp,
                row=self.row(repeats.row),
                cls=repeats.cls,
            ),
            permuted=None
            if permuted is None
            else Permuted(
                crash=permuted.crash or "",
                components=permuted.components,
                worst=self.extreme(permuted.worst, 0.0),
            ),
            spread=seen.spread_rows,
            loss=None
            if loss is None
            else LossValue(
                value=loss.value,
                ratio=math.nan if loss.ratio is None else loss.ratio,
                disowned=loss.disowned,
            ),
        )

    def diagnosis(self) -> tuple[Finding, ...]:
        first = self.read.diagnosis
        if first is None:
            return ()
        return tuple(
            Finding(cause=one.cause, evidence=one.evidence, fix=one.fix, option=one.option or "")
            for one in (first, *first.others)
        )

    def profile(self) -> Profile:
        read = self.read.profile
        if read is None:
            return Profile()
        columns = zip(read.gap, read.ulp, read.bound_ulp, read.row, read.cls, read.true, strict=True)
        points = tuple(
            Point(gap=gap, ulp=ulp, bound_ulp=bound, row=self.row(row), cls=cls, true=true)
            for gap, ulp, bound, row, cls, true in columns
        )
        return Profile(points=points, histogram=read.histogram)


def _exact(written: str) -> Dyadic | float:
    """An exact value, as near as its decimal digits tell it; what is no finite number as a float."""
    if written in ("nan", "inf", "-inf"):
        return float(written)
    return Dyadic.from_mpf(libmp.from_str(written, _BITS, libmp.round_nearest))


def _power(written: str) -> int:
    return int(written.removeprefix("2^"))
