"""Functions of the user's own: named, loaded, called, and never trusted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gradcheck import functions
from gradcheck.exceptions import CrashedError, UsageError


def test_a_file_may_import_what_lies_beside_it_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("FACTOR = 3\n")
    (tmp_path / "own_piece.py").write_text("import beside_it\ndef f(x):\n    return beside_it.FACTOR * x\n")
    before = list(sys.path)
    try:
        assert functions.load(f"{tmp_path / 'own_piece.py'}:f")(2) == 6
    finally:
        sys.modules.pop("beside_it", None)
    assert sys.path == before
    assert "own_piece" not in sys.modules


@pytest.mark.parametrize("name", ["f", ":f", "mine.py:", "mine.py:f()", "mine.py:a.b", ""])
def test_what_names_no_function(name: str) -> None:
    with pytest.raises(UsageError, match="should read MODULE:FUNCTION"):
        functions.load(name)


def test_something_else_than_a_function(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("number = 3\ndef near(x): return x\n")
    with pytest.raises(UsageError, match="no function 'number'; it has near"):
        functions.load(f"{path}:number")


def test_a_module_that_lacks_a_module_is_a_crash_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import not_to_be_found_anywhere\n")
    with pytest.raises(CrashedError, match=r"ModuleNotFoundError: No module named 'not_to_be.*mine.py, line 1"):
        functions.load(f"{path}:f")


def test_where_it_failed_is_told_from_the_users_side(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(x):\n    raise ValueError('two\\nlines')\n")
    f = functions.load(f"{path}:f")
    with pytest.raises(CrashedError, match=r"raised ValueError: two lines \(mine.py, line 2\)"):
        f(1)
    with pytest.raises(CrashedError, match=r"takes 1 positional argument but 2 were given$"):
        f(1, 2)


def test_an_interrupt_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        functions.load(f"{path}:f")()


def test_odd_exceptions_are_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text(
        "class Mute(Exception):\n    def __str__(self): raise ValueError\n"
        "def mute(): raise Mute\n"
        "def leave(): raise GeneratorExit\n"
        "def stop(): raise BaseException('stop')\n"
    )
    for name, said in (("mute", "raised Mute"), ("leave", "raised GeneratorExit"), ("stop", "BaseException: stop")):
        with pytest.raises(CrashedError, match=said):
            functions.load(f"{path}:{name}")()
    path.write_text("def __getattr__(name): raise RuntimeError(name)\n")
    with pytest.raises(CrashedError, match="RuntimeError: f"):
        functions.load(f"{path}:f")
    path.write_text("int('abc')\n")
    with pytest.raises(CrashedError, match=r"ValueError: invalid literal.*\(odd.py, line 1\)"):
        functions.load(f"{path}:f")


def test_dataclasses_and_late_imports(tmp_path: Path) -> None:
    (tmp_path / "late_sibling.py").write_text("VALUE = 5\n")
    path = tmp_path / "classes.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "def f():\n    import late_sibling\n    return Point(late_sibling.VALUE).x\n"
    )
    try:
        assert functions.load(f"{path}:f")() == 5
    finally:
        sys.modules.pop("late_sibling", None)


def test_a_function_without_a_folder_leaves_the_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interactive session has '' on its path."""
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    before = list(sys.path)
    assert functions.Function(name="mine", call=lambda x: x)(3) == 3
    assert sys.path == before
