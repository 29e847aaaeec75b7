"""SiT: a transformer on image patches with adaLN-Zero conditioning, under the official argument and parameter names.

The official velocity model (Ma et al. 2024) is v(x, t, y). Two things differ here on purpose: labels are never dropped
inside the network (an objective draws them once for all of its forwards), and the velocity alone is returned: with
learn_sigma the second half of the channels is cut off, as the official wrapper does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DefarError
from .parts import Labelled, check_patch, check_square, initialize, modulate, named_size, unpatch

SIZES = {  # name: depth, hidden_size, num_heads
    "Ti": (6, 128, 4),  # ours: what a CPU trains in an hour and this repository ships
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "M": (16, 1024, 16),  # not in SiT; the paper's M (MeanFlow's shape)
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


def sit(name: str, *, input_size: int = 32, in_channels: int = 3, num_classes: int = 10, **kwargs) -> SiT:
    """A SiT of a named size and patch, such as "B/4". Raises DefarError on a name it does not know."""
    (depth, hidden_size, num_heads), patch = named_size(name, SIZES)
    return SiT(input_size, patch, in_channels, hidden_size, depth, num_heads, num_classes=num_classes, **kwargs)


class SiT(Labelled):
    """v(x, t, labels). x (B, in_channels, input_size, input_size); t (B,) in [0, 1]; labels (B,), num_classes = null.

    labels=None means the null label for every sample. Time features are computed in float32 whatever the dtype.
    qk_norm: a layer norm of every head's queries and keys (REPA's option).
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 4,
        in_channels: int = 3,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_classes: int = 10,
        learn_sigma: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        check_patch(input_size, patch_size)
        if num_heads < 1 or hidden_size % num_heads or hidden_size % 4:
            raise DefarError(f"hidden_size {hidden_size} must be a multiple of num_heads {num_heads} and of 4")
        self.config = {
            "input_size": input_size, "patch_size": patch_size, "in_channels": in_channels,
            "hidden_size": hidden_size, "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio,
            "num_classes": num_classes, "learn_sigma": learn_sigma, "qk_norm": qk_norm,
        }  # fmt: skip
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.num_classes = num_classes
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        grid = input_size // patch_size
        self.x_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = TimeEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.pos_embed = nn.Parameter(sincos_position_embedding(hidden_size, grid)[None].float(), requires_grad=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio, qk_norm) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size, self.out_channels)
        initialize(self)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        check_square(x, self.input_size)
        tokens = self.x_embedder(x) + self.pos_embed
        conditioning = self.t_embedder(t) + self.y_embedder(self._labels(x, labels))
        for block in self.blocks:
            tokens = block(tokens, conditioning)
        patches = self.final_layer(tokens, conditioning)
        return unpatch(patches, self.patch_size, self.out_channels)[:, : self.in_channels]


class PatchEmbedder(nn.Module):
    """(B, C, H, W) -> (B, T, d), tokens in row-major order."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimeEmbedder(nn.Module):
    """t in [0, 1], unscaled, through 256 sinusoidal features and a two-layer MLP."""

    features = 256

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.features, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(time_features(t, self.features).to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """One row for each class and a last one for "no label"."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class Attention(nn.Module):
    """Multi-head self-attention; qkv stacks q, k, v, each num_heads x head width."""

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = nn.LayerNorm(hidden_size // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(hidden_size // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))


class MLP(nn.Module):
    def __init__(self, hidden_size: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, int(hidden_size * ratio))
        self.fc2 = nn.Linear(int(hidden_size * ratio), hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the conditioning vector."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(hidden_size, num_heads, qk_norm)
        self.mlp = MLP(hidden_size, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(conditioning)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    def __init__(self, hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(conditioning)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def time_features(t: Tensor, count: int, max_period: float = 10_000.0) -> Tensor:
    """cos then sin of t times geometric frequencies from 1 down to 1/max_period; (B,) -> (B, count), float32."""
    half = count // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sincos_position_embedding(width: int, grid: int) -> Tensor:
    """(grid*grid, width) float64, row-major. First half of the width encodes the column, second half the row;
    inside a half first all sines, then all cosines, of the integer coordinate times 10000^(-k / (width/4))."""
    k = torch.arange(width // 4, dtype=torch.float64)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * 10_000.0 ** (-k / (width / 4))
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = axis[None].expand(grid, -1, -1), axis[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=-1).reshape(grid * grid, width)
