"""What the digits of a result depend on beside its input: the program, packages that compute them, the machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import pkgutil
import platform
from collections.abc import Mapping
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
def environment(packages: tuple[str, ...] = ()) -> Mapping[str, str]:
    """What a report was made with: Python, the machine, and by name the versions that are installed here.

    Args:
        packages: more of them, by the names under which they are imported; none is.
    """
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
    }
    for name, module in {**MODULES, **{package: package for package in packages}}.items():
        if name != "gradcheck" and importlib.util.find_spec(module) is not None:
            found[module] = _installed(name, module)
    return found


def _installed(name: str, module: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # tensorflow comes under several names; to look them all up takes a while
        names = importlib.metadata.packages_distributions().get(module, [])
    return importlib.metadata.version(names[0]) if names else "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@functools.cache
def source() -> str:
    """Tells programs of one version apart, while they are worked on: a digest of this one's own source."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]
