"""NumPy's .npz: a zip archive of named arrays."""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, BinaryIO, overload

from gradcheck import stored
from gradcheck.exceptions import InputError
from gradcheck.files import _arrays
from gradcheck.formats import Array
from gradcheck.stored import Place

# Real logits compress by 10 at best, a bomb by 1,000; small arrays of equal numbers may
_BOMB_BYTES, _BOMB_RATIO = 1 << 26, 100

_BLOCK = 1 << 20

_LOCAL = struct.Struct("<26x2H")
"""What stands before a member: at its end the lengths of its name and of another field, which follow."""


@overload
def read(stream: io.BytesIO, names: Sequence[str]) -> Mapping[str, Array]: ...
@overload
def read(stream: BinaryIO, names: Sequence[str]) -> Mapping[str, Array | Place]: ...
def read(stream: BinaryIO, names: Sequence[str]) -> Mapping[str, Array | Place]:
    """The arrays of these names that there are.

    Raises:
        InputError: where there is none of them, or the file is no archive of arrays.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise InputError("holds two arrays of the same name")
            wanted = [name for name in names if name in members]
            for name in wanted:
                _check(members[name], name)
            found = {name: _member(stream, archive, members[name], name) for name in wanted}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, RuntimeError):
        raise InputError("is no readable .npz archive (damaged, encrypted, or not a zip file)") from None
    if not found:
        raise _arrays.missing(names[0], members)
    return found


def _check(info: zipfile.ZipInfo, name: str) -> None:
    # of other methods a few bytes become a gibibyte in one piece, whatever size the archive says
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"'{name}' is packed in a way that NumPy does not write; repack it with numpy.savez")
    if info.file_size > _BOMB_BYTES and info.file_size > _BOMB_RATIO * info.compress_size:
        raise InputError(
            f"'{name}' would unpack from {info.compress_size:,} to {info.file_size:,} bytes and is refused as a "
            "zip bomb; an archive made by numpy.savez, without compression, is read at any size"
        )


def _member(stream: BinaryIO, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Array | Place:
    what = f"'{name}'"
    with archive.open(info) as member:
        header = _arrays.read_header(member, info.file_size, what)  # type: ignore[arg-type]
        file = stored.home(stream, header.size)
        if file is None:
            array = _arrays.read_numbers(member, header, what)  # type: ignore[arg-type]
            member.read(1)  # reaching the end is what checks the CRC
            return array
        if info.compress_type != zipfile.ZIP_STORED:
            numbers = stored.unpack(_numbers(member, header, what), header.size, file.name)
            return dataclasses.replace(header, length=0).place(numbers)
        for _ in _numbers(member, header, what):
            pass  # the CRC again
    stream.seek(info.header_offset)
    start = info.header_offset + _LOCAL.size + sum(_LOCAL.unpack(stream.read(_LOCAL.size)))
    return header.place(file, start)


def _numbers(member: IO[bytes], header: _arrays.Header, what: str) -> Iterator[bytes]:
    """The numbers of a member in blocks, to its end, where its CRC is checked."""
    size = 0
    while block := member.read(_BLOCK):
        size += len(block)
        yield block
    _arrays.check_end(size, header, what)


def write(stream: BinaryIO, logits: Array, labels: Array) -> None:
    """Both arrays, uncompressed."""
    write_named(stream, {"logits": logits, "labels": labels})


def write_named(stream: BinaryIO, arrays: Mapping[str, Array], *, compressed: bool = False) -> None:
    """Arrays by name; the same arrays make the same file."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            with archive.open(info, "w", force_zip64=True) as member:
                _arrays.write_array(member, array)  # type: ignore[arg-type]
