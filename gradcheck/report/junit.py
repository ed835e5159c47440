"""JUnit XML, for CI systems: a test case for each result."""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from gradcheck import text
from gradcheck.report import Style, _cells, _sentences
from gradcheck.results import Report, Result, Verdict

_SHOWN = (_cells.ABS, _cells.REL, _cells.ULP, _cells.BOUND)


def render(report: Report, style: Style) -> str:
    """One test suite; failures that a baseline knows are skipped tests."""
    suite = TestSuite("gradcheck")
    seen: dict[tuple[str, str], int] = {}
    for result in report.results:
        words = [column.cell(result) for column in _cells.head(result) if column is not _cells.CASE]
        title = (text.xml(result.case), text.xml(" ".join(words)))
        # names are unique: what is checked twice is numbered
        seen[title] = seen.get(title, 0) + 1
        number = f" #{seen[title]}" if seen[title] > 1 else ""
        case = TestCase(title[1] + number, classname=title[0], time=0)
        case.system_out = " ".join(f"{column.title.replace(' ', '_')}={column.cell(result)}" for column in _SHOWN)
        if outcome := _outcome(result):
            case.result = [outcome]
        suite.add_testcase(case)
    suite.update_statistics()
    xml = JUnitXml("gradcheck")
    xml.add_testsuite(suite)
    xml.update_statistics()
    content: bytes = xml.tostring()
    return content.decode("utf-8").strip() + "\n"


def _outcome(result: Result) -> Failure | Error | Skipped | None:
    reason = text.xml(_sentences.reason(result))
    if result.known:
        return Skipped(f"known from the baseline: {reason}")
    match result.verdict:
        case Verdict.PASS:
            return None
        case Verdict.SKIPPED:
            return Skipped(reason)
        case Verdict.FAIL:
            failure = Failure(reason, "disagrees")
            failure.text = text.xml("\n".join(filter(None, (_sentences.diagnosis(result), result.again))))
            return failure
        case _:
            return Error(reason, result.verdict.value)
