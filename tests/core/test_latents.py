"""Latents on disk: the same bytes however often their writing is interrupted, and read back as a data set."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from defar_analysis.cli import main
from defar_analysis.core import latent_shards
from defar_analysis.core.autoencoders import AutoencoderCard, save_autoencoder
from defar_analysis.core.codecs import PixelCodec, open_codec
from defar_analysis.core.datasets import KNOWN_DATA, ImageDataset, open_dataset
from defar_analysis.core.latent_shards import open_source, write_latents
from defar_analysis.core.latents import LatentDataset, check_shape, open_latents, seen_batch
from defar_analysis.core.networks.autoencoder import KLAutoencoder
from defar_analysis.core.pictures import adm_square
from defar_analysis.errors import Interrupted

COUNT = 21
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 8, 8), np.uint8)
TABLE = {"kind": "vae", "path": "vae", "chunk": 4}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A random autoencoder and a few images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = KLAutoencoder(width=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_autoencoder(Path("vae"), model, AutoencoderCard("vae", "", {}, scale=2.0, shift=0.5, size=8))
    np.savez("images.npz", images=IMAGES, labels=np.arange(COUNT) % 4)
    return tmp_path


def written(out: str, **settings) -> Path:
    settings = {"shard": 8, "flip": True, "dtype": "float32"} | settings
    return write_latents(open_source("images.npz"), open_codec(TABLE), TABLE, Path(out), **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.startswith(".")}


def test_means_samples_mirror_images_and_labels(place):
    data, codec = open_dataset(written("out"), latents=True), open_codec(TABLE)
    assert isinstance(data, LatentDataset) and (len(data), data.shape, data.num_classes) == (COUNT, (4, 2, 2), 4)
    assert data.spec.size == 2 and data.name == "images.npz"
    images, indices = torch.from_numpy(IMAGES), torch.tensor([20, 0, 7, 8, 3, 0])
    batch = data.batch(indices)
    assert torch.equal(batch.data, codec.encode(images[indices]))
    assert torch.equal(batch.labels, indices % 4)
    flip = torch.tensor([True, False, True, False, False, True])
    mirrored = torch.where(flip[:, None, None, None], images[indices].flip(-1), images[indices])
    assert torch.equal(data.batch(indices, flip=flip).data, codec.encode(mirrored))
    drawn = data.batch(indices, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn.data, codec.encode(images[indices], generator=torch.Generator().manual_seed(3)))
    again = data.batch(indices, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn.data, again.data) and not torch.equal(drawn.data, batch.data)


def test_half_precision_and_no_mirror_images(place, refuses):
    data = open_latents(written("out", dtype="float16", flip=False))
    torch.testing.assert_close(
        data.batch(range(COUNT)).data, open_codec(TABLE).encode(torch.from_numpy(IMAGES)), atol=2e-2, rtol=2e-3
    )
    data.batch([0], flip=torch.tensor([False]))
    refuses(lambda: data.batch([0], flip=torch.tensor([True])), "no mirrored images", "--flip", "horizontal_flip")
    with pytest.raises(IndexError):
        data.batch([COUNT])


@pytest.mark.parametrize("moment", ["before a shard", "between shard and index", "stop"])
def test_killed_and_gone_on_the_files_are_the_same_bit_for_bit(place, monkeypatch, moment, refuses):
    whole, calls = written("whole"), []
    name = {"before a shard": "_moments", "between shard and index": "_write_index"}.get(moment)
    if name:
        original = getattr(latent_shards, name)

        def failing(*arguments):
            calls.append(1)
            if len(calls) == (2 if name == "_moments" else 3):
                raise KeyboardInterrupt
            return original(*arguments)

        monkeypatch.setattr(latent_shards, name, failing)
        with pytest.raises(KeyboardInterrupt):
            written("cut")
    else:

        class Requests:
            requested = True
            __enter__ = lambda self: self  # noqa: E731
            __exit__ = lambda self, *_: False  # noqa: E731

        monkeypatch.setattr(latent_shards, "stop_requests", Requests)
        with pytest.raises(Interrupted, match="stopped after 8 of 21 images"):
            written("cut")
    refuses(lambda: open_latents(Path("cut")), "8 of 21 images so far")
    first = Path("cut/shard-000000.safetensors").stat().st_mtime_ns
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert contents(written("cut")) == contents(whole)
    assert Path("cut/shard-000000.safetensors").stat().st_mtime_ns == first  # kept, not made again
    stamps = [file.stat().st_mtime_ns for file in sorted(Path("cut").glob("shard*"))]
    written("cut")  # finished: nothing to do
    assert [file.stat().st_mtime_ns for file in sorted(Path("cut").glob("shard*"))] == stamps
    assert open_latents(Path("cut")).hash == open_latents(whole).hash


def test_the_size_of_shards_changes_no_number(place):
    one, other = open_latents(written("one")), open_latents(written("other", shard=5))
    assert torch.equal(one.batch(range(COUNT)).data, other.batch(range(COUNT)).data)


def test_a_damaged_shard_is_named_and_made_again(place, refuses):
    whole = written("whole")
    before, shard = contents(whole), whole / "shard-000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8] + b"\0" * 8)
    data = open_latents(whole)
    data.batch([0])
    refuses(lambda: data.batch([9]), shard, "corrupt")
    shard.unlink()
    refuses(lambda: open_latents(whole).batch([9]), shard, "no such file")
    assert contents(written("whole")) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(format="else"),
        lambda index: index.update(count="many"),
        lambda index: index["shards"].pop(),
        lambda index: index["shards"][0].update(file="../vae/weights.safetensors"),
        lambda index: index.pop("codec"),
        lambda index: index.update(shape=[4, 2]),
    ],
)
def test_a_damaged_index_is_one_line(place, refuses, change):
    index = Path(written("whole") / "latents.json")
    table = json.loads(index.read_text())
    change(table)
    index.write_text(json.dumps(table))
    refuses(lambda: open_latents(Path("whole")), index, "damaged or of another kind")
    index.write_text("{")
    refuses(lambda: open_dataset("whole", latents=True), index)


def test_a_folder_is_not_written_over(place, refuses):
    written("whole")
    refuses(lambda: written("whole", flip=False), "whole", "other flip", "--out")
    refuses(lambda: written("whole", shard=4), "other shard")
    np.savez("images.npz", images=IMAGES[::-1], labels=np.arange(COUNT) % 4)
    refuses(lambda: written("whole"), "other source")
    np.savez("images.npz", images=IMAGES, labels=np.arange(COUNT) % 3)
    refuses(lambda: written("whole"), "other labels")
    refuses(lambda: written("."), "something else")
    refuses(lambda: written("vae"), "something else")
    with latent_shards._alone(Path("busy")):
        refuses(lambda: written("busy"), "busy", "another process")
    refuses(lambda: written("other", shard=0), "shard = 0")
    shutil.move("whole", "moved")
    assert open_latents(Path("moved")).batch([3]).data.shape == (1, 4, 2, 2)


def test_pictures_in_folders_are_cut_as_adm_does_and_streamed(place, refuses, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(1)
    for k, size in enumerate([(40, 20), (18, 33), (16, 16), (70, 64)]):
        folder = Path("pictures") / "train" / f"class{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder / f"{k}.png")
    refuses(lambda: open_source("pictures"), "--size")
    source = open_source("pictures", size=16)
    assert (source.count, source.shape, source.classes) == (4, (3, 16, 16), 2)
    data = open_latents(write_latents(source, open_codec(TABLE), TABLE, Path("out"), shard=3, dtype="float32"))
    assert data.shape == (4, 4, 4) and data.labels.tolist() == [0, 0, 1, 1]
    with Image.open("pictures/train/class1/3.png") as picture:  # 70 x 64: halved once, then 17.5 x 16
        expected = np.asarray(adm_square(picture, 16)).transpose(2, 0, 1)
    assert torch.equal(data.batch([3]).data, open_codec(TABLE).encode(torch.from_numpy(np.array(expected))[None]))
    Path("pictures/train/class1/9.png").write_bytes(b"no picture")
    broken = open_source("pictures", size=16)
    refuses(lambda: write_latents(broken, open_codec(TABLE), TABLE, Path("out2"), shard=2), "9.png", "not a readable")
    refuses(lambda: open_latents(Path("out2")), "4 of 5 images so far")
    refuses(lambda: open_source("out", size=16), "latents already")


def test_pixels_where_latents_would_be_nonsense(place, refuses):
    written("out")
    refuses(lambda: open_dataset("out"), "out", "latents are no images")
    refuses(lambda: open_dataset("out", size=16, latents=True), "cannot be resized")
    missing = next(name for name in KNOWN_DATA if name.endswith("latents"))
    refuses(lambda: open_dataset(missing, root=place, latents=True), missing, "defar data latents")
    shutil.move("out", missing)
    assert len(open_dataset(missing, root=place, latents=True)) == COUNT


def test_what_a_codec_makes_of_a_data_set(place, refuses):
    codec, latents, images = open_codec(TABLE), open_latents(written("out")), ImageDataset(IMAGES, np.arange(COUNT) % 4)
    seen = seen_batch(codec, images, range(5))
    assert torch.equal(seen.data, latents.batch(range(5)).data) and torch.equal(seen.labels, torch.arange(5) % 4)
    assert torch.equal(seen_batch(codec, latents, range(5)).data, seen.data)
    assert torch.equal(seen_batch(PixelCodec(), images, range(5)).data, images.batch(range(5)).data)
    check_shape("net", codec, (4, 2, 2), images)
    check_shape("net", codec, (4, 2, 2), latents)
    refuses(lambda: check_shape("net", codec, (4, 4, 4), images), "(3, 8, 8)", "(3, 16, 16)", "net")
    refuses(lambda: check_shape("net", PixelCodec(), (3, 8, 8), latents), "out", "(4, 2, 2)")
    other = open_codec({**TABLE, "scale": 1.0})
    refuses(lambda: check_shape("net", other, (4, 2, 2), latents), "another codec", "scale 2.0, not 1.0")


def test_the_command_line(place, capsys):
    command = ["data", "latents", "images.npz", "--codec", "vae", "--out", "out", "--shard", "8", "--device", "cpu"]
    assert main(command) == 0
    assert capsys.readouterr() == ("out: latents of 21 images, (4, 2, 2) from (3, 8, 8)\n", "")
    assert len(open_latents(Path("out"))) == COUNT
    assert main([*command[:4], "none", *command[5:]]) == 2
    assert "none: no such folder" in capsys.readouterr().err
