"""What docs/faq.md says of others' defaults, of options and of files is so; tests/test_docs.py runs its commands."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from gradcheck import diagnosis
from tests import options_page
from tests.conftest import Program

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)


def test_every_option_that_it_names_is_one() -> None:
    known = {word for _, command, _ in options_page.commands() for one in command.params for word in one.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PROSE))
    assert len(named) > 10
    assert named <= known


def test_every_file_that_it_names_is_there() -> None:
    linked = [ROOT / "docs" / name for name in re.findall(r"\]\(([^)#]+)\)", PROSE)]
    named = [ROOT / name for name in re.findall(r"examples/\w+\.py", TEXT)]
    assert len(linked) > 3
    assert len(named) > 2
    assert [path for path in (*linked, *named) if not path.is_file()] == []


def test_a_cause_that_it_names_is_one() -> None:
    assert "`flushed-subnormals`" in PROSE
    assert "flushed-subnormals" in diagnosis.CAUSES


def test_the_sweep_ends_as_it_says(program: Program) -> None:
    said = re.search(r'ends with "(.*?)"', PROSE, re.DOTALL)
    assert said is not None
    ran = program("sweep", "--case", "saturated-gap-40", "--dtype", "float64")
    assert ran.out.splitlines()[-1] == " ".join(said[1].split())


@pytest.mark.torch
def test_the_defaults_of_pytorchs_check() -> None:
    torch = pytest.importorskip("torch")
    defaults = inspect.signature(torch.autograd.gradcheck).parameters
    assert f"rtol {_power(defaults['rtol'].default)} and atol {_power(defaults['atol'].default)}" in PROSE


def _power(number: float) -> str:
    return f"{number:.0e}".replace("e-0", "e-")
