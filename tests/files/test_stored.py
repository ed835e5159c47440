"""Large arrays stay in their files: the same numbers to the bit, little memory, and no other file's numbers."""

from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import files, stored
from gradcheck.exceptions import InputError
from gradcheck.files import npz
from gradcheck.formats import Array, named
from gradcheck.stored import Rows, Stored

CONTAINERS = ("npy", "npz", "compressed", "safetensors")

# fmt: off
DTYPES: dict[str, tuple[str, str | None]] = {
    "float16": ("float16", None),
    "bfloat16": ("bfloat16", None),  # a 2-byte void in .npy and .npz
    "bits": ("bfloat16", "u2"),
    "bits, big-endian": ("bfloat16", ">u2"),
    "float32": ("float32", None),
    "float64": ("float64", None),
    "float32, big-endian": ("float32", ">f4"),
    "float64, big-endian": ("float64", ">f8"),
}
# fmt: on

LAYOUTS = [
    ((11, 3), 1, "C"),
    ((11, 3), 1, "F"),
    ((3, 11), 0, "C"),
    ((3, 11), 0, "F"),
    ((2, 3, 5), 2, "C"),
    ((2, 3, 5), 1, "C"),
    ((2, 3, 5), 0, "C"),
    ((2, 3, 5), 1, "F"),
    ((2, 3, 2, 3), 1, "C"),
    ((2, 3, 2, 2), 1, "F"),
    ((4, 3, 2), 1, "C"),
    ((4, 3, 1), 1, "C"),
    ((4, 3, 1), 1, "F"),
    ((7,), 0, "C"),
]


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has a byte is large."""
    monkeypatch.setattr(stored, "LARGE", 1)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write(folder: Path, container: str, **arrays: Array) -> Path:
    if container in ("npy", "safetensors"):
        ((name, array),) = arrays.items()
        files.save_one(folder / f"x.{container}", name, array)
        return folder / f"x.{container}"
    with open(folder / "x.npz", "wb") as stream:
        npz.write_named(stream, arrays, compressed=container == "compressed")
    return folder / "x.npz"


def load(path: Path, **options: Any) -> Stored:
    logits = files.load(str(path), **options).logits
    assert isinstance(logits, Stored)
    return logits


def numbers(shape: tuple[int, ...], fmt: str = "float32") -> Array:
    """Numbers of which no two are equal."""
    count = np.arange(float(np.prod(shape))) - 7
    return named(fmt).round_array((count + count / 64).reshape(shape))


def same(found: Array, expected: Array) -> bool:
    """Equal to the bit, and an array like any other."""
    plain = type(found) is np.ndarray and found.flags.c_contiguous and found.flags.aligned and found.dtype.isnative
    return bool(
        plain and (found.shape, found.dtype, found.tobytes()) == (expected.shape, expected.dtype, expected.tobytes())
    )


@pytest.mark.parametrize(
    ("container", "dtype", "shape", "axis", "order"),
    [
        (container, dtype, *layout)
        for container in CONTAINERS
        for dtype in DTYPES
        for layout in LAYOUTS
        # which has one order of bytes and of axes
        if container != "safetensors" or ("endian" not in dtype and layout[2] == "C")
    ],
)
def test_rows_are_those_of_the_array(
    container: str, dtype: str, shape: tuple[int, ...], axis: int, order: Any, tmp_path: Path
) -> None:
    fmt, written = DTYPES[dtype]
    array = numbers(shape, fmt)
    on_disk = array.view("u2") if written in ("u2", ">u2") else array
    on_disk = np.asarray(on_disk, dtype=written or on_disk.dtype, order=order)
    if order == "F":
        assert on_disk.flags.f_contiguous
    held = load(write(tmp_path, container, logits=on_disk), dtype=fmt, axis=axis)
    expected = np.ascontiguousarray(np.moveaxis(array, axis, -1)).reshape(-1, shape[axis])
    assert (held.shape, held.dtype, held.size, held.ndim) == (expected.shape, named(fmt).dtype, expected.size, 2)
    assert len(held) == len(expected)
    for a in range(len(expected) + 1):
        for b in range(len(expected) + 2):
            assert same(held[a:b], expected[a:b])
    for part in (slice(None), slice(-2, None), slice(None, -1), slice(None, None, 3), slice(None, None, -1)):
        assert same(held[part], np.ascontiguousarray(expected[part]))
    last = len(expected) - 1
    for chosen in ([], [0], [last, 0], [-1, 0], [last, last, 0, 0], range(last + 1), range(last, -1, -1)):
        rows = np.array(chosen, dtype=np.int64)
        assert same(held[rows], expected[rows])
    for chosen in ([0, last + 1], [-last - 2]):
        with pytest.raises(IndexError):
            held[np.array(chosen)]
    with pytest.raises(TypeError):
        held[np.ones(len(held), dtype=bool)]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_cast_is_that_of_the_whole(container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = numbers((5, 60_000), "float64")
    array[:, ::7] = [[1e5], [-65519.9], [65520], [np.inf], [np.nan]]
    path = write(tmp_path, container, logits=array)
    found = files.load(str(path), dtype="float16")
    assert isinstance(found.logits, Stored)
    monkeypatch.setattr(stored, "LARGE", 1 << 30)
    expected = files.load(str(path), dtype="float16")
    assert isinstance(expected.logits, np.ndarray)
    with np.errstate(over="ignore"):
        lost = np.isfinite(array) & np.isinf(array.astype(np.float16))
    assert found.notes == expected.notes
    assert found.notes == (f"logits were cast from float64 to float16, which made {lost.sum()} of them infinite",)
    assert same(found.logits[:], expected.logits)
    assert same(found.logits[1:3], expected.logits[1:3])


def test_plain_rows_are_read_and_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "memmap", None)
    for array in (numbers((11, 3)), np.asfortranarray(numbers((11, 3)))):
        assert same(load(write(tmp_path, "npy", logits=array))[2:4], numbers((11, 3))[2:4])
    array = numbers((2, 3, 4))
    assert same(load(write(tmp_path, "npy", logits=array), axis=1)[:], np.moveaxis(array, 1, -1).reshape(8, 3))
    with pytest.raises(TypeError):
        load(write(tmp_path, "npy", logits=np.asfortranarray(array)), axis=1)[:]


def test_what_else_a_file_holds(tmp_path: Path) -> None:
    logits, soft = numbers((4, 3)), numbers((4, 3), "float64")
    arrays = {"logits": logits, "labels": soft, "gradient": soft, "weight": numbers((3,)), "u": numbers((4, 3))}
    path = write(tmp_path, "npz", **arrays)
    found = files.load(str(path), others=("u",))
    assert isinstance(found.labels, Stored)
    assert same(found.labels[:], soft.astype(np.float32))
    assert isinstance(found.gradient, Stored)
    assert same(found.gradient[:], soft)
    for name in ("weight", "u"):
        other = found.others[name]
        assert isinstance(other, np.ndarray)
        assert other.tobytes() == arrays[name].tobytes()
    layout, fmt = found.layout, found.format
    for loaded in (files.load_labels(str(path), layout, fmt)[0], files.load_gradient(str(path), layout, None, fmt)):
        assert isinstance(loaded, Stored)
    assert isinstance(files.load_other(str(path), "u", layout, fmt), np.ndarray)


@pytest.mark.parametrize("container", CONTAINERS)
def test_hard_labels_are_in_memory(container: str, tmp_path: Path) -> None:
    for labels, layout in (
        (np.array([0, 2, 1, -100], dtype=np.int32), files.Layout.of((4, 3))),
        (np.array([[0], [2], [1], [-100]], dtype=np.int16), files.Layout.of((4, 3))),
        (np.array([[0, 2], [1, -100]]), files.Layout.of((2, 3, 2), 1)),
        (np.asfortranarray([[0, 2], [1, -100]]), files.Layout.of((2, 3, 2), 1)),
    ):
        if container == "safetensors" and not labels.flags.c_contiguous:
            continue
        found, _ = files.load_labels(str(write(tmp_path, container, labels=labels)), layout, named("float32"))
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.int64
        assert found.tolist() == [0, 2, 1, -100]


def test_shapes_are_refused_as_ever(tmp_path: Path) -> None:
    layout, fmt = files.Layout.of((2, 3, 4), 1), named("float32")
    path = str(write(tmp_path, "npy", logits=numbers((2, 4, 3))))
    with pytest.raises(InputError, match=r"the gradient has shape \(2, 4, 3\), the logits \(2, 3, 4\)"):
        files.load_gradient(path, layout, None, fmt)
    with pytest.raises(InputError, match=r"labels have shape \(2, 4, 3\); logits of shape \(2, 3, 4\)"):
        files.load_labels(path, layout, fmt)


def test_rows_of_another_layout_than_the_logits(tmp_path: Path) -> None:
    fmt, path = named("float32"), str(write(tmp_path, "npy", logits=numbers((8, 3))))
    for layout in (files.Layout.of((2, 3, 4), 1), files.Layout.of((3, 2, 4), 0)):
        for rows in (files.load_gradient(path, layout, None, fmt), files.load_labels(path, layout, fmt)[0]):
            assert isinstance(rows, Stored)
            assert same(rows[:], numbers((8, 3)))
    path = str(write(tmp_path, "npy", logits=numbers((3,))))
    for layout in (files.Layout.of((3,)), files.Layout.of((1, 3))):
        for rows in (files.load_gradient(path, layout, None, fmt), files.load_labels(path, layout, fmt)[0]):
            assert isinstance(rows, Stored)
            assert same(rows[:], numbers((1, 3)))


def test_only_files_keep_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "npz", logits=numbers((4, 3)))
    found = npz.read(io.BytesIO(path.read_bytes()), ("logits",))
    assert isinstance(found["logits"], np.ndarray)
    monkeypatch.setattr(files, "_standard_input", lambda: io.BytesIO(path.read_bytes()))
    assert isinstance(files.load("-", input_format="npz").logits, np.ndarray)
    monkeypatch.setattr(stored, "LARGE", 4 * 3 * 4 + 1)
    assert isinstance(files.load(str(path)).logits, np.ndarray)
    monkeypatch.setattr(stored, "LARGE", 4 * 3 * 4)
    assert isinstance(files.load(str(path)).logits, Stored)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no links to open files")
def test_links_to_open_files(tmp_path: Path) -> None:
    path = write(tmp_path, "npy", logits=numbers((4, 3)))
    with open(path, "rb") as stream:
        link = f"/proc/self/fd/{stream.fileno()}"
        held = files.load(link, input_format="npy").logits
        path.rename(tmp_path / "y.npy")
        (tmp_path / "y.npy").unlink()
        # what the link is now said to mean
        (tmp_path / "y.npy (deleted)").write_bytes(b"another file")
        nameless = files.load(link, input_format="npy").logits
    assert isinstance(held, Stored)
    assert held.place.file.path == str(path.resolve())
    assert isinstance(nameless, np.ndarray)


def elsewhere(rows: Rows, folder: Path) -> bytes:
    """All rows' bytes as another process reads them, from another folder."""
    code = "import pickle, sys; sys.stdout.buffer.write(pickle.load(sys.stdin.buffer)[:].tobytes())"
    given = pickle.dumps(rows)
    assert len(given) < 1000
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, check=True, cwd=folder, env=environment
    )
    return ran.stdout


@pytest.mark.parametrize("container", CONTAINERS)
def test_other_processes_read_the_same(
    container: str, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = numbers((4, 3), "bfloat16")
    write(tmp_path, container, logits=array)
    monkeypatch.chdir(tmp_path)
    suffix = "npz" if container == "compressed" else container
    held = load(Path(f"x.{suffix}"), dtype="bfloat16")
    again = pickle.loads(pickle.dumps(held))
    assert same(again[1:3], array[1:3])
    assert elsewhere(held, temporary) == array.tobytes()
    assert len(list(temporary.iterdir())) == (container == "compressed")
    del again
    assert same(held[:], array)


def test_temporary_files_go_with_what_holds_them(tmp_path: Path, temporary: Path) -> None:
    path = write(tmp_path, "compressed", logits=numbers((4, 3)))
    held = load(path)
    (unpacked,) = temporary.iterdir()
    assert unpacked.stat().st_size == 4 * 3 * 4
    assert same(held[:], numbers((4, 3)))
    del held
    gc.collect()
    assert not list(temporary.iterdir())


def test_temporary_files_go_with_the_process(tmp_path: Path, temporary: Path) -> None:
    path = write(tmp_path, "compressed", logits=numbers((4, 3)))
    code = (
        "import os, sys; from gradcheck import files, stored; stored.LARGE = 1\n"
        f"held = files.load({str(path)!r}).logits\n"
        "if hasattr(os, 'fork'):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        del held\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        f"print(len(os.listdir({str(temporary)!r})))"
    )
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(files.__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout == "1\n"
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("container", "shape", "axis", "order"),
    [
        ("npy", (40, 300), 1, "C"),
        ("npy", (40, 300), 1, "F"),
        ("npy", (4, 300, 10), 1, "F"),
        ("npz", (40, 300), 1, "C"),
        ("npz", (4, 300, 10), 1, "C"),
        ("safetensors", (40, 300), 1, "C"),
        ("safetensors", (4, 300, 10), 1, "C"),
    ],
)
def test_files_that_change_are_refused(
    container: str, shape: tuple[int, ...], axis: int, order: Any, tmp_path: Path
) -> None:
    array = np.asarray(numbers(shape), order=order)

    def opened() -> tuple[Path, Stored]:
        path = write(tmp_path, container, logits=array)
        return path, load(path, axis=axis)

    path, held = opened()
    size = path.stat().st_size
    os.truncate(path, size // 2)
    for rows in (slice(0, 1), slice(39, 40), np.array([0, 39])):
        with pytest.raises(InputError) as caught:
            held[rows]
        said = f"{path}: ends after {size // 2} of {size} bytes: it has changed since it was opened"
        assert str(caught.value) == said
    path, held = opened()
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(InputError, match=r"x\..*has changed since it was opened; run again"):
        held[:1]
    path, held = opened()
    status = path.stat()
    with open(path, "ab") as stream:
        stream.write(b"more")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputError, match=r"x\..*has changed since it was opened; run again"):
        held[:1]
    path, held = opened()
    path.unlink()
    with pytest.raises(InputError, match=r"x\..*can no longer be read \(No such file"):
        held[:1]


def test_files_that_change_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "npy", logits=numbers((40, 300)))
    held, fill = load(path), stored.File.fill
    size = path.stat().st_size

    def cut(self: stored.File, *arguments: Any) -> None:
        os.truncate(path, 1000)
        fill(self, *arguments)

    def touched(self: stored.File, *arguments: Any) -> None:
        fill(self, *arguments)
        os.utime(path, ns=(0, 0))

    with monkeypatch.context() as patched:
        patched.setattr(stored.File, "fill", cut)
        with pytest.raises(InputError, match=f"x.npy: ends after 1000 of {size} bytes"):
            held[:]
    path = write(tmp_path, "npy", logits=numbers((40, 300)))
    held = load(path)
    monkeypatch.setattr(stored.File, "fill", touched)
    with pytest.raises(InputError, match="has changed since it was opened; run again"):
        held[:]


class Slow(io.FileIO):
    """A file that gives a few bytes at a time, as a system may."""

    def readinto(self, buffer: Any, /) -> int:
        return super().readinto(memoryview(buffer)[:5])


def test_reads_that_bring_less_than_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "npy", logits=numbers((4, 3)))
    place, found = load(path).place, np.zeros((4, 3), np.float32)
    with Slow(path) as stream:
        place.file.fill(stream, place.offset, found.reshape(-1).view(np.uint8).data)
        assert same(found, numbers((4, 3)))
        with pytest.raises(InputError, match=r"x\.npy: ends after 176 of 176 bytes"):
            place.file.fill(stream, place.offset + 4, found.reshape(-1).view(np.uint8).data)


def test_a_file_that_changes_while_it_is_loaded_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, check = write(tmp_path, "npy", logits=numbers((4, 3))), stored.File._check

    def late(self: stored.File, stream: Any) -> None:
        os.utime(path, ns=(0, 0))
        check(self, stream)

    monkeypatch.setattr(stored.File, "_check", late)
    with pytest.raises(InputError) as caught:
        files.load(str(path), dtype="float16")
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("container", ["npz", "compressed"])
def test_damaged_archives_are_refused(container: str, tmp_path: Path, temporary: Path) -> None:
    array = np.random.default_rng(0).normal(size=(300, 3000))
    path = write(tmp_path, container, logits=array)
    content = bytearray(path.read_bytes())
    content[len(content) - 3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz: is no readable \.npz archive"):
        files.load(str(path))
    assert not list(temporary.iterdir())


def test_archives_that_end_early_are_refused(tmp_path: Path, temporary: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, numbers((40, 3)))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / "x.npz"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("logits.npy", buffer.getvalue()[:-8])
        size = len(buffer.getvalue())
        # what the archive says of the size is what the header says
        content = path.read_bytes()
        place = content.rindex(b"PK\x01\x02") + 24
        path.write_bytes(content[:place] + size.to_bytes(4, "little") + content[place + 4 :])
        with pytest.raises(InputError, match=r"x\.npz: 'logits' ends after 472 of 480 bytes"):
            files.load(str(path))
    assert not list(temporary.iterdir())


def test_archives_may_start_late(tmp_path: Path) -> None:
    path = write(tmp_path, "npz", labels=numbers((4, 3), "float64"), logits=numbers((4, 3)))
    path.write_bytes(b"something else before the archive" + path.read_bytes())
    assert same(load(path)[1:], numbers((4, 3))[1:])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_there_is_no_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "compressed", logits=numbers((4, 3)))
    beside = tmp_path / "unpacked"
    beside.touch()
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), str(beside)))
    with pytest.raises(InputError) as caught:
        files.load(str(path))
    said = f"{path}: cannot be unpacked into {tmp_path} (No space left on device); TMPDIR names another folder"
    assert str(caught.value).startswith(said)
    assert not beside.exists()


def test_damaged_safetensors_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "safetensors", logits=numbers((4, 3)))
    content = path.read_bytes()
    for lie in (content[:-1], content + b"\0", content.replace(b"[4,3]", b"[4,4]"), content[8:]):
        path.write_bytes(lie)
        with pytest.raises(InputError, match=r"x\.safetensors: is no readable safetensors file"):
            files.load(str(path))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_memory_does_not_grow_with_the_file(
    container: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "LARGE", 1 << 24)
    rows = 8192 if container != "compressed" else 4096  # ones beyond 64 MB would be taken for a bomb
    path = write(tmp_path, container, logits=np.ones((rows, 2048), dtype=np.float32))
    tracemalloc.start()
    try:
        held = load(path, dtype=dtype)
        total = sum(float(held[block].sum(dtype=np.float64)) for block in stored.blocks(held))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == rows * 2048
    assert peak < 8 << 20


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (10, 7), (3, 50)])
def test_blocks_cover_all_rows_once(shape: tuple[int, int]) -> None:
    found = list(stored.blocks(np.zeros(shape), 20))
    assert np.concatenate([np.arange(shape[0])[block] for block in found]).tolist() == list(range(shape[0]))
    assert all(block.stop - block.start == 1 or (block.stop - block.start) * shape[1] <= 20 for block in found)
    assert len(found) <= 2 * max(1, shape[0] * shape[1] / 20)
