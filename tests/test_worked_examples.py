"""The examples of docs/extending.md, done as the page says: files written, commands run, outputs compared.

`python -m tests.test_worked_examples` writes the outputs into the page.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Program
from tests.test_architecture import violations
from tests.test_docs import EXTENDING, ROOT, alike, blocks, renew, run

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
SHOWN = {title: blocks(section) for title, section in re.findall(r"^## (.*)\n((?:(?!## ).*\n)+)", _PAGE, re.MULTILINE)}
"""The commands of each section with their outputs, to be run in their order."""


def extended(root: Path) -> Path:
    """A copy of the package with every example added."""
    shutil.copytree(ROOT / "gradcheck", root / "gradcheck", ignore=shutil.ignore_patterns("__pycache__"))
    for example in EXAMPLES:
        example.write(root)
    return root


def surroundings(root: Path) -> Mapping[str, str]:
    """The environment in which the copy is the program."""
    return {**os.environ, "PYTHONPATH": str(root)}


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
    assert _PAGE.count("\n$ gradcheck ") == sum(len(shown) for shown in SHOWN.values())
    assert all(SHOWN.values())


@pytest.mark.parametrize("section", SHOWN)
def test_the_page_shows_what_the_program_prints(section: str, copy: Path) -> None:
    for command, output in SHOWN[section]:
        ran = run(command, surroundings(copy), copy)
        assert ran.returncode in (0, 1), ran.stderr
        assert alike(output, ran.stdout), ran.stdout


def test_explain_lists_what_was_added_and_nothing_else(copy: Path, program: Program) -> None:
    ran = run("gradcheck explain", surroundings(copy), copy)
    assert (ran.returncode, ran.stderr) == (0, "")
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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        renew(EXTENDING, surroundings(extended(Path(folder))), Path(folder))
