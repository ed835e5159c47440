"""The project's own papers: what they say of version, licence and files is so, and others can read them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gradcheck

ROOT = Path(__file__).parent.parent
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
REPORT = "--report json=report.json"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def read(content: str) -> Any:
    """What a YAML file holds; the extra 'test' brings PyYAML by way of distributed."""
    return pytest.importorskip("yaml").safe_load(content)


def test_the_citation_is_of_this_version_and_licence() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    said = dict(re.findall(r"^([a-z-]+): (.+)$", text("CITATION.cff"), re.MULTILINE))
    assert said["cff-version"] == "1.2.0"
    assert said["type"] == "software"
    assert (said["title"], said["version"], said["license"]) == (
        project["name"],
        gradcheck.__version__,
        project["license"],
    )


def test_the_citation_is_yaml() -> None:
    citation = read(text("CITATION.cff"))
    assert set(citation) >= {"cff-version", "message", "title", "authors"}  # what version 1.2.0 asks for
    assert citation["authors"] == [{"name": "The gradcheck developers"}]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_is_one(path: Path) -> None:
    form = read(path.read_text(encoding="utf-8"))
    assert set(form) == {"name", "description", "labels", "body"}
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] == "textarea"
        assert field["attributes"]["label"]
    assert REPORT in path.read_text(encoding="utf-8").replace("\n        ", " ")


def test_a_wrong_verdict_comes_with_its_report_and_versions() -> None:
    assert len(FORMS) == 3
    for name in ("wrong-verdict", "false-alarm"):
        form = read(text(f".github/ISSUE_TEMPLATE/{name}.yml"))
        due = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
        assert due >= {"command", "report", "versions"}
    assert REPORT in text("CONTRIBUTING.md")


def test_the_guide_links_to_what_is_there() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", text("CONTRIBUTING.md"))
    assert linked
    assert [name for name in linked if not (ROOT / name).is_file()] == []


def test_the_makefile_runs_what_is_there() -> None:
    makefile, guide = text("Makefile"), text("CONTRIBUTING.md")
    targets = set(re.findall(r"^([a-z]+):(?: .*)?$", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets
    assert {"check", "lint", "test", "docs"} <= set(re.findall(r"make (\w+)", guide)) <= targets
    if (ROOT / ".ci").is_dir():  # which the sdist leaves out
        for script in re.findall(r"^\t(\.ci/\w+)$", makefile, re.MULTILINE):
            assert (ROOT / script).stat().st_mode & 0o111, script


def test_the_hooks_use_what_is_installed() -> None:
    config = read(text(".pre-commit-config.yaml"))
    assert [one["repo"] for one in config["repos"]] == ["local"]
    hooks = {hook["id"]: hook for hook in config["repos"][0]["hooks"]}
    assert {"ruff-format", "ruff-check", "mypy"} <= set(hooks)
    assert {hook["language"] for hook in hooks.values()} == {"system"}
