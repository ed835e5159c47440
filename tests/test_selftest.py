"""The selftest: every mistake is caught, for its own reason; what disables that is seen; sound variants pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradcheck import catalogue, checking, metrics, mistakes, observing, reference, selftest, tolerances
from gradcheck.candidates import _function
from gradcheck.formats import FORMATS, Format
from gradcheck.mistakes import Planted, Sign
from gradcheck.reference import Settings
from gradcheck.results import Result, Tried, Verdict
from gradcheck.selftest import FLAGS
from gradcheck.tolerances import Limits
from tests.conftest import EVERY_FORMAT, WHOLE, Program

MISTAKES, SOUND = mistakes.mistakes(), mistakes.sound()
SIGNS = [(one, sign) for one in MISTAKES.values() for sign in one.signs]


def run(planted: Any, fmt: Format, cases: Any = ()) -> dict[tuple[str, str, str], Result]:
    """The results by name, case and sign."""
    found = {}
    for result in selftest.run(list(planted), [fmt], list(cases)):
        assert isinstance(result.outcome, Tried)
        found[result.candidate, result.case, result.outcome.by] = result
    return found


def shown(result: Result) -> bool:
    assert isinstance(result.outcome, Tried)
    return result.outcome.shown


def test_what_is_planted_says_what_it_is() -> None:
    assert len(MISTAKES) >= 60
    assert len(SOUND) >= 10
    assert all(one.signs for one in MISTAKES.values())
    assert not any(one.signs for one in SOUND.values())
    for one in (*MISTAKES.values(), *SOUND.values()):
        assert one.reason.endswith("."), one.name
        assert (one.gradient is None) != (one.function is None)
    for one, sign in SIGNS:
        problem_in = [
            case for case in [catalogue.cases()[sign.case]] for name in sign.formats if case.problem(FORMATS[name])
        ]
        assert len(problem_in) == len(sign.formats), (one.name, sign)
    assert {sign.by for _, sign in SIGNS} == {"stable", "ulp:4", *FLAGS}


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_every_mistake_is_caught_and_no_sound_variant_is(fmt: Format) -> None:
    cases = catalogue.select()[:: 1 if WHOLE else 3]
    found = run([*MISTAKES.values(), *SOUND.values()], fmt, cases)
    assert {key: result.outcome for key, result in found.items() if result.verdict is not Verdict.PASS} == {}
    assert {name for name, _, by in found if by} == {one.name for one, sign in SIGNS if fmt.name in sign.formats}
    let_pass = {name: result.outcome for (name, _, by), result in found.items() if not by}
    # there is no wider format than float64
    assert set(let_pass) == set(SOUND) - ({"wide"} if fmt.wider is None else set())
    held = sum(case.problem(fmt) is not None for case in cases)
    assert all(isinstance(tried, Tried) and tried.cases == held for tried in let_pass.values())


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_what_shows_a_mistake_does_not_show_a_right_gradient(fmt: Format) -> None:
    """The exact gradient, rounded, with the signs of every mistake: none of them is there."""
    right = SOUND["correctly-rounded"].gradient
    asked = [
        Planted(name=f"{one.name} {sign.case} {sign.by}", reason="Right.", gradient=right, watched=True, signs=(sign,))
        for one, sign in SIGNS
    ]
    found = run(asked, fmt)
    assert len(found) == sum(fmt.name in sign.formats for _, sign in SIGNS)
    assert [key for key, result in found.items() if shown(result)] == []


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_without_its_case_a_mistake_escapes(fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "cases", dict)
    found = run(MISTAKES.values(), fmt)
    assert found
    for result in found.values():
        assert result.verdict is Verdict.FAIL
        assert isinstance(result.outcome, Tried)
        assert f"case '{result.case}' was not tried" in result.outcome.why


def nothing(*_: Any, **__: Any) -> None:
    return None


def unlimited(self: Any, values: Any, bound: Any) -> Limits:
    endless = np.full(values.high.shape, np.inf)
    return Limits(certain=endless, possible=endless)


def without(field: str) -> Callable[..., Any]:
    """`metrics.measure` with one of its counts taken away."""
    measure, nothing_found = metrics.measure, {field: 0}
    return lambda *arguments: dataclasses.replace(measure(*arguments), **nothing_found)  # type: ignore[arg-type]


def without_ignored() -> Callable[..., Any]:
    """`measure_gradient` that overlooks ignored rows."""
    measure = metrics.measure_gradient
    return lambda *arguments, **options: dataclasses.replace(measure(*arguments, **options), ignored_nonzero=0)


DISABLED: dict[str, list[tuple[object, str, Any]]] = {
    "stable": [(tolerances.Stable, "limits", unlimited)],
    "ulp:4": [(tolerances.Ulp, "limits", unlimited)],
    "total": [(metrics, "_total", nothing)],
    "nonfinite": [(metrics, "measure", without("nonfinite"))],
    "wrong-sign": [(metrics, "measure", without("wrong_sign"))],
    "flushed": [(metrics, "measure", without("flushed"))],
    "spread": [(observing, "spread", lambda *_: 0)],
    "input": [(_function, "changed", lambda **_: ())],
    "order": [(observing, "permuted", nothing)],
    "repeats": [(observing, "repeats", nothing)],
    "loss": [(observing, "loss_value", nothing)],
    "ignored": [(checking, "measure_gradient", without_ignored())],
}
"""How each metric is switched off, in the code that measures it."""


@pytest.mark.parametrize("by", ["stable", "ulp:4", *FLAGS])
def test_without_its_metric_a_mistake_escapes(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name, instead in DISABLED[by]:
        monkeypatch.setattr(where, name, instead)
    chosen = [one for one in MISTAKES.values() if any(sign.by == by for sign in one.signs)]
    for fmt in EVERY_FORMAT:
        found = run(chosen, fmt)
        for (name, case, sign), result in found.items():
            # what is not finite passes no limit, not even one that there is not
            if sign == by and not (by in ("stable", "ulp:4") and not_finite(result)):
                assert not shown(result), (name, case, fmt.name)
            elif sign != by and by != "stable":
                assert shown(result), (name, case, sign, fmt.name)


def not_finite(result: Result) -> bool:
    assert isinstance(result.outcome, Tried)
    return result.outcome.judged is not None and result.outcome.judged.measures.nonfinite > 0


def test_a_mistake_that_is_none_escapes_and_a_wrong_variant_is_flagged() -> None:
    right, wrong = SOUND["shifted"].gradient, MISTAKES["sign"].gradient
    planted = [
        Planted(
            name="right",
            reason="Right.",
            gradient=right,
            signs=(Sign(case="plain-3"), Sign(case="plain-3", by="total")),
        ),
        Planted(name="wrong", reason="Wrong.", gradient=wrong),
        Planted(
            name="crashing", reason="Crashes.", function=lambda logits, labels: 1 / 0, signs=(Sign(case="plain-3"),)
        ),
    ]
    found = run(planted, FORMATS["float32"], catalogue.select(["plain-*"]))
    assert [result.verdict for result in found.values()] == [Verdict.FAIL] * 4
    alarm = next(result.outcome for (name, _, _), result in found.items() if name == "wrong")
    assert isinstance(alarm, Tried)
    assert alarm.caught == ("plain-3", "plain-10", "plain-1000", "plain-300-rows", "plain-mean")


def test_a_sum_that_is_off_is_held_against_a_sound_variant() -> None:
    """Though every component is within its bound."""
    one = Planted(name="leaky", reason="A class is left out.", gradient=MISTAKES["class-left-out"].gradient)
    found = run([one], FORMATS["float32"], catalogue.select(["vocabulary-50257"]))
    assert [result.verdict for result in found.values()] == [Verdict.FAIL]


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command(program: Program) -> None:
    ran = program("selftest", "--mistake", "sign", "--mistake", "shifted", "--dtype", "float32", "--case", "plain-3")
    assert ran.code == 0
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert lines[0].split() == ["mistake", "shown", "by", "case", "float32", "cases", "failed"]
    assert lines[1].split()[:3] == ["sign", "stable", "plain-3"]
    assert lines[2].split() == ["sign", "wrong-sign", "plain-3", "yes", "1"]
    assert lines[-1] == "1 mistake: all caught; 1 sound variant: all let pass (float32)"


def test_the_command_exits_1_where_one_escapes(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Planted(name="right", reason="Right.", gradient=SOUND["shifted"].gradient, signs=(Sign(case="plain-3"),))
    wrong = Planted(name="wrong", reason="Wrong.", gradient=MISTAKES["sign"].gradient)
    monkeypatch.setattr(mistakes, "select", lambda globs: [right, wrong])
    ran = program("selftest", "--dtype", "float64", "--case", "plain-*")
    assert ran.code == 1
    assert "escaped plain-3 float64 right stable: not shown by stable: row " in ran.out
    assert "float64 wrong sound: a false alarm on 5 cases" in ran.out
    assert "again: gradcheck selftest --mistake right --dtype float64 --case 'plain-*' --verbose" in ran.out
    assert ran.out.splitlines()[-1] == "1 mistake: 1 escaped; 1 sound variant: 1 flagged (float64)"


def test_a_narrow_terminal_loses_columns_and_says_so(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "selftest",
        "--mistake",
        "mask*",
        "--case",
        "plain-3",
        "--dtype",
        "float32",
        "--dtype",
        "float64",
        "--format",
        "table",
    ]
    monkeypatch.setenv("COLUMNS", "80")
    ran = program(*words)
    assert "left out at 80 columns: cases failed" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "60")
    assert "left out at 60 columns: cases failed, case" in program(*words).out


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "junit", "github", "markdown"])
def test_every_format_tells_of_it(name: str, program: Program) -> None:
    ran = program("selftest", "--mistake", "zeros", "--dtype", "float32", "--case", "plain-3", "--format", name)
    assert ran.code == 0
    assert "zeros" in ran.out or name == "github"


def test_unknown_mistakes_are_an_error(program: Program) -> None:
    ran = program("selftest", "--mistake", "zeroes")
    assert ran.code == 2
    assert "did you mean 'zeros'" in ran.err


# --- what is planted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
def test_correctly_rounded_is_correctly_rounded(fmt: Format) -> None:
    """Against the format's own rounding of the exact value, on every small case."""
    right, compared = SOUND["correctly-rounded"].gradient, 0
    assert right is not None
    for case in catalogue.select():
        problem = case.problem(fmt)
        if problem is None or problem.rows * problem.classes > 64:
            continue
        exact = reference.compute(problem, fmt, Settings())
        gradient = right(problem)
        for row, cls in np.argwhere(exact.judged & exact.values.resolved).tolist():
            compared += 1
            # float64's units end at 2^-600: what lies below is rounded by float64 itself
            if exact.values.ulp_log2[row, cls] >= -600:
                assert gradient[row, cls] == fmt.round(exact.exact(row, cls)), (case.name, row, cls)
    assert compared > 600


def test_an_interrupted_run_tells_what_was_finished(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reference.compute
    calls = []

    def compute(problem: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(problem)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(problem, *arguments, **options)

    monkeypatch.setattr(reference, "compute", compute)
    ran = program("selftest", "--mistake", "sign", "--mistake", "transposed", "--dtype", "float32", "--case", "plain-*")
    assert ran.code == 130
    assert [line.split()[:3] for line in ran.out.splitlines()[1:4]] == [
        ["transposed", "stable", "plain-10"],
        ["sign", "stable", "plain-3"],
        ["sign", "wrong-sign", "plain-3"],
    ]
    assert ran.out.splitlines()[-1].startswith(
        "2 mistakes: all caught" if "transposed" in ran.out else "1 mistake: all"
    )
    assert "interrupted before the end" in ran.out


def test_a_mistake_that_does_not_claim_the_format_says_so(program: Program) -> None:
    ran = program("selftest", "--mistake", "narrow", "--dtype", "float16", "--case", "plain-3")
    assert ran.code == 2
    assert "note: narrow shows in float32, float64 alone" in ran.out
    assert "caught" not in ran.out


def test_rows_that_cannot_be_told_apart_are_one(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    ran = program("selftest", "--mistake", "zeros", "--case", "plain-3", "--dtype", "float32", "--format", "table")
    assert sum(line.startswith("zeros") for line in ran.out.splitlines()) == 1


def test_reports_name_what_shows_a_mistake(program: Program) -> None:
    words = ["selftest", "--mistake", "sign", "--dtype", "float32", "--case", "plain-3", "--format"]
    header, *lines = program(*words, "csv").out.splitlines()
    place = header.split(",").index("tried_by")
    assert [line.split(",")[place] for line in lines] == ["stable", "wrong-sign"]
    junit = program(*words, "junit").out
    assert 'name="float32 sign stable"' in junit
    assert 'name="float32 sign wrong-sign"' in junit
    assert "1 mistake: all caught" in program(*words, "github").out
