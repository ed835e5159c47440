"""Every command that the documents show with its output is run, and the output compared.

`python -m tests.test_docs` writes the outputs into the documents.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gradcheck import catalogue, mistakes
from tests import options_page
from tests.conftest import Program

ROOT = Path(__file__).parent.parent
EXTENDING = ROOT / "docs" / "extending.md"
"""What it shows is of a program with its examples added: see `tests.test_worked_examples`."""
DOCUMENTS = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path != EXTENDING)]

_BLOCK = re.compile(r"```\n\$ (gradcheck [^\n]*)\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.^])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w^])")


def blocks(text: str) -> list[tuple[str, str]]:
    """The commands of a document, each with the output that it shows."""
    return [(match[1], match[2]) for match in _BLOCK.finditer(text)]


def renew(document: Path, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    """Writes into a document what its commands print.

    Args:
        environment, folder: in which they run; None is this process's own.
    """

    def renewed(match: re.Match[str]) -> str:
        return f"```\n$ {match[1]}\n{run(match[1], environment, folder).stdout}```"

    document.write_text(_BLOCK.sub(renewed, document.read_text(encoding="utf-8")), encoding="utf-8")


def run(
    command: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What a document's command does in a process of its own."""
    words = [sys.executable, "-m", *shlex.split(command)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=folder)


SHOWN = [(document.name, *block) for document in DOCUMENTS for block in blocks(document.read_text(encoding="utf-8"))]


def alike(shown: str, got: str) -> bool:
    """The same words, and numbers that differ by no more than another processor's exp makes them.

    Figures of three digits or fewer are errors, the others values.
    """
    if [_words(line) for line in shown.splitlines()] != [_words(line) for line in got.splitlines()]:
        return False
    for one, other in zip(_NUMBER.findall(shown), _NUMBER.findall(got), strict=True):
        if one == other:
            continue
        a, b = float(one), float(other)
        is_error = len(re.sub(r"e.*|[-.]", "", one).lstrip("0")) <= 3
        if not abs(a - b) <= (2 + abs(b) / 2 if is_error else 1e-6 * abs(b)):
            return False
    return True


def _words(line: str) -> list[str]:
    return _NUMBER.sub("#", line).split()


@pytest.mark.parametrize(("document", "command", "output"), SHOWN, ids=[f"{name}: {line}" for name, line, _ in SHOWN])
def test_documents_show_what_the_program_prints(document: str, command: str, output: str, program: Program) -> None:
    ran = program(*shlex.split(command)[1:])
    assert ran.code in (0, 1), ran.err
    assert alike(output, ran.out), ran.out


def test_the_derivation_shows_every_step() -> None:
    from gradcheck.derivation import NAMES

    commands = [command for command, _ in blocks((ROOT / "docs" / "derivation.md").read_text(encoding="utf-8"))]
    for name in NAMES:
        assert any(command.endswith(f"--show {name}") for command in commands), name


def test_the_fixture_that_the_documents_show_is_what_is_recorded(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "fixtures.md").read_text(encoding="utf-8")
    command = re.search(r"```\n(gradcheck fixtures record .*)\n```", text)
    shown = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert command is not None
    assert shown is not None
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command[1])[1:]
    assert program(*words).code == 0
    assert (tmp_path / words[-1]).read_text(encoding="utf-8") == shown[1]


def test_the_catalogues_page_names_every_thread_and_nothing_that_is_not_there() -> None:
    text = (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8")
    cases, planted = catalogue.cases(), mistakes.mistakes()
    sources = {source for case in cases.values() for source in case.sources}
    sources |= {source for one in planted.values() for source in one.sources}
    assert [source for source in sources if source not in text] == []
    table = text[text.index("## Published bugs") : text.index("Out of reach")]
    named = [name for line in table.splitlines()[4:] for name in re.findall(r"`([^`]+)`", line)]
    assert len(named) > 30
    assert [name for name in named if name not in cases and name not in planted] == []
    tags = re.findall(r"`(\w+)`", text[text.index("| tag |") : text.index("What `gradcheck explain`")])
    assert set(tags) == set(catalogue.tags())


def test_counts_are_true() -> None:
    readme, page, changes = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/catalogue.md", "CHANGELOG.md")
    )
    assert f"plants {len(mistakes.mistakes())} known mistakes" in readme
    assert f"{len(mistakes.mistakes())} mistakes on more than 100 cases" in page
    assert f"A catalogue of {len(catalogue.cases())} extreme cases" in changes


def test_the_detection_matrix_has_every_mistake() -> None:
    text = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
    assert [name for name in mistakes.mistakes() if f"| `{name}` |" not in text and f"| {name} |" not in text] == []


def test_the_action_runs_its_words_and_no_others(tmp_path: Path) -> None:
    action = (ROOT / "action.yml").read_text(encoding="utf-8")
    script = re.search(r"      run: \|\n((?:        .*\n)+)", action)
    assert script is not None
    command = re.sub(r"^        ", "", script[1], flags=re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": path, "ARGS": words}
        return subprocess.run(
            ["bash", "-e", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert run("stability --case plain-3").returncode == 0
    failed = run("stability --case overflow-sum --candidate naive")
    assert (failed.returncode, failed.stdout.startswith("::error title=")) == (1, True)
    assert run("stability --case plain-3; touch hacked $(touch hacked)").returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_changed_word_a_changed_value_and_a_changed_error_are_seen() -> None:
    shown = "fused  pass  row 0: 0.33475906 (reference 0.33475904983), ulp 0.35"
    assert alike(shown, shown)
    assert alike(shown, shown.replace("0.35", "1.2").replace("0.33475906", "0.33475908"))
    for wrong in (("pass", "fail"), ("0.33475906", "0.33475"), ("0.33475904983", "0.335759"), ("0.35", "35")):
        assert not alike(shown, shown.replace(*wrong))


if __name__ == "__main__":
    for path in DOCUMENTS:
        renew(path)
    options_page.renew()
