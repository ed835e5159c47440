"""What can go wrong with the *program*; a numerical error is never an exception."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def visible(text: str) -> str:
    """Text that came from outside, its control characters escaped: they never reach a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class GradcheckError(Exception):
    """Base of everything that the user can cause and mend: one sentence, no traceback, exit code 2."""

    def __reduce__(self) -> tuple[object, ...]:
        # from a worker process it comes as its sentence: what it was made of need not be there
        return _again, (type(self), str(self), self.__dict__)


def _again(kind: type[GradcheckError], sentence: str, fields: dict[str, object]) -> GradcheckError:
    error = kind.__new__(kind, sentence)
    error.__dict__.update(fields)
    return error


class UsageError(GradcheckError):
    """An option or an argument that cannot be understood, or that contradicts another."""


class InputError(GradcheckError):
    """A file, or data in it, that cannot be checked."""


class RowError(InputError):
    """Data of one row that cannot be checked.

    Args:
        text: says what is wrong, with {row} for the row's number.
    """

    def __init__(self, text: str, row: int) -> None:
        super().__init__(text.replace("{row}", str(row)))
        self._text, self._row = text, row

    def numbered(self, numbers: Sequence[int]) -> RowError:
        """The same, where the row has another number in the input."""
        return RowError(self._text, int(numbers[self._row]))


class UnknownNameError(UsageError):
    """A name that nothing of its kind bears.

    Args:
        lists: the command that lists those that there are, where they are too many for a message.
        other: what else may stand in the name's place.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], lists: str = "gradcheck explain", other: str = ""
    ) -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=1)
        if close:
            hint = f"did you mean '{close[0]}'?"
        elif len(known) <= 12:
            hint = f"there are: {', '.join(known)}"
        else:
            hint = f"'{lists}' lists them"
        super().__init__(f"unknown {kind} '{name}'; {hint}{other and f'; {other}'}")


class NotApplicableError(GradcheckError):
    """A candidate that has no answer to this problem; becomes a skipped result, never an exit."""


class MissingExtraError(GradcheckError):
    """Something that needs a package which is not installed."""

    def __init__(self, what: str, extra: str, package: str) -> None:
        super().__init__(f"{what} needs the package '{package}': pip install 'gradcheck[{extra}]'")
        self.package, self.extra = package, extra


class CrashedError(GradcheckError):
    """The user's own code failed; becomes a crashed result where it was called as a candidate."""


class WorkersError(GradcheckError):
    """Worker processes that die whatever is done."""
