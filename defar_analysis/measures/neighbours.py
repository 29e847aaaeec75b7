"""Precision and recall: which images lie inside the manifold of the other set. Public through `measures.quality`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import DefarError
from .moments import matrix, same_width

BLOCK = 1024  # rows of a distance matrix at a time: 80 MiB against 10,000 images
COPY = 1e-6  # of the median squared radius of real images: what float32 features of one image differ by, and less


@dataclass(frozen=True, eq=False)
class Coverage:
    """Image by image, what precision and recall count.

    generated_inside (N_generated,): inside the real manifold. real_inside (N_real,): inside the generated one. lost
    (N_generated,): how many fewer real images are covered without this generated image; negative where its absence
    lets a neighbour's ball reach further. copies (N_generated,): as near to a real image as rounding allows.
    """

    generated_inside: np.ndarray
    real_inside: np.ndarray
    lost: np.ndarray
    copies: np.ndarray


def precision_recall(real, generated, k: int = 3) -> tuple[float, float]:
    """(precision, recall): share of generated images inside the real manifold, and of real inside the generated one.

    Features (N_real, D) and (N_generated, D); the sets may differ in size. **The reference comes first**: the other
    order swaps the two numbers (torch-fidelity's input1 is the generated one). See `coverage`.
    """
    covered = coverage(real, generated, k)
    return float(covered.generated_inside.mean()), float(covered.real_inside.mean())


def coverage(real, generated, k: int = 3) -> Coverage:
    """`Coverage` of two sets of features (N_real, D), (N_generated, D), in blocks: memory grows with N, not N^2.

    A manifold is the union of balls around its points; a ball reaches to the k-th neighbour besides the point itself
    and includes its surface. All distances in float64 (ADM: float16 or float32, which moves the third decimal).
    Raises where k is not below both numbers of images, or D differs. Source: Kynkäänniemi et al. 2019; ADM, k = 3.
    """
    real, generated = matrix(real, "real"), matrix(generated, "generated")
    same_width(real, generated)
    real, generated = _centred(real, generated)
    real_radii = _neighbours(real, k, "real")[0][:, -1]
    # the next one, too: where it is left out, a ball reaches there
    reach, members = _neighbours(generated, min(k + 1, len(generated) - 1), "generated", k)
    generated_radii, members = reach[:, k - 1], members[:, :k]
    generated_inside = torch.zeros(len(generated), dtype=torch.bool)
    nearest = torch.full((len(generated),), torch.inf, dtype=torch.float64)
    real_inside = torch.zeros(len(real), dtype=torch.bool)
    lost = torch.zeros(len(generated), dtype=torch.long)
    for start in range(0, len(real), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = _squared_distances(real[rows], generated)
        generated_inside |= (distances <= real_radii[rows, None]).any(dim=0)
        nearest = torch.minimum(nearest, distances.amin(dim=0))
        holds = distances <= generated_radii
        times = holds.sum(dim=1)
        real_inside[rows] = times > 0
        _count_lost(lost, holds, (distances <= reach[:, -1]) & ~holds, times, members)
    copies = nearest <= COPY * real_radii.median()
    return Coverage(generated_inside.numpy(), real_inside.numpy(), lost.numpy(), copies.numpy())


def _count_lost(lost: Tensor, holds: Tensor, nearly: Tensor, times: Tensor, members: Tensor) -> None:
    """Add to `lost`, for a block of real images, those that only one ball holds; take off what larger balls regain.

    nearly: a ball would hold the image if it lost one of its `members` (N_generated, k), the neighbours inside it.
    """
    lost += holds[times == 1].sum(dim=0)
    alone = holds.int().argmax(dim=1)
    for i in torch.nonzero((times <= 1) & nearly.any(dim=1)).flatten().tolist():
        removed = members[nearly[i]].unique()
        if times[i] == 1:  # another's absence changes nothing: the one ball is still there
            removed = removed[removed == alone[i]]
        lost[removed] -= 1


def neighbour_radii(features, k: int = 3) -> np.ndarray:
    """Squared distance of each image to its k-th neighbour besides itself, (N,), of features (N, D)."""
    (rows,) = _centred(matrix(features))
    return _neighbours(rows, k, "features")[0][:, -1].numpy()


def _neighbours(rows: Tensor, count: int, name: str, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Squared distances and places of the `count` nearest others of each row, (N, count), nearest first."""
    if not 1 <= (k or count) < len(rows):
        raise DefarError(f"k = {k or count} must be from 1 to below the {len(rows)} {name} images; use more images")
    found = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        distances = _squared_distances(block, rows)
        own = torch.arange(len(block))
        distances[own, start + own] = torch.inf  # itself; not the smallest entry, which may be a duplicate's
        found.append(distances.topk(count, dim=1, largest=False))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    squares = torch.addmm(b.square().sum(dim=1), a, b.T, alpha=-2)
    return squares.add_(a.square().sum(dim=1, keepdim=True)).clamp_(min=0)


def _centred(*sides: np.ndarray) -> tuple[Tensor, ...]:
    """Distances do not change, but |a|^2 + |b|^2 - 2 a.b loses fewer digits near the origin."""
    mean = sides[0].mean(axis=0, dtype=np.float64)
    return tuple(torch.from_numpy(side - mean) for side in sides)
