"""Saved JSON reports, read again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from gradcheck import reading, text
from gradcheck.exceptions import InputError
from gradcheck.report import _cells
from gradcheck.report._record import SCHEMA_VERSION, result_record
from gradcheck.results import Report, Result, Unconfirmed, Verdict

_PER_BYTE = 8
"""Bytes of memory for one of JSON."""
_GROWN = 1.01
"""How many times as large an error may be, and is still the same."""


def read(path: str) -> dict[str, Any]:
    """The record of a report that was saved with `--report json=FILE`.

    Raises:
        InputError: where the file is none.
    """
    try:
        with open(path, "rb") as stream:
            held = reading.stream_of(stream).getvalue()
        reading.require(_PER_BYTE * len(held), "what it holds")
        content = held.decode("utf-8-sig")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no UTF-8 text") from None
    try:
        record = json.loads(content, object_pairs_hook=reading.without_duplicates)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("results"), list):
        raise InputError(f"{path}: is no report of gradcheck (it has no 'results')")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: has schema version {record.get('schema_version')}; this gradcheck reads {SCHEMA_VERSION}"
        )
    for result in record["results"]:
        if not isinstance(result, dict) or not {"case", "candidate", "dtype", "verdict", "loss"} <= set(result):
            raise InputError(f"{path}: has a result without case, candidate, dtype, loss or verdict")
    return record


def known(record: dict[str, Any], result: Result) -> bool:
    """Whether a saved report holds the same result with the same verdict, no better than this one by a hundredth."""
    if isinstance(result.outcome, Unconfirmed):
        return False  # frozen values are right or wrong
    mine = json.loads(json.dumps(result_record(result)))
    for saved in record["results"]:
        if any(saved.get(key) != mine.get(key) for key in _SAME):
            continue
        if result.verdict is not Verdict.FAIL:
            return bool(saved.get("reason") == mine.get("reason"))
        if any(mine["conduct"][key] and not (saved.get("conduct") or {}).get(key) for key in _CONDUCT):
            return False
        worst, before = mine.get("worst"), saved.get("worst")
        if not isinstance(worst, dict) or not isinstance(before, dict):
            return False
        counts = all(_float(mine.get(key)) <= _float(saved.get(key)) for key in _COUNTS)
        sizes = all(_float(mine.get(key)) <= _float(saved.get(key)) * _GROWN for key in _SIZES)
        return counts and sizes and _float(worst.get("of_limit")) <= _float(before.get("of_limit")) * _GROWN
    return False


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What got worse, better, is new or gone since a saved report.

    Attributes:
        lines: one for each, then how many; worse: whether there is a worse one, or a new one that does not pass.
    """

    lines: list[str]
    worse: bool


def changes(before: Report, after: Report) -> Changes:
    """What changed between two reports; where a result stands more than once, in the order in which it does."""
    left: dict[str, list[Result]] = {}
    for result in before.results:
        left.setdefault(_key(result), []).append(result)
    lines: dict[str, list[str]] = {"worse": [], "better": [], "new": [], "gone": []}
    same, wrong = 0, False
    for result in after.results:
        matching = left.get(_key(result))
        where = _cells.where(result)
        if not matching:
            lines["new"].append(f"{where}: {result.verdict.value}")
            wrong |= result.verdict is not Verdict.PASS
            continue
        saved = matching.pop(0)
        was, now = _rank(saved), _rank(result)
        if was[0] == now[0] and max(was[1], now[1]) <= _GROWN * min(was[1], now[1]):
            same += 1
            continue
        change = f"{where}: {saved.verdict.value}, now {result.verdict.value}"
        if was[0] == now[0]:
            sizes = [text.brief(size) for _, size in (was, now)]
            change = f"{where}: {result.verdict.value}, {sizes[0]} of its limit before, now {sizes[1]}"
        lines["worse" if now > was else "better"].append(change)
    lines["gone"] = [_cells.where(result) for results in left.values() for result in results]
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in lines.items())
    said = [*(f"{kind}: {line}" for kind, found in lines.items() for line in found), f"{counts}, {same} the same"]
    return Changes(lines=said, worse=wrong or bool(lines["worse"]))


_VERDICTS = (Verdict.PASS, Verdict.SKIPPED, Verdict.INCONCLUSIVE, Verdict.CRASHED, Verdict.FAIL)
"""From the best to the worst."""


def _rank(result: Result) -> tuple[int, float]:
    """How bad a result is: its verdict, and of a failure how far past its limit."""
    size = 0.0
    if result.verdict is Verdict.FAIL and result.judged is not None and result.judged.decision.worst is not None:
        size = result.judged.decision.worst.value
    return _VERDICTS.index(result.verdict), size


def _key(result: Result) -> str:
    step = None if result.step is None else result.step.name
    kinds = (result.format.name, result.gradient_format.name)
    return repr((result.case, result.digest, step, result.candidate, *kinds, sorted(result.loss.items())))


_SAME = ("case", "digest", "step", "candidate", "dtype", "gradient_dtype", "loss", "tolerance", "verdict")
_COUNTS = ("failed", "nonfinite", "wrong_sign", "flushed", "ignored_nonzero")
_CONDUCT = ("changed_input", "permuted")
_SIZES = ("max_abs", "max_ulp", "max_bound", "norm")


def _float(value: Any) -> float:
    """A number of a record; what is none counts as the smallest."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return -math.inf
