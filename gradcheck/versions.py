"""What the digits of a result depend on beside its input: the program and the packages that compute them."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
from pathlib import Path

PACKAGES = ("gradcheck", "numpy", "mpmath", "ml_dtypes", "flint")
"""By the names under which they are imported; those that are not installed compute nothing."""


@functools.cache
def versions() -> dict[str, str]:
    """The version of each package as it is imported here."""
    found = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    return {name: importlib.import_module(name).__version__ for name in found}


@functools.cache
def source() -> str:
    """A digest of the program's own source: while it is worked on, versions tell nothing."""
    root = Path(__file__).parent
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:16]
