"""docs/accuracy.md is what `benchmarks/accuracy.py` makes of saved reports, and its numbers are found again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Program
from tests.pages import ROOT, alike

PAGE = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
BY_HAND = re.findall(
    r"`(\w+)` at `([\w-]+)` in (\w+): (\S+) ulp.*?```bc\n(.*?)```\n\nprints (\S+)\.\n", PAGE, re.DOTALL
)


def lines(page: str, name: str) -> list[list[str]]:
    """The lines of the tables whose first column has this name, as cells."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
        found += rows if head[0] == name else []
    return found


def columns(page: str, name: str, row: str) -> dict[str, str]:
    """A line of a table, by the names above it."""
    head = re.search(rf"^\| {name} \|(( `\w+` \|)+)$", page, re.MULTILINE)
    assert head is not None
    (cells,) = (cells for first, *cells in lines(page, name) if first == row)
    return dict(zip(re.findall(r"\w+", head[1]), cells, strict=True))


def made(folder: Path) -> str:
    """The page of the report that is saved there."""
    words = [sys.executable, str(ROOT / "benchmarks" / "accuracy.py"), "saved.json"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout


def save(program: Program, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> None:
    monkeypatch.chdir(folder)
    ran = program("stability", *words, "--engine", "flint", "--exit-zero", "--quiet", "--report", "json=saved.json")
    assert ran.code == 0, ran.err


def test_what_a_report_says_is_what_the_page_shows(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cases = [word for name in ("plain-3", "overflow-*", "temperature-*") for word in ("--case", name)]
    save(program, monkeypatch, tmp_path, *cases, "--candidate", "shifted", "--candidate", "naive", "--dtype", "float32")
    page = made(tmp_path)
    assert [cells[:2] for cells in lines(page, "float32")[:2]] == [["`shifted`", "6 of 6"], ["`naive`", "3 of 6"]]
    assert columns(page, "float32", "overflow")["naive"] == "**3 of 3**"
    (failed,) = lines(page, "")
    assert failed[:2] == ["`naive`", "overflow-unshifted"]
    assert failed[2].startswith("`overflow-boundary`, `overflow-sum`, `overflow-beyond`")
    assert failed[3:] == ["all", "not finite"]
    assert "**Who does not shift**: `naive`." in page
    assert "**Who flushes subnormals**, and so returns 0 where a subnormal gradient is due: none of them." in page


def test_the_built_in_forms_are_what_the_page_says(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names, families = ("compensated", "shifted", "logsumexp", "naive"), ("offset", "overflow", "underflow")
    words = [word for name in names for word in ("--candidate", name)]
    words += [word for family in families for word in ("--tag", family)]
    save(program, monkeypatch, tmp_path, *words, "--dtype", "float32", "--dtype", "float64")
    page = made(tmp_path)
    for dtype in ("float32", "float64"):
        for family in families:
            shown, found = columns(PAGE, dtype, family), columns(page, dtype, family)
            assert all(alike(shown[name], found[name]) for name in names), (dtype, family)


def test_every_case_of_the_page_is_in_the_catalogue() -> None:
    from gradcheck import catalogue
    from gradcheck.diagnosis import CAUSES

    families = {cells[0] for cells in lines(PAGE, "float32") if "`" not in cells[0]}
    assert families == {case.phenomenon for case in catalogue.select()}
    causes = {cells[1] for cells in lines(PAGE, "")}
    assert causes
    assert causes <= set(CAUSES)


@pytest.mark.skipif(shutil.which("bc") is None, reason="no bc")
@pytest.mark.parametrize(("candidate", "case", "dtype", "ulp", "program_of_bc", "printed"), BY_HAND)
def test_bc_finds_the_errors_again(
    candidate: str, case: str, dtype: str, ulp: str, program_of_bc: str, printed: str
) -> None:
    ran = subprocess.run(["bc", "-lq"], input=program_of_bc, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == printed
    assert abs(float(printed)) == pytest.approx(float(ulp), rel=2e-3), (candidate, case, dtype)


def test_the_three_lines_lose_nothing(program: Program) -> None:
    lines = re.findall(r"^  (true = .*|p\[true\] = 0)$", PAGE, re.MULTILINE)
    example = (ROOT / "examples" / "three_lines.py").read_text(encoding="utf-8")
    assert len(lines) == 2
    assert [line for line in lines if line not in example] == []
    words = ["check", "--case", "saturated-gap-20", "--tolerance", "ulp:4", "--candidate"]
    assert program(*words, f"{ROOT}/examples/three_lines.py:gradient").code == 0
    assert program(*words, "shifted").code == 1


def test_three_numbers_are_checked_by_hand() -> None:
    assert len(BY_HAND) == 3
