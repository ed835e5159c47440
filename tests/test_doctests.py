"""The examples in docstrings are run, of each module that has some: others may need packages that are not here."""

from __future__ import annotations

import doctest
import importlib
import types
from pathlib import Path

import pytest

import gradcheck

PACKAGE = Path(gradcheck.__file__).parent


def with_examples() -> list[str]:
    """The modules of the package in whose text an example stands."""
    return sorted(
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
        if ">>> " in path.read_text(encoding="utf-8")
    )


def run(module: types.ModuleType) -> doctest.TestResults:
    """Runs the examples of a module."""
    return doctest.testmod(module, optionflags=doctest.ELLIPSIS)


@pytest.mark.parametrize("name", with_examples())
def test_the_examples_of(name: str) -> None:
    ran = run(importlib.import_module(name))
    assert ran.attempted
    assert not ran.failed


def test_what_python_code_calls_has_examples() -> None:
    assert set(with_examples()) >= {f"gradcheck.{name}" for name in ("api", "formats", "tolerances", "exact")}
    for function in (gradcheck.check, gradcheck.assert_gradient, gradcheck.cases):
        assert ">>> " in (function.__doc__ or "")


def test_a_lie_is_caught() -> None:
    module = types.ModuleType("lie", ">>> 1 + 1\n3\n")
    assert run(module) == (1, 1)
