"""What the digits of a result depend on beside its input: the program and the packages that compute them."""

from __future__ import annotations

import functools
import hashlib
import pkgutil
from pathlib import Path

MODULES = {
    "gradcheck": "gradcheck",
    "numpy": "numpy",
    "mpmath": "mpmath",
    "ml_dtypes": "ml_dtypes",
    "python-flint": "flint",
}
"""The package that is imported, by the name under which it is installed."""


@functools.cache
def versions() -> dict[str, str]:
    """The version of each package, as it is imported here; one that is not installed computes nothing."""
    found = {}
    for name, module in MODULES.items():
        try:
            found[name] = str(pkgutil.resolve_name(f"{module}:__version__"))
        except ImportError:
            continue
    return found


@functools.cache
def source() -> str:
    """Tells programs of one version apart, while they are worked on: a digest of this one's own source."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]
