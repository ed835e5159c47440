"""Runs that are ended in the middle: what was found is there, is what it was, and is of this run or of none."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import candidates, catalogue, checkpoint, formats, mistakes, streaming, tolerances
from gradcheck.checking import Found, How, check
from gradcheck.checkpoint import Checkpoint
from gradcheck.exact import Dyadic
from gradcheck.exceptions import InputError
from gradcheck.formats import FORMATS
from gradcheck.reference import Settings
from gradcheck.results import Confirmed, Crashed, Result, Skipped, Sufficient, Verdict
from tests.conftest import KILLS, SOUND, Killing, Program

RUN = {"the input": "abc", "tolerance": "stable"}
KINDS = [Result, Skipped]


# --- facts ----------------------------------------------------------------------------------------------------------


def again(value: object, kinds: Iterable[Any] = streaming._KINDS) -> Any:
    """What is left of a value after the file."""
    text = checkpoint._line(["x", checkpoint._encoded(value)])
    return checkpoint._decoded(json.loads(text[9:])[1], checkpoint._reachable(kinds))


@pytest.mark.parametrize("fmt", FORMATS)
def test_whatever_is_found_comes_back_as_it_was(fmt: str) -> None:
    """Every case, with candidates that pass and that fail."""
    how = How(tolerance=tolerances.parse("stable"), settings=Settings(engine="flint"), top=2)
    planted = list(mistakes.mistakes().values())[:: 9 + len(fmt)]
    chosen = [candidates.load("naive"), *(one.candidate for one in planted)]
    kinds = set()
    for case in catalogue.select((), ()):
        problem = case.problem(formats.named(fmt))
        if problem is None or problem.logits.size > 200:
            continue
        found = list(check(problem, chosen, how, case=case.name))
        # an enumeration's, and a number's, own kind is seen in what it is written as
        assert repr(again(found)) == repr(found)
        kinds |= {result.verdict for result in found}
    assert {Verdict.PASS, Verdict.FAIL} <= kinds


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 1 << 64, -(1 << 70000), 0.1, -0.0, 5e-324, float("inf"), float("nan"), "",
        "a\nb\udcff", (), [], (1, [2, (3.0,)]), {}, {"a": (None,)}, {None: 1, 2: "b"}, Verdict.FAIL,
        FORMATS["bfloat16"], Dyadic(-3, 40), Skipped(reason="int"), Crashed(reason="x"),
        Sufficient(digits=3, step_log2=-7),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_every_kind_of_value(value: object) -> None:
    found = again(value, [*streaming._KINDS, Sufficient])
    assert found == value or repr(found) == repr(value) == "nan"
    assert type(found) is type(value)
    assert isinstance(value, int) or repr(found) == repr(value)


def test_numbers_of_numpy_become_pythons() -> None:
    found = again((np.float64(0.1), np.int64(3), np.bool_(True), np.float32(0.5)))
    assert repr(found) == "(0.1, 3, True, 0.5)"


@pytest.mark.parametrize("value", [np.zeros(3), object(), {1, 2}, b"x", How], ids=lambda value: type(value).__name__)
def test_what_is_no_fact_is_not_kept(value: object) -> None:
    with pytest.raises(TypeError):
        checkpoint._encoded(value)


@pytest.mark.parametrize("kind", ["Popen", "How", "Checkpoint", "eval", "Confirmed", "object", "__init__"])
def test_nothing_else_is_made_of_a_file(kind: str) -> None:
    with pytest.raises(KeyError):
        checkpoint._decoded([kind, {"args": "ls"}], checkpoint._reachable([Skipped]))
    assert again(Confirmed(values=1, edited=False)) == Confirmed(values=1, edited=False)


# --- the file -------------------------------------------------------------------------------------------------------


class Work:
    """Tasks that tell which of them were done."""

    def __init__(self, count: int = 6) -> None:
        self.count, self.done = count, list[int]()

    def tasks(self) -> Iterator[tuple[str, int]]:
        return ((f"task {number}", number) for number in range(self.count))

    def __call__(self, number: int) -> Skipped:
        self.done.append(number)
        return Skipped(reason=f"{number}")

    @property
    def found(self) -> list[Skipped]:
        return [Skipped(reason=f"{number}") for number in range(self.count)]


def go(path: Path, work: Work, run: dict[str, str] = RUN, stop: int | None = None, ahead: int = 1) -> list[Skipped]:
    """Does the tasks, or those before `stop`; `ahead` of them are taken before the first is done."""
    found = []
    with Checkpoint(str(path)) as journal:
        journal.begin(lambda: run, KINDS)

        def each(function: Callable[[int], Skipped], items: Iterable[int]) -> Iterator[Skipped]:
            left, taken = iter(items), list[int]()
            while True:
                while len(taken) < ahead and (item := next(left, None)) is not None:
                    taken.append(item)
                if not taken:
                    return
                yield function(taken.pop(0))

        for one in journal.map(each, work, work.tasks()):
            found.append(one)
            if len(found) == stop:
                break
    return found


@pytest.mark.parametrize("ahead", [1, 3, 100])
@pytest.mark.parametrize("stop", range(1, 6))
def test_what_is_done_is_not_done_again(stop: int, ahead: int, tmp_path: Path) -> None:
    first, second = Work(), Work()
    assert go(tmp_path / "c", first, stop=stop, ahead=ahead) == first.found[:stop]
    assert go(tmp_path / "c", second, ahead=ahead) == second.found
    assert second.done == list(range(stop, 6))
    third = Work()
    assert go(tmp_path / "c", third, ahead=ahead) == third.found
    assert third.done == []


@pytest.mark.parametrize("ahead", [1, 3, 100])
@pytest.mark.parametrize("held", [{1}, {0, 2, 5}, {3, 4}, {0, 1, 2, 3, 4}, {5}])
def test_gaps_are_filled(held: set[int], ahead: int, tmp_path: Path) -> None:
    go(tmp_path / "c", Work())
    head, *lines = (tmp_path / "c").read_bytes().splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines) if number in held]
    (tmp_path / "c").write_bytes(b"".join([head, *reversed(kept)]))
    work = Work()
    assert go(tmp_path / "c", work, ahead=ahead) == work.found
    assert set(work.done) == set(range(6)) - held


def test_a_line_that_was_not_written_to_its_end_was_never_begun(tmp_path: Path) -> None:
    go(tmp_path / "c", Work(2))
    whole = (tmp_path / "c").read_bytes()
    head, one, _ = whole.splitlines(keepends=True)
    for length in range(len(head), len(whole)):
        (tmp_path / "c").write_bytes(whole[:length])
        work = Work(2)
        assert go(tmp_path / "c", work) == work.found
        assert work.done == list(range(int(length >= len(head + one)), 2))
        assert (tmp_path / "c").read_bytes() == whole


def test_damage_is_told_from_an_end(tmp_path: Path) -> None:
    go(tmp_path / "c", Work(3))
    whole = (tmp_path / "c").read_bytes()
    head, one, two, _ = whole.splitlines(keepends=True)
    for place in range(len(head), len(head + one + two) - 1):
        damaged = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        (tmp_path / "c").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged at byte"):
            go(tmp_path / "c", Work(3))
        assert (tmp_path / "c").read_bytes() == damaged
    # in the last line it may be an end
    for place in range(len(head + one + two), len(whole)):
        (tmp_path / "c").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        work = Work(3)
        assert go(tmp_path / "c", work) == work.found
        assert work.done == [2]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (RUN | {"tolerance": "ulp:4"}, "tolerance was stable, now ulp:4"),
        (RUN | {"more": "1"}, "more was not given, now 1"),
        ({"tolerance": "stable"}, "the input was abc, now not given"),
        (RUN | {"the input": "x" * 100}, r"the input was abc, now x{40}… \(100 characters\)"),
        ({str(number): "" for number in range(9)}, "and 8 more"),
    ],
)
def test_a_file_of_another_run_is_refused(run: dict[str, str], message: str, tmp_path: Path) -> None:
    go(tmp_path / "c", Work(), stop=2)
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(InputError, match=message):
        go(tmp_path / "c", Work(), run)
    assert (tmp_path / "c").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"\n", b"{}", b"mine\n" * 1000, b"\x89PNG\r\n\x1a\n", b'00000000 ["gradcheck checkpoint 1",{}]\n', b"\xff" * 9],
    ids=repr,
)
def test_another_file_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(InputError, match="is no checkpoint"):
        go(tmp_path / "c", Work())
    assert (tmp_path / "c").read_bytes() == content


def test_an_entry_that_cannot_be_understood(tmp_path: Path) -> None:
    found: tuple[object, ...] = (
        ["Popen", {}],
        ["Skipped", {"why": 1}],
        ["Skipped", {"reason": 7}],
        ["Skipped", []],
        ["Dyadic", {"man": 1.5, "exp": 0}],
        ["Format", "floaty"],
        ["list", 3],
        [],
        3,
        "abc",
        None,
        json.loads("[" * 900 + "]" * 900),
    )
    entries: list[Any] = [*(["task 0", one] for one in found), ["task 0"], [3, 4], None, "abc", {}]
    for entry in entries:
        (tmp_path / "c").unlink(missing_ok=True)
        go(tmp_path / "c", Work(), stop=1)
        head, _ = (tmp_path / "c").read_bytes().splitlines(keepends=True)
        (tmp_path / "c").write_bytes(head + checkpoint._line(entry))
        with pytest.raises(InputError, match=r"(of task 0|entry at byte \d+) cannot be understood"):
            go(tmp_path / "c", Work())


def test_a_field_holds_what_it_is_said_to_hold() -> None:
    fits, hints = checkpoint._fits, checkpoint._hints
    good: list[tuple[object, Any]] = [
        (1, int), (1, float), (1.5, float), (None, int | None), ((), tuple[int, ...]),
        ((1, None), tuple[int | None, int | None]),
        ([1], list[int]), ({"a": None}, dict[str, int | None]), (True, bool), ("a", str),
        (Skipped(reason=""), hints(Found)["outcome"]),
    ]  # fmt: skip
    bad: list[tuple[object, Any]] = [
        (True, int), (True, float), ("1", float), (1.5, int), ("a", int | None), ((1.5,), tuple[int, ...]),
        ([1], tuple[int, ...]),
        ((1,), tuple[int, int]), ([None], list[int]), ({1: 1}, dict[str, int]), ({"a": "b"}, dict[str, int]), (1, bool),
        (5, hints(Found)["outcome"]),
    ]  # fmt: skip
    assert [pair for pair in good if not fits(*pair)] == []
    assert [pair for pair in bad if fits(*pair)] == []


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    work = Work()
    assert go(tmp_path / "c", work) == work.found


def test_a_file_is_one_runs(tmp_path: Path) -> None:
    with Checkpoint(str(tmp_path / "c")) as journal:
        journal.begin(lambda: RUN, KINDS)
        with pytest.raises(InputError, match="another run is using it"):
            go(tmp_path / "c", Work())
    work = Work()
    assert go(tmp_path / "c", work) == work.found


def test_nothing_is_deleted_that_was_not_opened(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("mine")
    with Checkpoint(str(tmp_path / "c")) as journal:
        journal.remove()
    assert (tmp_path / "c").read_text() == "mine"


@pytest.mark.parametrize("path", ["nowhere/c", "", "new/", "folder", "pipe", "loop"])
def test_a_place_that_cannot_be(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError):
        Checkpoint(path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"folder", "pipe", "loop"}


def test_of_a_link_the_target_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "c")
    for remove in (False, True):
        with Checkpoint(str(tmp_path / "link")) as journal:
            journal.begin(lambda: RUN, KINDS)
            assert (tmp_path / "c").is_file()
            if remove:
                journal.remove()
    assert not (tmp_path / "c").exists()


def test_a_file_that_another_run_has_made_meanwhile_is_its_own(tmp_path: Path) -> None:
    with Checkpoint(str(tmp_path / "c")) as journal:
        journal.begin(lambda: RUN, KINDS)
        (tmp_path / "c").unlink()
        go(tmp_path / "c", Work(), stop=2)
        other = (tmp_path / "c").read_bytes()
        journal.remove()
    assert (tmp_path / "c").read_bytes() == other


def test_what_cannot_be_deleted_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> None:
        raise PermissionError(path) if os.path.lexists(path) else FileNotFoundError(path)

    with Checkpoint(str(tmp_path / "c")) as journal:
        journal.begin(lambda: RUN, KINDS)
        monkeypatch.setattr(os, "unlink", refused)
        journal.remove()
    assert (tmp_path / "c").read_bytes() == b""
    assert go(tmp_path / "c", Work(), RUN | {"tolerance": "ulp:4"}) == Work().found


def test_a_full_disk_ends_the_keeping_and_not_the_run(tmp_path: Path) -> None:
    work = Work(200)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with Checkpoint(str(tmp_path / "c")) as journal:
            journal.begin(lambda: RUN, KINDS)
            assert list(journal.map(map, work, work.tasks())) == work.found
            assert journal.lost == "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    more = Work(200)
    assert go(tmp_path / "c", more) == more.found
    assert 10 < len(more.done) < 200


# --- the program ----------------------------------------------------------------------------------------------------

GRADCHECK = [sys.executable, "-m", "gradcheck"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logits in six small parts, with a gradient and code of one's own."""
    for name in ("_PART", "_PART_OF_CODE", "_SCREENED_TASK"):
        monkeypatch.setattr(streaming, name, 4000)
    return filled(tmp_path, 1000, monkeypatch)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in six parts for processes of their own."""
    return filled(tmp_path, 16000, monkeypatch)


def filled(tmp_path: Path, classes: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(24, classes)).astype(np.float32)
    np.savez(tmp_path / "in.npz", logits=logits, labels=rng.integers(0, classes, 24))
    wide = logits.astype(np.float64)
    shares = np.exp(wide - wide.max(axis=1, keepdims=True))
    np.save(tmp_path / "g.npy", (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32))
    (tmp_path / "mine.py").write_text(SOUND)
    monkeypatch.chdir(tmp_path)
    return tmp_path


CHECK = ["check", "in.npz", "--engine", "flint", "--no-screen", "--format", "json", "--top", "3"]
WAYS = {
    "built-in": CHECK,
    "gradient": [*CHECK, "--gradient", "g.npy"],
    "screened": [*CHECK, "--screen", "--certify", "6144", "--gradient", "g.npy"],
    "two": [*CHECK, "--candidate", "naive", "--candidate", "mine.py:f"],
    "jobs": [*CHECK, "--jobs", "2"],
    "stability": ["stability", "--dtype", "float32", "--case", "p*", "--format", "json"],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_interrupted_goes_on(
    way: str, folder: Path, program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the first, the second, … part, each time in a run that went on from the one before."""
    words = [*WAYS[way], "--checkpoint", "c"]
    whole = program(*words)
    assert not Path("c").exists()
    assert whole.err == ""
    keep = Checkpoint._keep
    done = 0

    def kept(self: Checkpoint, name: str, found: object) -> None:
        nonlocal done
        keep(self, name, found)
        done += 1
        if done % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "_keep", kept)
    ends = []
    while True:
        ran = program(*words)
        ends.append(ran.code)
        if ran.code != 130:
            break
        assert Path("c").exists()
    assert (ran.code, ran.out) == (whole.code, whole.out)
    assert len(ends) > 1
    assert "are done already; going on from there" in ran.err
    assert not Path("c").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--tolerance", "ulp:4"], "--tolerance was stable, now ulp:4"),
        (["--order", "4"], "--order was 2, now 4"),
        (["--digits", "80"], "--digits was auto, now 80"),
        (["--ftz"], "--ftz was False, now True"),
        (["--timeout", "9"], "timeout 120 s, device its own, now"),
        (["--exchange", "safetensors"], "files .npy, now"),
        (["--gradient-dtype", "float64"], "--gradient-dtype was auto, now float64"),
        (["--screen"], "--screen was False, now True"),
        (["--top", "1"], "--top was 3, now 1"),
        (["--rows", "1:"], "the input was"),
        (["--loss", "reduction=mean"], "the input was"),
        (["--labels", "argmax"], "the input was"),
        (["--dtype", "float64"], "the input was"),
        (["--candidate", "naive"], "candidates was"),
        ("logits", "the input was"),
        ("labels", "the input was"),
        ("gradient", "g.npy was"),
        ("code", "mine.py:f was"),
        ("program", "{gradient} was"),
        ("module", "{gradient} was"),
        ("divisor", "the input was"),
        ("dtype", "g.npy was"),
    ],
    ids=str,
)
def test_other_input_or_settings_are_refused(
    changed: list[str] | str, message: str, folder: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys, numpy; numpy.save(sys.argv[3], numpy.load(sys.argv[1]))\n"
    Path("run.py").write_text(script)
    command = f"{sys.executable} run.py {{logits}} {{labels}} {{gradient}}"
    if changed == "module":
        command = f"{sys.executable} -m run {{logits}} {{labels}} {{gradient}}"
    words = [*CHECK, "--rows", ":5", "--gradient", "g.npy", "--candidate", "mine.py:f", "--command", command]
    if changed == "divisor":
        words += ["--loss", "reduction=mean", "--loss", "ignore_index=-100"]
    words += ["--checkpoint", "c"]

    def interrupted(self: Checkpoint, name: str, found: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "_keep", interrupted)
        assert program(*words).code == 130
    arrays = dict(np.load("in.npz"))
    match changed:
        case "logits" | "labels":
            arrays[changed].flat[1] += 1
            np.savez("in.npz", **arrays)
        case "gradient":
            gradient = np.load("g.npy")
            gradient[4, 999] *= 2
            np.save("g.npy", gradient)
        case "code":
            Path("mine.py").write_text(SOUND.replace("-= 1", "-= 2"))
        case "divisor":
            arrays["labels"][10:] = -100
            np.savez("in.npz", **arrays)
        case "dtype":
            np.save("g.npy", np.load("g.npy").view(np.float16).reshape(24, -1)[:, :1000])
        case "program" | "module":
            Path("run.py").write_text(script + "\n")
        case _:
            words += changed
    before = Path("c").read_bytes()
    ran = program(*words)
    assert ran.code == 2
    assert "c: is of another run" in ran.err
    assert message in ran.err
    assert Path("c").read_bytes() == before


def test_another_place_or_number_of_processes_is_the_same_run(large: Path, program: Program) -> None:
    whole = json.loads(program(*CHECK, "--checkpoint", "c").out)["results"]
    part = subprocess.Popen([*GRADCHECK, *CHECK, "--checkpoint", "c"], stdout=subprocess.DEVNULL)
    while not Path("c").exists() or Path("c").read_bytes().count(b"\n") < 3:
        time.sleep(0.01)
    part.kill()
    part.wait()
    os.utime("in.npz")
    moved = Path("c").rename("d")
    ran = program(*CHECK, "--checkpoint", str(moved), "--jobs", "2")
    assert "done already" in ran.err
    assert json.loads(ran.out)["results"] == whole


@pytest.mark.parametrize("words", [["--output", "./c"], ["--report", "json=c"], ["--baseline", "c"]])
def test_a_report_is_no_checkpoint(words: list[str], folder: Path, program: Program) -> None:
    ran = program("check", "in.npz", "--rows", ":1", "--checkpoint", "c", *words)
    assert ran.code == 2
    assert "is a report's file, too" in ran.err
    assert not Path("c").exists()


def test_a_run_of_a_single_part_leaves_nothing(folder: Path, program: Program) -> None:
    ran = program("check", "in.npz", "--rows", ":1", "--checkpoint", "c")
    assert ran.code == 0
    assert not Path("c").exists()


def test_a_run_that_cannot_write_its_report_can_go_on(
    folder: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise InputError("out.txt: cannot be written (No space left on device)")

    words = ["check", "in.npz", "--rows", ":12", "--engine", "flint", "--output", "out.txt", "--checkpoint", "c"]
    with monkeypatch.context() as patched:
        patched.setattr("gradcheck.cli._run.write", full)
        assert program(*words).code == 2
    assert "3 parts are done already" in (ran := program(*words)).err
    assert ran.code == 0
    assert not Path("c").exists()


@pytest.mark.parametrize("way", ["gradient", "screened", "jobs"] if KILLS > 9 else ["gradient"])
def test_kill_9_at_random_moments(way: str, large: Path) -> None:
    killing = Killing([*WAYS[way], "--checkpoint", "c"], way)
    whole = killing.whole
    assert whole.returncode in (0, 1), whole.stderr.decode()
    went_on = 0
    for _ in range(KILLS):
        for _ in range(killing.rng.choice([1, 1, 2, 3])):
            killing.kill()
        last = killing.run()
        assert (last.returncode, last.stdout) == (whole.returncode, whole.stdout)
        assert not Path("c").exists()
        went_on += b"going on from there" in last.stderr
    assert went_on or KILLS < 5
    left = {path.name for path in large.iterdir() if not path.name.startswith(".gradcheck-")}
    assert left == {"in.npz", "g.npy", "mine.py"}
