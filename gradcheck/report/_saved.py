"""Saved JSON reports, read again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gradcheck import text
from gradcheck.exceptions import InputError
from gradcheck.report import _cells
from gradcheck.report._record import SCHEMA_VERSION, result_record
from gradcheck.results import Report, Result, Unconfirmed, Verdict


def read(path: str) -> dict[str, Any]:
    """The record of a report that was saved with `--report json=FILE`.

    Raises:
        InputError: where the file is none.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no UTF-8 text") from None
    try:
        record = json.loads(content)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("results"), list):
        raise InputError(f"{path}: is no report of gradcheck (it has no 'results')")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: has schema version {record.get('schema_version')}; this gradcheck reads 1")
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
        sizes = all(_float(mine.get(key)) <= _float(saved.get(key)) * 1.01 for key in _SIZES)
        return counts and sizes and _float(worst.get("of_limit")) <= _float(before.get("of_limit")) * 1.01
    return False


def changes(record: dict[str, Any], report: Report) -> list[str]:
    """What got worse, better, is new or gone since a saved report, a line each, then how many."""
    before = {_key(saved): saved for saved in record["results"]}
    lines: dict[str, list[str]] = {"worse": [], "better": [], "new": [], "gone": []}
    same = 0
    for result in report.results:
        mine = json.loads(json.dumps(result_record(result)))
        saved = before.pop(_key(mine), None)
        where = _cells.where(result)
        if saved is None:
            lines["new"].append(f"{where}: {result.verdict.value}")
            continue
        was, now = _rank(saved), _rank(mine)
        said = [text.brief(size) for _, size in (was, now)]
        if now[0] == was[0] and abs(now[1] - was[1]) <= 0.01 * was[1]:
            same += 1
            continue
        change = f"{where}: {saved['verdict']}, now {mine['verdict']}"
        if now[0] == was[0]:
            change = f"{where}: {mine['verdict']}, {said[0]} of its limit before, now {said[1]}"
        lines["worse" if now > was else "better"].append(change)
    for saved in before.values():
        lines["gone"].append(f"{text.name(str(saved['case']))} {saved['dtype']} {text.name(str(saved['candidate']))}")
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in lines.items())
    return [*(f"{kind}: {line}" for kind, found in lines.items() for line in found), f"{counts}, {same} the same"]


_VERDICTS = ("pass", "skipped", "inconclusive", "crashed", "fail")
"""From the best to the worst."""


def _rank(record: dict[str, Any]) -> tuple[int, float]:
    """How bad a result is: its verdict, and of a failure how far past its limit."""
    rank = _VERDICTS.index(record["verdict"]) if record["verdict"] in _VERDICTS else len(_VERDICTS)
    of_limit = max(0.0, _float((record.get("worst") or {}).get("of_limit")))
    return rank, of_limit if record["verdict"] == "fail" else 0.0


def _key(record: dict[str, Any]) -> str:
    return json.dumps([record.get(name) for name in _SAME if name not in ("verdict", "tolerance")], sort_keys=True)


_SAME = ("case", "digest", "step", "candidate", "dtype", "gradient_dtype", "loss", "tolerance", "verdict")
_COUNTS = ("failed", "nonfinite", "wrong_sign", "flushed", "ignored_nonzero")
_CONDUCT = ("changed_input", "permuted")
_SIZES = ("max_abs", "max_ulp", "max_bound", "norm")


def _float(value: Any) -> float:
    """A number of a record; what is none counts as the smallest."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return -math.inf
