"""Fuzzes one target for as long as is wanted, guided by coverage.

    pip install atheris && python -m tests.fuzzing TARGET [SECONDS] [libFuzzer's options]

It begins with `tests/fuzzing/corpus/TARGET`, where there is one, and keeps what it finds in a temporary folder. An
input that breaks something, by an exception or a warning, is written to `crash-…` in the current folder, and ends it.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gradcheck", "tomlkit", "safetensors"]):
    from tests.fuzzing.targets import TARGETS


def main() -> None:
    """Reads the words, and hands over to libFuzzer."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"one of: {' '.join(TARGETS)}")
    name, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    found = tempfile.mkdtemp(prefix=f"fuzzing-{name}-")
    options = [
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-max_len=65536",
        f"-max_total_time={seconds}",
        "-print_final_stats=1",
    ]
    corpus = Path(__file__).parent / "corpus" / name
    folders = [found, str(corpus)] if corpus.exists() else [found]
    warnings.simplefilter("error")
    atheris.Setup([sys.argv[0], *options, *sys.argv[3:], *folders], TARGETS[name])
    atheris.Fuzz()


main()
