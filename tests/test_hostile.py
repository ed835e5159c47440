"""What other people's files must not do: take what is not there, reach what is not theirs, speak to a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import distributions, files, fixtures, formats, losses, reading, stored
from gradcheck.exceptions import InputError, UsageError
from tests.conftest import SOUND, Program

HOSTILE = (
    "\x1b[31m",
    "a\n::error::x",
    "\u202egnp",
    "\x9b2J",
    "\x00",
    "\u2028",
    "%0A::error::x",
    "<script>alert(1)</script>",
)


def sparse(path: Path, shape: tuple[int, ...]) -> Path:
    """A file of float32 zeros that takes no room, of whatever size its header says."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        stream.truncate(stream.tell() + 4 * int(np.prod(shape, dtype=object)))
    return path


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with so much memory left."""
    monkeypatch.setattr(reading, "available", lambda: 1 << 30)


def test_what_is_free_is_known() -> None:
    there = reading.available()
    assert there is None or there > 1 << 24


@pytest.mark.usefixtures("gibibyte")
@pytest.mark.parametrize("shape", [(1 << 31, 1), (1, 1 << 31)])
def test_rows_and_classes_that_no_memory_holds(shape: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"would take .* GiB of memory, and there are 1 GiB"):
        files.load(str(sparse(tmp_path / "x.npy", shape)))


@pytest.mark.usefixtures("gibibyte")
def test_a_large_file_of_which_a_part_is_looked_at_is_read(tmp_path: Path) -> None:
    assert files.load(str(sparse(tmp_path / "x.npy", (1 << 20, 1 << 10)))).logits[:1].shape == (1, 1 << 10)


@pytest.mark.usefixtures("gibibyte")
def test_no_array_is_larger_than_the_logits(tmp_path: Path) -> None:
    layout = files.Layout.of((2, 3))
    path = str(sparse(tmp_path / "weight.npy", (1 << 33,)))
    with pytest.raises(InputError, match=r"weight has shape .*, the logits \(2, 3\)"):
        files.load_other(path, "weight", layout, formats.named("float32"))


@pytest.mark.usefixtures("gibibyte")
@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl"])
def test_a_text_that_no_memory_holds(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    path.touch()
    os.truncate(path, 1 << 30)
    with pytest.raises(InputError, match="the text would take 3 GiB of memory"):
        files.load(str(path))


def test_numbers_of_a_text_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "available", lambda: 1 << 28)
    path = tmp_path / "x.csv"
    path.write_text("1," * (2 << 20))
    with pytest.raises(InputError, match="a text of up to 2,097,152 numbers would take"):
        files.load(str(path))


@pytest.mark.usefixtures("gibibyte")
def test_logits_are_drawn_where_there_is_room() -> None:
    with pytest.raises(InputError, match="would take 4 GiB of memory"):
        distributions.generate("normal", rows=1, classes=10**8, scale=1, seed=0, fmt=formats.named("float32"))


def test_a_disk_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks() -> Any:
        raise AssertionError("nothing is unpacked")
        yield b""

    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match=r"it takes 11 bytes, and 10 are free.*TMPDIR"):
        stored.unpack(blocks(), 11, "x.npz")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "json", "safetensors"])
def test_a_device_has_an_end(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.stream_of, "__defaults__", (1 << 21,))
    with pytest.raises(InputError, match=r"/dev/zero: is longer than the 2 MiB that are read"):
        files.load("/dev/zero", input_format=suffix)


def test_a_key_that_is_there_twice_is_found_in_no_time(tmp_path: Path) -> None:
    keys = ", ".join(f'"k{number}": 0' for number in range(50_000))
    path = tmp_path / "x.json"
    path.write_text(f'{{{keys}, "k49999": 1}}')
    start = time.monotonic()
    with pytest.raises(InputError, match="names the key 'k49999' twice"):
        files.load(str(path))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("key", ["a" + " . a" * 64, '"a".' * 64 + "a", "'a b'.a-_." * 40 + "a"])
def test_a_key_of_very_many_parts(key: str) -> None:
    with pytest.raises(ValueError, match="line 2 has a key of more than 64 parts"):
        reading.toml(f"# {'a' * 10_000}\n{key} = 1")


@pytest.mark.parametrize("text", ["# {}", "a = 1 # {}", '"\\"" = 1 # {}', "b = '#' # {}"])
def test_a_comment_is_no_key(text: str) -> None:
    parts = ".".join(map(str, range(90)))
    reading.toml(text.format(parts))
    with pytest.raises(ValueError, match="more than 64 parts"):
        reading.toml(f"{text.format('')}\nc = {{'#' = 1, {parts} = 1}}")


@pytest.mark.parametrize("before", ["'''\n # '''", '"""\n \\""" # """'])
def test_text_of_many_lines_hides_no_key(before: str) -> None:
    parts = ".".join(map(str, range(90)))
    with pytest.raises(ValueError, match="line 2 has a key of more than 64 parts"):
        reading.toml(f"x = {{s = {before}, {parts} = 1}}")


def test_a_comment_is_passed_over_once() -> None:
    """Looked at again for each of what stands in it, this one took minutes."""
    parts = ".".join(map(str, range(90)))
    assert reading.toml(f"# {f'{parts} ' * 20_000}\na = 1") == {"a": 1}


def test_a_key_of_some_parts() -> None:
    assert reading.toml('a.b."c.d" = "1.2.3"') == {"a": {"b": {"c.d": "1.2.3"}}}


def test_an_upstream_past_float64() -> None:
    (option,) = losses.parse(["upstream=-1e999"])
    with pytest.raises(InputError, match="upstream of more than 1e300 is neither 0 nor of a size"):
        option.argument(formats.named("float32"))


def test_a_saved_report_with_two_verdicts(tmp_path: Path, program: Program) -> None:
    saved = tmp_path / "results.json"
    saved.write_text('{"schema_version": 1, "results": [{"verdict": "fail", "verdict": "pass"}]}')
    ran = program("report", str(saved))
    assert ran.code == 2
    assert "names the key 'verdict' twice" in ran.err


# --- fixtures ------------------------------------------------------------------------------------------------------


def entry(folder: Path, **keys: str) -> Path:
    """A fixture file with one entry; every value is TOML."""
    held = {"name": '"x"', "format": '"float32"'} | keys
    path = folder / "x.gradcheck.toml"
    lines = [f"{key} = {value}" for key, value in held.items()]
    path.write_text("\n".join(["schema_version = 1", "entries = 1", "[[fixture]]", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "name", [r"'..\x.npz'", r"'C:\x.npz'", "'C:x.npz'", r"'\\host\x.npz'", r'"x\u0000.npz"', "'/x.npz'", "'../x.npz'"]
)
def test_arrays_are_in_the_folder_of_their_fixture(name: str, tmp_path: Path) -> None:
    path = entry(tmp_path, arrays=f'{{file = {name}, sha256 = "{"0" * 64}"}}')
    with pytest.raises(InputError, match=r"no .npz file in the fixture's own folder"):
        fixtures.load(path)


def test_no_link_leads_out_of_the_folder_of_a_fixture(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside.npz").write_bytes(b"secret")
    (tmp_path / "inside" / "x.npz").symlink_to(tmp_path / "outside.npz")
    path = entry(tmp_path / "inside", arrays=f'{{file = "x.npz", sha256 = "{"0" * 64}"}}')
    with pytest.raises(InputError, match=r"no .npz file in the fixture's own folder"):
        fixtures.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_the_arrays_of_a_fixture_of_any_name_are_found_again(tmp_path: Path, program: Program) -> None:
    path = tmp_path / "a:b\\c.gradcheck.toml"
    made = ["--generate", "normal", "--rows", "40", "--classes", "50"]
    assert program("fixtures", "record", *made, "--output", str(path), "--name", "one", "--why", "so").code == 0
    assert len(list(tmp_path.glob("a-b-c-*.npz"))) == 1
    assert program("fixtures", "verify", str(path)).code == 0


def test_nobody_waits_for_a_pipe_in_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npz")
    path = entry(tmp_path, arrays=f'{{file = "x.npz", sha256 = "{"0" * 64}"}}')
    with pytest.raises(InputError, match="is no plain file"):
        fixtures.load(path)
    os.mkfifo(tmp_path / "y.gradcheck.toml")
    with pytest.raises(InputError, match="is no plain file"):
        fixtures.load(tmp_path / "y.gradcheck.toml")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"labels": "[0]", "logits": f"[[0x{'f' * 9000}, 1]]"}, "logits"),
        ({"labels": f"[0x{'f' * 9000}]", "logits": '[["1", "2"]]'}, "labels"),
        ({"labels": "[0]", "logits": '[["1", "2"]]', "loss": f"{{ignore_index = 0x{'f' * 9000}}}"}, "loss"),
        (
            {"labels": "[0]", "logits": '[["1", "2"]]', "expected": '[["0", "0"]]', "uncertainty_ulp": '"1e999"'},
            "uncertainty_ulp: '1e999' is no number above 0",
        ),
    ],
)
def test_numbers_that_python_does_not_write(keys: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        fixtures.load(entry(tmp_path, **keys))


def test_a_line_is_found_in_no_time(tmp_path: Path) -> None:
    path = entry(tmp_path, why='"""\n' + ", {" * 100_000 + '\n"""', format='"float8"')
    start = time.monotonic()
    with pytest.raises(InputError, match="format"):
        fixtures.load(path)
    assert time.monotonic() - start < 10


# --- what is shown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "concise", "markdown", "csv", "json", "jsonl", "junit", "github", "html"])
def test_a_saved_report_speaks_to_no_terminal(form: str, tmp_path: Path, program: Program) -> None:
    words = ["check", "--case", "plain-3", "--tolerance", "ulp:0.001", "--format", "json"]
    record = json.loads(program(*words).out)
    (result,) = record["results"]
    record["results"] = []
    for bad in HOSTILE:
        named = {"cause": bad, "evidence": bad, "fix": bad, "option": bad}
        made = result | dict.fromkeys(("case", "candidate", "reason", "again", "digest"), bad)
        made |= {"loss": {bad: bad}, "diagnosis": named | {"others": [named]}}
        made["reference"] = result["reference"] | {"engine": bad, "method": bad}
        record["results"] += [made, made | {"step": bad, "formula": bad}, made | {"verdict": "crashed"}]
    record |= {"notes": list(HOSTILE), "gradcheck": HOSTILE[0], "settings": {bad: bad for bad in HOSTILE}}
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(record))
    ran = program("report", str(saved), "--format", form, "--verbose")
    assert ran.code == 1
    shown = ran.out.replace("\n", "")
    assert [char for char in shown if not char.isprintable() and char != "\t"] == []
    assert not [line for line in ran.out.split("\n") if line.startswith("::") and "title=gradcheck" not in line]
    assert "<script>alert" not in ran.out or form in ("table", "concise", "json", "jsonl", "csv", "github")


# --- what is run ---------------------------------------------------------------------------------------------------


OTHERS = (
    *("numpy", "gradcheck", "mpmath", "typer", "conftest", "sitecustomize", "tomllib", "ml_dtypes"),
    *("json", "multiprocessing", "signal", "socket", "struct", "selectors"),
)
"""Modules that the program or its helpers import."""


@pytest.mark.parametrize(
    "words",
    [
        ["check", "x.npy", "--labels", "0"],
        ["stability", "--case", "plain-3", "--jobs", "2"],
        ["stability", "--case", "plain-3", "--scheduler", "local", "--jobs", "1"],
        ["check", "--case", "plain-3", "--candidate", "sub/m.py:f"],
    ],
    ids=" ".join,
)
def test_modules_in_the_current_folder_are_not_imported(words: list[str], tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    np.save(here / "x.npy", np.zeros((1, 2), np.float32))
    (here / "sub" / "m.py").write_text(SOUND)
    for name in OTHERS:
        (here / f"{name}.py").write_text("open('run', 'w')\nraise SystemExit(99)\n")
    # a script, as the installed one is: Python looks in its folder, not in the current one
    script = tmp_path / "gradcheck-script"
    script.write_text("from gradcheck.__main__ import main\nif __name__ == '__main__':\n    main()\n")
    ran = subprocess.run(
        [sys.executable, script, *words],
        cwd=here,
        env={key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
        | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    assert not (here / "run").exists()
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    "does",
    [
        "os.truncate(logits, 0); os.truncate(logits, 1 << 36)",
        "os.unlink(logits); os.mkfifo(logits)",
        "os.unlink(logits); os.symlink('/dev/zero', logits)",
    ],
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_what_a_program_leaves_in_place_of_its_input(does: str, tmp_path: Path, program: Program) -> None:
    script = tmp_path / "x.py"
    script.write_text(f"import os, sys\nlogits = sys.argv[1]\n{does}\nos.rename(sys.argv[2], sys.argv[3])\n")
    command = f"{sys.executable} {script} {{logits}} {{labels}} {{gradient}}"
    ran = program("check", "--case", "plain-3", "--command", command)
    assert ran.code == 2
    assert "the gradient has shape" in ran.out


def test_temporary_files_are_private() -> None:
    held = stored.unpack([b"x"], 1, "x.npz")
    assert os.stat(held.path).st_mode & 0o077 == 0
    path = held.path
    del held
    assert not os.path.exists(path)


def test_nothing_is_read_past_the_most() -> None:
    with pytest.raises(InputError, match="is longer than the 1 MiB"):
        reading.stream_of(io.BytesIO(bytes((1 << 20) + 1)), 1 << 20)
    assert reading.stream_of(io.BytesIO(bytes(1 << 20)), 1 << 20).read() == bytes(1 << 20)


def test_a_fixture_reads_no_other_file() -> None:
    with pytest.raises(UsageError, match="is no list of numbers"):
        losses.parse(["weight=/etc/passwd.csv"])
