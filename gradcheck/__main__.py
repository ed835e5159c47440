"""The program: `gradcheck`, or `python -m gradcheck`."""

from __future__ import annotations

import sys

from gradcheck import exits


def main() -> None:
    """Runs the command line; what the user can mend ends with one sentence and 2, a bug of ours with 70."""
    try:
        _main()
    except KeyboardInterrupt:  # while imports are still going on, or a report is being written
        sys.exit(exits.INTERRUPTED)


def _main() -> None:
    # imported here, so that Ctrl-C is answered from the start
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
    except Exception:
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
