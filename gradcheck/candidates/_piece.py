"""Any function of the user's own in a child process, called with arrays and numbers: a piece of a derivation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradcheck import functions
from gradcheck.candidates._answers import array_of


def implementation(target: str) -> Callable[..., dict[str, Any]]:
    """What a child process answers with."""
    function = functions.load(target)
    return lambda arguments: {"value": array_of(function.name, function(*arguments))}
