"""Pure functions of (B, C, H, W) tensors: frequency bands, PFR, saliency masks, FEL (Eqs. 3-5, 10-14).

Transforms are two-dimensional FFTs per channel with norm="ortho", in float32 at least. Frequencies are in cycles per
pixel. The low band is the ideal disc of radius `cutoff`, its edge included.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..core.tensors import l2_norm, wide
from ..errors import DefarError

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


def band_energies(v: Tensor, cutoff: float = CUTOFF) -> tuple[Tensor, Tensor, Tensor]:
    """(dc, low, high) energies sum |F|^2 of each sample, all channels together, (B,); low leaves the DC bin out."""
    power = torch.fft.fft2(wide(v), norm="ortho").abs().square().sum(dim=1)
    low, high = band_masks(*v.shape[-2:], cutoff, drop_dc=True, device=v.device)
    flat = power.flatten(1)
    bands = flat @ torch.stack([low.flatten(), high.flatten()], dim=1).to(flat.dtype)
    return power[:, 0, 0], bands[:, 0], bands[:, 1]


def predicted_frequency_ratio(v: Tensor, cutoff: float = CUTOFF, drop_dc: bool = False) -> Tensor:
    """PFR(v) = sum |F|^2 over the low band / sum |F|^2 over the high band (Eq. 12), one number for each sample, (B,).

    NaN for a velocity without any energy, +inf for one without high frequencies.
    """
    dc, low, high = band_energies(v, cutoff)
    return (low if drop_dc else low + dc) / high


def saliency_masks(
    target: Tensor, cutoff: float = CUTOFF, low: float = 0.20, high: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Where the target velocity's low and high bands are strongest, boolean (B, H, W) each (Eq. 13).

    The bands are filtered back into space, their L2 norm over channels taken, and the top `low` (or `high`) share of
    the pixels of each sample kept: at least the threshold at quantile 1 - share.
    """
    for name, share in (("low", low), ("high", high)):
        if not 0 < share < 1:
            raise DefarError(f"{name} must be a share of pixels between 0 and 1; got {share}")
    v_low = low_pass(target, cutoff)
    return _top(v_low, low), _top(target - v_low, high)


def frequency_emphasis(loss_map: Tensor, low_mask: Tensor, high_mask: Tensor) -> Tensor:
    """FEL = sum of the loss over the low mask / sum over the high mask (Eq. 14), (B,). All arguments (B, H, W).

    Normalizing the map to sum 1 cancels in the ratio. NaN or inf where the high mask holds no loss.
    """
    if loss_map.shape != low_mask.shape or loss_map.shape != high_mask.shape:
        raise DefarError(
            f"loss map {tuple(loss_map.shape)} and masks {tuple(low_mask.shape)}, {tuple(high_mask.shape)} "
            "must share one shape (B, H, W)"
        )
    return (loss_map * low_mask).sum((1, 2)) / (loss_map * high_mask).sum((1, 2))


def _top(band: Tensor, share: float) -> Tensor:
    magnitude = l2_norm(band, 1)
    threshold = torch.quantile(wide(magnitude).flatten(1), 1 - share, dim=1)
    return magnitude >= threshold[:, None, None]
