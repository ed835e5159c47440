"""The exit codes of the program."""

DISAGREES, CANNOT_CHECK, BUG, INTERRUPTED = 1, 2, 70, 130


def of_signal(number: int) -> int:
    """That of a run which a signal has ended, as shells have it: `INTERRUPTED` is that of Ctrl-C."""
    return 128 + number
