"""The tutorial, followed to the letter in a folder that holds nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import TUTORIAL, alike, blocks, follow, shell


@pytest.mark.torch
def test_the_tutorial_is_what_happens(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra 'torch' is not installed")
    page = TUTORIAL.read_text(encoding="utf-8")
    for step in follow(page, tmp_path):
        where = f"docs/tutorial.md:{step.block.line}: $ {step.command}"
        assert alike(step.shown, step.got), f"{where}\n{step.got}"
        # a command that fails is followed by one that says so, whose output has been compared
        assert step.code == 0 or (step.told and step.code == 1), f"{where}\nexits {step.code}"

    # the page ends with the first version in place of the mended one, to see it caught; the repository has the other
    (mended,) = (block for block in blocks(page) if block.file == "loss.py" and "total" in block.text)
    (tmp_path / "loss.py").write_text(mended.text, encoding="utf-8")
    (workflow,) = (block for block in blocks(page) if block.language == "yaml")
    (lines,) = (block for block in blocks(page) if block.language == "sh")
    runs = re.findall(r"^ +- run: (.+)$", workflow.text, re.MULTILINE)
    # what `pip install` would install is what is being tested
    runs = [line for line in runs if not line.startswith("pip install ")]
    assert runs == lines.text.splitlines()
    for line in runs:
        ran = shell(line, tmp_path)
        assert ran.returncode == 0, f"{line}\n{ran.stdout}"


def test_every_command_of_the_tutorial_is_followed() -> None:
    page = TUTORIAL.read_text(encoding="utf-8")
    assert sum(len(block.shown) for block in blocks(page)) > 15
    for block in blocks(page):
        assert block.shown or block.file or block.language == "sh", f"docs/tutorial.md:{block.line}: nobody does this"
