"""Seeds that depend on what is drawn and on nothing else: not on batch size, process count or device.

Image i of a run, and step n of a training, each get a generator of their own, so a run that is cut short and resumed,
or split over processes, draws exactly what an uninterrupted one draws. All numbers are drawn on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DefarError


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


def sde_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One generator for the SDE noise of each image, for `sample(..., generators=)`.

    Image i's stream depends on seed and i. Sampling advances the generators: make them anew for every call.
    """
    return [generator_for(seed, "sde", int(i)) for i in indices]


def step_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """The next standard normal (*shape) of every generator, (N, *shape) float32 on the CPU."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def balanced_labels(indices: Sequence[int], num_classes: int, seed: int | None = None) -> Tensor:
    """Labels (N,) long with equal shares of the classes: every class once in the images kK ... kK + K - 1, K classes.

    Without a seed image i has label i mod K. With one the order inside each such block is shuffled, each block by
    itself: label i depends on seed, i and K, not on how many images are drawn.
    """
    _check_classes(num_classes)
    if seed is None:
        return torch.tensor([int(i) % num_classes for i in indices], dtype=torch.long)
    orders: dict[int, Tensor] = {}
    labels = []
    for block, place in (divmod(int(i), num_classes) for i in indices):
        if block not in orders:
            orders[block] = torch.randperm(num_classes, generator=generator_for(seed, "balanced labels", block))
        labels.append(int(orders[block][place]))
    return torch.tensor(labels, dtype=torch.long)


def random_labels(seed: int, indices: Sequence[int], num_classes: int) -> Tensor:
    """Labels (N,) long, uniform and independent: label i depends on seed, i and the number of classes."""
    _check_classes(num_classes)
    drawn = (torch.randint(num_classes, (), generator=generator_for(seed, "label", int(i))) for i in indices)
    return torch.tensor([int(label) for label in drawn], dtype=torch.long)


def process_indices(count: int, process: int, processes: int, chunk: int = 64) -> list[int]:
    """The images of 0 ... count - 1 that one of several processes samples: every `processes`-th whole chunk.

    Sampled with that `chunk`, they equal bit for bit the images of a single process. May be empty.
    """
    if chunk < 1 or processes < 1 or not 0 <= process < processes:
        raise DefarError(f"no share for process {process} of {processes} with chunks of {chunk}")
    starts = range(process * chunk, count, processes * chunk)
    return [i for start in starts for i in range(start, min(start + chunk, count))]


def _check_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise DefarError(f"num_classes must be at least 1; got {num_classes}")
