"""Arrays that somebody else wrote: .npz as data sets, references, samples, statistics and figures' data; .npy."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from hostile.archives import bomb, hostile_npy, hostile_npz, npy, npz

from defar_analysis.core.arrays import read_npy, read_npz
from defar_analysis.core.codecs import _statistics
from defar_analysis.core.datasets import npz_dataset
from defar_analysis.measures.features import Features, FeatureStore, _read
from defar_analysis.measures.protocols import protocol
from defar_analysis.measures.references import open_reference
from defar_analysis.sample_files import npz_record

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 8, 8, 3), np.uint8)
SPREAD = np.cov(RNG.normal(size=(4, 40)))
FEATURES = {name: RNG.normal(size=(4, 3)).astype(np.float32) for name in Features._fields}
PROTOCOL = protocol("offline-effnet-lite0-128", 4)
EXTRACTOR = SimpleNamespace(dimension=4, name="stand-in", identity={})


def reference(file):
    return open_reference(PROTOCOL, EXTRACTOR, FeatureStore(file.parent / "none"), str(file))


# what an .npz is read as: the arrays of a good one, the reader, and whether an answer that is given is right
READERS = {
    "dataset": (
        {"images": IMAGES, "labels": np.arange(4)},
        npz_dataset,
        lambda found: (
            np.array_equal(found.images, IMAGES.transpose(0, 3, 1, 2))
            and (found.labels is None or found.labels.tolist() == [0, 1, 2, 3])
        ),
    ),
    "reference": (
        {"mu": np.arange(4.0), "sigma": SPREAD},
        reference,
        lambda found: found.pool.mu.tolist() == [0, 1, 2, 3] and np.allclose(found.pool.sigma, SPREAD),
    ),
    "samples": (
        {"arr_0": IMAGES, "provenance": np.array('{"command": {"seed": 0}, "nfe": 50}')},
        npz_record,  # which reads no images
        lambda found: found == {"command": {"seed": 0}, "nfe": 50},
    ),
    "statistics": (
        {"mean": np.arange(4.0), "std": np.ones(4)},
        lambda file: _statistics(file, 4),
        lambda found: all(part.shape == (4, 1, 1) and bool(part.isfinite().all()) for part in found),
    ),
    "features": (
        FEATURES,
        lambda file: _read(file, 4),
        lambda found: found is None or all(np.isfinite(part).all() for part in found),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
def test_an_npz_is_read_rightly_or_refused_in_one_line(kind, watch, capsys):
    base, read, right = READERS[kind]
    file = watch.out / "hostile.npz"
    for what, content in hostile_npz(base):
        file.write_bytes(content)
        watch(what, lambda: read(file), right)
    file.write_bytes(npz({f"{name}.npy": npy(array) for name, array in base.items()}))
    assert right(read(file)), "the whole file that all were made from"
    watch.done(f"npz, {kind}")


@pytest.mark.filterwarnings("ignore")
def test_an_npy_is_read_rightly_or_refused_in_one_line(watch):
    file = watch.top / "hostile.npy"
    for what, content in hostile_npy():
        for mapped in (False, True):
            file.write_bytes(content)
            watch(what, lambda mapped=mapped: read_npy(file, mapped=mapped))
    file.write_bytes(npy(IMAGES))
    assert np.array_equal(read_npy(file, mapped=True), IMAGES) and np.array_equal(read_npy(file), IMAGES)
    watch.done("npy")


def test_what_is_no_file_is_not_waited_for(watch):
    (watch.top / "folder.npz").mkdir()
    os.mkfifo(watch.top / "pipe.npz")
    for name, target in (("zero", "/dev/zero"), ("null", "/dev/null"), ("loop", "loop.npz"), ("nowhere", "none")):
        (watch.top / f"{name}.npz").symlink_to(target)
    for name in ("folder", "pipe", "zero", "null", "loop", "nowhere", "x" * 300, "a\0b"):
        for _, read, _ in list(READERS.values())[:-1]:
            watch(name, lambda name=name, read=read: read(watch.top / f"{name}.npz"))
    watch.done("no npz")


def test_a_zip_bomb_is_told_from_what_is_merely_well_compressed(watch):
    file = watch.top / "zeros.npz"
    np.savez_compressed(file, labels=np.zeros(10**6, np.int64))  # 8 MB of 8 KB
    assert len(read_npz(file)["labels"]) == 10**6
    file.write_bytes(bomb("labels.npy", 1024))
    assert "zip bomb" in watch("1 GB of 1 MB", lambda: read_npz(file))
    watch.done("bomb")
