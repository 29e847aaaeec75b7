"""Precision and recall: which images lie inside the manifold of the other set. Public through `measures.quality`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import DefarError
from .moments import matrix, same_width

BLOCK = 1024  # rows of a distance matrix at a time: 80 MiB against 10,000 images


@dataclass(frozen=True, eq=False)
class Coverage:
    """Image by image, what precision and recall count.

    generated_inside (N_generated,): inside the real manifold. real_inside (N_real,): inside the generated one.
    covered_once (N_generated,): real images that lie in the ball of this generated image and in no other's.
    """

    generated_inside: np.ndarray
    real_inside: np.ndarray
    covered_once: np.ndarray


def precision_recall(real, generated, k: int = 3) -> tuple[float, float]:
    """(precision, recall): share of generated images inside the real manifold, and of real inside the generated one.

    Features (N_real, D) and (N_generated, D); the sets may differ in size. **The reference comes first**: the other
    order swaps the two numbers (torch-fidelity's input1 is the generated one). See `coverage`.
    """
    covered = coverage(real, generated, k)
    return float(covered.generated_inside.mean()), float(covered.real_inside.mean())


def inside_manifolds(real, generated, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(inside_real (N_generated,), inside_generated (N_real,)), booleans, one for each image; see `coverage`."""
    covered = coverage(real, generated, k)
    return covered.generated_inside, covered.real_inside


def coverage(real, generated, k: int = 3) -> Coverage:
    """`Coverage` of two sets of features (N_real, D), (N_generated, D), in blocks: memory grows with N, not N^2.

    A manifold is the union of balls around its points; a ball reaches to the k-th neighbour besides the point itself
    and includes its surface. All distances in float64 (ADM: float16 or float32, which moves the third decimal).
    Raises where k is not below both numbers of images, or D differs. Source: Kynkäänniemi et al. 2019; ADM, k = 3.
    """
    real, generated = matrix(real, "real"), matrix(generated, "generated")
    same_width(real, generated)
    real, generated = _centred(real, generated)
    real_radii, generated_radii = _radii(real, k, "real"), _radii(generated, k, "generated")
    generated_inside = torch.zeros(len(generated), dtype=torch.bool)
    real_inside = torch.zeros(len(real), dtype=torch.bool)
    covered_once = torch.zeros(len(generated), dtype=torch.long)
    for start in range(0, len(real), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = _squared_distances(real[rows], generated)
        generated_inside |= (distances <= real_radii[rows, None]).any(dim=0)
        holds = distances <= generated_radii
        times = holds.sum(dim=1)
        real_inside[rows] = times > 0
        covered_once += holds[times == 1].sum(dim=0)
    return Coverage(generated_inside.numpy(), real_inside.numpy(), covered_once.numpy())


def neighbour_radii(features, k: int = 3) -> np.ndarray:
    """Squared distance of each image to its k-th neighbour besides itself, (N,), of features (N, D)."""
    (rows,) = _centred(matrix(features))
    return _radii(rows, k, "features").numpy()


def _radii(rows: Tensor, k: int, name: str) -> Tensor:
    if not 1 <= k < len(rows):
        raise DefarError(f"k = {k} must be from 1 to below the {len(rows)} {name} images; use more images")
    radii = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        distances = _squared_distances(block, rows)
        own = torch.arange(len(block))
        distances[own, start + own] = torch.inf  # itself; not the smallest entry, which may be a duplicate's
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    squares = torch.addmm(b.square().sum(dim=1), a, b.T, alpha=-2)
    return squares.add_(a.square().sum(dim=1, keepdim=True)).clamp_(min=0)


def _centred(*sides: np.ndarray) -> tuple[Tensor, ...]:
    """Distances do not change, but |a|^2 + |b|^2 - 2 a.b loses fewer digits near the origin."""
    mean = sides[0].mean(axis=0, dtype=np.float64)
    return tuple(torch.from_numpy(side - mean) for side in sides)
