"""Image data sets: CIFAR-10, a folder of pictures, or an .npz. All are uint8 in memory or memory-mapped; latents, as
`defar data latents` writes them, are floats."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from defar_analysis.core.arrays import npz_names, read_npz
from defar_analysis.core.cifar10 import data_root, open_cifar10, prepare_cifar10
from defar_analysis.core.pictures import list_pictures, read_picture, visible
from defar_analysis.errors import DefarError

__all__ = [
    "KNOWN_DATA", "Batch", "DataSpec", "ImageDataset", "cifar10", "data_root", "image_folder", "npz_dataset",
    "open_dataset", "prepare_cifar10",
]  # fmt: skip

_SPLITS = {"train", "test", "val", "valid", "validation"}


@dataclass(frozen=True)
class Batch:
    """What an objective is given."""

    data: Tensor  # (B,C,H,W) float in [-1,1]
    labels: Tensor | None = None  # (B,) long


@dataclass(frozen=True)
class DataSpec:
    """What a network must know of its data: channels, side of the square in pixels, number of classes or None."""

    channels: int
    size: int
    classes: int | None


LATENTS_INDEX = "latents.json"

# The paper's data sets, known without opening them.
KNOWN_DATA = {
    "cifar10": DataSpec(3, 32, 10),
    "celeba64": DataSpec(3, 64, None),
    "imagenet256-latents": DataSpec(4, 32, 1000),
    "imagenet512-latents": DataSpec(4, 64, 1000),
}


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images (N,C,H,W) uint8 with their labels (N,) int64 or None; num_classes is taken from the labels if not given.

    Raises DefarError where shapes, types or the number of labels do not fit.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    name: str = "images"
    num_classes: int | None = None

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8 or images.size == 0:
            raise DefarError(f"{self.name}: images are {images.dtype} {images.shape}; give uint8 (N,C,H,W), N > 0")
        if labels is None:
            return
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise DefarError(
                f"{self.name}: labels are {labels.dtype} {labels.shape}; give integers, one per image ({len(images)},)"
            )
        classes = self.num_classes or int(labels.max()) + 1
        if labels.min() < 0 or labels.max() >= classes:
            raise DefarError(f"{self.name}: labels run from {labels.min()} to {labels.max()}; give 0 to {classes - 1}")
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))
        object.__setattr__(self, "num_classes", classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        """Image (C,H,W) uint8 and its label, or None."""
        label = None if self.labels is None else int(self.labels[index])
        return torch.from_numpy(np.array(self.images[index])), label

    def batch(
        self,
        indices: Sequence[int] | np.ndarray | Tensor,
        *,
        device: torch.device | str | None = None,
        flip: Tensor | None = None,
    ) -> Batch:
        """Images at indices (B,) as float32 (B,C,H,W), byte/127.5 - 1; flip: bool (B,), which to mirror left-right.

        Raises DefarError for indices or flip of another shape or type, IndexError for an index out of range.
        """
        chosen = indices.cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise DefarError(f"indices are {chosen.dtype} {chosen.shape}; give integers (B,)")
        # bytes travel to the device: a quarter of what floats weigh
        data = torch.from_numpy(np.asarray(self.images[chosen])).to(device)
        if flip is not None:
            if flip.shape != chosen.shape or flip.dtype != torch.bool:
                raise DefarError(f"flip is {flip.dtype} {tuple(flip.shape)}; give torch.bool {chosen.shape}")
            data = torch.where(flip.to(data.device)[:, None, None, None], data.flip(-1), data)
        labels = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[chosen])).to(device)
        return Batch(data.float().div_(127.5).sub_(1.0), labels)

    @property
    def spec(self) -> DataSpec:
        """Raises DefarError for images that are not square."""
        channels, height, width = self.images.shape[1:]
        if height != width:
            raise DefarError(f"{self.name}: images are {height} x {width}; the network needs square ones")
        return DataSpec(channels, height, self.num_classes)

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) over the images' shape, type and bytes, and over the labels."""
        digest = hashlib.sha256(f"{self.images.shape} {self.images.dtype.str}".encode())
        digest.update(np.ascontiguousarray(self.images))
        if self.labels is not None:
            digest.update(b"labels")
            digest.update(np.ascontiguousarray(self.labels, "<i8"))
        return digest.hexdigest()


def cifar10(split: str = "train", root: str | Path | None = None) -> ImageDataset:
    """CIFAR-10 as prepared: 50,000 ("train") or 10,000 ("test") images (3,32,32), 10 classes, memory-mapped.

    Raises DefarError if it is absent or damaged, or for another split.
    """
    images, labels = open_cifar10(split, root)
    return ImageDataset(images, np.array(labels), f"cifar10-{split}", 10)


def open_dataset(
    name_or_path: str | Path,
    split: str = "train",
    root: str | Path | None = None,
    size: int | None = None,
    *,
    latents: bool = False,
) -> Any:
    """ "cifar10", "celeba64", a folder of images, or an .npz, as an ImageDataset; size resizes a folder's images.

    "celeba64" is the folder of that name under the data root, cropped and resized to 64 pixels. A folder whose
    subfolders are called train, test, val... has splits; any other folder, and an .npz, is one set that split does not
    divide. latents: a folder of latents will do, too, as a LatentDataset ("imagenet256-latents": the folder of that
    name under the data root). Raises DefarError for anything else.
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path).lower() in ("cifar10", "cifar-10"):
        dataset = cifar10(split, root)
    elif str(name_or_path) == "celeba64":
        folder = data_root(root) / "celeba64"
        if not folder.is_dir():
            raise DefarError(f"celeba64: not found; put the CelebA pictures into {folder}, or name your own folder")
        dataset = image_folder(_split_folder(folder, split), size=64)
    elif str(name_or_path) in KNOWN_DATA or (path.is_dir() and is_latents(_split_folder(path, split))):
        folder = data_root(root) / path if str(name_or_path) in KNOWN_DATA else path
        return _open_latents(str(name_or_path), folder, split, size, latents)
    elif path.is_dir():
        dataset = image_folder(_split_folder(path, split), size=size)
    elif path.suffix.lower() == ".npz":
        dataset = npz_dataset(path)
    else:
        raise DefarError(f"{name_or_path}: no such data set; give cifar10, celeba64, a folder of images, or an .npz")
    if size and dataset.images.shape[2:] != (size, size):
        raise DefarError(f"{name_or_path}: images are {dataset.images.shape[2:]}, not {size}; only folders are resized")
    return dataset


def is_latents(folder: Path) -> bool:
    """Whether `defar data latents` wrote the folder."""
    return (folder / LATENTS_INDEX).is_file()


def _open_latents(name: str, folder: Path, split: str, size: int | None, wanted: bool):
    from defar_analysis.core.latents import open_latents  # which needs this module

    if not wanted:
        raise DefarError(f"{name}: latents are no images: what is asked for here looks at pixels; name the images")
    if not folder.is_dir():
        raise DefarError(
            f"{name}: not in {folder}; write it from your images: defar data latents FOLDER --codec AUTOENCODER "
            f"--size 256 --out {folder} (a recipe can be tried without, with --dry-run)"
        )
    if size:
        raise DefarError(f"{name}: latents cannot be resized to {size}; leave image_size out")
    return open_latents(_split_folder(folder, split))


def _split_folder(path: Path, split: str) -> Path:
    folders = {entry.name for entry in visible(path) if entry.is_dir()}
    if not folders or not folders <= _SPLITS:
        return path
    if split not in folders:
        raise DefarError(f"{path}: no split {split!r}; it has {', '.join(sorted(folders))}")
    return path / split


# --- folders ---


def image_folder(path: str | Path, *, size: int | None = None) -> ImageDataset:
    """Pictures as RGB (N,3,H,W): class subfolders (label = index of the sorted name) or one flat folder (no labels).

    size: crop to the central square and resize to (size, size), antialiased; without it all must have one size. Raises
    DefarError naming the picture that is unreadable, too large, of another size, or more than 8 bits deep.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise DefarError(f"{path}: no such folder")
    if size is not None and not 1 <= size <= 4096:
        raise DefarError(f"size {size} is not between 1 and 4096")
    files, labels = list_pictures(path)
    first = read_picture(files[0], size, None)
    try:
        images = np.empty((len(files), *first.shape), np.uint8)
    except MemoryError as error:
        raise DefarError(f"{path}: {len(files)} images of {first.shape} do not fit in memory; give a size") from error
    for index, file in enumerate(files):
        images[index] = read_picture(file, size, first.shape)
    return ImageDataset(images, labels, path.resolve().name, None if labels is None else int(labels.max()) + 1)


# --- .npz ---


def npz_dataset(path: str | Path) -> ImageDataset:
    """ADM's layout, arr_0 (N,H,W,3) uint8 and perhaps arr_1 (N,); or images (N,H,W,C) or (N,C,H,W), perhaps labels.

    Raises DefarError naming the file where it is unreadable or anything in it has another shape or type.
    """
    path = Path(path).expanduser()
    names = npz_names(path)
    keys = ("arr_0", "arr_1") if "arr_0" in names else ("images", "labels")
    if keys[0] not in names:
        held = ", ".join(names) or "nothing"
        raise DefarError(f"{path}: it holds {held}; give arr_0 and arr_1, or images and labels")
    found = read_npz(path, keys)
    images, labels = (found.get(key) for key in keys)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DefarError(f"{path}: {keys[0]} is {images.dtype} {images.shape}; give uint8 (N,H,W,C)")
    images = _channels_first(path, keys[0], images)
    return ImageDataset(images, labels, str(path))


def _channels_first(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    last, first = images.shape[3] in (1, 3), images.shape[1] in (1, 3) and key == "images"
    if first == last:
        why = "could be (N,H,W,C) or (N,C,H,W): save it as arr_0 (N,H,W,C)" if first else "has no axis of 3 channels"
        raise DefarError(f"{path}: {key} {images.shape} {why}")
    return images if first else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
