"""Files that are written whole or not at all: beside their place, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from gradcheck.exceptions import InputError

_OWN = re.compile(r"/dev/(?:fd/(\d+)|std(?:in|(out)|(err)))|/proc/self/fd/(\d+)")
"""Names of what this process has open already."""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
"""What a file system says that has no second names for a file."""


def replace(path: str | Path, content: bytes, *, was: bytes | None = None, new: bool = False) -> None:
    """Puts `content` in the place of a file, if there is one; through a link to its target.

    Args:
        was: what the file must hold until then; None for whatever it holds.
        new: whether there must be no such file yet.

    Raises:
        InputError: where it cannot be written, or another program has changed it or is changing it.
    """
    try:
        if (descriptor := _open_already(str(path))) is not None:
            # what the shell has opened is not replaced: it may hold what others have written
            with open(descriptor, "wb", closefd=False) as stream:
                stream.write(content)
            return
        target = Path(os.path.realpath(path))  # which takes no circle of links for an error: the next line does
        if target.exists() and not target.is_file():
            target.write_bytes(content)  # a device or a pipe has no place beside it
            return
        with _locked(target) if was is not None else contextlib.nullcontext():
            if was is not None and target.read_bytes() != was:
                raise InputError(f"{path}: was changed by another program meanwhile, and is left as it is")
            _renamed(target, content, new=new)
    except BrokenPipeError:
        return
    except FileExistsError:
        raise InputError(f"{path}: is there already; another program has just written it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _open_already(path: str) -> int | None:
    found = _OWN.fullmatch(path)
    if found is None:
        return None
    number, out, err, of_process = found.groups()
    return 1 if out else 2 if err else int(number or of_process or 0)


def _renamed(target: Path, content: bytes, *, new: bool) -> None:
    """Writes a file beside `target`, and gives it that name; whatever happens, nothing else is left."""
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    # its name is known before it is there, so that no interrupt comes between the two
    beside = target.parent / f".gradcheck-{secrets.token_hex(8)}"
    try:
        # the system itself applies the umask, which nobody can ask for without setting it
        with open(
            beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o666 if mode is None else mode)
        ) as stream:
            if mode is not None and os.fstat(stream.fileno()).st_mode & 0o777 != mode:
                os.chmod(beside, mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if new:
            _linked(beside, target)
        else:
            os.replace(beside, target)
    finally:
        # where all went well it is there no more, or has a second name
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


def _linked(beside: Path, target: Path) -> None:
    """Gives a file another name, which must not be there yet."""
    try:
        os.link(beside, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError from None
        os.replace(beside, target)


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
