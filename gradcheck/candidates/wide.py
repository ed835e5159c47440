"""`shifted` in the next wider format, rounded once to the problem's own: what careful half-precision kernels do."""

from __future__ import annotations

from gradcheck import closed_form
from gradcheck.candidates import shifted
from gradcheck.exceptions import NotApplicableError
from gradcheck.formats import Array, named
from gradcheck.problem import Problem


def gradient(problem: Problem) -> Array:
    """The gradient, (N, k), in the problem's format."""
    if problem.format.wider is None:
        raise NotApplicableError(f"there is no wider format than {problem.format.name} on every machine")
    wider = named(problem.format.wider)
    return closed_form.gradient(problem, shifted.softmax, wider).astype(problem.format.dtype)
