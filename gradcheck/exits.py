"""The exit codes of the program."""

DISAGREES, CANNOT_CHECK, BUG, INTERRUPTED = 1, 2, 70, 130
