"""Which noise a training image is paired with. A coupling reorders the noise: data and labels stay where they are."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import DefarError


class Coupling(Protocol):
    """noise, data (B, ...) and labels (B,) or None -> the same noise, in the order in which data is paired with it."""

    def __call__(self, noise: Tensor, data: Tensor, labels: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Independent:
    """Noise and data are drawn independently: the plain flow-matching pairing."""

    def __call__(self, noise: Tensor, data: Tensor, labels: Tensor | None = None) -> Tensor:
        return noise


@dataclass(frozen=True)
class MinibatchOT:
    """The pairing of least total squared distance within the batch (OT-CFM; Tong et al. 2024), by POT's exact solver.

    Every noise and every image is used once; torchcfm's sampling from the same plan repeats some and drops 36 %. Warns
    when labels differ inside the batch: the pairing then ties noise to classes, and class-conditional sampling, which
    draws them apart, no longer matches training.
    """

    def __call__(self, noise: Tensor, data: Tensor, labels: Tensor | None = None) -> Tensor:
        if noise.is_meta:  # shapes only: every permutation is as good
            return noise
        if labels is not None and bool((labels != labels[0]).any()):
            warnings.warn(
                "mini-batch OT ties noise to class labels and distorts class-conditional training; "
                'use it without labels, or Independent() (in a recipe: coupling = "independent")',
                stacklevel=3,  # who called draw()
            )
        return noise[optimal_order(noise, data)]


def optimal_order(noise: Tensor, data: Tensor) -> Tensor:
    """For each of data (B, ...) the index of its noise (B, ...) under exact optimal transport, (B,) long.

    The cost is the squared Euclidean distance of whole samples, in float64, exact to some 1e-16 of the largest squared
    norm about the mean: inside clusters 1e7 times as far apart as their samples, pairs may be wrong. Raises DefarError
    for fewer than two samples, shapes that differ, or a cost that is not finite.
    """
    if noise.shape != data.shape:
        raise DefarError(f"noise {tuple(noise.shape)} and data {tuple(data.shape)} must have one shape")
    batch = data.shape[0]
    if batch < 2:
        raise DefarError(f"mini-batch OT has nothing to pair in a batch of {batch}; give 2 samples or more")
    try:
        import ot
    except ImportError:
        raise DefarError("mini-batch OT needs the package POT: pip install pot") from None
    rows, columns = (z.detach().flatten(1).to("cpu", torch.float64) for z in (data, noise))
    # by a matrix product: pairing became 7 to 14 times as fast (record 2026-11-22-scale); about the mean, or data far
    # from 0 would lose digits
    centre = rows.mean(dim=0)
    cost = torch.cdist(rows - centre, columns - centre, compute_mode="use_mm_for_euclid_dist").square().numpy()
    if not (cost < float("inf")).all():
        raise DefarError("mini-batch OT: a distance between noise and data is not finite; check the batch")
    plan, log = ot.emd([], [], cost, numItermax=10**8, log=True)  # uniform weights: an optimal vertex is a permutation
    order = torch.from_numpy(plan.argmax(axis=1))
    if log["warning"] or not torch.equal(order.sort().values, torch.arange(batch)):
        raise DefarError(f"mini-batch OT found no optimal permutation for a batch of {batch}; give a smaller one")
    return order.to(data.device)


COUPLINGS = {"independent": Independent, "ot": MinibatchOT}
