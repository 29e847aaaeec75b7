"""CIFAR-10 from an archive or a folder that somebody else made, and the prepared copy."""

import gzip
import io
import tarfile
import zlib

import pytest
from hostile.archives import hostile_npy
from hostile.damage import damaged, something_else
from hostile.pictures import POSTSCRIPT, png

from defar_analysis.core import cifar10 as source
from defar_analysis.core.datasets import prepare_cifar10

NAMES = tuple(source.BATCH_MD5)


def tar(members, form=tarfile.PAX_FORMAT, mode="w:gz"):
    """An archive of (what tarfile should say of a member, its content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
        for told, content in members:
            info = tarfile.TarInfo(told.pop("name"))
            for key, value in {"size": len(content), **told}.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zeros(megabytes, before=b""):
    """gzip that unpacks to so many MB of zeros, about 1 KB for each."""
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = packed.compress(before) + packed.flush(zlib.Z_FULL_FLUSH)
    block = packed.compress(bytes(1 << 20)) + packed.flush(zlib.Z_FULL_FLUSH)
    return content + block * megabytes + packed.flush()


def header(name, size, kind=b"0"):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def pickles(opcodes):
    return tar([({"name": f"cifar-10-batches-py/{name}"}, opcodes) for name in NAMES])


def archives():
    whole = [({"name": f"cifar-10-batches-bin/{name}.bin"}, bytes(3073)) for name in NAMES]
    good = tar([(dict(told), content) for told, content in whole])
    yield from damaged(good)
    yield from something_else()
    yield "rows of zeros", good
    yield (
        "links",
        tar([({"name": f"{name}.bin", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, b"") for name in NAMES]),
    )
    yield "names outside", tar([({"name": f"../../../{name}.bin"}, bytes(3073)) for name in NAMES])
    yield "absolute names", tar([({"name": f"/{name}.bin"}, bytes(3073)) for name in NAMES])
    yield "devices", tar([({"name": f"{name}.bin", "type": tarfile.CHRTYPE}, b"") for name in NAMES])
    yield "half rows", tar([({"name": f"{name}.bin"}, bytes(5)) for name in NAMES])
    yield "4 GB of zeros", zeros(4096)
    yield "a member of 4 GB", zeros(4096, header("readme.txt", 4 << 30))
    yield "a member of 8 EB", zeros(1, header("readme.txt", 1 << 63))
    yield "a batch of 1 GB", zeros(1024, header("data_batch_1.bin", 1 << 30))
    for kind in (b"x", b"g", b"L", b"K"):
        yield f"a header {kind} of 4 GB", zeros(4096, header("x", 4 << 30, kind))
    for what, opcodes in {
        "runs code": b"cos\nsystem\n(S'touch code_was_run'\ntR.",
        "runs eval": b"c__builtin__\neval\n(S'1'\ntR.",
        "getattr": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        "a large memory": b"]r\xff\xff\xff\x7f.",
        "4 GB of bytes": b"\x80\x04\x8e" + b"\xff" * 8,
        "nothing": b"N.",
        "a number": b"I5\n.",
        "an empty table": b"}.",
        "deep": b"(" * 10**6 + b".",
        "deep lists": b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
        "a number of 10 MB": b"L" + b"9" * 10**7 + b"L\n.",
        "numpy's file reader": b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR.",
        "an extension": b"\x82\x01.",
        "a persistent name": b"Px\n.",
        "no end": b"(((",
    }.items():
        yield f"a pickle, {what}", pickles(opcodes)
    labels = [({"name": name}, b"[" + b"0," * 9 + b"0]") for name in source.NPM_LABELS]
    for what, content in {
        "a bomb": png(1024, 10**8),
        "EPS": POSTSCRIPT,
        "thin": png(1, 1, data=bytes(4)),
        "nothing": b"",
    }.items():
        images = [({"name": f"{name}.png"}, content) for name in NAMES]
        yield f"pictures, {what}", tar([(dict(told), part) for told, part in [*images, *labels]])
    deep = [({"name": name}, b"[" * 10**5) for name in source.NPM_LABELS]
    yield "labels, deep", tar(deep + [({"name": f"{name}.png"}, png(1024, 1)) for name in NAMES])
    yield "gzip in gzip", gzip.compress(good, mtime=0)


@pytest.mark.filterwarnings("ignore")
def test_archives_are_refused_and_leave_nothing(watch):
    for what, content in archives():
        for name in ("cifar.tar.gz", "cifar.tgz")[: 1 + (len(content) < 5000)]:
            (watch.top / name).write_bytes(content)
            watch(what, lambda name=name: prepare_cifar10(watch.out, watch.top / name, progress=len))
            (watch.top / name).unlink()
    assert not any((watch.out / "cifar10").iterdir())
    watch.done("archives")


@pytest.mark.filterwarnings("ignore")
def test_a_prepared_copy_that_is_another(watch):
    folder = watch.home / "data" / "cifar10"
    folder.mkdir(parents=True)
    for what, content in hostile_npy():
        for name in ("test_images.npy", "test_labels.npy"):
            (folder / name).write_bytes(content)
        watch(what, lambda: source.open_cifar10("test"))
    watch.done("prepared")
