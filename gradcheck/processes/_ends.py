"""How processes of other people's code end, and are ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that leads a session of its own, with whatever it has started and may have left behind."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ending(code: int | None, ended: str = "ended") -> str:
    """What an exit code says; it is negative for a signal.

    Args:
        ended: what it did that no signal made it do.
    """
    if code is None or code >= 0:
        return f"{ended} with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
