"""Reports for CI systems, and baselines."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from junitparser import JUnitXml

from gradcheck.report import github
from tests.conftest import Program


def test_junit_is_read_by_junitparser(program: Program, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    words = ["--candidate", "naive", "--candidate", "shifted", "--report", f"json={saved}"]
    out = program("stability", *words, "--format", "junit").out
    xml = JUnitXml.fromfile(io.BytesIO(out.encode()))
    names = [(case.classname, case.name) for suite in xml for case in suite]
    assert len(names) == len(set(names)) == xml.tests
    known = json.loads(saved.read_text())
    assert (xml.failures, xml.errors) == (known["summary"]["fail"], 0)


def test_hostile_names_and_repeated_ones(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m<b>&\"'\x07.json"
    path.write_text('{"logits": [[1, 2]], "labels": [0], "gradient": [[5, "nan"]]}')
    words = ["check", str(path), "--candidate", "naive", "--candidate", "naive"]
    out = program(*words, "--format", "junit").out
    tree = ElementTree.fromstring(out)
    cases = [case.attrib["name"] for case in tree.iter("testcase")]
    assert len(set(cases)) == 3
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", out)
    annotated = program(*words, "--format", "github").out
    assert "\x1b" not in annotated
    assert all(line.startswith("::error title=") for line in annotated.splitlines()[:-1])


def test_annotations_are_capped_and_the_worst_come_first(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    ran = program("stability", "--candidate", "logsumexp", "--format", "github")
    lines = ran.out.splitlines()
    assert ran.code == 1
    assert len([line for line in lines if line.startswith("::")]) == github.MOST
    assert re.match(r"\d+ more are in the report", lines[github.MOST])
    assert "%0Aagain: gradcheck check --case" in lines[0]
    assert summary.read_text().startswith("| case |")
    program("stability", "--case", "plain-3", "--format", "github")
    assert summary.read_text().count("| case |") == 2  # other steps' summaries stay


def test_a_baseline_lets_known_failures_be(program: Program, tmp_path: Path) -> None:
    saved = tmp_path / "r.json"
    words = ["stability", "--case", "overflow-*", "--candidate", "naive"]
    assert program(*words, "--report", f"json={saved}").code == 1
    ran = program(*words, "--baseline", str(saved))
    assert ran.code == 0
    assert "6 failed, 6 of them known from the baseline" in ran.out
    assert "fail (known)" in ran.out
    assert all(
        result["known"]
        for result in json.loads(program(*words, "--baseline", str(saved), "--format", "json").out)["results"]
    )
    # another candidate, another case, another rule: not known
    assert program(*words, "--candidate", "logsumexp", "--case", "offset-*", "--baseline", str(saved)).code == 1
    assert program(*words, "--tolerance", "ulp:1", "--baseline", str(saved)).code == 1
    # one that got worse by more than a hundredth is not, and one that got better is
    record = json.loads(saved.read_text())
    for result in record["results"]:
        if result["case"] == "overflow-sum":
            result["worst"]["of_limit"] *= 0.9
    saved.write_text(json.dumps(record))
    ran = program(*words, "--baseline", str(saved))
    assert (ran.code, ran.out.count("fail (known)")) == (1, 4)
    for result in record["results"]:
        if result["case"] == "overflow-sum":
            result["worst"]["of_limit"] *= 2
    saved.write_text(json.dumps(record))
    assert program(*words, "--baseline", str(saved)).code == 0
    out = program(*words, "--baseline", str(saved), "--format", "junit").out
    assert JUnitXml.fromfile(io.BytesIO(out.encode())).skipped == 6


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"results": 3}',
        '{"results": [{}], "schema_version": 1}',
        '{"results": [], "schema_version": 9}',
    ],
)
def test_what_is_no_baseline(content: str, program: Program, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    ran = program("stability", "--case", "plain-3", "--baseline", str(path))
    assert (ran.code, ran.out) == (2, "")
    assert str(path) in ran.err
    assert program("stability", "--case", "plain-3", "--baseline", str(tmp_path / "no.json")).code == 2


def test_a_baseline_excuses_neither_other_problems_nor_frozen_values(program: Program, tmp_path: Path) -> None:
    saved = tmp_path / "r.json"
    words = ["check", "--generate", "normal", "--candidate", "naive", "--tolerance", "ulp:0"]
    assert program(*words, "--report", f"json={saved}").code == 1
    assert program(*words, "--baseline", str(saved)).code == 0
    assert program(*words, "--labels", "argmin", "--baseline", str(saved)).code == 1
    assert program(*words, "--scale", "2", "--baseline", str(saved)).code == 1
    path = tmp_path / "x.gradcheck.toml"
    assert program("fixtures", "record", "--case", "plain-3", "-o", str(path)).code == 0
    path.write_text(path.read_text().replace('"0.2447', '"0.2547'))
    assert program("fixtures", "verify", str(path), "--report", f"json={saved}").code == 1
    assert program("fixtures", "verify", str(path), "--baseline", str(saved)).code == 1
    crash = tmp_path / "crash.py"
    crash.write_text("def f(logits, labels): raise ValueError('one')\n")
    words = ["check", "--case", "plain-3", "--candidate", f"{crash}:f"]
    assert program(*words, "--report", f"json={saved}").code == 2
    assert program(*words, "--baseline", str(saved)).code == 0
    crash.write_text("def f(logits, labels): raise RuntimeError('two')\n")
    assert program(*words, "--baseline", str(saved)).code == 2
