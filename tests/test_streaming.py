"""A batch in parts: whatever it is cut into, what is found is what is found of the whole."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import candidates, files, losses, reference, stored, streaming, tolerances
from gradcheck import problem as problems
from gradcheck.batch import Batch
from gradcheck.candidates import Answer, Candidate
from gradcheck.checking import How, check
from gradcheck.exact import Dyadic, to_fraction
from gradcheck.exceptions import InputError, RowError
from gradcheck.formats import Array, Int64, named
from gradcheck.functions import Function
from gradcheck.problem import Problem
from gradcheck.profiles import Profile
from gradcheck.reference import Settings
from gradcheck.results import Crashed, Judged, Result, Skipped, Verdict
from gradcheck.stored import File, Stored
from gradcheck.streaming import Screening
from gradcheck.workers import Alone
from tests.conftest import make_problem

HOW = How(tolerance=tolerances.parse("stable"), settings=Settings(engine="flint"), top=3)
ROWS, CLASSES = 12, 9
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, CLASSES)) * 5
HARD, SOFT = RNG.integers(0, CLASSES, ROWS), RNG.random((ROWS, CLASSES))
MASK = ";".join(
    ",".join("0" if (n + c) % 7 == 0 and c != HARD[n] else "1" for c in range(CLASSES)) for n in range(ROWS)
)
OPTIONS: tuple[list[str], ...] = (
    [],
    ["reduction=mean"],
    ["reduction=mean", f"ignore_index={HARD[3]}"],
    ["reduction=mean", "weight=" + ",".join(str(1 + c / 4) for c in range(CLASSES)), "label_smoothing=0.1"],
    ["reduction=mean:count", "weight=" + ",".join(str(c % 3) for c in range(CLASSES)), "z_loss=0.01:count"],
    ["reduction=sum", "softcap=6", "temperature=0.7", "z_loss=0.001"],
    ["upstream=" + ",".join(str((n - 5) / 4) for n in range(ROWS)), "label_smoothing=0.2:others"],
    ["mask=" + MASK, "label_smoothing=0.1", "reduction=mean:rows"],
)


@pytest.fixture(params=[1, 5])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many rows at a time."""
    rows: int = request.param
    for name in ("_PART", "_PART_OF_CODE", "_SCREENED_PART"):
        monkeypatch.setattr(streaming, name, rows * CLASSES)
    monkeypatch.setattr(streaming, "_SCREENED_TASK", 2 * rows * CLASSES)
    return rows


SIZE = Screening()
"""Whether there is a screening follows from the size."""


def of(batch: Batch, candidate: Candidate, screening: Screening = SIZE) -> Result:
    (result,) = streaming.check(batch, [candidate], HOW, case="x", screening=screening)
    return result


def alike(one: Result, other: Result) -> None:
    """The same but for where errors are drawn, which parts tell more coarsely, and the last digits of the loss."""
    assert one.judged is not None
    assert other.judged is not None
    assert dict(one.judged.profile.histogram) == dict(other.judged.profile.histogram)
    values = [one.judged.loss, other.judged.loss]
    plain = [
        dataclasses.replace(judged, profile=Profile(), loss=None, diagnosis=()) for judged in (one.judged, other.judged)
    ]
    assert plain[0] == plain[1]
    assert dataclasses.replace(one, outcome=plain[0]) == dataclasses.replace(other, outcome=plain[0])
    assert [type(loss) for loss in values].count(float) in (0, 2)
    if values == [None, None]:
        return
    sizes = [
        loss if isinstance(loss, float) or loss is None else math.copysign(loss.log2(), loss.man) for loss in values
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-12)


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("loss", OPTIONS, ids=lambda loss: " ".join(loss)[:40])
def test_parts_are_the_whole(loss: list[str], labels: Array, parts: int) -> None:
    try:
        problem = make_problem(LOGITS, labels, "float32", loss)
    except InputError:
        pytest.skip("not an option of these labels")
    for name in ("compensated", "naive"):
        candidate = candidates.load(name)
        (whole,) = check(problem, [candidate], HOW, case="x")
        alike(of(Batch.of(problem), candidate), whole)
    wrong = candidates.given("wrong", candidates.load("shifted").gradient(problem)[::-1].copy())
    (whole,) = check(problem, [wrong], HOW, case="x")
    assert whole.verdict is Verdict.FAIL
    alike(of(Batch.of(problem), wrong), whole)


def test_what_is_noticed_of_code_in_one_part_is_told_of_the_whole(parts: int) -> None:
    problem = make_problem(LOGITS, HARD, "float32")
    asked = 0

    def right(logits: Array, labels: Array) -> Array:
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(p)), labels] -= 1
        return np.asarray(p)

    def never_twice_alike(logits: Array, labels: Array) -> Array:
        nonlocal asked
        asked += 1
        found = right(logits, labels)
        found[0, 0] *= np.float32(1 + asked % 2 * 2.0**-22)
        return found

    def by_order(logits: Array, labels: Array) -> Array:
        found = right(logits, labels)
        found[0, 0] += logits[0, 0] not in problem.logits[:, 0]
        return found

    def found(name: str, call: Any) -> Result:
        how = dataclasses.replace(HOW, repeat=2)
        candidate = candidates.of_function(Function(name=name, call=call))
        (result,) = streaming.check(Batch.of(problem), [candidate], how, case="x", screening=SIZE)
        return result

    repeats = found("never_twice_alike", never_twice_alike).judged
    assert repeats is not None
    assert repeats.conduct.repeats is not None
    assert repeats.conduct.repeats.components == math.ceil(ROWS / parts)
    result = found("by_order", by_order)
    assert result.verdict is Verdict.FAIL
    assert result.judged is not None
    assert result.judged.conduct.permuted is not None
    assert 1 < result.judged.conduct.permuted.components <= math.ceil(ROWS / parts)
    assert result.judged.conduct.permuted.worst is not None


def test_a_mean_that_disowns_its_gradient_is_seen_in_parts_of_one_row_and_more(parts: int) -> None:
    """Of a single row a mean is the sum: what comes with it says nothing, and takes nothing back."""
    problem = make_problem(LOGITS[:11], HARD[:11], "float32")
    shifted = candidates.load("shifted")

    def answer(part: Problem) -> Answer:
        exact = reference.compute(part, part.format, HOW.settings)
        losses = [row.loss for row in exact.rows if row is not None and isinstance(row.loss, Dyadic)]
        return Answer(gradient=shifted.gradient(part), loss=float(sum(map(to_fraction, losses))) / part.rows)

    candidate = dataclasses.replace(shifted, answer=answer, watched=True, differentiated=True)
    result = of(Batch.of(problem), candidate)
    assert result.verdict is (Verdict.PASS if parts == 1 else Verdict.FAIL)


@pytest.mark.parametrize("name", ["given", "shifted", "code"])
@pytest.mark.parametrize("wanted", [False, True])
def test_tasks_grow_with_the_batch(wanted: bool, name: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is asked at a time does not."""
    problem = make_problem(LOGITS, HARD, "float32", ["reduction=mean"])
    asked = []

    def function(logits: Array, labels: Array) -> Array:
        asked.append(len(logits))
        return candidates.load("shifted").gradient(make_problem(logits, labels, "float32"))

    chosen = {
        "given": candidates.given("given", candidates.load("naive").gradient(problem)),
        "shifted": candidates.load("shifted"),
        "code": candidates.of_function(Function(name="code", call=function)),
    }[name]
    screening = Screening(wanted=wanted, certify=0)
    before = of(Batch.of(problem), chosen, screening)
    rows = sorted(asked)
    asked.clear()
    monkeypatch.setattr(streaming, "_TASKS", 2)
    monkeypatch.setattr(problems, "_LEAF", parts * CLASSES)
    monkeypatch.setattr(problems, "_LEAVES", 2)
    team = Counted()
    (after,) = streaming.check(Batch.of(problem), [chosen], HOW, case="x", team=team, screening=screening)
    alike(before, dataclasses.replace(after, digest=before.digest))
    assert after.digest == Batch.of(problem).digest() == dataclasses.replace(problem).digest
    assert sorted(asked) == rows
    assert team.tasks <= 2


class Counted(Alone):
    """Counts the parts that it is given."""

    tasks = 0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.tasks += function is streaming._judged
            yield function(item)


@pytest.mark.parametrize("screening", [Screening(), Screening(wanted=True, certify=4)], ids=["differences", "screened"])
@pytest.mark.parametrize("place", [(0, 0), (0, 8), (4, 8), (5, 0), (9, 8), (10, 0), (11, 8)])
def test_one_wrong_component_is_found_wherever_it_stands(
    place: tuple[int, int], screening: Screening, parts: int
) -> None:
    """First, last, and at both sides of a part's edge."""
    problem = make_problem(LOGITS, HARD, "float32")
    gradient = candidates.load("compensated").gradient(problem)
    gradient[place] += np.float32(1e-5) * max(1, abs(gradient[place]))
    result = of(Batch.of(problem), candidates.given("wrong", gradient), screening=screening)
    judged = result.judged
    assert judged is not None
    assert (result.verdict, judged.decision.failed, judged.decision.judged) == (Verdict.FAIL, 1, ROWS * CLASSES)
    worst = judged.decision.worst
    assert worst is not None
    assert (worst.row, worst.cls) == place
    assert next((top.row, top.cls) for top in judged.decision.top) == place
    assert judged.diagnosis[0].cause == "isolated-entries"


def test_only_some_rows(parts: int) -> None:
    """Their share of the mean is the whole's, their numbers are the input's, and a gradient is that of the whole."""
    problem = make_problem(LOGITS, HARD, "float32", ["reduction=mean"])
    gradient = candidates.load("compensated").gradient(problem)
    rows = np.array([1, 2, 7, 11])
    batch = Batch.of(problem).take(rows)
    result = of(batch, candidates.given("right", gradient))
    assert (result.verdict, result.rows, result.row_numbers) == (Verdict.PASS, 4, (1, 2, 7, 11))
    assert result.digest == problem.take(rows).digest
    gradient[7, 3] *= 2
    judged = of(batch, candidates.given("wrong", gradient)).judged
    assert judged is not None
    assert judged.decision.worst is not None
    assert judged.decision.worst.row == 2


def test_rows_that_are_undefined_or_ignored(parts: int) -> None:
    logits = LOGITS.copy()
    logits[0, 1], logits[6] = np.nan, np.inf
    labels = HARD.copy()
    labels[1:5] = -100
    problem = make_problem(logits, labels, "float32", ["ignore_index=-100", "reduction=mean"])
    candidate = candidates.load("compensated")
    (whole,) = check(problem, [candidate], HOW, case="x")
    alike(of(Batch.of(problem), candidate), whole)
    nothing = make_problem(np.full((ROWS, CLASSES), np.nan), HARD, "float32")
    assert isinstance(of(Batch.of(nothing), candidate).outcome, Skipped)


@pytest.mark.parametrize("wanted", [False, True])
def test_what_is_noticed_of_code_is_noticed_in_parts(wanted: bool, parts: int) -> None:
    def overwriting(logits: Array, labels: Array) -> Array:
        found = np.exp(logits - logits.max(axis=1, keepdims=True))
        found /= found.sum(axis=1, keepdims=True)
        found[np.arange(len(found)), labels] -= 1
        logits[...] = 0
        return np.asarray(found)

    screening = Screening(wanted=wanted)
    result = of_code(overwriting, screening)
    assert result.judged is not None
    assert (result.verdict, result.judged.conduct.changed) == (Verdict.FAIL, ("logits",))

    def failing(logits: Array, labels: Array) -> Array:
        raise ValueError("no")

    assert isinstance(of_code(failing, screening).outcome, Crashed)

    def with_loss(logits: Array, labels: Array) -> tuple[float, Array]:
        return 1e6, overwriting(logits.copy(), labels)

    judged = of_code(with_loss, screening).judged
    assert judged is not None
    assert judged.conduct.loss is not None


def test_a_gradient_of_another_shape_is_none(parts: int) -> None:
    problem = make_problem(LOGITS, HARD, "float32")
    for shape in ((parts, CLASSES), (ROWS, CLASSES - 1), (2 * ROWS, CLASSES), (ROWS,)):
        outcome = of(Batch.of(problem), candidates.given("g", np.zeros(shape, np.float32))).outcome
        assert isinstance(outcome, Crashed)
        assert str(shape) in outcome.reason


def test_several_candidates_are_found_in_their_order(parts: int) -> None:
    problem = make_problem(LOGITS, HARD, "float32")
    chosen = [candidates.load("compensated"), candidates.given("zeros", np.zeros((ROWS, CLASSES), np.float32))]
    found = list(streaming.check(Batch.of(problem), chosen, HOW, case="x"))
    assert [(one.candidate, one.verdict) for one in found] == [
        ("compensated", Verdict.PASS),
        ("zeros", Verdict.FAIL),
    ]


def plain(logits: Array, labels: Array) -> Array:
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    found /= found.sum(axis=1, keepdims=True)
    found[np.arange(len(found)), labels] -= 1
    return np.asarray(found)


def of_code(call: Callable[..., Any], screening: Screening) -> Result:
    problem = make_problem(LOGITS, HARD, "float32")
    return of(Batch.of(problem), candidates.of_function(Function(name="f", call=call)), screening=screening)


def test_code_is_held_to_what_it_answered_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it answers where some rows are looked at again: of the same part it is asked again."""
    monkeypatch.setattr(streaming, "_PART_OF_CODE", 6 * CLASSES)
    screening = Screening(wanted=True, certify=4)

    def wrong_past_the_third(logits: Array, labels: Array) -> Array:
        found = plain(logits, labels)
        found[3:, 0] *= 2
        return found

    result = of_code(wrong_past_the_third, screening)
    assert result.judged is not None
    assert (result.verdict, result.judged.decision.failed) == (Verdict.FAIL, 6)
    worst = result.judged.decision.worst
    assert worst is not None
    assert worst.value > 100
    assert worst.row in (3, 4, 5, 9, 10, 11)

    def wrong_in_small_parts(logits: Array, labels: Array) -> Array:
        return plain(logits, labels) * np.float32(1 if len(logits) == 6 else 2)

    assert of_code(wrong_in_small_parts, screening).verdict is Verdict.PASS


@pytest.mark.parametrize("wrong_first", [True, False])
def test_code_that_answers_otherwise_again_is_not_excused(wrong_first: bool) -> None:
    asked = []

    def changing(logits: Array, labels: Array) -> Array:
        asked.append(1)
        found = plain(logits, labels)
        if (len(asked) == 1) == wrong_first:
            found[:, 0] *= 2
        return found

    result = of_code(changing, Screening(wanted=True, certify=4))
    assert len(asked) > 1
    assert result.judged is not None
    assert result.verdict is Verdict.FAIL
    worst = result.judged.decision.worst
    assert worst is not None
    assert worst.value > 100


def test_a_gradient_from_above_is_rounded_alike_in_every_part() -> None:
    """One number of many is not the exact decimal that a single number is."""
    problem = make_problem(LOGITS, HARD, "float16", ["upstream=" + ",".join(["0.1"] * ROWS)])
    one = Batch.of(problem).problem(np.array([3]))
    assert one.terms.upstream == (problem.terms.upstream[3],)
    assert one.take(np.array([0])).terms.upstream == one.terms.upstream


class Stopped(Alone):
    """Somebody who is interrupted after so many tasks."""

    def __init__(self, after: int) -> None:
        self.after = after

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == self.after:
                raise KeyboardInterrupt
            yield function(item)


@pytest.mark.parametrize("wanted", [False, True])
def test_an_interruption_leaves_what_was_done(wanted: bool, parts: int) -> None:
    problem = make_problem(LOGITS, HARD, "float32")
    done: list[Result] = []
    chosen = [candidates.load("compensated")]
    found = streaming.check(
        Batch.of(problem), chosen, HOW, case="x", team=Stopped(1), screening=Screening(wanted=wanted)
    )
    with pytest.raises(KeyboardInterrupt):
        done.extend(found)
    (result,) = done
    reached = parts * (2 if wanted else 1)
    assert result.unreached == ROWS - min(reached, ROWS)
    # nothing is said of the rest
    assert result.verdict is (Verdict.INCONCLUSIVE if result.unreached else Verdict.PASS)
    assert result.judged is not None
    assert result.judged.decision.judged == min(reached, ROWS) * CLASSES
    with pytest.raises(KeyboardInterrupt):
        list(streaming.check(Batch.of(problem), chosen, HOW, case="x", team=Stopped(0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.full((ROWS, CLASSES), -1.0)}, "row 0, class 0"),
        ({"labels": np.where(np.arange(ROWS)[:, None] == 7, -1.0, SOFT)}, "soft label -1 of row 7, class 0"),
        ({"loss": ["temperature=1e-6"], "logits": np.where(np.arange(ROWS)[:, None] == 7, 1e299, LOGITS)}, "of row 7"),
        ({"loss": ["mask=" + ",".join("0" if c == HARD[0] else "1" for c in range(CLASSES))]}, "label of row 0"),
        ({"labels": np.where(np.arange(ROWS) == 7, CLASSES, HARD)}, "of row 7 is outside"),
    ],
    ids=["soft", "soft-later", "temperature", "mask", "hard"],
)
def test_a_row_that_cannot_be_checked_is_named_by_its_number(changes: dict[str, Any], message: str, parts: int) -> None:
    given = {"logits": LOGITS, "labels": HARD} | changes
    labels = np.asarray(given["labels"])
    with pytest.raises(RowError, match=message):
        of(
            Batch(
                logits=np.asarray(given["logits"]),
                labels=labels.astype(np.int64) if labels.ndim == 1 else labels,
                format=named("float64"),
                loss=losses.parse(changes.get("loss", [])),
            ),
            candidates.load("shifted"),
        )


class Elsewhere(Alone):
    """Somebody who is sent everything, and sees only files of some folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, 0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            message = pickle.dumps((function, item))
            self.bytes += len(message)
            assert self.sees_all or b"File" not in message, "the name of a file that is not seen"
            there, given = pickle.loads(message)
            yield there(given)

    def sees(self, file: File) -> bool:
        return self.sees_all or Path(file.path).is_relative_to(self.folder)

    @property
    def sees_all(self) -> bool:
        return self.folder == Path("/")


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("chosen", [None, np.array([1, 2, 7, 11])], ids=["all", "some"])
def test_rows_are_read_where_files_are_seen_and_sent_where_not(
    chosen: Int64 | None, wanted: bool, labels: Array, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "LARGE", 1)
    problem = make_problem(LOGITS, labels, "float32", ["reduction=mean"])
    gradient = candidates.load("naive").gradient(problem)
    gradient[7, 2] *= 2
    for name, array in (("logits", problem.logits), ("labels", problem.labels), ("gradient", gradient)):
        np.save(tmp_path / f"{name}.npy", array)
    loaded = files.load(str(tmp_path / "logits.npy"))
    batch = Batch(
        logits=loaded.logits,
        labels=files.load_labels(str(tmp_path / "labels.npy"), loaded.layout, loaded.format)[0],
        format=loaded.format,
        loss=problem.loss,
    )
    batch = batch if chosen is None else batch.take(chosen)
    wrong = candidates.given(
        "wrong", files.load_gradient(str(tmp_path / "gradient.npy"), loaded.layout, None, loaded.format)
    )
    assert isinstance(batch.logits, Stored)
    assert isinstance(wrong.given, Stored)
    screening = Screening(wanted=wanted)
    here = of(batch, wrong, screening)
    for folder in (Path("/"), tmp_path / "other"):
        team = Elsewhere(folder)
        (there,) = streaming.check(batch, [wrong], HOW, case="x", team=team, screening=screening)
        assert there == here
        assert bool(team.bytes) == (wanted or parts < batch.rows)  # one part alone is checked here


def test_what_is_sent_is_no_more_than_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_PART", 1 << 10)
    problem = make_problem(np.tile(LOGITS, (500, 1)), np.tile(HARD, 500), "float32")
    team = Elsewhere(tmp_path)
    wrong = candidates.given("given", candidates.load("naive").gradient(problem))
    list(streaming.check(Batch.of(problem), [wrong], HOW, case="x", team=team))
    assert team.bytes < 2 * (2 * problem.logits.nbytes + problem.labels.nbytes)


@pytest.mark.parametrize("rows", [1, 5, ROWS])
@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
def test_a_batch_is_told_from_others_as_a_problem_is(labels: Array, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "_LEAF", rows * CLASSES)
    problem: Problem = make_problem(LOGITS, labels, "bfloat16", ["label_smoothing=0.1"])
    batch = Batch.of(problem)
    assert batch.digest() == problem.digest
    others = [batch.take(np.arange(ROWS - 1)), batch.take(np.arange(1, ROWS))]
    logits, classes = np.array(problem.logits), np.array(problem.labels)
    logits[-1], classes[-1] = logits[0], classes[1]
    others += [dataclasses.replace(batch, logits=logits), dataclasses.replace(batch, labels=classes)]
    assert len({batch.digest(), *(other.digest() for other in others)}) == 5


def test_the_results_of_each_problem() -> None:
    problem = make_problem(LOGITS, HARD, "float32")
    named_problems = [("one", problem), ("none", None), ("two", problem)]
    found = list(streaming.check_each(named_problems, [candidates.load("shifted")], HOW))
    assert [[result.case for result in results] for results in found] == [["one"], [], ["two"]]
    assert all(isinstance(result.outcome, Judged) for results in found for result in results)
