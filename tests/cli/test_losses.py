"""Loss options on the command line: where their arrays come from, how axes are laid out, what goes into fixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gradcheck import candidates
from gradcheck.formats import named
from tests.conftest import SOUND, Program, make_problem

WEIGHT, MASK, UPSTREAM = [1.0, 2.0, 0.5, 4.0], [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1]], [0.5, -1.0, 3.0]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An archive with everything, and files of their own, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {
        "logits": rng.normal(size=(3, 4)).astype(np.float32),
        "labels": np.array([0, 1, 2]),
        "weights": np.array(WEIGHT),
        "keep": np.array(MASK, dtype=np.bool_),
        "above": np.array(UPSTREAM),
    }
    np.savez(tmp_path / "x.npz", **found)
    np.save(tmp_path / "w.npy", found["weights"])
    (tmp_path / "w.csv").write_text("1\n2\n0.5\n4\n")
    (tmp_path / "w.json").write_text('["1", 2, 0.5, 4.0]')
    (tmp_path / "m.csv").write_text("1,1,1,0\n1,1,1,1\n1,0,1,1\n")
    np.savez(tmp_path / "both.npz", weight=found["weights"], other=np.zeros(3))
    return found


def answer(found: dict[str, Any], options: list[str]) -> Any:
    """The gradient that is due, by a sound form on the same problem with its arrays written out."""
    problem = make_problem(found["logits"], found["labels"], "float32", options)
    return candidates.load("wide").gradient(problem)


@pytest.mark.parametrize(
    ("given", "in_full"),
    [
        ("weight=1,2,0.5,4", "weight=1,2,0.5,4"),
        ("weight=@weights", "weight=1,2,0.5,4"),
        ("weight=w.npy", "weight=1,2,0.5,4"),
        ("weight=w.csv", "weight=1,2,0.5,4"),
        ("weight=w.json", "weight=1,2,0.5,4"),
        ("weight=both.npz", "weight=1,2,0.5,4"),
        ("mask=@keep", "mask=1,1,1,0;1,1,1,1;1,0,1,1"),
        ("mask=m.csv", "mask=1,1,1,0;1,1,1,1;1,0,1,1"),
        ("upstream=@above", "upstream=0.5,-1,3"),
    ],
)
def test_where_an_array_may_stand(saved: dict[str, Any], given: str, in_full: str, program: Program) -> None:
    np.save("g.npy", answer(saved, [in_full, "reduction=mean"]))
    ran = program("check", "x.npz", "--loss", given, "--loss", "reduction=mean", "--gradient", "g.npy")
    assert ran.code == 0, ran.out
    wrong = program("check", "x.npz", "--loss", "reduction=mean", "--gradient", "g.npy")
    assert wrong.code == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("weight=@nothing", "x.npz: holds no array named 'nothing'"),
        ("weight=nothing.npy", "--loss weight: nothing.npy: No such file"),
        ("weight=m.csv", "weight has shape (3, 4); logits of 4 classes need (4,)"),
        ("mask=w.npy", "mask holds numbers that are neither 0 nor 1"),
        ("weight=", "--loss weight: a list of numbers, a file or @NAME is expected"),
        ("reduction=", "reduction is one of none, sum, mean"),
    ],
)
def test_where_none_stands(saved: dict[str, Any], given: str, said: str, program: Program) -> None:
    ran = program("check", "x.npz", "--loss", given)
    assert ran.code == 2
    assert said in ran.err


def test_weights_in_the_file_are_taken_and_told(saved: dict[str, Any], program: Program) -> None:
    np.savez("w.npz", logits=saved["logits"], labels=saved["labels"], weight=saved["weights"])
    np.save("g.npy", answer(saved, ["weight=1,2,0.5,4"]))
    ran = program("check", "w.npz", "--gradient", "g.npy")
    assert ran.code == 0
    assert "'weight' holds class weights" in ran.out
    assert program("check", "w.npz", "--gradient", "g.npy", "--loss", "weight=1,1,1,1").code == 1


@pytest.mark.parametrize("as_bits", [True, False])
def test_weights_in_bfloat16(as_bits: bool, tmp_path: Path, program: Program) -> None:
    logits = np.array([[1.0, 2.0, -1.0]]).astype(ml_dtypes.bfloat16)
    weight = np.array([0.5, 2.0, 1.0]).astype(ml_dtypes.bfloat16)
    problem = make_problem([[1.0, 2.0, -1.0]], [1], "bfloat16", ["weight=0.5,2,1"])
    gradient = candidates.load("wide").gradient(problem)
    kind = np.uint16 if as_bits else "V2"
    path = tmp_path / "b.npz"
    np.savez(path, logits=logits.view(kind), labels=[1], weight=weight.view(kind), gradient=gradient.view(kind))
    ran = program("check", str(path), "--dtype", "bfloat16", "--gradient-dtype", "bfloat16")
    assert ran.code == 0, ran.out + ran.err
    np.savez(path, logits=np.ones((1, 3), dtype=np.float32), labels=[1], weight=weight.view(kind))
    ran = program("check", str(path))
    assert ran.code == 2
    assert "weight: the numbers are" in ran.err


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("soft", [True, False])
def test_axes(axis: int, soft: bool, tmp_path: Path, program: Program) -> None:
    """Three axes, with labels, gradient, mask and upstream laid out alike."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2, 5, 3)).astype(np.float32)  # classes last
    labels = rng.dirichlet(np.ones(3), size=(2, 5)).astype(np.float32) if soft else rng.integers(0, 2, size=(2, 5))
    mask = np.ones((2, 5, 3), dtype=np.bool_)
    mask[0, :, 2] = False
    above = rng.normal(size=(2, 5)).astype(np.float32)
    options = [
        "mask=" + ";".join(",".join(str(int(x)) for x in row) for row in mask.reshape(10, 3)),
        "upstream=" + ",".join(repr(float(x)) for x in above.ravel()),
    ]
    flat = labels.reshape(10, 3) if soft else labels.reshape(10)
    gradient = candidates.load("wide").gradient(make_problem(rows.reshape(10, 3), flat, "float32", options))

    def laid(array: Any) -> Any:
        return np.ascontiguousarray(np.moveaxis(array, -1, axis))

    path = tmp_path / "a.npz"
    np.savez(
        path,
        logits=laid(rows),
        labels=laid(labels) if soft else labels,
        gradient=laid(gradient.reshape(2, 5, 3)),
        keep=laid(mask),
        above=above,
    )
    words = ["check", str(path), "--loss", "mask=@keep", "--loss", "upstream=@above"]
    assert program(*words, "--axis", str(axis)).code == 0
    assert program(*words, "--loss", f"axis={axis}").code == 0
    ran = program(*words)
    assert ran.code == 2
    assert "say which axis holds the classes, --axis 1" in ran.err
    assert "no axis 7" in program(*words, "--axis", "7").err


def test_rows_and_samples_take_their_part_of_the_arrays(saved: dict[str, Any], program: Program) -> None:
    options = ["--loss", "upstream=@above", "--loss", "mask=@keep", "--loss", "reduction=mean"]
    np.save("g.npy", answer(saved, ["upstream=0.5,-1,3", "mask=1,1,1,0;1,1,1,1;1,0,1,1", "reduction=mean"]))
    for part in (["--rows", "1:3"], ["--sample", "2"]):
        assert program("check", "x.npz", *options, *part, "--gradient", "g.npy").code == 0
        assert program("check", "x.npz", *options, *part).code == 0


def test_fixtures_hold_the_arrays_of_their_rows(saved: dict[str, Any], program: Program) -> None:
    options = ["--loss", "upstream=@above", "--loss", "mask=@keep", "--loss", "weight=w.npy", "--loss", "like=torch"]
    ran = program("fixtures", "record", "x.npz", *options, "--rows", "1:3", "-o", "f.gradcheck.toml")
    assert ran.code == 0, ran.err
    assert 'upstream = "-1.0,3.0"' in Path("f.gradcheck.toml").read_text()
    assert program("fixtures", "verify", "f.gradcheck.toml", "--deep").code == 0


def test_fixtures_of_failing_rows(saved: dict[str, Any], program: Program) -> None:
    np.save("g.npy", np.zeros((3, 4), dtype=np.float32))
    words = ["check", "x.npz", "--loss", "upstream=@above", "--loss", "mask=@keep", "--gradient", "g.npy"]
    assert program(*words, "--report", "json=r.json").code == 1
    ran = program("fixtures", "record", "--result", "r.json", "-o", "f.gradcheck.toml")
    assert ran.code == 0, ran.err
    np.savez("a.npz", logits=np.zeros((2, 4, 3), dtype=np.float32), labels=np.zeros((2, 3), dtype=int),
             gradient=np.zeros((2, 4, 3), dtype=np.float32))  # fmt: skip
    assert program("check", "a.npz", "--axis", "1", "--report", "json=r.json").code == 1
    ran = program("fixtures", "record", "--result", "r.json", "-o", "f2.gradcheck.toml")
    assert ran.code == 0, ran.err
    assert program("fixtures", "verify", "f2.gradcheck.toml", "--deep").code == 0


def test_a_library_s_ignored_label_that_no_row_has_is_no_option(saved: dict[str, Any], program: Program) -> None:
    Path("mine.py").write_text(SOUND)
    assert program("check", "x.npz", "--loss", "like=torch", "--candidate", "mine.py:f").code == 0
    ran = program("check", "x.npz", "--loss", "ignore_index=1", "--candidate", "mine.py:f")
    assert ran.code == 2
    assert "takes no loss options" in ran.out


def test_a_row_of_loss_options_in_every_report(saved: dict[str, Any], program: Program) -> None:
    ran = program("check", "x.npz", "--loss", "weight=@weights", "--loss", "like=liger", "--format", "json")
    (result,) = json.loads(ran.out)["results"]
    assert result["loss"]["weight"] == "@weights"
    assert result["loss"]["empty"] == "zero-if-ignored"
    assert named("float32").name == result["dtype"]
    for words in (["sweep", "x.npz"], ["derive", "x.npz"]):
        ran = program(*words, "--loss", "softcap=30", "--loss", "z_loss=0.1")
        assert ran.code == (0 if words[0] == "sweep" else 2)
    assert "the derivation is that of plain cross-entropy, not with softcap, z_loss" in ran.err
