"""Writing latents: images through an autoencoder, shard by shard. Stopped or killed, the same call goes on, and what it
writes is bit for bit what an uninterrupted one writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ..errors import DefarError, Interrupted
from ..files import file_sha256, replaced
from .codecs import VAECodec, codec_table
from .datasets import LATENTS_INDEX, ImageDataset, is_latents, open_dataset
from .latents import FORMAT, SIDE, read_index
from .pictures import adm_square, list_pictures, read_picture
from .runs import progress, stop_requests

DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Source:
    """Images that need not fit in memory. read: uint8 (n, C, H, W) of a range; sha256: of what they are made from."""

    name: str
    count: int
    shape: tuple[int, int, int]
    labels: np.ndarray | None
    classes: int | None
    sha256: str
    read: Callable[[range], np.ndarray]


def open_source(name: str, split: str = "train", root: Path | None = None, size: int | None = None) -> Source:
    """A data set by name, or a folder of pictures, which are read when their turn comes: cut and resized to `size` as
    ADM does. Raises DefarError where there is none, and for a folder without size."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _in_memory(open_dataset(name, split, root=root, size=size))
    if is_latents(folder):
        raise DefarError(f"{folder}: holds latents already; name the images")
    if size is None:
        raise DefarError(f"{folder}: pictures are cut to squares of one size: give --size, such as 256")
    if (folder / split).is_dir():
        folder = folder / split
    files, labels = list_pictures(folder)
    listing = hashlib.sha256(f"adm {size}\n".encode())
    for file in files:  # their bytes would be read twice: names and sizes tell one set from another
        listing.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))

    def read(part: range) -> np.ndarray:
        return np.stack([read_picture(files[i], size, None, adm_square) for i in part])

    classes = None if labels is None else int(labels.max()) + 1
    return Source(folder.resolve().name, len(files), (3, size, size), labels, classes, listing.hexdigest(), read)


def _in_memory(dataset: ImageDataset) -> Source:
    def read(part: range) -> np.ndarray:
        return np.array(dataset.images[part.start : part.stop])

    shape = tuple(dataset.images.shape[1:])
    return Source(dataset.name, len(dataset), shape, dataset.labels, dataset.num_classes, dataset.hash, read)


def write_latents(
    source: Source,
    codec: VAECodec,
    table: dict[str, Any],
    out: Path,
    *,
    shard: int = 4096,
    flip: bool = False,
    dtype: str = "float16",
) -> Path:
    """Moments of the posteriors of all images of `source` into the folder `out`, `shard` images a file; returns it.

    table: the codec's, with absolute paths; flip: the mirror images', too. Raises DefarError where `out` holds
    anything else, another process writes to it, or images do not fit the codec; Interrupted, saved, on Ctrl-C or
    SIGTERM.
    """
    out = Path(out)
    if shard < 1 or dtype not in DTYPES:
        raise DefarError(f"shard = {shard} must be at least 1, dtype = {dtype!r} one of {', '.join(DTYPES)}")
    shape = codec.latent_shape(source.shape)
    if out.exists() and not is_latents(out) and (not out.is_dir() or any(f.name != LOCK for f in out.iterdir())):
        raise DefarError(f"{out}: holds something else than latents; give another --out")
    with _alone(out), stop_requests() as stop:
        side = _write_side(source, codec, out)
        told = {"name": source.name, "sha256": source.sha256, "classes": source.classes, "shape": list(source.shape)}
        index = {
            "format": FORMAT, "count": source.count, "shape": list(shape), "shard": shard, "flip": flip, "dtype": dtype,
            "source": told, "codec": codec_table(table, codec), "side": side, "complete": False, "shards": [],
        }  # fmt: skip
        starts = range(0, source.count, shard)
        kept = _kept(out, index)
        bar_of = SimpleNamespace(steps=len(starts), name=f"latents of {source.name}")
        with progress(bar_of, len(kept)) as bar:
            for number, start in enumerate(starts):
                if number < len(kept):
                    continue
                part = range(start, min(start + shard, source.count))
                file = out / f"shard-{number:06d}.safetensors"
                tensors = dict(_moments(source, codec, part, flip, DTYPES[dtype], file))
                with replaced(file) as beside:
                    save_file(tensors, beside)
                    kept.append({"file": file.name, "count": len(part), "sha256": file_sha256(beside)})
                _write_index(out, index | {"shards": kept})
                bar.update()
                if stop.requested and number + 1 < len(starts):
                    raise Interrupted(
                        f"{out}: stopped after {part.stop} of {source.count} images, kept; the same command goes on"
                    )
        _write_index(out, index | {"shards": kept, "complete": True})
    return out


def _moments(
    source: Source, codec: VAECodec, part: range, flip: bool, dtype: torch.dtype, file: Path
) -> Iterator[tuple[str, torch.Tensor]]:
    """The shard's tensors by name; images pass through in the codec's chunks."""
    found: dict[str, list[torch.Tensor]] = {}
    for start in range(part.start, part.stop, codec.chunk):
        images = torch.from_numpy(source.read(range(start, min(start + codec.chunk, part.stop))))
        if tuple(images.shape[1:]) != source.shape:
            raise DefarError(f"{source.name}: images are {tuple(images.shape[1:])}, not {source.shape}")
        for ending, shown in (("", images), ("_flipped", images.flip(-1)))[: 1 + flip]:
            for name, moment in zip(("mean", "std"), codec.moments(shown), strict=True):
                found.setdefault(f"{name}{ending}", []).append(moment.to(dtype))
    for name, parts in found.items():
        tensor = torch.cat(parts)
        if not bool(tensor.isfinite().all()):
            raise DefarError(f"{file.name}: {name} is not finite in {dtype}; write with --dtype float32")
        yield name, tensor


def _write_side(source: Source, codec: VAECodec, out: Path) -> str:
    """labels.safetensors; returns its checksum. Always the same bytes, so writing it again is harmless."""
    tensors = {"count": torch.tensor([source.count])}
    if source.labels is not None:
        tensors["labels"] = torch.from_numpy(np.asarray(source.labels, np.int64))
    if codec.mean is not None and codec.std is not None:
        tensors |= {"codec_mean": codec.mean.cpu(), "codec_std": codec.std.cpu()}
    existing = out / SIDE
    with replaced(existing) as beside:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside)
        digest = file_sha256(beside)
        if is_latents(out) and existing.is_file() and file_sha256(existing) != digest:
            raise DefarError(f"{out}: holds latents of other labels or another codec; give another --out or remove it")
    return digest


def _kept(out: Path, index: dict[str, Any]) -> list[dict[str, Any]]:
    """The shards that an earlier call finished and that are as they were; those after a damaged one are made again.
    Raises DefarError where that call made something else."""
    if not is_latents(out):
        _write_index(out, index)
        return []
    theirs = read_index(out)
    ours = json.loads(json.dumps(index))
    aside = ("shards", "complete")
    other = [key for key in ours if key not in aside and _comparable(theirs.get(key)) != _comparable(ours[key])]
    if other:
        raise DefarError(f"{out}: holds latents with other {', '.join(other)}; give another --out or remove it")
    kept = []
    for entry in theirs["shards"]:
        file = out / entry["file"]
        if not file.is_file() or file_sha256(file) != entry["sha256"]:
            break
        kept.append(entry)
    return kept


def _comparable(value: Any) -> Any:
    """The codec may have moved to another folder: its checksum tells."""
    if isinstance(value, dict) and "kind" in value:
        return {key: entry for key, entry in value.items() if key not in ("path", "statistics")}
    return value


def _write_index(out: Path, index: dict[str, Any]) -> None:
    with replaced(out / LATENTS_INDEX) as beside:
        beside.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


LOCK = ".writing"


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else writes to the folder meanwhile; a killed process lets go of the lock. Raises DefarError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / LOCK, "w")  # noqa: SIM115  # closed below
    except OSError as error:
        raise DefarError(f"{out}: cannot be written: {error.strerror}; give another --out") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: files stay whole, but two runs do the same work
            pass
        except OSError:
            raise DefarError(f"{out}: another process is writing it; wait, or give another --out") from None
        yield
