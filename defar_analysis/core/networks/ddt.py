"""DDT: the decoupled diffusion transformer (Wang et al. 2025) under its published parameter names.

A condition encoder turns the noised patches, the time and the label into one state for each token; a velocity decoder
reads the patches again, modulated token by token by that state. Clock and sign are ours: t = 0 noise, velocity
data - noise. How many blocks encode cannot be seen in a file of weights: another split runs, and is wrong.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DefarError
from .parts import (
    Labelled,
    RotaryAttention,
    RotaryBlock,
    RotaryFinalLayer,
    check_patch,
    check_rotary,
    check_split,
    initialize,
    named_size,
)
from .sit import LabelEmbedder, TimeEmbedder, time_features

SIZES = {  # name: depth, encoder_depth, hidden_size, num_heads
    "B": (12, 8, 768, 12),
    "L": (24, 20, 1024, 16),
    "XL": (28, 22, 1152, 16),
}
SPAN = 16.0  # the coordinate of the last row and of the last column, however many there are


def ddt(name: str, *, input_size: int = 32, in_channels: int = 4, num_classes: int = 1000, **kwargs) -> DDT:
    """A DDT of a named size and patch, such as "XL/2". Raises DefarError on a name it does not know."""
    (depth, encoder_depth, hidden_size, num_heads), patch = named_size(name, SIZES)
    shape = {"depth": depth, "encoder_depth": encoder_depth, "hidden_size": hidden_size, "num_heads": num_heads}
    return DDT(input_size, patch, in_channels, num_classes=num_classes, **{**shape, **kwargs})


class DDT(Labelled):
    """v(x, t, labels). x (B, in_channels, H, W), sides any multiples of patch_size; t (B,) in [0, 1]; labels (B,).

    labels=None means the null label, num_classes. state: that of an earlier call; the encoder is then skipped, and t
    and labels count for nothing. The first encoder_depth of the blocks encode. Positions are computed at run time and
    span the same range for every size, so input_size is what it was trained on, not a limit.
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 768,
        depth: int = 12,
        encoder_depth: int = 8,
        num_heads: int = 12,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        check_patch(input_size, patch_size)
        check_rotary(hidden_size, num_heads)
        check_split(depth, encoder_depth)
        self.config = {
            "input_size": input_size, "patch_size": patch_size, "in_channels": in_channels,
            "hidden_size": hidden_size, "depth": depth, "encoder_depth": encoder_depth, "num_heads": num_heads,
            "num_classes": num_classes,
        }  # fmt: skip
        self.patch_size, self.encoder_depth, self.num_classes = patch_size, encoder_depth, num_classes
        self.head_width = hidden_size // num_heads
        numbers = in_channels * patch_size**2
        self.x_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.s_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = DDTTimeEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.blocks = nn.ModuleList(_block(hidden_size, num_heads) for _ in range(depth))
        norm = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.final_layer = RotaryFinalLayer(norm, _modulation(hidden_size, 2), hidden_size, numbers)
        initialize(self)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, state: Tensor | None = None) -> Tensor:
        if state is None:
            state = self.state(x, t, labels)
        cos, sin = self._rotation(x)
        tokens = self.x_embedder(x)
        for block in self.blocks[self.encoder_depth :]:
            tokens = block(tokens, state, cos, sin)
        patches = self.final_layer(tokens, state).transpose(1, 2)
        return F.pixel_shuffle(patches.unflatten(2, self._grid(x)), self.patch_size)

    def state(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the encoder tells the decoder: (B, T, hidden_size), one vector for each patch, row by row."""
        cos, sin = self._rotation(x)
        time = self.t_embedder(t)[:, None]
        conditioning = F.silu(time + self.y_embedder(self._labels(x, labels))[:, None])
        tokens = self.s_embedder(x)
        for block in self.blocks[: self.encoder_depth]:
            tokens = block(tokens, conditioning, cos, sin)
        return F.silu(time + tokens)

    def _grid(self, x: Tensor) -> tuple[int, int]:
        rows, columns = x.shape[-2:]
        if rows % self.patch_size or columns % self.patch_size:
            raise DefarError(f"x is {rows} x {columns}, no multiple of patch_size {self.patch_size} on both sides")
        return rows // self.patch_size, columns // self.patch_size

    def _rotation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (T, head width), every angle twice."""
        angles = rotary_angles(*self._grid(x), self.head_width, x.device).repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()


class PatchEmbedder(nn.Module):
    """(B, C, H, W) -> (B, T, d), tokens in row-major order, a patch's numbers ordered (channel, row, column)."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(in_channels * patch_size**2, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.pixel_unshuffle(x, self.patch_size).flatten(2).transpose(1, 2))


class DDTTimeEmbedder(TimeEmbedder):
    """SiT's, but of periods up to 10."""

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(time_features(t, self.features, max_period=10.0).to(self.mlp[0].weight.dtype))


class GatedMLP(nn.Module):
    """w2(silu(w1 x) * w3 x), hidden width 8/3 of the width, no biases."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        inner = 8 * hidden_size // 3
        self.w1 = nn.Linear(hidden_size, inner, bias=False)
        self.w2 = nn.Linear(inner, hidden_size, bias=False)
        self.w3 = nn.Linear(hidden_size, inner, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def _block(hidden_size: int, num_heads: int) -> RotaryBlock:
    attention = RotaryAttention(hidden_size, num_heads, qkv_bias=False, qk_norm=True)
    return RotaryBlock(attention, GatedMLP(hidden_size), _modulation(hidden_size, 6), hidden_size)


def _modulation(hidden_size: int, parts: int) -> nn.Sequential:
    """Without a SiLU of its own: conditioning and state have theirs."""
    return nn.Sequential(nn.Linear(hidden_size, parts * hidden_size))


def rotary_angles(rows: int, columns: int, width: int, device: torch.device | None = None) -> Tensor:
    """(rows * columns, width / 2) float32, row-major: the column's and the row's angle in turn, of each frequency.

    Coordinates run from 0 to SPAN, both ends included, along each axis; frequencies 10000^(-4k / width).
    """
    frequencies = 10_000.0 ** (-4 * torch.arange(width // 4, dtype=torch.float32, device=device) / width)
    down, across = (torch.linspace(0, SPAN, n, device=device)[:, None] * frequencies for n in (rows, columns))
    both = [across[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)]
    return torch.stack(both, dim=-1).reshape(rows * columns, width // 2)
