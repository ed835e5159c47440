"""Reports: one file here for each output format, named as `--format` names it; all render the same `Report`.

A file defines `render(report, style)`, which is a text, or the bytes of a picture, and `NEEDS`, a package and the extra
that brings it, where it needs one. Cells, sentences and the JSON record are made once, in `_cells`,
`_sentences` and `_record`.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass

from gradcheck import plugins
from gradcheck.exceptions import MissingExtraError
from gradcheck.results import Report


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the place that a report goes to can show.

    Attributes:
        width: columns of the terminal; None where lines may be as long as they like.
        color: whether it shows colour.
        verbose: whether passing results are explained too.
    """

    width: int | None = None
    color: bool = False
    verbose: bool = False


def names() -> list[str]:
    """The output formats."""
    return plugins.names(sys.modules[__name__])


def summary(name: str) -> str:
    """What an output format is, in one sentence."""
    return plugins.documented(sys.modules[__name__], name)[0]


def companion(name: str) -> str | None:
    """The output format of the summary that goes with an output format, where it has one."""
    module = plugins.load(sys.modules[__name__], "report format", name)
    found: str | None = getattr(module, "SUMMARY", None)
    return found


def require(name: str) -> None:
    """Finds out whether an output format can be made, before there is anything to show.

    Raises:
        UnknownNameError: where there is no such format.
        MissingExtraError: where its package is not installed.
    """
    needs: tuple[str, str] | None = getattr(plugins.load(sys.modules[__name__], "report format", name), "NEEDS", None)
    if needs is not None and importlib.util.find_spec(needs[0]) is None:
        raise MissingExtraError(f"--format {name}", needs[1], needs[0])


def render(name: str, report: Report, style: Style) -> str | bytes:
    """`report` in the output format `name`; a text ends with a newline.

    Raises:
        UnknownNameError: where there is no such format.
    """
    module = plugins.load(sys.modules[__name__], "report format", name)
    shown: str | bytes = module.render(report, style)
    return shown
