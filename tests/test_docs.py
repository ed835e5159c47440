"""What the documents show is true: commands are run and their outputs compared, code is executed, settings are read.

`python -m tests.test_docs` writes the outputs into the documents.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import catalogue, mistakes
from tests import options_page, pages, test_worked_examples
from tests.conftest import Program
from tests.pages import EXTENDING, ROOT, TUTORIAL, Block, alike

DOCUMENTS = [path for path in pages.PAGES if path not in (TUTORIAL, EXTENDING)]  # which have tests of their own
BLOCKS = [(path, block) for path in DOCUMENTS for block in pages.blocks(path.read_text(encoding="utf-8"))]

NOT_RUN = {
    # by .ci/run, in a fresh environment
    "pip install . && gradcheck stability",
    "pip install '.[test]' && pytest -n auto",
    # nothing is installed while tests run
    "pip install git+https://github.com/OWNER/gradcheck",
    "pip install 'gradcheck[dask,flint] @ git+https://github.com/OWNER/gradcheck'",
    # by tests/test_cluster.py, with an address that is there, and with a cluster that is watched until it has gone
    "dask scheduler",
    "dask worker tcp://HOST:8786 --nthreads 1 --nworkers 8",
    "gradcheck check dump.npz --scheduler tcp://HOST:8786",
    "gradcheck check dump.npz --scheduler local",
    # by test_the_picture_is_what_its_command_draws
    "gradcheck sweep --case saturated-gap-40 --dtype float64 --format svg --output docs/images/v-curve.svg",
}
"""Commands that are not run here, and where they are."""

FAILS = {
    # logsumexp is there to fail where the built-in form does not
    "gradcheck stability --tag offset --candidate logsumexp --report json=new.json --quiet --exit-zero": 0,
    "gradcheck report new.json --tolerance ulp:1e5 --report html=page.html": 1,
    "gradcheck report new.json --baseline old.json": 1,
}
"""Exit codes of the commands that do not just pass, or would not but for an option."""


def where(path: Path, block: Block) -> str:
    return f"{path.relative_to(ROOT)}:{block.line}"


def needs(command: str) -> str | None:
    """What a command asks for that may not be there."""
    if "torch" in re.sub(r"like=torch", "", command) or "zero_backward" in command:
        return "torch"
    return "cc" if re.search(r"\./kernel|\bcc\b", command) else None


def marks(need: str | None) -> list[pytest.MarkDecorator]:
    if need == "torch":
        return [pytest.mark.torch]
    return [pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")] if need == "cc" else []


SHOWN = [
    pytest.param(command, output, id=f"{where(path, block)} {command}")
    for path, block in BLOCKS
    if all(command.startswith("gradcheck ") and needs(command) is None for command, _ in block.shown)
    for command, output in block.shown
]
FOLLOWED = [
    pytest.param(block, marks=marks(needs(block.text)), id=where(path, block))
    for path, block in BLOCKS
    if any(not command.startswith("gradcheck ") or needs(command) for command, _ in block.shown)
]


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_documents_show_what_the_program_prints(
    command: str, output: str, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ran = program(*shlex.split(command)[1:])
    fails = re.search(r"\b[1-9]\d* failed|: fail,", output) and "--exit-zero" not in command
    assert ran.code == (1 if fails else 0), ran.err
    assert alike(output, ran.out), ran.out


@pytest.mark.parametrize("block", FOLLOWED)
def test_documents_show_what_a_shell_prints(block: Block, tmp_path: Path) -> None:
    if needs(block.text) == "torch":
        pytest.importorskip("torch", reason="the extra 'torch' is not installed")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for step in pages.follow(f"```\n{block.text}```\n", tmp_path):
        assert alike(step.shown, step.got), f"$ {step.command}\n{step.got}"
        assert step.code == 0 or (step.told and step.code == 1), f"$ {step.command}\nexits {step.code}"


MINE = """\
import numpy as np


def f(logits):
    wide = logits.astype(np.float64)
    e = np.exp(wide - wide.max())
    return (e / e.sum()).astype(logits.dtype)


def gradient(logits, labels):
    with np.errstate(all="ignore"):  # rows of NaN, which are nobody's fault
        p = np.stack([f(row) for row in logits])
    if labels.ndim == 1:
        p[np.arange(len(p)), labels] -= 1
        return p
    return p * labels.sum(axis=1, keepdims=True) - labels


def Loss(logits, labels):
    import torch

    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
"""
"""`mine.py`, of which the documents speak."""


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documents name."""
    folder = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    names: dict[str, Any] = {}
    exec(MINE, names)

    def save(name: str, rows: int, classes: int) -> tuple[Any, Any, Any]:
        logits, labels = rng.normal(size=(rows, classes)).astype(np.float32), rng.integers(classes, size=rows)
        gradient = names["gradient"](logits, labels)
        np.savez(folder / name, logits=logits, labels=labels, **({"gradient": gradient} if rows > 100 else {}))
        return logits, labels, gradient

    (folder / "mine.py").write_text(MINE)
    logits, labels, gradient = save("logits.npz", 6, 10)
    for name, array in (("logits", logits), ("labels", labels), ("gradient", gradient), ("mine", gradient)):
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "mean.npy", gradient / np.float32(6))
    smoothed = 0.9 * np.eye(10)[labels] + 0.1 / 10
    np.save(folder / "smoothed.npy", (names["gradient"](logits.astype(float), smoothed) / 6).astype(np.float32))

    logits, labels, gradient = save("dump.npz", 300, 10)
    ignored = np.arange(300) % 7 == 0
    gradient = np.where(ignored[:, None], 0, gradient) / np.float32(300 - ignored.sum())
    np.savez(folder / "step-1000.npz", logits=logits, labels=np.where(ignored, -100, labels), gradient=gradient)
    from safetensors.numpy import save_file

    save_file({"logits": logits, "labels": labels}, folder / "dump.safetensors")

    shutil.copytree(ROOT / "fixtures", folder / "fixtures")
    (folder / "tests" / "fixtures").mkdir(parents=True)
    shutil.copy(ROOT / "fixtures" / "real-magika-f32.gradcheck.toml", folder / "tests" / "fixtures")
    if compiler := shutil.which("cc"):
        subprocess.run([compiler, "-O2", "-o", folder / "kernel", ROOT / "examples" / "kernel.c", "-lm"], check=True)
    return folder


def sessions() -> list[Any]:
    """The commands of each block, in their order; what needs more than gradcheck apart."""
    found = []
    for path, block in BLOCKS:
        run = [command for command in block.commands if command not in NOT_RUN]
        for need in dict.fromkeys(map(needs, run)):
            chosen = [command for command in run if needs(command) == need]
            found.append(pytest.param(chosen, marks=marks(need), id=f"{where(path, block)} {need or ''}".strip()))
    return found


@pytest.mark.parametrize("commands", sessions())
def test_every_command_of_the_documents_runs(
    commands: list[str], desk: Path, tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "torch" in map(needs, commands):
        pytest.importorskip("torch", reason="the extra 'torch' is not installed")
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder)
    monkeypatch.chdir(folder)
    for command in commands:
        assert command.startswith("gradcheck "), f"{command}: neither run nor in NOT_RUN"
        ran = program(*shlex.split(command)[1:])
        assert ran.code == FAILS.get(command, 0), f"{command}\n{ran.out}{ran.err}"


def test_no_command_is_left_out_that_no_document_has() -> None:
    every = {command for _, block in BLOCKS for command in block.commands}
    assert NOT_RUN - every == set()
    assert FAILS.keys() - every == set()
    assert len(every - NOT_RUN) > 30


def test_every_block_is_looked_at() -> None:
    for path, block in BLOCKS:
        # bc: by test_accuracy.py
        assert block.shown or block.language in ("sh", "", "yaml", "toml", "python", "bc"), where(path, block)


GIVEN = """\
import numpy as np

logits = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
labels = np.arange(4)


def my_gradient(logits, labels, options=None):
    with np.errstate(all="ignore"):
        p = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
    y = np.eye(p.shape[1])[labels] if labels.ndim == 1 else labels
    smoothing = (options or {}).get("label_smoothing", 0)
    rows = len(p) if (options or {}).get("reduction") == "mean" else 1
    return ((p - (1 - smoothing) * y - smoothing / p.shape[1]) / rows).astype(logits.dtype)


"""
"""What the documents' Python presupposes."""


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=where(path, block)) for path, block in BLOCKS if block.language == "python"]
)
def test_the_documents_python_runs(block: Block, pytester: pytest.Pytester) -> None:
    if "def test_" not in block.text:
        exec(GIVEN + block.text, {"__name__": "document"})
        return
    pytester.makepyfile(GIVEN + block.text)
    outcomes = pytester.runpytest().parseoutcomes()
    assert outcomes.keys() == {"passed"}


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=where(path, block)) for path, block in BLOCKS if block.language == "toml"]
)
def test_the_documents_settings_are_accepted(
    block: Block, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tomllib.loads(block.text).get("tool", {}).get("gradcheck")
    if settings is None:
        return
    (tmp_path / "pyproject.toml").write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ran = program("check", "--case", "plain-3", "--format", "json", "--exit-zero")
    assert ran.code == 0, ran.err
    (result,) = json.loads(ran.out)["results"]
    assert result["tolerance"] == settings["tolerance"]
    assert result["reference"]["engine"] == settings["engine"]
    assert len(result["loss"]) == len(settings["loss"])


def test_the_examples_that_the_action_gives_run(desk: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    told = re.search(r"  args:\n    description: (.+)", (ROOT / "action.yml").read_text(encoding="utf-8"))
    assert told is not None
    _, *examples = re.findall("`([^`]+)`", told[1])
    assert len(examples) == 2
    for words in examples:
        assert program(*shlex.split(words), "--format", "github").code == 0


def test_the_pre_commit_hook_runs(desk: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    name, entry, files = (re.search(rf"{key}: (.+)", hooks) for key in ("- id", "entry", "files"))
    assert name is not None
    assert entry is not None
    assert files is not None
    assert f"hooks: [{{ id: {name[1]} }}]" in (ROOT / "docs" / "fixtures.md").read_text(encoding="utf-8")
    monkeypatch.chdir(desk)
    frozen = [str(path) for path in Path("tests").rglob("*") if re.search(files[1], path.name)]
    assert program(*entry[1].split()[1:], *frozen).code == 0
    assert frozen


def test_the_picture_is_what_its_command_draws(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (path,) = re.findall(r"!\[[^]]+\]\((.+)\)", readme)
    (command,) = (line for line in readme.splitlines() if line.startswith("gradcheck ") and line.endswith(path))
    (tmp_path / path).parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert program(*shlex.split(command)[1:]).code == 0
    shown, drawn = ((folder / path).read_text(encoding="utf-8") for folder in (ROOT, tmp_path))

    def told(text: str) -> list[str]:
        """The picture in words: its description, and what is written on it."""
        words = [
            node.text or "" for node in ET.fromstring(text).iter() if re.search("}(title|description|text)$", node.tag)
        ]
        # another version of matplotlib names itself, and may choose other ticks
        return [word for word in words if re.search("[a-z]{2}", word) and "Matplotlib" not in word]

    assert len(told(drawn)) > 8
    assert alike("\n".join(told(shown)), "\n".join(told(drawn)))
    version = re.compile(r"Matplotlib v[\d.]+")
    if version.findall(shown) == version.findall(drawn):
        assert alike(re.sub("[ML]", " ", shown), re.sub("[ML]", " ", drawn))


def test_the_readme_gives_the_detection_pages_figures() -> None:
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/detection.md"))
    head = "| checker | caught | missed | rejects all | too slow | right gradient rejected |"
    rows = [row for row in readme[readme.index(head) :].split("\n\n")[0].splitlines() if not row.startswith("|---")]
    # the page has one column more, its first
    there = {"|" + row.split("|", 2)[2] for row in page.splitlines() if row.startswith("| ")}
    assert len(rows) > 6
    assert [row for row in rows if row not in there] == []


def test_every_link_leads_somewhere() -> None:
    for path in pages.PAGES:
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            if link.startswith("https://"):
                continue
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), f"{path.name}: {link}"
            heads = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert not anchor or anchor in anchors, f"{path.name}: {link}"


def test_set_up_is_two_commands() -> None:
    # .ci/run runs them, in a fresh environment
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("\n## Set up\n") : readme.index("\n## Use\n")]
    assert len(re.findall("^pip install", section, re.MULTILINE)) == 2


def test_the_derivation_shows_every_step() -> None:
    from gradcheck.derivation import NAMES

    commands = [command for path, block in BLOCKS if path.name == "derivation.md" for command, _ in block.shown]
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
    quoted = run("stability --case 'saturated-gap-2*' --candidate \"shifted\" --dtype float32")
    assert (quoted.returncode, quoted.stdout.splitlines()[-1]) == (0, "1 result: 1 passed")
    unfinished = run("stability --case plain-3 'unfinished")
    assert (unfinished.returncode != 0, unfinished.stdout) == (True, "")
    assert not list(tmp_path.iterdir())


def test_a_changed_word_a_changed_value_and_a_changed_error_are_seen() -> None:
    shown = "fused  pass  row 0: 0.33475906 (reference 0.33475904983), ulp 0.35, rel 3.1e-08, in 2.31s"
    assert alike(shown, shown)
    assert alike(shown, shown.replace("0.35", "1.2").replace("0.33475906", "0.33475908"))
    assert alike(shown, shown.replace("3.1e-08", "5.9e-09").replace("2.31s", "17.02s"))
    for wrong in (
        ("pass", "fail"),
        ("0.33475906", "0.33475"),
        ("0.33475904983", "0.335759"),
        ("0.35", "35"),
        ("3.1e-08", "0.31"),
    ):
        assert not alike(shown, shown.replace(*wrong))


if __name__ == "__main__":
    for path in (path for path in pages.PAGES if path != EXTENDING):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "examples").symlink_to(ROOT / "examples")
            path.write_text(pages.renewed(path.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")
    test_worked_examples.renew()
    options_page.renew()
