"""The FC weight: a map of the exposure bias, normalized, on top of 1 (Eqs. 15-16)."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from ...errors import DefarError
from ..tensors import l2_norm

BiasNorm = Literal["l2", "l1", "max", "mean"]
BiasMap = Literal["pixel", "element", "signed"]


def compensation_weight(
    bias: Tensor, alpha: float = 1.0, norm: BiasNorm = "l2", map: BiasMap = "pixel", eps: float = 1e-6
) -> Tensor:
    """w = 1 + alpha m / |m| for each sample (Eq. 15, reconstructed), m a map of the bias.

    bias (B, C, H, W). map: "pixel", the L2 norm over channels, (B, 1, H, W); "element", |bias|; "signed", the bias
    itself, both (B, C, H, W). norm over all entries of one sample's map: "l2", "l1" (sum), "max", "mean".
    w is 1 where the bias is 0, and scaling the bias leaves it unchanged up to eps. So a gradient through w is
    orthogonal to the sample's bias (Euler's theorem): it moves the bias between pixels and cannot make it smaller.
    """
    return 1 + alpha * normalized_bias_map(bias, norm, map, eps)


def normalized_bias_map(bias: Tensor, norm: BiasNorm = "l2", map: BiasMap = "pixel", eps: float = 1e-6) -> Tensor:
    """m / (|m| + eps), the second term of :func:`compensation_weight` without alpha. Same shapes."""
    if map == "pixel":
        m = l2_norm(bias, 1, keepdim=True)
    elif map in ("element", "signed"):
        m = bias if map == "signed" else bias.abs()
    else:
        raise DefarError(f"bias_map must be 'pixel', 'element' or 'signed'; got {map!r}")
    axes, entries = tuple(range(1, m.ndim)), m[0].numel()
    # eps shrinks with the norm that it guards, so that all four readings forget it at the same size of bias.
    if norm == "l2":
        size = l2_norm(m, axes, keepdim=True) + eps
    elif norm == "l1":
        size = m.abs().sum(axes, keepdim=True) + eps
    elif norm == "mean":
        size = m.abs().mean(axes, keepdim=True) + eps / entries
    elif norm == "max":
        size = m.abs().amax(axes, keepdim=True) + eps / math.sqrt(entries)
    else:
        raise DefarError(f"bias_norm must be 'l2', 'l1', 'max' or 'mean'; got {norm!r}")
    return m / size


def compensated_loss(error: Tensor, weight: Tensor, inside_square: bool = True) -> Tensor:
    """(w e)^2, or w e^2 outside the square (Eq. 16): the reweighted loss map, (B, C, H, W)."""
    return (weight * error).square() if inside_square else weight * error.square()
