"""Saved JSON reports, read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradcheck.exceptions import InputError
from gradcheck.report._record import SCHEMA_VERSION


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
