"""A program as a candidate: it reads logits and labels from files, and writes the gradient into one.

The words of its command hold {logits}, {labels} and {gradient} in place of their paths; no shell sees them. The
gradient is that of the sum over rows, of which a mean is taken here. A command that holds {loss}, too, gets a JSON file
with the loss options there, and writes the gradient of exactly that loss.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np

from gradcheck import files, reading
from gradcheck.candidates._answers import Answer, Question
from gradcheck.exceptions import CrashedError, InputError, NotApplicableError, UsageError, visible
from gradcheck.files import Layout
from gradcheck.functions import file_of
from gradcheck.problem import Problem
from gradcheck.processes import end, ending

_PLACES = ("logits", "labels", "gradient")
_PLACE = re.compile(r"\{(logits|labels|gradient|loss)\}")
_PATIENCE = 0.5
"""Seconds in which the last words of a program that has ended may still come."""
_TAIL = 300
"""Characters of standard error that a crash shows."""


class Command:
    """A command line with places for paths.

    Args:
        template: the words, quoted as a shell would have them.
        suffix: of the files that are exchanged, .npy or .safetensors.
        timeout: seconds that the program may take.
        folder: in which it runs; None is this process's own.
        gradient_dtype: what bit patterns of a gradient are.

    Raises:
        UsageError: where it has no place for one of the files.
    """

    def __init__(
        self, template: str, *, suffix: str, timeout: float, folder: str | None, gradient_dtype: str | None
    ) -> None:
        try:
            self._words = shlex.split(template)
        except ValueError as error:
            raise UsageError(f"--command '{template}': {error}") from None
        missing = [place for place in _PLACES if not any(f"{{{place}}}" in word for word in self._words)]
        if missing:
            raise UsageError(
                f"--command '{template}' has no place for {{{missing[0]}}}; write it as "
                '"./program {logits} {labels} {gradient}"'
            )
        self._suffix, self._timeout, self._gradient_dtype = suffix, timeout, gradient_dtype
        self._folder = folder

    @property
    def sources(self) -> tuple[Path, ...]:
        """The program, and the scripts and modules among its words."""
        folder, words = Path(self._folder or "."), self._words
        program = shutil.which(words[0]) if os.sep not in words[0] else None
        modules = [file_of(f"{name}:", str(folder)) for flag, name in pairwise(words) if flag == "-m"]
        named = [Path(program or folder / words[0]), *map(folder.joinpath, words[1:]), *modules]
        return tuple(path for path in named if path is not None and path.is_file())

    def answer(self, problem: Problem) -> Answer:
        """Runs it in a private folder that is gone afterwards.

        Raises:
            CrashedError: where it fails, takes too long, or writes no gradient.
            NotApplicableError: where the loss has an option that the program is not told.
        """
        asked, whole = Question.of(problem), any("{loss}" in word for word in self._words)
        if asked.beyond and not whole:
            what = ", ".join(asked.beyond)
            raise NotApplicableError(f"the loss has {what}, and the command no {{loss}} that would tell the program")
        with tempfile.TemporaryDirectory(prefix="gradcheck-") as name:
            folder = Path(name)
            paths = {place: folder / f"{place}{self._suffix}" for place in _PLACES} | {"loss": folder / "loss.json"}
            files.save_one(paths["logits"], "logits", problem.logits)
            files.save_one(paths["labels"], "labels", problem.labels)
            given = {path: path.read_bytes() for path in (paths["logits"], paths["labels"])}
            plain = {
                key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asked.options.items()
            }
            paths["loss"].write_text(json.dumps(plain), encoding="utf-8")
            self._run([_PLACE.sub(lambda found: str(paths[found[1]]), word) for word in self._words])
            if not paths["gradient"].exists():
                raise CrashedError("the program ended without an error and wrote no gradient")
            if not paths["gradient"].is_file():
                raise CrashedError("the program wrote a gradient that is no file")
            try:
                layout = Layout.of(problem.logits.shape)
                # its bits are of the problem's own format, unless something else is said
                dtype = self._gradient_dtype or problem.format.name
                gradient = files.load_gradient(str(paths["gradient"]), layout, dtype, problem.format)[:]
            except InputError as error:
                raise CrashedError(f"the program's {str(error).removeprefix(name).lstrip('/')}") from None
            changed = tuple(path.stem for path, content in given.items() if _content(path, len(content)) != content)
            return Answer(gradient=asked.finished(gradient, whole=whole), changed=changed, summed=not whole)

    def _run(self, words: list[str]) -> None:
        try:
            program = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,  # so that it ends with whatever it has started
            )
        except OSError as error:
            where = "" if error.filename in (None, words[0]) else f" in '{error.filename}'"
            raise CrashedError(f"'{words[0]}' cannot be run{where}: {error.strerror}") from None
        # what it leaves behind may hold the pipe open: nobody waits for its end
        tail = bytearray()
        listener = threading.Thread(target=_listen, args=(program.stdout, tail), daemon=True)
        listener.start()
        try:
            program.wait(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            raise CrashedError(f"the program did not end within {self._timeout:g} s and was stopped") from None
        finally:
            end(program)
            listener.join(timeout=_PATIENCE)
        if program.returncode:
            raise CrashedError(f"the program {ending(program.returncode)}{_told(bytes(tail))}")


def _listen(stream: IO[bytes], tail: bytearray) -> None:
    """Reads all that is said and keeps the end of it."""
    with stream:
        while said := stream.read1(2**16):  # type: ignore[attr-defined]
            tail += said
            del tail[: -4 * _TAIL]


def _content(path: Path, most: int) -> bytes | None:
    """What a file holds; None where it is gone, has grown, or is something else."""
    try:
        return reading.content(path, most)
    except (OSError, InputError):
        return None


def _told(said: bytes) -> str:
    lines = said.decode(errors="replace").strip()
    return f": {visible(' '.join(lines[-_TAIL:].split()))}" if lines else ""
