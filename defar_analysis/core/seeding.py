"""Seeds that depend on what is drawn and on nothing else: not on batch size, process count or device.

Image i of a run, and step n of a training, each get a generator of their own, so a run that is cut short and resumed,
or split over processes, draws exactly what an uninterrupted one draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for the place `path` inside the run `seed`; different places give unrelated streams."""
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))


def image_noise(seed: int, indices: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise for the images `indices`, (N, *shape) float32: image i's noise depends on seed and i."""
    return torch.stack([torch.randn(tuple(shape), generator=generator_for(seed, "noise", int(i))) for i in indices])


def balanced_labels(indices: Sequence[int], num_classes: int) -> Tensor:
    """Label i mod num_classes for image i: equal shares of the classes in any run of consecutive images."""
    return torch.tensor([int(i) % num_classes for i in indices])
