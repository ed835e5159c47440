"""The program: `gradcheck`, or `python -m gradcheck`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from gradcheck import exits

_ENDS = ("SIGTERM", "SIGHUP")
"""What asks a process to end, or says that its terminal is gone."""


def main() -> None:
    """Runs the command line; what the user can mend ends with one sentence and 2, a bug of ours with 70."""
    code: int | str | None = exits.INTERRUPTED
    came: list[int] = []
    try:
        with _answered() as came:
            code = _code()
    except KeyboardInterrupt:  # while imports are still going on, or a report is being written
        pass
    # Python notes where text that is run is interrupted, as every dataclass is made, and would end itself by SIGINT for
    # it, though it was answered; other text, which is run to its end, has it forget that
    exec("")
    # whatever became of it then, it was asked to end
    sys.exit(exits.of_signal(came[0]) if came else code)


def _code() -> int | str | None:
    """The exit code of the command that was given."""
    try:
        _main()
    except SystemExit as left:
        return left.code
    return 0


@contextlib.contextmanager
def _answered() -> Iterator[list[int]]:
    """Other signals that end a run do it in good order, as Ctrl-C does; which of them came.

    One that is ignored, as `nohup` has it, or that somebody else answers, is left alone.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    mine: list[int] = []
    if threading.current_thread() is threading.main_thread():  # no other may say what becomes of signals
        numbers = [getattr(signal, name) for name in _ENDS if hasattr(signal, name)]
        mine = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in mine:
            signal.signal(number, interrupt)
        yield came
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _main() -> None:
    # imported here, so that signals are answered from the start
    from gradcheck import __version__
    from gradcheck.cli import _streams, app
    from gradcheck.exceptions import GradcheckError, visible

    _streams.prepare()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except GradcheckError as error:
        print(f"gradcheck: {visible(str(error))}", file=sys.stderr)
        sys.exit(exits.CANNOT_CHECK)
    except MemoryError:
        print("gradcheck: out of memory; --rows A:B checks a part of a large file", file=sys.stderr)
        sys.exit(exits.CANNOT_CHECK)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            # until Python 3.12 a class that is interrupted while it is made says so in its own way
            raise KeyboardInterrupt from None
        import traceback

        traceback.print_exc()
        print(
            f"gradcheck: this is a bug in gradcheck {__version__}, not in your gradient. "
            "Please report the lines above and the command.",
            file=sys.stderr,
        )
        sys.exit(exits.BUG)


if __name__ == "__main__":
    main()
