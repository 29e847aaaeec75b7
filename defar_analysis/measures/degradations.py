"""Damage of known kind and strength to real images: what a quality metric must notice, the more of it the more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core.seeding import image_noise
from ..errors import DefarError
from .features import StoredImages
from .protocols import balanced_indices

VERSION = 1  # raise it when the images change: kept features are then extracted again


class Degradation(Protocol):
    """images (N,C,H,W) uint8 and their places in the data set (N,) -> images of the same shape and type."""

    def __call__(self, images: np.ndarray, indices: Sequence[int]) -> np.ndarray: ...


@dataclass(frozen=True)
class GaussianNoise:
    """Independent Gaussian noise on every value; sigma in grey levels of 255.

    Image i's noise depends on seed and i alone, and is the same at every sigma but for its size: strengths are paired.
    """

    sigma: float
    seed: int = 0

    def __post_init__(self) -> None:
        _not_negative("noise", self.sigma)

    def __call__(self, images: np.ndarray, indices: Sequence[int]) -> np.ndarray:
        _checked(images)
        noise = image_noise(self.seed, indices, images.shape[1:]).numpy()
        return _to_bytes(images + self.sigma * noise)


@dataclass(frozen=True)
class GaussianBlur:
    """Gaussian blur of each channel, edges mirrored; sigma in pixels. The places do not matter."""

    sigma: float

    def __post_init__(self) -> None:
        _not_negative("blur", self.sigma)

    def __call__(self, images: np.ndarray, indices: Sequence[int]) -> np.ndarray:
        _checked(images)
        return _to_bytes(gaussian_filter(images.astype(np.float64), (0, 0, self.sigma, self.sigma), mode="reflect"))


@dataclass(frozen=True, eq=False)
class DegradedImages:
    """A stream (`features.ImageStream`): the images of `base`, degraded chunk by chunk as they are asked for."""

    name: str
    base: StoredImages
    degradation: Degradation

    @property
    def count(self) -> int:
        return self.base.count

    @property
    def chunk(self) -> int:
        return self.base.chunk

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.everything.shape[1:]

    @property
    def labels(self) -> np.ndarray | None:
        return self.base.labels

    @property
    def identity(self) -> dict[str, Any]:
        settings = {"kind": type(self.degradation).__name__, "version": VERSION, **asdict(self.degradation)}
        return {**self.base.identity, "degradation": settings}

    def images(self, start: int) -> np.ndarray:
        return self.degradation(self.base.images(start), self.base.indices[start : start + self.chunk])


def without_classes(labels: np.ndarray, removed: int, count: int) -> np.ndarray:
    """Places of `count` images in order, in equal shares of the classes but the last `removed`; labels (N,).

    Of each class the first ones, so more removal keeps the images of the classes that stay and adds to them. Raises
    DefarError where no class or too few images would be left.
    """
    labels = np.asarray(labels)
    classes = np.unique(labels)
    if not 0 <= removed < len(classes):
        raise DefarError(f"{removed} of {len(classes)} classes removed; at least one must stay, and none below 0")
    places = np.flatnonzero(np.isin(labels, classes[: len(classes) - removed]))
    return places[balanced_indices(labels[places], len(places), count)]


def _not_negative(name: str, sigma: float) -> None:
    if not 0 <= sigma < np.inf:
        raise DefarError(f"{name} of sigma {sigma}: give a number of 0 or more")


def _checked(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DefarError(f"images are {images.dtype} {images.shape}; give uint8 (N,C,H,W)")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
