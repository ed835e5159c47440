"""The documents as what can be done: their blocks, the commands that they show, and what those print.

A page is followed from top to bottom in a folder that holds nothing else: a block after "Save as `NAME`:" is written to
that file, and a block whose lines begin with `$ ` is run, line by line, each by a shell of its own in that folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
EXTENDING = ROOT / "docs" / "extending.md"
"""What it shows is of a program with its examples added: see `tests.test_worked_examples`."""
EXAMPLES = ROOT / "examples" / "README.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), EXAMPLES]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SHOWN = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_SAVE = re.compile(r"Save as `([^`]+)`[^\n]*:\n\n\Z")
_NUMBER = re.compile(r"(?<![\w.^])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w^])")
_SECONDS = re.compile(r"\bin \d+\.\d\ds")


@dataclass(frozen=True)
class Block:
    """What stands between two fences.

    Attributes:
        line: the number of its first line on the page.
        language: the word behind the opening fence, which may be empty.
        start, end: where its text lies on the page.
        file: as which file the page says to save it; None of other blocks.
    """

    line: int
    language: str
    text: str
    start: int
    end: int
    file: str | None

    @property
    def shown(self) -> list[tuple[str, str]]:
        """The commands that it shows, each with the output below it; of other blocks none."""
        return _SHOWN.findall(self.text) if self.text.startswith("$ ") else []

    @property
    def commands(self) -> list[str]:
        """The commands that it holds without an output, without their comments."""
        if self.shown or self.language not in ("", "sh", "yaml"):
            return []
        lines = self.text.splitlines() if self.language != "yaml" else map(_step, self.text.splitlines())
        return [re.sub(r"\s+# .*", "", line).strip() for line in lines if line]


def _step(line: str) -> str:
    """The command of a line of a CI system's settings; empty of other lines."""
    if found := re.match(r"\s+args: (.+)", line):
        return f"gradcheck {found[1]} --format github"  # as action.yml has it
    found = re.match(r"\s+- (?:run: )?((?:gradcheck|pip|pytest)\b.*)", line)
    return found[1] if found else ""


def blocks(text: str) -> list[Block]:
    """The blocks of a page, from top to bottom."""
    return [
        Block(
            line=text.count("\n", 0, match.start(2)) + 1,
            language=match[1],
            text=match[2],
            start=match.start(2),
            end=match.end(2),
            file=saved[1] if (saved := _SAVE.search(text, 0, match.start())) else None,
        )
        for match in _BLOCK.finditer(text)
    ]


def alike(shown: str, got: str) -> bool:
    """The same words, and numbers that differ by no more than another processor's exp makes them.

    Figures of three digits or fewer are errors, the others values. An error below 1 may be a hundredfold, or none. How
    many seconds something took is nothing.
    """
    shown, got = _SECONDS.sub("in s", shown), _SECONDS.sub("in s", got)
    if [_words(line) for line in shown.splitlines()] != [_words(line) for line in got.splitlines()]:
        return False
    for one, other in zip(_NUMBER.findall(shown), _NUMBER.findall(got), strict=True):
        if one == other:
            continue
        a, b = float(one), float(other)
        small, large = sorted((abs(a), abs(b)))
        if len(re.sub(r"e.*|[-.]", "", one).lstrip("0")) > 3:
            near = abs(a - b) <= 1e-6 * abs(b)
        elif large < 1 or "e-" in one + other:
            near = small == 0 or large <= 100 * small
        else:
            near = abs(a - b) <= 2 + abs(b) / 2
        if not near:
            return False
    return True


def _words(line: str) -> list[str]:
    return _NUMBER.sub("#", line).split()


@dataclass(frozen=True)
class Step:
    """A command that was run where a page shows it.

    Attributes:
        code: what it exited with.
        told: whether the page asks for the exit code with the next command.
        got: what it printed, on either stream.
    """

    block: Block
    command: str
    shown: str
    code: int
    told: bool
    got: str


def follow(page: str, folder: Path, root: Path = ROOT) -> Iterator[Step]:
    """Does in a folder what a page says, and gives each command when it has ended.

    Args:
        root: where the program lies.
    """
    code = 0
    for block in blocks(page):
        if block.file is not None:
            file = folder / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        shown = block.shown
        for number, (command, output) in enumerate(shown):
            # as in one and the same shell, the next command can ask what this one exited with
            ran = shell(f"(exit {code}); {command}", folder, root)
            code = ran.returncode
            told = any(after == "echo $?" for after, _ in shown[number + 1 : number + 2])
            yield Step(block, command, output, code, told, ran.stdout)


def shell(line: str, folder: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a line by a shell in a folder; `python`, `pytest` and `gradcheck` are those of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # a report does not depend on the terminal that the tests run in
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(root), "COLUMNS": "80", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )


def renewed(page: str, folder: Path, root: Path = ROOT) -> str:
    """The page, with the outputs that its commands print in a folder; see `follow`."""
    outputs: dict[Block, list[str]] = {}
    for step in follow(page, folder, root):
        outputs.setdefault(step.block, []).append(f"$ {step.command}\n{step.got}")
    for block, texts in reversed(outputs.items()):
        page = page[: block.start] + "".join(texts) + page[block.end :]
    return page
