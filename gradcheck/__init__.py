"""Is this softmax cross-entropy gradient right?

Nothing heavy is imported here: ``gradcheck --help`` must answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradcheck.api import GradientError, assert_gradient, cases, check, each_case

__all__ = ["GradientError", "__version__", "assert_gradient", "cases", "check", "each_case"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from gradcheck import api

        return getattr(api, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
