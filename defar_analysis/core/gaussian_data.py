"""Training data whose optimal velocity is known: draws of the Gaussian that has a data set's mean and spectrum.

A network trained on them can be held against the exact field, so that what it measures splits into a part that every
perfect model has and a part that is this network's error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DefarError
from .datasets import Batch, DataSpec, ImageDataset, open_dataset
from .oracles import GaussianFlow
from .seeding import image_noise

PREFIX = "gaussian:"
_SEED = 0


@dataclass(frozen=True, eq=False)
class GaussianImages:
    """`count` independent draws of a Gaussian field, made when they are asked for; not confined to [-1, 1].

    Draw i depends on i alone. hash names the law: images and labels of the data set that it was fitted to.
    """

    flow: GaussianFlow
    spec: DataSpec
    name: str
    hash: str
    count: int = 2**20  # more than a small training sees: no draw comes twice
    labels: None = field(default=None, init=False)

    def __len__(self) -> int:
        return self.count

    def batch(
        self,
        indices: Sequence[int] | np.ndarray | Tensor,
        *,
        device: torch.device | str | None = None,
        flip: Tensor | None = None,
    ) -> Batch:
        """Draws (B, C, H, W) float32 of those numbers. Raises DefarError for flip: the mirrored law is another one."""
        if flip is not None:
            raise DefarError(f"{self.name}: mirrored draws have another law; set data.horizontal_flip = false")
        white = image_noise(_SEED, [int(i) for i in indices], (self.spec.channels, self.spec.size, self.spec.size))
        return Batch(self.flow.colour(white).to(device))


def gaussian_images(name: str, split: str = "train", root: str | Path | None = None) -> GaussianImages:
    """ "gaussian:NAME": the Gaussian with mean, spectrum and channel covariance of the data set NAME, fitted now.

    It takes some seconds for 50,000 small images. Raises DefarError as open_dataset does.
    """
    base = open_dataset(name.removeprefix(PREFIX), split, root=root)
    spec = DataSpec(base.spec.channels, base.spec.size, None)
    law = hashlib.sha256(f"{PREFIX}{base.hash}".encode()).hexdigest()
    return GaussianImages(fitted(base), spec, f"{PREFIX}{base.name}", law)


def fitted(images: ImageDataset) -> GaussianFlow:
    """The Gaussian with the mean, spectrum and channel covariance of all the images."""
    starts = range(0, len(images), 1000)
    return GaussianFlow.fit(images.batch(range(s, min(s + 1000, len(images)))).data for s in starts)
