"""The examples of docs/extending.md, done as the page says: files written, commands run, outputs compared."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Program
from tests.pages import EXTENDING, ROOT, alike, follow, renewed, shell
from tests.test_architecture import violations

# a part of a file is shown as text: a formatter would make a program of it
_FILE = re.compile(r"`([\w/]+\.\w+)`(?:, after `([^`]+)`)?:\n\n```(?:python|text)\n(.*?)```", re.DOTALL)

TOPICS = {
    "gradcheck/catalogue": "tags",
    "gradcheck/candidates": "candidates",
    "gradcheck/files": "files",
    "gradcheck/losses": "loss",
    "gradcheck/report": "reports",
}
"""Where `explain` lists the files of a folder."""


@dataclass(frozen=True)
class Example:
    """Something that the page tells a reader to write.

    Attributes:
        after: the line after which it goes into a file that is there; None for a file of its own.
    """

    path: str
    after: str | None
    text: str

    def write(self, root: Path) -> None:
        """Does what the page says."""
        target = root / self.path
        if self.after is None:
            assert not target.exists(), f"{self.path} is there already"
            target.write_text(self.text, encoding="utf-8")
        else:
            content = target.read_text(encoding="utf-8")
            assert content.count(f"\n{self.after}\n") == 1, f"where is '{self.after}' in {self.path}?"
            written = content.replace(f"\n{self.after}\n", f"\n{self.after}\n{self.text}")
            target.write_text(written, encoding="utf-8")


_PAGE = EXTENDING.read_text(encoding="utf-8")
EXAMPLES = [Example(*match.groups()) for match in _FILE.finditer(_PAGE)]
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)+)", _PAGE, re.MULTILINE))


def extended(root: Path) -> Path:
    """A copy of the package with every example added."""
    shutil.copytree(ROOT / "gradcheck", root / "gradcheck", ignore=shutil.ignore_patterns("__pycache__"))
    for example in EXAMPLES:
        example.write(root)
    return root


def renew() -> None:
    """Writes what the examples print into the page."""
    with tempfile.TemporaryDirectory() as folder:
        EXTENDING.write_text(renewed(_PAGE, Path(folder), extended(Path(folder))), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extended(tmp_path_factory.mktemp("extended"))


def listed(explained: str) -> dict[str, set[str]]:
    """The names that `explain` lists, by topic."""
    found: dict[str, set[str]] = {}
    for part in explained.split("\n\n"):
        topic, *lines = part.splitlines()
        found[topic] = {line.split()[0] for line in lines if line.startswith("  ")}
    return found


def test_the_page_has_an_example_of_each_kind() -> None:
    places = [example.path if example.after else os.path.dirname(example.path) for example in EXAMPLES]
    assert sorted(places) == sorted([*TOPICS, "gradcheck/formats.py"])
    # what the patterns overlook would not be tested
    assert _PAGE.count("```python\n") + _PAGE.count("```text\n") == len(EXAMPLES)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_shows_what_the_program_prints(section: str, copy: Path) -> None:
    steps = list(follow(SECTIONS[section], copy, copy))
    assert len(steps) == max(SECTIONS[section].count("\n$ "), 1)
    for step in steps:
        assert step.code in (0, 1), step.got
        assert alike(step.shown, step.got), step.got


def test_explain_lists_what_was_added_and_nothing_else(copy: Path, program: Program) -> None:
    ran = shell("gradcheck explain", copy, copy)
    assert ran.returncode == 0
    before, after = listed(program("explain").out), listed(ran.stdout)
    added = {topic: names - before[topic] for topic, names in after.items() if names != before[topic]}
    expected: dict[str, set[str]] = {}
    for example in EXAMPLES:
        topic = TOPICS.get(os.path.dirname(example.path))
        if topic:
            expected[topic] = {Path(example.path).stem}
        # a file of cases, and the row of a format, name what they hold
        for name in re.findall(r'^ +name="([^"]+)",$', example.text, re.MULTILINE):
            expected["formats" if example.after else "cases"] = {name}
    assert added == expected


def test_the_examples_keep_to_the_house(copy: Path) -> None:
    assert violations(copy / "gradcheck") == []
