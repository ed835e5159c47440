"""Settings in pyproject.toml: taken where a command has them, overridden by the command line, never code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Program


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of settings, in a folder above the current one."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    return tmp_path / "pyproject.toml"


def test_settings_are_taken_and_overridden(settings: Path, program: Program) -> None:
    settings.write_text(
        '[tool.gradcheck]\ntolerance = "ulp:4"\ndtype = "float64"\nloss = ["reduction=mean"]\n'
        'engine = "flint"\ngradient-dtype = "float32"\ntop = 1\n'
    )
    words = ["check", "--case", "plain-3", "--format", "json"]
    (result,) = json.loads(program(*words).out)["results"]
    found = [result[key] for key in ("tolerance", "dtype", "gradient_dtype", "loss")]
    assert found == ["ulp:4", "float64", "float32", {"reduction": "mean"}]
    assert result["reference"]["engine"] == "flint"
    assert len(result["top"]) == 1
    assert "--tolerance ulp:4" in result["again"]  # so that it says the same anywhere
    (result,) = json.loads(program(*words, "--dtype", "float16", "--tolerance", "stable", "--top", "0").out)["results"]
    assert [result[key] for key in ("tolerance", "dtype", "top")] == ["stable", "float16", []]
    # one value where a command takes many, and a command that has not all of them
    results = json.loads(program("stability", "--case", "plain-3", "--format", "json").out)["results"]
    assert [result["dtype"] for result in results] == ["float64"]
    assert program("sweep", "--case", "plain-3").code == 0
    assert program("explain").code == 0


def test_the_nearest_file_counts(settings: Path, program: Program) -> None:
    settings.write_text('[tool.gradcheck]\ntolerance = "ulp:4"\n')
    (settings.parent / "deep" / "pyproject.toml").write_text("[tool.other]\n")
    (result,) = json.loads(program("check", "--case", "plain-3", "--format", "json").out)["results"]
    assert result["tolerance"] == "stable"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('candidate = "mine.py:f"', "candidate would run code, which only the command line may ask for"),
        ('command = ["x {logits} {labels} {gradient}"]', "command would run code"),
        ('softmax = "mine.py:f"', "softmax would run code"),
        ('output = "/etc/passwd"', "output would write files"),
        ('report = ["json=x.json"]', "report would write files"),
        ('checkpoint = "/etc/passwd"', "checkpoint would write files"),
        ('scheduler = "local"', "scheduler would have others run code"),
        ("exit-zero = true", "exit-zero would hide what fails"),
        ('baseline = "results.json"', "baseline would hide what fails"),
        ("append = true", "append would write files"),
        ('gradient = "/run/secrets/token.csv"', "gradient would read files"),
        ('labels = "/run/secrets/token.csv"', "labels would read files"),
        ('loss = ["reduction=mean", "weight=/run/secrets/token.csv"]', "loss would read files"),
        ('result = "results.json"', "result would read files"),
        ('logits = "/run/secrets/token.csv"', "unknown option in [tool.gradcheck]"),
        ('paths = ["/"]', "unknown option in [tool.gradcheck]"),
        ("wxyz = 1", "'wxyz'; 'gradcheck COMMAND --help' lists them"),
        ("jobs = 100000", "'--jobs'"),
        (f"top = {'9' * 5000}", "cannot be read as TOML"),
        (f"a{'.a' * 64} = 1", "line 2 has a key of more than 64 parts"),
        ('tolerence = "ulp:4"', "'tolerence'; did you mean 'tolerance'?"),
        ("tolerance = {a = 1}", "tolerance is neither text, a number"),
        ("tolerance =", "cannot be read as TOML"),
        ('tolerance = "x"', "unknown tolerance 'x'"),
        ('top = "many"', "'--top'"),
    ],
)
def test_settings_that_are_refused(line: str, said: str, settings: Path, program: Program) -> None:
    settings.write_text(f"[tool.gradcheck]\n{line}\n")
    ran = program("check", "--case", "plain-3")
    assert ran.code == 2
    assert said in ran.err
    assert program("--version").code == 0


@pytest.mark.parametrize("line", ['labels = "argmax"', "labels = 1", 'loss = ["weight=1,2,3", "reduction=mean"]'])
def test_what_names_no_file_may_stand_there(line: str, settings: Path, program: Program) -> None:
    settings.write_text(f"[tool.gradcheck]\n{line}\n")
    assert program("check", "--case", "plain-3").code == 0


def test_a_file_of_settings_has_an_end(settings: Path, program: Program) -> None:
    settings.write_text("#" * (1 << 24) + "#")
    ran = program("explain")
    assert ran.code == 2
    assert "pyproject.toml: is longer than the 16 MiB that are read" in ran.err
