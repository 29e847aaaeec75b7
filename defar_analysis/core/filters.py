"""Ideal low- and high-pass filters of image-shaped tensors (Eq. 11).

Transforms are two-dimensional FFTs per channel with norm="ortho", in float32 at least. Frequencies are in cycles per
pixel. The low band is the ideal disc of radius `cutoff`, its edge included.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..errors import DefarError
from .tensors import wide

CUTOFF = 0.2  # cycles per pixel; the paper's value is lost, reproduce/assumptions.md tells how this one was chosen


def radial_frequency(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """rho = sqrt(u^2 + v^2) in cycles per pixel on fft2's grid, (H, W) float64."""
    u = torch.fft.fftfreq(height, dtype=torch.float64, device=device)[:, None]
    v = torch.fft.fftfreq(width, dtype=torch.float64, device=device)[None]
    return torch.sqrt(u**2 + v**2)


def band_masks(
    height: int, width: int, cutoff: float = CUTOFF, drop_dc: bool = False, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Boolean (H, W) masks of the low band rho <= cutoff and of all the rest (Eq. 11).

    drop_dc takes the zero frequency out of the low band. Raises DefarError for a cutoff outside (0, sqrt(1/2)).
    """
    if not 0 < cutoff < 0.5**0.5:
        raise DefarError(f"cutoff must lie between 0 and 0.707 cycles per pixel; got {cutoff}")
    return _band_masks(height, width, float(cutoff), bool(drop_dc), str(device))


@lru_cache(maxsize=32)
def _band_masks(height: int, width: int, cutoff: float, drop_dc: bool, device: str) -> tuple[Tensor, Tensor]:
    low = radial_frequency(height, width, device) <= cutoff + 1e-12
    high = ~low
    if drop_dc:
        low[0, 0] = False
    return low, high


def low_pass(x: Tensor, cutoff: float = CUTOFF) -> Tensor:
    """The low band of x, mean included, back in space; real, x's shape and dtype."""
    low, _ = band_masks(*x.shape[-2:], cutoff, device=x.device)
    return torch.fft.ifft2(torch.fft.fft2(wide(x), norm="ortho") * low, norm="ortho").real.to(x.dtype)


def high_pass(x: Tensor, cutoff: float = CUTOFF) -> Tensor:
    """The high band of x back in space; low_pass(x) + high_pass(x) = x."""
    _, high = band_masks(*x.shape[-2:], cutoff, device=x.device)
    return torch.fft.ifft2(torch.fft.fft2(wide(x), norm="ortho") * high, norm="ortho").real.to(x.dtype)
