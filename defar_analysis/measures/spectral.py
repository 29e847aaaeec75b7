"""Pure functions of (B, C, H, W) tensors: frequency bands, PFR, saliency masks, FEL (Eqs. 3-5, 10-14).

The filters themselves are core.filters', where the training objectives use them too; their names are here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..core.filters import CUTOFF, band_masks, high_pass, low_pass, radial_frequency
from ..core.tensors import l2_norm, wide
from ..errors import DefarError

ChannelNorm = Literal["l2", "l1", "mean"]
NORMS = {  # over the channels of (B, C, H, W)
    "l2": lambda band: l2_norm(band, 1),
    "l1": lambda band: band.abs().sum(1),
    "mean": lambda band: band.mean(1).abs(),
}

__all__ = [
    "CUTOFF", "band_energies", "band_masks", "frequency_emphasis", "high_pass", "low_pass",
    "predicted_frequency_ratio", "radial_frequency", "saliency_masks",
]  # fmt: skip


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
    target: Tensor, cutoff: float = CUTOFF, low: float = 0.20, high: float = 0.25, norm: ChannelNorm = "l2"
) -> tuple[Tensor, Tensor]:
    """Where the target velocity's low and high bands are strongest, boolean (B, H, W) each (Eq. 13).

    The bands are filtered back into space, their norm over channels taken, and the top `low` (or `high`) share of
    the pixels of each sample kept: at least the threshold at quantile 1 - share. norm: "l2", "l1", the sum of
    magnitudes, or "mean", the magnitude of the mean, so that channels of opposite sign cancel.
    """
    if norm not in NORMS:
        raise DefarError(f"norm must be one of {', '.join(map(repr, NORMS))}; got {norm!r}")
    for name, share in (("low", low), ("high", high)):
        if not 0 < share < 1:
            raise DefarError(f"{name} must be a share of pixels between 0 and 1; got {share}")
    v_low = low_pass(target, cutoff)
    return top_pixels(v_low, [low], norm)[0], top_pixels(target - v_low, [high], norm)[0]


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


def top_pixels(band: Tensor, shares: Sequence[float], norm: ChannelNorm = "l2") -> Tensor:
    """The top share of pixels of each sample of a band (B, C, H, W) by its norm over channels, boolean (S, B, H, W).

    All shares at once: sorting is what takes the time.
    """
    magnitude = NORMS[norm](band)
    flat = wide(magnitude).flatten(1)
    quantiles = torch.tensor([1 - share for share in shares], dtype=flat.dtype, device=flat.device)
    return magnitude >= torch.quantile(flat, quantiles, dim=1)[..., None, None]
