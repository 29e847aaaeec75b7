"""Arrays that somebody else may have written, .npz and .npy: nothing in them is run, and no memory is taken before
their claims are checked against the bytes that are there."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import DefarError, reason

# What an .npz may grow to when it is read: deflate alone makes a thousand bytes of one, honest arrays of numbers are
# hardly ever a tenth of their size; little ones, such as labels that are all zero, may do as they like.
EXPANSION = 100
SMALL = 64 << 20  # bytes
LONGEST_HEADER = 10_000  # bytes, as NumPy has it, which however looks only when it has read them all
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what np.savez and np.savez_compressed write


def npz_names(path: Path) -> tuple[str, ...]:
    """The names of an .npz's arrays. Raises DefarError as `read_npz` does."""
    with _archive(path) as archive:
        return tuple(_members(archive))


def read_npz(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz, or those of `names` that it has.

    Raises DefarError naming the file where there is none, where it is broken, claims or grows to more than its bytes
    bear out (a zip bomb), or where an array holds Python objects, which are code.
    """
    with _archive(path) as archive:
        members = _members(archive)
        wanted = members if names is None else [name for name in names if name in members]
        return {name: _read(archive, members[name]) for name in wanted}


def read_npy(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array of an .npy, in memory or mapped into it, read-only. Raises DefarError as `read_npz` does."""
    path = Path(path)
    with _told(path, ".npy"):
        _check_file(path)
        with open(path, "rb") as file:
            _check_header(file, path.stat().st_size)
            if not mapped:
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    path = Path(path)
    with _told(path, ".npz"):
        _check_file(path)
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(archive, path.stat().st_size)
            yield archive


@contextmanager
def _told(path: Path, kind: str) -> Iterator[None]:
    """The border where everything that a broken file can cause becomes one line."""
    try:
        yield
    except FileNotFoundError:
        raise DefarError(f"{path}: no such file") from None
    except MemoryError:
        raise DefarError(f"{path}: does not fit in memory; take fewer images") from None
    except Exception as error:  # zipfile, zlib, struct, tokenize and numpy each have their own ways to say "broken"
        raise DefarError(f"{path}: not a readable {kind} ({reason(error)}); write it again") from error


def _check_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError("it is a folder, a device or a pipe")


def _refuse_bomb(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    for member in members:
        if member.compress_type not in PLAIN or member.flag_bits & 1:
            raise ValueError(f"{member.filename} is encrypted or compressed as NumPy never does")
        if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
            raise ValueError(f"{member.filename} claims {member.file_size} bytes of {member.compress_size}")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members claim more bytes than the file has")
    grown = sum(member.file_size for member in members)
    if grown > max(SMALL, EXPANSION * size):
        raise ValueError(f"{size} bytes would become {grown}, a zip bomb; if it is none, save it with np.savez")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """By the array's name, as NumPy tells it."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in found:
            raise ValueError(f"it holds {name} twice")
        if name != member.filename:
            found[name] = member
    return found


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        _check_header(file, member.file_size)
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # to its end: there the checksum is compared
        return array


def _check_header(file: IO[bytes], size: int) -> None:
    """Raise ValueError where an array is of Python objects, or is not as long as its header says."""
    form = np.lib.format
    versions = {(1, 0): ("<H", form.read_array_header_1_0), (2, 0): ("<I", form.read_array_header_2_0)}
    version = form.read_magic(file)
    if version not in versions:
        raise ValueError(f"version {version} of the format")
    field, read = versions[version]
    length = file.read(struct.calcsize(field))
    header = struct.unpack(field, length)[0]
    if header > LONGEST_HEADER:
        raise ValueError(f"a header of {header} bytes")
    shape, _, dtype = read(io.BytesIO(length + file.read(header)))
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are code to be run; save numbers or text")
    before = form.MAGIC_LEN + len(length) + header
    if min(shape, default=0) < 0 or before + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array of {dtype} {shape} does not take the {size} bytes that are there")
