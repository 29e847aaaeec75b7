"""Hostile .npz and .npy: lying headers, zip bombs, code in arrays, names that would lead elsewhere."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from hostile.damage import damaged, something_else

GIGANTIC = 2**40
MEGABYTE = 1 << 20


class Runs:
    """Pickled, it asks for a function to be called when it is read."""

    def __reduce__(self):
        return os.system, ("touch code_was_run",)


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0), content: bytes = b"\0" * 64) -> bytes:
    """An .npy whose header is any text."""
    encoded = text.encode("latin-1") + b"\n"
    return (
        b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", len(encoded)) + encoded + content
    )


def lying(**changes: str) -> bytes:
    told = {"descr": "'|u1'", "fortran_order": "False", "shape": "(4, 4, 4)"} | changes
    return header("{" + ", ".join(f"'{key}': {value}" for key, value in told.items() if value) + "}")


def npz(members: Mapping[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            archive.writestr(zipfile.ZipInfo(name), content, method)  # with the date of 1980: always the same bytes
    return buffer.getvalue()


def hostile_npy() -> Iterator[tuple[str, bytes]]:
    """(what is wrong, an .npy)."""
    for what, shape in {
        "too large": "(4, 4, 5)",
        "gigantic": f"({GIGANTIC},)",
        "one that overflows": f"({2**62}, {2**62})",
        "negative": "(-4, -16)",
        "too small": "(4,)",
        "of floats": "(4.0, 16.0)",
        "of words": "('4', 16)",
        "none": "None",
        "a number": "64",
        "missing": "",
        "a call": "__import__('os').system('touch code_was_run')",
        "a comprehension": "tuple(4 for _ in 'abc')",
        "of truth values": "(True, 64, True)",
    }.items():
        if what != "of truth values":  # which numpy takes for ones, rightly
            yield f"shape {what}", lying(shape=shape)
    for descr in (
        "'|O'",
        "'O8'",
        "[('a', '|O')]",
        "'<Q9'",
        "'V0'",
        "'|S0'",
        "'<M8[s]'",
        "5",
        "None",
        "''",
        "[]",
        "'<f8'",
    ):
        yield f"type {descr}", lying(descr=descr)
    yield "type V0, gigantic", lying(descr="'V0'", shape=f"({GIGANTIC},)")
    yield "type nested", lying(descr="[('a', " * 300 + "'|u1'" + ")]" * 300)
    yield "order of text", lying(fortran_order="'no'")
    yield "one key more", lying(surprise="1")
    yield "not closed", header("{'descr': '|u1', 'shape': (4,")
    yield "brackets", header("(" * 9000)
    yield "long", header("{" + " " * 60_000 + "}")
    yield "a list", header("[]")
    for version in ((0, 0), (3, 0), (9, 9)):
        yield f"version {version}", header("{'descr': '|u1', 'fortran_order': False, 'shape': (64,)}", version)
    yield "a header without end", b"\x93NUMPY\x02\0" + struct.pack("<I", 2**32 - 1) + b"{"
    yield "objects", npy(np.array([Runs()], dtype=object), pickled=True)
    yield (
        "objects in old form",
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", content=pickle.dumps([Runs()], 0)),
    )


def hostile_npz(base: Mapping[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, an .npz), from the arrays of a good one. Some are merely odd, and may be read as `base`."""
    whole = {f"{name}.npy": npy(array) for name, array in base.items()}
    first = next(iter(whole))
    yield from damaged(npz(whole))
    yield from damaged(npz(whole, zipfile.ZIP_DEFLATED), flips=6, seed=1)
    yield from something_else()
    for what, content in hostile_npy():
        yield f"{first}: {what}", npz({**whole, first: content})
    for name in whole:
        yield f"without {name}", npz({other: content for other, content in whole.items() if other != name})
        yield f"{name} cut short", npz({**whole, name: whole[name][:-1]})
        yield f"{name} too long", npz({**whole, name: whole[name] + b"\0"})
        for what, array in _of_other_kinds(base[name.removesuffix(".npy")]).items():
            yield f"{name} {what}", npz({**whole, name: npy(array)})
    yield "no arrays", npz({})
    yield "text files", npz({name.replace(".npy", ".txt"): content for name, content in whole.items()})
    yield "an array, not zipped", whole[first]
    yield "gzipped", gzip.compress(npz(whole), mtime=0)
    yield "an .npz in an .npz", npz({first: npz(whole)})
    yield "a name twice", npz([*whole.items(), (first, whole[first])])
    for name in ("/etc/x.npy", "../../x.npy", "C:\\x.npy", "a\0b.npy", ".npy", "x" * 60_000 + ".npy", "\u202ex.npy"):
        yield f"{name[:20]!r} beside", npz({**whole, name: whole[first]})
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"compressed by method {method}", npz(whole, method)
    yield "encrypted", _patched(npz(whole), 6, struct.pack("<H", 1), 8)
    yield "method 99", _patched(npz(whole), 8, struct.pack("<H", 99), 10)
    yield "claims 2 GB", _patched(npz(whole), 22, struct.pack("<I", 2**31), 24)
    yield "bomb", bomb(first, 4096)
    yield "bomb beside", bomb("other.npy", 2048, npz(whole))
    yield "members over one another", overlapping(whole[first], first, 2000)


def _of_other_kinds(array: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "of no length": array[:0] if array.ndim else np.zeros(0),
        "a number": np.array(5),
        "text": np.array(["a", "b"]),
        "truth values": array.astype(str) != "",
        "complex": np.full(array.shape, 1j),
        "one more axis": array[None],
        "not numbers": np.full(array.shape, np.nan),
        "infinite": np.full(array.shape, np.inf),
        "twice": np.concatenate([array, array]) if array.ndim else np.stack([array, array]),
        "records": np.zeros(3, [("a", "u1")]),
        "dates": np.zeros(array.shape, "M8[s]"),
    }


def bomb(name: str, megabytes: int, beside: bytes = b"") -> bytes:
    """An .npz of one member: 1 KB for each MB of zeros that it would become. beside: another's bytes, before."""
    start = lying(shape=f"({megabytes * MEGABYTE + 64},)")  # 64 are there already
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packed.compress(start) + packed.flush(zlib.Z_FULL_FLUSH)
    block = packed.compress(b"\0" * MEGABYTE) + packed.flush(zlib.Z_FULL_FLUSH)
    content = begin + block * megabytes + packed.flush()
    grown = len(start) + megabytes * MEGABYTE
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(content), min(grown, 2**32 - 2), len(name), 0)
    local = b"PK\3\4" + fields + name.encode() + content
    central = (
        b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(beside)) + name.encode()
    )
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(beside) + len(local), 0)
    return beside + local + central + end


def overlapping(content: bytes, name: str, count: int) -> bytes:
    """Many members that are all the same bytes of the file."""
    one = npz({name: content})
    at = one.index(b"PK\1\2")
    entry = one[at : one.index(b"PK\5\6")]
    entries = b"".join(
        entry.replace(name.encode(), f"{number:0{len(name) - 4}d}.npy".encode()) for number in range(count)
    )
    return one[:at] + entries + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(entries), at, 0)


def _patched(archive: bytes, local: int, value: bytes, central: int) -> bytes:
    """One field of the first member, in both places where a zip keeps it, made another."""
    content = bytearray(archive)
    for begin, place in ((0, local), (archive.index(b"PK\1\2"), central)):
        content[begin + place : begin + place + len(value)] = value
    return bytes(content)
