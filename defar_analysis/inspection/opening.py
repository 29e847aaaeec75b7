"""From names to an Inspector, with every mistake found before the first forward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..artefacts import checked_profile, checked_root
from ..core.checkpoints import Checkpoint, load_checkpoint
from ..core.datasets import ImageDataset, open_dataset
from ..core.devices import resolve_device
from ..errors import DefarError
from ..experiment import CLASSES, SCALES, SEED, SHIPPED
from .inspector import Inspector


def shipped_checkpoints(root: Path) -> dict[str, Path]:
    """Folders of the shipped checkpoints by method. Raises DefarError where `root` is no clone of the project."""
    folder = checked_root(root) / "reproduce" / "checkpoints"
    if not folder.is_dir():
        raise DefarError(f"{folder}: not there; give checkpoints, or name a clone of the project with --root")
    return {name: folder / inside for name, inside in SHIPPED.items()}


def open_inspector(
    checkpoints: Mapping[str, Path] | None = None,
    data: str = "cifar10",
    split: str = "test",
    *,
    images: int | None = None,
    profile: str = "quick",
    root: Path = Path("."),
    seed: int = SEED,
    device: str = "auto",
) -> Inspector:
    """Checkpoints by method name (default: the shipped ones under root) on the images of a data set.

    images: how many are offered, classes in turn; None: all (profile tiny: as few as that measures). Raises DefarError
    for images of another shape than a checkpoint was trained on, labels that it does not know, and too many images.
    """
    scale = SCALES[checked_profile(profile)]
    where, folders = resolve_device(device), shipped_checkpoints(root) if checkpoints is None else checkpoints
    if not folders:
        raise DefarError("no checkpoint given; name at least one")
    if images is not None and images < 1:
        raise DefarError(f"images = {images}; give 1 or more")
    loaded = {name: load_checkpoint(folder, device=where) for name, folder in folders.items()}
    dataset = open_dataset(data, split)
    if images is None:
        images = min(scale.images, len(dataset)) if profile == "tiny" else len(dataset)
    if images > len(dataset):
        raise DefarError(f"images = {images}, but {data} has {len(dataset)}; give at most as many")
    chosen = in_turn(dataset.labels, len(dataset), images)
    for name, checkpoint in loaded.items():
        _check(name, checkpoint, dataset, chosen, data)
    names = CLASSES if data.lower() in ("cifar10", "cifar-10") else ()
    return Inspector(loaded, dataset, chosen, names, seed, where)


def in_turn(labels: np.ndarray | None, total: int, count: int) -> tuple[int, ...]:
    """`count` of `total` images: the first of each class, then the second of each, ...; without labels, the first."""
    if labels is None:
        return tuple(range(count))
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    turn = np.empty(total, dtype=np.int64)
    turn[order] = np.arange(total) - np.searchsorted(ordered, ordered)  # how many of its class come before it
    return tuple(int(i) for i in np.lexsort((labels, turn))[:count])


def _check(name: str, checkpoint: Checkpoint, dataset: ImageDataset, images: tuple[int, ...], data: str) -> None:
    if dataset.images.shape[1:] != checkpoint.pixel_shape:
        wanted = checkpoint.pixel_shape
        raise DefarError(f"{data}: images are {dataset.images.shape[1:]}, {name} was trained on {wanted}")
    if checkpoint.classes is not None and dataset.labels is not None:
        greatest = int(dataset.labels[list(images)].max())
        if greatest >= checkpoint.classes:
            raise DefarError(f"{data}: label {greatest} is unknown to {name}, which has {checkpoint.classes} classes")
