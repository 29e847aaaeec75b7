"""LightningDiT (Yao et al. 2025) under its published parameter names: SiT with RMS norms, gated MLPs and RoPE.

Clock and sign are ours: t = 0 noise, velocity data - noise. The sin-cos table is added to the tokens and the rotary
tables turn queries and keys; all of them are stored with the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import (
    Labelled,
    RMSNorm,
    RotaryAttention,
    RotaryBlock,
    RotaryFinalLayer,
    check_patch,
    check_rotary,
    check_square,
    initialize,
    named_size,
    unpatch,
)
from .sit import LabelEmbedder, PatchEmbedder, TimeEmbedder, sincos_position_embedding

SIZES = {  # name: depth, hidden_size, num_heads
    "B": (12, 768, 12),
    "XL": (28, 1152, 16),
}


def lightningdit(
    name: str, *, input_size: int = 16, in_channels: int = 32, num_classes: int = 1000, **kwargs
) -> LightningDiT:
    """A LightningDiT of a named size and patch, such as "XL/1". Raises DefarError on a name it does not know."""
    (depth, hidden_size, num_heads), patch = named_size(name, SIZES)
    shape = {"depth": depth, "hidden_size": hidden_size, "num_heads": num_heads}
    return LightningDiT(input_size, patch, in_channels, num_classes=num_classes, **{**shape, **kwargs})


class LightningDiT(Labelled):
    """v(x, t, labels). x (B, in_channels, input_size, input_size); t (B,) in [0, 1]; labels (B,), num_classes = null.

    labels=None means the null label for every sample. Time features are computed in float32 whatever the dtype.
    """

    def __init__(
        self,
        input_size: int = 16,
        patch_size: int = 1,
        in_channels: int = 32,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        check_patch(input_size, patch_size)
        check_rotary(hidden_size, num_heads)
        self.config = {
            "input_size": input_size, "patch_size": patch_size, "in_channels": in_channels,
            "hidden_size": hidden_size, "depth": depth, "num_heads": num_heads, "num_classes": num_classes,
        }  # fmt: skip
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.num_classes = num_classes
        grid = input_size // patch_size
        self.x_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = TimeEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.pos_embed = nn.Parameter(sincos_position_embedding(hidden_size, grid)[None].float(), requires_grad=False)
        self.feat_rope = RotaryTable(grid, hidden_size // num_heads)
        self.blocks = nn.ModuleList(gated_block(hidden_size, num_heads) for _ in range(depth))
        self.final_layer = gated_final_layer(hidden_size, patch_size**2 * in_channels)
        initialize(self)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        check_square(x, self.input_size)
        conditioning = (self.t_embedder(t) + self.y_embedder(self._labels(x, labels)))[:, None]
        tokens = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, conditioning, self.feat_rope.freqs_cos, self.feat_rope.freqs_sin)
        return unpatch(self.final_layer(tokens, conditioning), self.patch_size, self.in_channels)


class RotaryTable(nn.Module):
    """cos and sin (grid * grid, width), stored, row-major: the first half of a head turns with the row, the second with
    the column, in integer coordinates; frequencies 10000^(-2k / (width/2)), every angle twice."""

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        k = torch.arange(width // 4, dtype=torch.float32)
        angles = torch.arange(grid, dtype=torch.float32)[:, None] * 10_000.0 ** (-2 * k / (width / 2))
        angles = angles.repeat_interleave(2, dim=1)
        rows, columns = angles[:, None].expand(-1, grid, -1), angles[None].expand(grid, -1, -1)
        both = torch.cat([rows, columns], dim=-1).reshape(grid * grid, width)
        self.register_buffer("freqs_cos", both.cos())
        self.register_buffer("freqs_sin", both.sin())


class GatedMLP(nn.Module):
    """w3(silu(first half of w12 x) * second half), hidden width 8/3 of the width."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        inner = 8 * hidden_size // 3
        self.w12 = nn.Linear(hidden_size, 2 * inner)
        self.w3 = nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def gated_block(hidden_size: int, num_heads: int) -> RotaryBlock:
    attention = RotaryAttention(hidden_size, num_heads)
    return RotaryBlock(attention, GatedMLP(hidden_size), _modulation(hidden_size, 6), hidden_size)


def gated_final_layer(hidden_size: int, count: int) -> RotaryFinalLayer:
    return RotaryFinalLayer(RMSNorm(hidden_size), _modulation(hidden_size, 2), hidden_size, count)


def _modulation(hidden_size: int, parts: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, parts * hidden_size))
