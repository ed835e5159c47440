"""What reads something that came from outside, by name: each takes bytes, and what it may raise is a sentence."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gradcheck import files, fixtures, losses, tolerances
from gradcheck.batch import Batch
from gradcheck.checkpoint import Checkpoint
from gradcheck.cli import _config
from gradcheck.exceptions import GradcheckError
from gradcheck.formats import FORMATS
from gradcheck.report import _restored, _saved
from gradcheck.results import Result
from tests.fuzzing import drawn

Target = Callable[[bytes], None]

_KEEPER = tempfile.TemporaryDirectory(prefix="fuzzing-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
_FOLDER = Path(_KEEPER.name)
_RUN = {"the input": "abc"}
_SMALL = 20_000
"""Components up to which what was read is also made a problem of."""


def _written(content: bytes, name: str) -> Path:
    path = _FOLDER / f"{os.getpid()}-{name}"
    path.write_bytes(content)
    return path


def reader(suffix: str) -> Target:
    """A file of logits, as it comes and with what bit patterns need, and the problem that it holds."""
    importlib.import_module(f"gradcheck.files.{suffix}")  # now, so that its coverage guides

    def read(content: bytes) -> None:
        path = str(_written(content, f"logits.{suffix}"))
        for settings in ({}, {"dtype": "bfloat16", "gradient_dtype": "bfloat16"}, {"dtype": "float32", "axis": 1}):
            with contextlib.suppress(GradcheckError):
                loaded = files.load(path, others=("mask",) if settings else (), **settings)
                if loaded.labels is not None and loaded.logits.size <= _SMALL:
                    batch = Batch(logits=loaded.logits, labels=loaded.labels, format=loaded.format)
                    _ = batch.problem(np.arange(batch.rows)).distinct
        with contextlib.suppress(GradcheckError):
            files.load_labels(path, files.Layout.of((2, 3)), FORMATS["float32"])
        with contextlib.suppress(GradcheckError):
            files.load_gradient(path, files.Layout.of((2, 3)), None, FORMATS["float32"])

    return read


def fixture(content: bytes) -> None:
    """A fixture file."""
    with contextlib.suppress(GradcheckError):
        fixtures.load(_written(content, "fixture.toml"))


def saved(content: bytes) -> None:
    """A saved JSON report."""
    path = str(_written(content, "saved.json"))
    with contextlib.suppress(GradcheckError):
        _restored.report(_saved.read(path), path)


def tolerance(content: bytes) -> None:
    """A tolerance, as the command line has it."""
    with contextlib.suppress(GradcheckError):
        parsed = tolerances.parse(content.decode("utf-8", "surrogateescape"))
        assert str(tolerances.parse(str(parsed))) == str(parsed)


def loss(content: bytes) -> None:
    """Loss options, a line each."""
    with contextlib.suppress(GradcheckError):
        for option in losses.parse(content.decode("utf-8", "surrogateescape").split("\n")):
            _ = option.in_full


def checkpoint(content: bytes) -> None:
    """A checkpoint, and a task that it may hold."""
    path = _written(content, "checkpoint")
    with contextlib.suppress(GradcheckError), Checkpoint(str(path)) as journal:
        journal.begin(lambda: _RUN, [Result])
        list(journal.map(map, int, [("task", 0)]))


def members(content: bytes) -> None:
    """An archive whose members are these bytes, a length of two bytes before each: what no blind change would make."""
    out, stream = io.BytesIO(), io.BytesIO(content)
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("logits.npy", "labels.npy", "gradient.npy", "weight.npy", "mask.npy"):
            head = stream.read(2)
            if len(head) < 2:
                break
            archive.writestr(name, stream.read(struct.unpack("<H", head)[0]))
    reader("npz")(out.getvalue())


def entries(content: bytes) -> None:
    """A checkpoint whose checksums are right, of the run that asks for it: each line is what one part found."""
    head = json.dumps(["gradcheck checkpoint 1", _RUN]).encode()
    checkpoint(b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in (head, *content.split(b"\n"))))


def config(content: bytes) -> None:
    """A pyproject.toml in the current folder."""
    _written(content, "pyproject.toml").replace(_FOLDER / "pyproject.toml")
    with contextlib.chdir(_FOLDER), contextlib.suppress(GradcheckError):
        _config.defaults(drawn.COMMAND)


def command_lines(content: bytes) -> None:
    """The words of a command line, drawn by these bytes."""
    with contextlib.chdir(_FOLDER):
        drawn.said.hypothesis.fuzz_one_input(content)  # type: ignore[attr-defined]


TARGETS: dict[str, Target] = {
    **{suffix: reader(suffix) for suffix in files.names()},
    "members": members,
    "fixture": fixture,
    "saved": saved,
    "tolerance": tolerance,
    "loss": loss,
    "checkpoint": checkpoint,
    "entries": entries,
    "config": config,
    "problems": drawn.known.hypothesis.fuzz_one_input,  # type: ignore[attr-defined]
    "command-lines": command_lines,
}
