"""Files are the old one or the new one, whole, and nothing lies beside them, whatever comes between."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import writing
from gradcheck.exceptions import InputError
from gradcheck.fixtures import load
from tests.conftest import KILLS, Killing, Program

STEPS = ["open", "chmod", "fsync", "replace", "link", "unlink"]


@pytest.fixture
def umask() -> Any:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_umask_is_the_systems_to_apply(umask: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is all threads' own: to ask for it is to set it."""
    monkeypatch.delattr(os, "umask")
    writing.replace(tmp_path / "x", b"1")
    writing.replace(tmp_path / "y", b"1", new=True)
    assert (mode(tmp_path / "x"), mode(tmp_path / "y")) == (0o640, 0o640)


@pytest.mark.parametrize("held", [0o600, 0o640, 0o666, 0o755, 0o444])
def test_a_file_keeps_its_mode_and_shows_no_more_meanwhile(
    held: int, umask: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(held)
    modes: list[int] = []

    def watched(descriptor: int) -> None:
        modes.extend(mode(one) for one in tmp_path.iterdir() if one != path)

    monkeypatch.setattr(os, "fsync", watched)
    writing.replace(path, b"new")
    assert (path.read_bytes(), mode(path), modes) == (b"new", held, [held])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("new", [False, True])
def test_an_interrupt_between_any_two_steps(
    step: str, after: bool, new: bool, umask: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    if not new:
        path.write_bytes(b"old")
        path.chmod(0o666)  # which the umask does not leave to a new file
    does: Callable[..., Any] = getattr(os, step)
    came: list[str] = []

    def interrupted(*arguments: Any) -> Any:
        found = does(*arguments) if after or came else None
        if not came:
            came.append(step)
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, step, interrupted)
        try:
            writing.replace(path, b"new", new=new)
        except KeyboardInterrupt:
            pass
        else:
            assert not came
    # where the deletion itself is cut short, nobody else can do it
    assert step == "unlink" or {one.name for one in tmp_path.iterdir()} <= {"x"}
    assert not path.exists() or path.read_bytes() in ([b"new"] if new else [b"old", b"new"])
    assert new or path.exists()


@pytest.mark.parametrize("new", [False, True])
def test_a_full_disk_leaves_the_old_file(new: bool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if not new:
        path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written \\(File too large\\)"):
            writing.replace(path, bytes(5000), new=new)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == ([] if new else [b"old"])


def test_a_file_system_without_second_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    writing.replace(tmp_path / "x", b"first", new=True)
    with pytest.raises(InputError, match="is there already"):
        writing.replace(tmp_path / "x", b"second", new=True)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"first"]


def test_what_is_open_already_is_written_to_where_it_stands(tmp_path: Path) -> None:
    """As `(echo one; gradcheck … --output /dev/stdout; echo two) > log` has it."""
    with open(tmp_path / "log", "wb", buffering=0) as stream:
        stream.write(b"before\n")
        writing.replace(f"/dev/fd/{stream.fileno()}", b"report\n")
        stream.write(b"after\n")
    assert (tmp_path / "log").read_bytes() == b"before\nreport\nafter\n"
    reads, writes = os.pipe()
    os.close(reads)
    writing.replace(f"/dev/fd/{writes}", b"nobody reads it")
    os.close(writes)
    with pytest.raises(InputError, match="Bad file descriptor"):
        writing.replace(f"/dev/fd/{writes}", b"")


# --- the program, killed ----------------------------------------------------------------------------------------------


def held(names: list[str]) -> dict[str, bytes | None]:
    return {name: Path(name).read_bytes() if Path(name).exists() else None for name in names}


def killed(words: list[str], olds: dict[str, bytes | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After each kill every file is the old one or the new one, and the same command then makes the new ones.

    Args:
        olds: what the files hold before; None where there is none. What else there is stays.
    """
    monkeypatch.chdir(tmp_path)

    def put() -> None:
        for name in os.listdir():
            if name not in others:
                Path(name).unlink()
        for name, content in olds.items():
            if content is not None:
                Path(name).write_bytes(content)

    others = set(os.listdir()) - set(olds)
    put()
    killing = Killing(words, words[1])
    assert killing.whole.returncode in (0, 1), killing.whole.stderr.decode()
    names = sorted(set(os.listdir()) - others)
    news = held(names)
    ends = {"old": 0, "new": 0, "some": 0}
    for number in range(KILLS):
        put()
        killing.kill(writing=number % 2 == 0)
        found = held(names)
        for name in names:
            assert found[name] in (olds.get(name), news[name]), name
        for path in Path().glob("*.gradcheck.toml"):
            load(path)  # the arrays that it names are there, and whole
        ends["new" if found == news else "old" if found == held_of(olds, names) else "some"] += 1
        last = killing.run()
        there = b"is there already" in last.stderr or b"has an entry" in last.stderr
        assert last.returncode == killing.whole.returncode or (there and found == news), last.stderr.decode()
        assert held(names) == news
    print(f"{words[:2]}: {KILLS} kills in {killing.takes:.2f} s: {ends}")


def held_of(olds: dict[str, bytes | None], names: list[str]) -> dict[str, bytes | None]:
    return {name: olds.get(name) for name in names}


@pytest.fixture
def logits(tmp_path: Path) -> str:
    """Those of a fixture whose arrays have a file of their own."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "large.npz", logits=rng.normal(size=(2, 520)).astype(np.float32), labels=[3, 5])
    return "large.npz"


RECORD = ["fixtures", "record", "large.npz", "-o", "x.gradcheck.toml"]


@pytest.mark.parametrize("append", [False, True] if KILLS > 9 else [False])
def test_kill_9_while_fixtures_are_recorded(
    append: bool, logits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program
) -> None:
    monkeypatch.chdir(tmp_path)
    olds: dict[str, bytes | None] = {"x.gradcheck.toml": None}
    if append:
        assert program("fixtures", "record", "--case", "plain-3", "-o", "x.gradcheck.toml").code == 0
        olds = held(["x.gradcheck.toml"])
    killed([*RECORD, *(["--append"] if append else [])], olds, monkeypatch, tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("no space")])
@pytest.mark.parametrize("written", [0, 1, 2])
def test_arrays_of_a_fixture_that_is_not_written_go_again(
    written: int, error: Any, logits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program
) -> None:
    monkeypatch.chdir(tmp_path)
    replace = writing.replace
    done: list[Any] = []

    def stopped(*arguments: Any, **named: Any) -> None:
        if len(done) < written:
            replace(*arguments, **named)
            done.append(arguments)
        if len(done) == written:
            raise error

    monkeypatch.setattr(writing, "replace", stopped)
    assert program(*RECORD).code == (130 if error is KeyboardInterrupt else 2)
    assert len(os.listdir()) == (3 if written == 2 else 1)
    if written == 2:
        load(Path("x.gradcheck.toml"))


def test_kill_9_while_fixtures_are_updated(
    logits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program
) -> None:
    """An entry whose values are wrong, and one whose arrays are to be made again."""
    monkeypatch.chdir(tmp_path)
    assert program(*RECORD).code == 0
    assert program("fixtures", "record", "--case", "plain-3", "-o", "x.gradcheck.toml", "--append").code == 0
    path, (arrays,) = Path("x.gradcheck.toml"), Path().glob("x-*.npz")
    with np.load(arrays) as archive:
        wrong = dict(archive)
    wrong["expected_high"] = wrong["expected_high"] * 1.5
    np.savez(arrays, **wrong)
    content = path.read_text().replace('"0.09003', '"0.19003')
    path.write_text(re.sub('[0-9a-f]{64}(?="})', hashlib.sha256(arrays.read_bytes()).hexdigest(), content))
    killed(["fixtures", "update", "x.gradcheck.toml"], held([path.name, arrays.name]), monkeypatch, tmp_path)


def test_kill_9_while_reports_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = ["json", "html", "junit", "csv", "markdown", "table"]
    reports = [word for name in formats for word in ("--report", f"{name}={name}")]
    olds: dict[str, bytes | None] = dict.fromkeys(formats, b"old" * 10000)
    words = [
        "stability",
        "--case",
        "plain-3",
        "--case",
        "plain-mean",
        "--candidate",
        "naive",
        "--engine",
        "flint",
        *reports,
    ]
    killed(words, olds, monkeypatch, tmp_path)
