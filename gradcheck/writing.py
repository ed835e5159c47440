"""Files that are written whole or not at all: beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gradcheck.exceptions import InputError


def replace(path: str | Path, content: bytes, *, was: bytes | None = None, new: bool = False) -> None:
    """Puts `content` in the place of a file, if there is one; through a link to its target.

    Args:
        was: what the file must hold until then; None for whatever it holds.
        new: whether there must be no such file yet.

    Raises:
        InputError: where it cannot be written, or another program has changed it or is changing it.
    """
    target = Path(os.path.realpath(path))  # which takes no circle of links for an error: the next line does
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)  # a device or a pipe has no place beside it
            return
        with _locked(target) if was is not None else contextlib.nullcontext():
            if was is not None and target.read_bytes() != was:
                raise InputError(f"{path}: was changed by another program meanwhile, and is left as it is")
            umask = os.umask(0)
            os.umask(umask)
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask
            descriptor, beside = tempfile.mkstemp(dir=target.parent, prefix=".gradcheck-")
            try:
                with open(descriptor, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.chmod(beside, mode)
                if new:
                    os.link(beside, target)  # which fails where a file is there
                    os.unlink(beside)
                else:
                    os.replace(beside, target)
            except BaseException:
                os.unlink(beside)
                raise
    except BrokenPipeError:
        return
    except FileExistsError:
        raise InputError(f"{path}: is there already; another program has just written it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """The folder's lock for this file, which the system lets go of when the process dies, however it dies."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where the comparison alone has to do
        yield
        return
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{target}: another program is writing in this folder; try again") from None
        yield
    finally:
        os.close(descriptor)
