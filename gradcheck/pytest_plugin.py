"""The pytest plugin: every *.gradcheck.toml is collected, each entry a test.

Nothing heavy is imported until a fixture file is found: pytest loads this wherever gradcheck is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradcheck.candidates import Candidate
    from gradcheck.fixtures import Fixture
    from gradcheck.results import Result

_SUFFIX = ".gradcheck.toml"
_METRICS = ("ulp", "rel", "bound")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options and settings."""
    group = parser.getgroup("gradcheck", "gradcheck fixtures (*.gradcheck.toml)")
    group.addoption(
        "--gradcheck-update",
        action="store_true",
        help="derive frozen gradients that do not hold again, write them, and fail, so that somebody looks",
    )
    group.addoption(
        "--gradcheck-deep", action="store_true", help="compare the frozen gradients with central differences, too"
    )
    parser.addini("gradcheck_deep", "the same as --gradcheck-deep", type="bool", default=False)
    parser.addini(
        "gradcheck_candidates",
        "candidates in place of the fixtures' own: built-in names, MODULE:FUNCTION or PATH.py:FUNCTION",
        type="linelist",
        default=[],
    )
    parser.addini("gradcheck_tolerance", "a tolerance in place of the fixtures' own", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to write files from several processes at once."""
    parallel = getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput")
    if config.getoption("--gradcheck-update") and parallel:
        raise pytest.UsageError("--gradcheck-update writes files, and does not go with -n: run it in one process")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A fixture file is a collection of tests."""
    if file_path.name.endswith(_SUFFIX):
        return FixtureFile.from_parent(parent, path=file_path)
    return None


@cache
def _candidate(name: str) -> Candidate:
    """A candidate that serves the whole session: its process need not be started for every fixture."""
    from gradcheck import candidates

    return candidates.load(name)


class FixtureFile(pytest.File):
    """A fixture file."""

    def collect(self) -> Iterator[pytest.Item]:
        """One test for each entry."""
        from gradcheck import fixtures
        from gradcheck.exceptions import GradcheckError, visible

        try:
            entries = fixtures.load(self.path)
        except GradcheckError as error:
            raise self.CollectError(visible(str(error))) from None
        for entry in entries:
            yield FixtureItem.from_parent(self, name=f"{entry.name}[{entry.problem.format.name}]", fixture=entry)


class FixtureItem(pytest.Item):
    """One entry of a fixture file."""

    def __init__(self, *, fixture: Fixture, **more: Any) -> None:
        super().__init__(**more)
        self.fixture = fixture

    def runtest(self) -> None:
        """Verifies the entry; what was measured goes into the JUnit properties."""
        from gradcheck import verification
        from gradcheck.results import Verdict

        config = self.config
        names = config.getini("gradcheck_candidates")
        results = list(
            verification.verify(
                self.fixture,
                deep=config.getoption("--gradcheck-deep") or config.getini("gradcheck_deep"),
                chosen=[_candidate(name) for name in names] if names else None,
                tolerance=config.getini("gradcheck_tolerance") or None,
            )
        )
        for result in results:
            self.user_properties += _properties(result)
        wrong = [result for result in results if result.verdict is not Verdict.PASS]
        if any(result.candidate == verification.FROZEN for result in wrong) and config.getoption("--gradcheck-update"):
            raise FixtureError(f"{_told(wrong)}\n{self._updated()}")
        if wrong:
            raise FixtureError(_told(wrong))

    def _updated(self) -> str:
        """Writes the file's values anew, and says what changed."""
        from gradcheck import fixtures

        found = fixtures.update(self.fixture.path)
        found.write()
        if not found.diff:
            return "updated already, with another entry of this file"
        return f"updated; look at the difference, and run the test again:\n{found.diff}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The sentence alone where a fixture disagrees, or something in it cannot be used."""
        from gradcheck.exceptions import GradcheckError, visible

        if isinstance(excinfo.value, FixtureError | GradcheckError):
            return "\n".join(map(visible, f"{self.fixture.title}: {excinfo.value}".split("\n")))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the entry stands."""
        return self.path, None, self.name


class FixtureError(AssertionError):
    """A fixture that disagrees."""


def _told(wrong: list[Result]) -> str:
    from gradcheck.report import _sentences

    lines = []
    for result in wrong:
        lines.append(f"{result.candidate} [{result.format.name}]: {result.verdict.value}, {_sentences.reason(result)}")
        if diagnosis := _sentences.diagnosis(result):
            lines.append(f"diagnosis: {diagnosis}")
        if result.again:
            lines.append(f"again: {result.again}")
    return "\n".join(lines)


def _properties(result: Result) -> Iterator[tuple[str, object]]:
    from gradcheck import text
    from gradcheck.results import Judged

    yield f"gradcheck.{result.candidate}.verdict", result.verdict.value
    if isinstance(result.outcome, Judged):
        for name in _METRICS:
            extreme = result.outcome.measures.extremes[name]
            yield f"gradcheck.{result.candidate}.max_{name}", text.brief(None if extreme is None else extreme.value)
