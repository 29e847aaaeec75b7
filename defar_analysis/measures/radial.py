"""Energy by exact radial frequency: from it the PFR (Eq. 12) at any cutoff is a sum, without another transform."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..core.tensors import wide
from .spectral import radial_frequency

SAME = 1e-10  # cycles per pixel; radii that differ by less are one, split only by rounding
EDGE = 1e-12  # the disc's edge is inside, as in core.filters


@lru_cache(maxsize=8)
def radii(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct radial frequencies of fft2's grid, increasing, and how many coefficients each has; both (R,)."""
    _, distances, counts = _radii(height, width)
    return distances.numpy(), counts.numpy()


@lru_cache(maxsize=8)
def _radii(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    distance = radial_frequency(height, width).flatten()
    _, place, counts = torch.unique((distance / SAME).round(), return_inverse=True, return_counts=True)
    distances = torch.zeros(len(counts), dtype=torch.float64).scatter_(0, place, distance)
    return place, distances, counts


def radial_energies(v: Tensor) -> np.ndarray:
    """Energy sum |F|^2 of v (B, C, H, W) at each of the `radii`, all channels together; (B, R) float64.

    The first column is the zero frequency's; the columns add up to sum v^2, the transform being orthonormal.
    """
    power = torch.fft.fft2(wide(v), norm="ortho").abs().square().sum(dim=1).flatten(1).cpu().double()
    place, distances, _ = _radii(*v.shape[-2:])
    return torch.zeros(len(power), len(distances), dtype=torch.float64).index_add_(1, place, power).numpy()


def frequency_ratio(distances: np.ndarray, energies: np.ndarray, cutoff: float, drop_dc: bool = False) -> np.ndarray:
    """PFR (Eq. 12) at `cutoff` of energies (..., R) over radii (R,); NaN or inf where the high band has none."""
    inside = distances <= cutoff + EDGE
    high = energies[..., ~inside].sum(axis=-1)
    if drop_dc:
        inside = inside & (distances > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return energies[..., inside].sum(axis=-1) / high
