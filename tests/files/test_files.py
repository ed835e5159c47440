"""File formats: round trips, exact decimals, and input that is not what it says."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import files
from gradcheck.exceptions import GradcheckError, InputError
from gradcheck.formats import Format, named
from tests.conftest import EVERY_FORMAT


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def header(descr: str, shape: Any, data: bytes = b"") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def load(path: Path, content: bytes | str, **options: Any) -> files.Loaded:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return files.load(str(path), **options)


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
@pytest.mark.parametrize("suffix", files.names())
def test_what_is_written_is_read_back(suffix: str, fmt: Format, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits = fmt.round_array(
        np.concatenate([rng.normal(size=(3, 4)), [[fmt.max, -fmt.smallest_subnormal, 0.1, -np.inf]]])
    )
    labels = np.array([0, 3, 2, -100])
    path = tmp_path / f"x.{suffix}"
    files.save(path, logits, labels)
    loaded = files.load(str(path), dtype=fmt.name)
    assert loaded.format is fmt
    assert loaded.logits[:].tobytes() == logits.tobytes()
    if suffix == "npy":
        assert loaded.labels is None
    else:
        assert loaded.labels is not None
        assert loaded.labels[:].tolist() == labels.tolist()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_format_of_one_byte_is_written_and_read_back(suffix: str, tmp_path: Path, one_byte: Format) -> None:
    """Such a file holds the bits."""
    row = one_byte
    logits = row.round_array(np.array([[1.0, -2.5, row.max], [-np.inf, row.smallest_subnormal, 0.1]]))
    path = tmp_path / f"x.{suffix}"
    files.save(path, logits, np.array([0, 1]))
    loaded = files.load(str(path), dtype=row.name)
    assert loaded.format is row
    assert loaded.logits[:].tobytes() == logits.tobytes()
    with pytest.raises(
        InputError, match="are 1-byte void; if they are float8_e5m2 bit patterns, say --dtype float8_e5"
    ):
        files.load(str(path))
    # integers of one byte are numbers
    bytes_ = load(tmp_path / "y.npy", npy(np.array([[1, 2]], dtype=np.uint8)), dtype=row.name)
    assert bytes_.logits[:].astype(np.float64).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("suffix", ["npz", "json", "jsonl"])
def test_soft_labels_are_written_and_read_back(suffix: str, tmp_path: Path) -> None:
    labels = np.array([[0.1, 0.9], [0.5, 0.25]], dtype=np.float32)
    path = tmp_path / f"x.{suffix}"
    files.save(path, np.zeros((2, 2), np.float32), labels)
    loaded = files.load(str(path), dtype="float32")
    assert loaded.labels is not None
    assert loaded.labels[:].tolist() == labels.tolist()


def test_the_same_arrays_make_the_same_file(tmp_path: Path) -> None:
    one, other = tmp_path / "a.npz", tmp_path / "b.npz"
    for path in (one, other):
        files.save(path, np.ones((2, 2), np.float32), np.array([0, 1]))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("csv", "1.00390625000000000000001,0\n"),
        ("tsv", "1.00390625000000000000001\t0\n"),
        ("json", "[[1.00390625000000000000001, 0]]"),
        ("json", '{"logits": [["1.00390625000000000000001", 0]]}'),
        ("jsonl", "[1.00390625000000000000001, 0]\n\n"),
        ("json", "[1.00390625000000000000001, 0]"),
    ],
)
def test_decimals_are_rounded_once_into_the_format(suffix: str, content: str, tmp_path: Path) -> None:
    loaded = load(tmp_path / f"x.{suffix}", content, dtype="bfloat16")
    assert loaded.logits[:].astype(np.float64).tolist() == [[1.0078125, 0.0]]
    assert load(tmp_path / f"y.{suffix}", content).format is named("float64")


@pytest.mark.parametrize(
    ("suffix", "content", "labels"),
    [
        ("csv", "a,b,labels\n1,2,0\n3,4,1\n", [0, 1]),
        ("csv", "\ufefflabels,a,b\r\n0,1,2\r\n1,3,4\r\n", [0, 1]),
        ("tsv", "a\tlabels\tb\n1\t0\t2\n3\t1\t4\n", [0, 1]),
        ("csv", "\n1,2\n\n3,4\n", None),
        ("json", '{"logits": [[1, 2], [3, 4]], "labels": [0, 1], "about": "x"}', [0, 1]),
        ("jsonl", '{"logits": [1, 2], "labels": 0}\n{"logits": [3, 4], "labels": 1}\n', [0, 1]),
        (
            "jsonl",
            '{"logits": [1, 2], "labels": [0.5, 0.5]}\n{"logits": [3, 4], "labels": [1, 0]}\n',
            [[0.5, 0.5], [1, 0]],
        ),
    ],
)
def test_labels_in_text(suffix: str, content: str, labels: Any, tmp_path: Path) -> None:
    loaded = load(tmp_path / f"x.{suffix}", content)
    assert loaded.logits[:].tolist() == [[1, 2], [3, 4]]
    assert (None if loaded.labels is None else loaded.labels[:].tolist()) == labels


def test_numbers_that_json_has_no_word_for(tmp_path: Path) -> None:
    loaded = load(tmp_path / "x.json", '[["nan", "inf", "-inf", "0x1.8p1", Infinity, NaN, 1e999]]')
    assert np.isnan(loaded.logits[:][0, [0, 5]]).all()
    assert loaded.logits[:][0, [1, 2, 3, 4, 6]].tolist() == [np.inf, -np.inf, 3.0, np.inf, np.inf]


def test_arrays_of_other_layouts_are_read(tmp_path: Path) -> None:
    for array in (
        np.arange(6.0).reshape(2, 3).astype(">f4"),
        np.asfortranarray(np.arange(6.0, dtype="f4").reshape(2, 3)),
    ):
        loaded = load(tmp_path / "x.npy", npy(array))
        assert loaded.format is named("float32")
        assert loaded.notes == ()
        assert loaded.logits[:].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert load(tmp_path / "x.npy", npy(np.array([1.0, 2.0]))).logits.shape == (1, 2)


def test_bit_patterns_need_a_dtype(tmp_path: Path) -> None:
    bits = np.array([[0x3F80, 0x4000]], dtype=np.uint16)
    for content in (npy(bits), header("<V2", (1, 2), bits.tobytes())):
        with pytest.raises(InputError, match="--dtype bfloat16"):
            load(tmp_path / "x.npy", content)
        with pytest.raises(InputError, match="--dtype bfloat16"):
            load(tmp_path / "x.npy", content, dtype="float64")
        loaded = load(tmp_path / "x.npy", content, dtype="bfloat16")
        assert loaded.logits[:].astype(np.float64).tolist() == [[1.0, 2.0]]


def test_a_cast_is_told(tmp_path: Path) -> None:
    loaded = load(tmp_path / "x.npy", npy(np.array([[1.0, 2.5]])), dtype="float16")
    assert loaded.notes == ("logits were cast from float64 to float16",)
    assert load(tmp_path / "y.npy", npy(np.array([[1, 2]])), dtype="float32").logits[:].tolist() == [[1, 2]]


class Trap:
    """Unpickling this would leave a file behind."""

    def __reduce__(self) -> Any:
        return (open, ("/tmp/gradcheck-was-here", "w"))


def bomb() -> bytes:
    """A megabyte that unpacks to a gibibyte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("logits.npy", "w") as member:
        member.write(header("<f4", (1 << 14, 1 << 14)))
        for _ in range(64):
            member.write(bytes(1 << 24))
    return buffer.getvalue()


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def lying(method: int) -> bytes:
    """A few hundred bytes that unpack to 32 MiB, of an archive that says they are 24."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("logits.npy", bytes(1 << 25))
    content = bytearray(buffer.getvalue())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 24)
    return bytes(content)


HUGE = f'"logits": {{"dtype": "F32", "shape": [{2**63}, 0], "data_offsets": [0, 0]}}'
TENSOR = '"logits": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}'


OTHERS = ", ".join(
    TENSOR.replace("logits", name).replace("[0, 8]", place) for name, place in (("a", "[0, 8]"), ("b", "[8, 16]"))
)
OTHER_NUMBERS = '"logits": {"dtype": "F8_E4M3", "shape": [2, 4], "data_offsets": [0, 8]}'


def twice(name: str, content: bytes) -> bytes:
    """An archive that holds one name twice, which zipfile itself warns of."""
    held = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(held, "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr(f"{name}.npy", content)
    return held.getvalue()


def tensors(arrays: str, data: bytes = b"") -> bytes:
    text = f"{{{arrays}}}".encode()
    return struct.pack("<Q", len(text)) + text + data


# fmt: off
BAD: dict[str, tuple[str, bytes | str, str]] = {
    "empty": ("npy", b"", "is empty"),
    "pickle": ("npy", pickle.dumps([1]), "no valid .npy header"),
    "objects": ("npy", npy(np.array([Trap()], dtype=object)), "pickle"),
    "objects in an archive": ("npz", npz(logits=npy(np.array([Trap()], dtype=object))), "pickle"),
    "header that promises more": ("npy", header("<f4", (1000, 1000), b"1234"), "4000000 bytes; there are 4"),
    "header that promises less": ("npy", header("<f4", (1,), b"12345678"), "promises shape"),
    "nothing along one axis and too much along others": ("npy", header("<f4", (2**63 - 1, 2**63 - 1, 0)), "none that"),
    "more axes than NumPy has": ("npy", header("<f4", f"({'1,' * 65})", bytes(4)), "none that an array can have"),
    "more axes than are read": ("json", "[" * 40 + "1" + "]" * 40, "40 axes; up to 32"),
    "a header of gibibytes": ("npy", b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{", "no valid .npy header"),
    "packed so that sizes cannot be kept to": ("npz", lying(zipfile.ZIP_BZIP2), "a way that NumPy does not write"),
    "a bomb that says it is small": ("npz", lying(zipfile.ZIP_DEFLATED), "no valid .npy header"),
    "an axis of 2^63": ("safetensors", tensors(HUGE), "is none that an array can have"),
    "an array that is there twice": ("safetensors", tensors(f"{TENSOR}, {TENSOR}", bytes(8)), "the key 'logits' twice"),
    "header that overflows": ("npy", header("<f4", (2**62, 2**62), b""), "promises shape"),
    "negative shape": ("npy", header("<f4", (-1, 4), b""), "."),
    "a shape of booleans": ("npy", header("<f4", "(True, 12)", bytes(48)), "no valid .npy header"),
    "a shape past all memory": ("npy", header("<f4", f"({10**26}, 0)"), "no valid .npy header"),
    "numbers of no size": ("npy", header("V0", (3, 4)), "no valid .npy header"),
    "an endless header": ("npy", header("(" * 5000, (3, 4)), "no valid .npy header"),
    "a header of another version": ("npy", b"\x93NUMPY\x03\x00" + bytes(64), "version (3, 0)"),
    "an index column": ("csv", ",a,b\n0,1,2\n", "column 1 has no name"),
    "labels under another name": ("csv", "a,b,Label\n1,2,0\n", "expected under the name 'labels'"),
    "labels that are no classes": ("json", '{"logits": [[1, 2]], "labels": [0.5]}', "must be integers"),
    "structured": ("npy", npy(np.zeros(2, dtype=[("a", "f4")])), "structured"),
    "complex": ("npy", npy(np.zeros((1, 2), dtype=complex)), "complex128"),
    "boolean": ("npy", npy(np.zeros((1, 2), dtype=bool)), "bool"),
    "integers": ("npy", npy(np.zeros((1, 2), dtype=int)), "--dtype casts"),
    "three axes": ("npy", npy(np.zeros((1, 2, 3))), "say which axis holds the classes"),
    "no axis": ("npy", npy(np.float64(3)), "expected (classes,)"),
    "no rows": ("npy", npy(np.zeros((0, 3))), "nothing to check"),
    "no classes": ("npy", npy(np.zeros((3, 0))), "nothing to check"),
    "zip bomb": ("npz", bomb(), "zip bomb"),
    "no zip": ("npz", b"PK but not quite", "no readable .npz"),
    "cut archive": ("npz", npz(logits=npy(np.zeros((3, 3))))[:-40], "no readable .npz"),
    "damaged archive": ("npz", npz(logits=npy(np.zeros((3, 3)))).replace(bytes(8), b"\1" * 8, 1), "."),
    "no logits": ("npz", npz(a=npy(np.zeros(3)), b=npy(np.zeros(3))), "it has: a, b"),
    "labels of another length": ("npz", npz(logits=npy(np.zeros((2, 3))), labels=npy(np.zeros(3, dtype=int))),
        "labels have shape (3,)"),
    "labels that are no integers": ("npz", npz(logits=npy(np.zeros((2, 3))), labels=npy(np.zeros(2))),
        "must be integers"),
    "soft labels of another shape": ("npz", npz(logits=npy(np.zeros((2, 3))), labels=npy(np.zeros((3, 2)))),
        "labels have shape (3, 2)"),
    "gradient of another shape": ("npz", npz(logits=npy(np.zeros((2, 3))), gradient=npy(np.zeros((3, 2)))),
        "the gradient has shape (3, 2)"),
    "words for weights": ("npz", npz(logits=npy(np.zeros((2, 3))), weight=npy(np.array(["a"] * 3))),
        "weight: the numbers are <U1"),
    "ragged": ("csv", "1,2\n3\n", "line 2 has 1 cells where 2"),
    "words": ("csv", "1,2\n3,four\n", "line 2, column 2: 'four' is not a number"),
    "words in the first line": ("csv", "1,two\n3,4\n", "line 1, column 2: 'two' is not a number"),
    "semicolons": ("csv", "1;2\n3;4\n", "'3;4' is not a number"),
    "header alone": ("csv", "a,b\n", "a header and no rows"),
    "blank lines alone": ("csv", "\n\n", "no rows"),
    "a hole": ("csv", "1,\n", "line 1, column 2: '' is not a number"),
    "no text": ("csv", b"\xff\xfe1,2", "not UTF-8"),
    "an open quote": ("csv", '"1,2\n', "delimited text"),
    "underscores": ("csv", "1_0,2\n", "is not a number"),
    "no JSON": ("json", "[1, 2", "is no JSON (line 1"),
    "null": ("json", "[1, null]", "null at place 1"),
    "true": ("json", "[[1, true]]", "true or false"),
    "a word": ("json", '[["one", 2]]', "'one' is not a number"),
    "ragged JSON": ("json", "[[1, 2], [3]]", "ragged: row 1"),
    "mixed JSON": ("json", "[[1, 2], 3]", "ragged"),
    "a key twice": ("json", '{"logits": [1], "logits": [2]}', "the key 'logits' twice"),
    "no logits in JSON": ("json", '{"x": [1]}', "it has: x"),
    "a number alone": ("json", "3", "a single value"),
    "deep JSON": ("json", "[" * 100_000 + "]" * 100_000, "nests too deep"),
    "lines of two kinds": ("jsonl", '{"logits": [1, 2], "labels": 0}\n[3, 4]\n', "only 1 of 2 lines hold 'labels'"),
    "a line that is no row": ("jsonl", "[1, 2]\n3\n", "line 2 is neither"),
    "a line that is no JSON": ("jsonl", "[1, 2]\n[3\n", "is no JSON (line 2, column 3"),
    "a huge label": ("json", '{"logits": [[1, 2]], "labels": [99999999999999999999]}', "64 bits"),
    "two columns of labels": ("csv", "labels,a,b,labels\n0,1,2,0\n", "names two columns 'labels'"),
    "an object for a number": ("json", '{"logits": [[1, {"a": 2}]]}', "holds an object at place 1 where"),
    "weights of a line": ("jsonl", '{"logits": [1, 2], "weight": [1, 1]}\n', "class weights belong to the whole file"),
    "no line": ("jsonl", "\n", "holds no rows"),
    "two arrays of a name": ("npz", twice("logits", npy(np.zeros((1, 2)))), "holds two arrays of the same name"),
    "tensors without logits": ("safetensors", tensors(OTHERS, bytes(16)), "it has: a, b"),
    "tensors of other numbers": ("safetensors", tensors(OTHER_NUMBERS, bytes(8)), "'logits' is F8_E4M3"),
    "digits without end": ("json", f"[[{'1' * 20_000}, 2]]", "longer than"),
}
# fmt: on


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_sentence(name: str, tmp_path: Path) -> None:
    suffix, content, message = BAD[name]
    path = tmp_path / f"x.{suffix}"
    with pytest.raises(GradcheckError) as caught:
        load(path, content)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert message in said
    assert "\n" not in said
    assert not Path("/tmp/gradcheck-was-here").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        files.load(str(tmp_path / "x.npy"))
    with pytest.raises(InputError, match="Is a directory"):
        files.load(str(tmp_path), input_format="npy")
    with pytest.raises(InputError, match=r"the suffix '\.dat' names no file format"):
        files.load(str(tmp_path / "x.dat"))


def test_labels_and_gradients_in_files_of_their_own(tmp_path: Path) -> None:
    labels = tmp_path / "y.csv"
    labels.write_text("0\n2\n")
    assert files.load_labels(str(labels), files.Layout.of((2, 3)), named("float32"))[0][:].tolist() == [0, 2]
    labels.write_text("0.5,0.25,0.25\n1,0,0\n")
    assert files.load_labels(str(labels), files.Layout.of((2, 3)), named("float32"))[0].dtype == np.float32
    gradient = tmp_path / "g.npy"
    gradient.write_bytes(npy(np.zeros((2, 3), dtype=np.float16)))
    assert files.load_gradient(str(gradient), files.Layout.of((2, 3)), None, named("float32")).dtype == np.float16
    with pytest.raises(InputError, match="the gradient has shape"):
        files.load_gradient(str(gradient), files.Layout.of((3, 2)), None, named("float32"))
    gradient = tmp_path / "g.json"
    gradient.write_text(json.dumps([[0, 0, 0]] * 2))
    assert files.load_gradient(str(gradient), files.Layout.of((2, 3)), None, named("float32")).dtype == np.float32


def test_soft_labels_do_not_fit_into_csv(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="soft labels"):
        files.save(tmp_path / "x.csv", np.zeros((1, 2)), np.zeros((1, 2)))
