"""Latents as a data set: the posteriors' moments that `defar data latents` wrote, in shards, and how to read them.

A folder holds latents.json (what it is of, the codec, a checksum for each file), labels.safetensors and
shard-000000.safetensors, ...: mean and std (n, C, h, w) of each image's posterior, perhaps mean_flipped and std_flipped
of its mirror image, all before scale and shift.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import DefarError
from ..files import file_sha256
from ..inputs import read_json
from .codecs import Codec, PixelCodec, normalized
from .datasets import LATENTS_INDEX, Batch, DataSpec, ImageDataset

FORMAT = "defar-latents-1"
SHARD = re.compile(r"shard-\d{6,}\.safetensors")
LARGEST_LATENT = 1 << 24  # numbers in one; those of ImageNet at 512 x 512 have 16,384
LARGEST = 1e12  # of scale and shift: beyond it float32 keeps nothing of a latent
SIDE = "labels.safetensors"  # labels, and where the codec has them, its mean and std


@dataclass(frozen=True, eq=False)
class LatentDataset:
    """Posteriors of N images, read shard by shard when they are asked for; each file is checked against its checksum
    the first time."""

    folder: Path
    index: dict[str, Any]
    _shards: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.index["count"]

    @property
    def name(self) -> str:
        return self.index["source"]["name"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        return tuple(self.index["shape"])

    @property
    def num_classes(self) -> int | None:
        return self.index["source"].get("classes")

    @property
    def spec(self) -> DataSpec:
        """Raises DefarError for latents that are not square."""
        channels, height, width = self.shape
        if height != width:
            raise DefarError(f"{self.folder}: latents are {height} x {width}; the network needs square ones")
        return DataSpec(channels, height, self.num_classes)

    @property
    def codec(self) -> dict[str, Any]:
        """The table of the codec that they were made with; its paths are absolute."""
        return self.index["codec"]

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) over the checksums of all files and what the codec is."""
        codec = {key: value for key, value in self.codec.items() if key not in ("path", "statistics", "chunk")}
        files = [self.index["side"], *(shard["sha256"] for shard in self.index["shards"])]
        return hashlib.sha256(json.dumps([files, codec, self.shape], sort_keys=True).encode()).hexdigest()

    @cached_property
    def _side(self) -> dict[str, Tensor]:
        return _checked(self.folder / SIDE, self.index["side"])

    @cached_property
    def labels(self) -> np.ndarray | None:
        """(N,) int64, or None."""
        if "labels" not in self._side:
            return None
        labels = self._side["labels"].numpy()
        classes = self.num_classes or np.inf
        if labels.shape != (len(self),) or labels.dtype != np.int64 or labels.min() < 0 or labels.max() >= classes:
            raise DefarError(f"{self.folder / SIDE}: labels are {labels.dtype} {labels.shape}; write the latents again")
        return labels

    def batch(
        self,
        indices: Sequence[int] | np.ndarray | Tensor,
        *,
        device: torch.device | str | None = None,
        flip: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Latents (B, C, h, w) float32 as the network sees them: the posteriors' means, or with a generator samples.

        flip: bool (B,), which to take of the mirror image. Raises DefarError where those were not written, and for a
        damaged shard; IndexError for an index out of range.
        """
        chosen = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise DefarError(f"indices are {chosen.dtype} {chosen.shape}; give integers (B,)")
        if chosen.size and not -len(self) <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"{self.folder}: an index outside of 0 ... {len(self) - 1}")
        chosen = chosen % len(self)
        mean, std = (torch.empty(len(chosen), *self.shape) for _ in range(2))
        mirrored = np.zeros(len(chosen), bool) if flip is None else flip.cpu().numpy()
        if mirrored.any() and not self.index["flip"]:
            raise DefarError(
                f"{self.folder}: holds no mirrored images; write it with --flip, or set data.horizontal_flip = false"
            )
        shards, places = np.divmod(chosen, self.index["shard"])
        for shard in np.unique(shards):
            tensors = self._shard(int(shard))
            for ending, wanted in (("", ~mirrored), ("_flipped", mirrored)):
                rows = np.flatnonzero((shards == shard) & wanted)
                if len(rows):
                    mean[rows] = tensors[f"mean{ending}"][places[rows]].float()
                    std[rows] = tensors[f"std{ending}"][places[rows]].float()
        if generator is not None:
            mean = mean + std * torch.randn(mean.shape, generator=generator)
        codec, side = self.codec, self._side
        data = normalized(mean, codec["scale"], codec["shift"], side.get("codec_mean"), side.get("codec_std"))
        labels = None if self.labels is None else torch.from_numpy(self.labels[chosen]).to(device)
        return Batch(data.to(device), labels)

    def _shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._shards:
            entry = self.index["shards"][number]
            tensors = _checked(self.folder / entry["file"], entry["sha256"])
            expected = (entry["count"], *self.shape)
            for name in ("mean", "std", *(("mean_flipped", "std_flipped") if self.index["flip"] else ())):
                tensor = tensors.get(name)
                if tensor is None or tensor.shape != expected or not tensor.is_floating_point():
                    raise DefarError(f"{self.folder / entry['file']}: {name} is no {expected}; write the latents again")
                if not bool(tensor.isfinite().all()):
                    raise DefarError(f"{self.folder / entry['file']}: {name} is not finite; write the latents again")
            self._shards[number] = tensors
        return self._shards[number]


def open_latents(folder: Path) -> LatentDataset:
    """The latents in a folder. Raises DefarError where it is unfinished, or not as latents.json says."""
    folder = Path(folder)
    index = read_index(folder)
    if not index["complete"]:
        done = sum(entry["count"] for entry in index["shards"])
        raise DefarError(f"{folder}: {done} of {index['count']} images so far; the same command goes on with the rest")
    return LatentDataset(folder, index)


def read_index(folder: Path) -> dict[str, Any]:
    """latents.json. Raises DefarError where it is missing or damaged."""
    file = Path(folder) / LATENTS_INDEX
    try:
        index = read_json(file)
        if index["format"] != FORMAT:
            raise ValueError(f"format {index['format']!r}, this version reads {FORMAT!r}")
        sizes = [index["count"], index["shard"], *index["shape"], *(s["count"] for s in index["shards"])]
        if not all(type(size) is int and 0 < size < 2**40 for size in sizes) or len(index["shape"]) != 3:
            raise ValueError("sizes that are none")
        if math.prod(index["shape"]) > LARGEST_LATENT:
            raise ValueError(f"latents of {index['shape']}")
        if any(set(s) != {"file", "count", "sha256"} or not SHARD.fullmatch(s["file"]) for s in index["shards"]):
            raise ValueError("a shard that is none")
        if index["complete"] and sum(s["count"] for s in index["shards"]) != index["count"]:
            raise ValueError("shards are missing")
        _check_kinds(index)
    except FileNotFoundError:
        raise DefarError(f"{file}: no such file; `defar data latents` writes it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DefarError(f"{file}: damaged or of another kind ({reason}); write the latents again") from None
    return index


def _check_kinds(index: dict[str, Any]) -> None:
    """Raise ValueError where a word is none, or a number cannot be what it is told to be."""
    codec, source = index["codec"], index["source"]
    classes, words = source.get("classes"), (codec["kind"], source["name"], index["side"])
    if not all(isinstance(word, str) and word for word in (*words, *(shard["sha256"] for shard in index["shards"]))):
        raise ValueError("names or checksums that are none")
    if classes is not None and not (type(classes) is int and 0 < classes < 2**31):
        raise ValueError(f"classes {classes!r}")
    scale, shift = (codec[key] for key in ("scale", "shift"))
    if not all(type(number) in (int, float) and abs(number) < LARGEST for number in (scale, shift)) or scale <= 0:
        raise ValueError(f"scale {scale!r}, shift {shift!r}")
    if not all(isinstance(index[key], bool) for key in ("flip", "complete")):
        raise ValueError("flip or complete that is neither true nor false")


def _checked(file: Path, sha256: str) -> dict[str, Tensor]:
    try:
        if file_sha256(file) != sha256:
            raise DefarError(f"{file}: corrupt (its checksum is not that of {LATENTS_INDEX}); remove it and run again")
        return load_file(file)
    except FileNotFoundError:
        raise DefarError(f"{file}: no such file, though {LATENTS_INDEX} lists it; run the same command again") from None
    except SafetensorError as error:
        raise DefarError(f"{file}: cannot be read: {error}; remove it and run again") from None


# --- what a network of some codec sees of a data set ---


def check_shape(name: str, codec: Codec, shape: tuple[int, int, int], dataset: ImageDataset | LatentDataset) -> None:
    """Raise DefarError where images or latents are not those that a network of `shape` behind `codec` takes."""
    if isinstance(dataset, LatentDataset):
        if dataset.shape != shape:
            raise DefarError(f"{dataset.folder}: latents are {dataset.shape}; {name} takes {shape}")
        if isinstance(codec, PixelCodec):  # its card names no autoencoder: nothing to compare with
            return
        theirs = {key: dataset.codec.get(key) for key in ("sha256", "scale", "shift")}
        ours = {key: codec.identity.get(key) for key in theirs}
        if theirs != ours:
            other = next(key for key in theirs if theirs[key] != ours[key])
            raise DefarError(
                f"{dataset.folder}: made by another codec than {name}'s: {other} {theirs[other]}, not {ours[other]}"
            )
        return
    wanted, found = codec.pixel_shape(shape), tuple(dataset.images.shape[1:])
    if found != wanted:
        behind = "" if wanted == shape else f" (as latents {shape})"
        raise DefarError(f"{dataset.name}: images are {found}, {name} was trained on {wanted}{behind}")


def seen_batch(
    codec: Codec, dataset: ImageDataset | LatentDataset, indices, *, device: torch.device | str | None = None
) -> Batch:
    """Images as the network behind `codec` sees them: encoded, of latents the posterior's mean."""
    if isinstance(dataset, LatentDataset) or isinstance(codec, PixelCodec):
        return dataset.batch(indices, device=device)
    images = torch.from_numpy(np.array(dataset.images[np.asarray(indices)]))
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[np.asarray(indices)]).to(device)
    return Batch(codec.encode(images).to(device), labels)
