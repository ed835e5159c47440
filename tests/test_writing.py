"""Files are the old one or the new one, whole, and nothing lies beside them, whatever comes between."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradcheck import writing
from gradcheck.exceptions import InputError

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
    came = []

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
