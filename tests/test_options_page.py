"""The list of options in docs/cli.md is what the commands take, and says so of each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradcheck import files, report
from gradcheck.formats import FORMATS
from gradcheck.report import _derivation, _sweep
from tests import options_page

TEXT = options_page.PAGE.read_text(encoding="utf-8")


def test_the_page_lists_what_the_commands_take() -> None:
    assert options_page.with_part(TEXT, options_page.generated()) == TEXT, "python -m tests.test_docs renews it"


def test_every_command_and_every_option_is_there() -> None:
    sections = dict(re.findall(r"^### (.*)\n((?:(?!### ).*\n)*)", options_page.generated(), re.MULTILINE))
    assert list(sections) == [name for name, _, _ in options_page.commands()]
    for name, command, _ in options_page.commands():
        rows = re.findall(r"^\| `.*", sections[name], re.MULTILINE)
        assert len(rows) == len(options_page.parameters(command))
        for one in options_page.parameters(command):
            word = one.opts[0] if one.param_type_name == "option" else str(one.metavar or one.name.upper())
            begins = re.compile(rf"\| `\[?{re.escape(word)}[], `]")
            assert len([row for row in rows if begins.match(row)]) == 1, f"{name} {word}"
            assert one.help, f"{name} {word} says nothing of itself"


@pytest.mark.parametrize(
    ("begins", "names"),
    [
        ("| `--input-format NAME`", files.names()),
        ("Check candidates on logits from a file: ", [f".{name}" for name in files.names()]),
        ("| `--output, -o FILE` |  | Where to: ", [f".{name}" for name in files.names()]),
        ("| `--exchange FORMAT`", files.exchanged()),
        ("| `--format FORMAT` |  | table, concise, markdown, csv, json, jsonl", report.names()),
        ("| `--format FORMAT` |  | table, concise, markdown, csv, json, html", _sweep.NAMES),
        ("| `--show STEP` |", _derivation.NAMES),
        ("| `--dtype DTYPE`", list(FORMATS)),
    ],
)
def test_help_names_every_format(begins: str, names: list[str]) -> None:
    """By hand, because `--help` imports nothing that knows them."""
    lines = [line for line in options_page.generated().splitlines() if line.startswith(begins)]
    assert lines, begins
    for line in lines:
        assert [name for name in names if not re.search(rf"{re.escape(name)}\b", line)] == [], line


def test_the_table_of_commands_names_them_all() -> None:
    table = TEXT[: TEXT.index("## Input")]
    for name, command, _ in options_page.commands()[1:]:
        group, _, leaf = name.rpartition(" ")
        assert hasattr(command, "commands") or f"`{name}" in table or (f"`{group}" in table and leaf in table), name


def test_a_word_that_is_not_the_programs_is_seen(tmp_path: Path) -> None:
    for wrong in (
        ("`auto`", "`none`"),
        ("--exit-zero", "--exit-one"),
        ("GLOB` …", "GLOB`"),
        ("Exit 0 whatever", "Exit 1 where"),
    ):
        page = tmp_path / "cli.md"
        page.write_text(TEXT.replace(*wrong), encoding="utf-8")
        assert page.read_text(encoding="utf-8") != TEXT, wrong
        options_page.renew(page)
        assert page.read_text(encoding="utf-8") == TEXT


def test_a_page_without_the_place_for_them_is_refused() -> None:
    for mark in (options_page.BEGIN, options_page.END):
        with pytest.raises(AssertionError):
            options_page.with_part(TEXT.replace(mark, ""), "")


def test_they_do_not_depend_on_the_terminal() -> None:
    environment = {
        **os.environ,
        "COLUMNS": "40",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    code = "from tests import options_page; print(options_page.generated(), end='')"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert ran.stdout == options_page.generated()
