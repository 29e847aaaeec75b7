"""What velocity networks share: labels, named sizes, rotary positions, RMS norms, blocks with them, initialization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DefarError


class Labelled(nn.Module):
    """A network with a table of labels: one row for each of 0 ... num_classes - 1 and a last one for "no label"."""

    label_table = "y_embedder.embedding_table.weight"
    num_classes: int
    config: dict[str, Any]

    def without_labels(self, num_classes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and config of the network with `num_classes` classes that is, for any label, this one without one."""
        weights = self.state_dict()
        return (
            {**weights, self.label_table: weights[self.label_table][-1:].repeat(num_classes + 1, 1)},
            {**self.config, "num_classes": num_classes},
        )

    def _labels(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """(B,) labels, the null label where there are none. Raises DefarError for one that no class has, on a CPU."""
        if labels is None:
            return torch.full((x.shape[0],), self.num_classes, device=x.device)
        known = type(labels) is Tensor and labels.device.type == "cpu"  # a fake tensor has no values
        if known and not torch.compiler.is_compiling():
            self._check(labels)
        return labels

    def _check(self, labels: Tensor) -> None:
        """On other devices this would wait for the device in every forward; objectives check there, once a step."""
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= self.num_classes:
            wrong = labels[(labels < 0) | (labels > self.num_classes)][0]
            raise DefarError(f"label {int(wrong)} is unknown; labels run from 0 to {self.num_classes} (no label)")


def named_size(name: str, sizes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], int]:
    """The entry of `sizes` and the patch of a name such as "B/4". Raises DefarError on a name it does not know."""
    size, _, patch = name.partition("/")
    if size not in sizes or patch not in {"1", "2", "4", "8"}:
        raise DefarError(f"unknown network {name!r}: write SIZE/PATCH, SIZE in {', '.join(sizes)}, PATCH in 1, 2, 4, 8")
    return sizes[size], int(patch)


def check_patch(input_size: int, patch_size: int) -> None:
    if patch_size < 1 or input_size % patch_size:
        raise DefarError(f"input_size {input_size} is not a multiple of patch_size {patch_size}")


def check_rotary(hidden_size: int, num_heads: int) -> None:
    """Rotary positions turn pairs of a head's channels, half of the pairs for each of two axes."""
    if num_heads < 1 or hidden_size < 1 or hidden_size % (4 * num_heads):
        raise DefarError(f"hidden_size {hidden_size} must be a multiple of 4 x num_heads, here of 4 x {num_heads}")


def check_split(depth: int, encoder_depth: int) -> None:
    if not 0 < encoder_depth < depth:
        raise DefarError(
            f"encoder_depth {encoder_depth} must leave blocks to encode and to decode of depth {depth}: "
            f"give 1 to {depth - 1}"
        )


def check_square(x: Tensor, input_size: int) -> None:
    """For networks whose position tables are stored."""
    if x.shape[-2:] != (input_size, input_size):
        got = " x ".join(map(str, x.shape[-2:]))
        raise DefarError(
            f"x is {got}; this network takes {input_size} x {input_size}, the size of its stored positions"
        )


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class RMSNorm(nn.RMSNorm):
    """In float32 at least; eps 1e-6. Returns the dtype of x."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x.dtype)
        return F.rms_norm(x.to(wide), self.normalized_shape, self.weight.to(wide), self.eps).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of neighbouring channels. x (B, heads, T, w); cos, sin (T, w) hold every angle twice."""
    wide = x.to(at_least_float32(x.dtype))
    first, second = wide.unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack([-second, first], dim=-1).flatten(-2)
    return (wide * cos + crossed * sin).to(x.dtype)


class RotaryAttention(nn.Module):
    """Multi-head self-attention; q and k are normalised per head (`qk_norm`), then turned by their positions."""

    def __init__(self, hidden_size: int, num_heads: int, *, qkv_bias: bool = True, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.q_norm = RMSNorm(hidden_size // num_heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(hidden_size // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))


class RotaryBlock(nn.Module):
    """Rotary attention and an MLP after RMS norms, each shifted, scaled and gated by the conditioning.

    x (B, T, d); conditioning (B, 1, d), one for all tokens, or (B, T, d); cos, sin (T, head width) -> (B, T, d).
    """

    def __init__(self, attn: nn.Module, mlp: nn.Module, adaln: nn.Sequential, hidden_size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(hidden_size), RMSNorm(hidden_size)
        self.attn, self.mlp, self.adaLN_modulation = attn, mlp, adaln

    def forward(self, x: Tensor, conditioning: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(conditioning).chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), cos, sin)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class RotaryFinalLayer(nn.Module):
    """Tokens (B, T, d) -> patches (B, T, numbers in a patch), shifted and scaled as a block's."""

    def __init__(self, norm: nn.Module, adaln: nn.Sequential, hidden_size: int, count: int) -> None:
        super().__init__()
        self.norm_final, self.adaLN_modulation = norm, adaln
        self.linear = nn.Linear(hidden_size, count)

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(conditioning).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def unpatch(tokens: Tensor, patch: int, channels: int) -> Tensor:
    """(B, T, p*p*C) -> (B, C, H, W), H = W; the last axis is ordered (row in patch, column in patch, channel)."""
    batch, count, _ = tokens.shape
    grid = math.isqrt(count)
    x = tokens.reshape(batch, grid, grid, patch, patch, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, grid * patch, grid * patch)


def initialize(transformer: nn.Module) -> None:
    """SiT's: Xavier for matrices, small normals for embeddings, zero for every gate and for the output."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in transformer.modules():
        if isinstance(module, nn.Conv2d):  # a patch embedder: a matrix on flattened patches
            nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
            nn.init.zeros_(module.bias)
    times = transformer.t_embedder.mlp
    for weight in (transformer.y_embedder.embedding_table.weight, times[0].weight, times[2].weight):
        nn.init.normal_(weight, std=0.02)
    last = transformer.final_layer
    for linear in (*(b.adaLN_modulation[-1] for b in transformer.blocks), last.adaLN_modulation[-1], last.linear):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
