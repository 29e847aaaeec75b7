"""The U-Net of OT-CFM (Tong et al. 2024), which is ADM's with an added time embedding, under its parameter names.

Clock and sign are ours: t = 0 noise, velocity data - noise. The published network takes (t, x), this one
(x, t, labels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DefarError
from .parts import Labelled, at_least_float32
from .sit import time_features

SIZES: dict[str, dict[str, Any]] = {
    "cifar10": {
        "width": 128, "multipliers": (1, 2, 2, 2), "residual_blocks": 2, "attention_sizes": (16,), "head_width": 64,
    },
}  # fmt: skip
GROUPS = 32  # of every group norm


def unet(name: str, *, input_size: int = 32, in_channels: int = 3, num_classes: int | None = None, **kwargs) -> UNet:
    """A U-Net of a named size, "cifar10". Raises DefarError on a name it does not know."""
    if name not in SIZES:
        raise DefarError(f"unknown network {name!r}: choose from {', '.join(SIZES)}")
    return UNet(input_size, in_channels, num_classes, **{**SIZES[name], **kwargs})


class UNet(Labelled):
    """v(x, t, labels). x (B, in_channels, H, W), sides any multiples of 2^(levels - 1); t (B,) or (), in [0, 1].

    num_classes=None: unconditional, labels are ignored. Otherwise labels (B,), labels=None means num_classes, "no
    label", which has a row of its own in label_emb: weights of a network without one fit with a row of zeros there.

    Level i has width * multipliers[i] channels and residual_blocks blocks, with attention where an input of input_size
    has become one of attention_sizes. dropout: the published training had 0.1; it draws from torch's own generator, so
    that two forwards of a step disagree and a training that went on from a state differs from one in a piece.
    """

    label_table = "label_emb.weight"
    num_classes: int | None

    def __init__(
        self,
        input_size: int = 32,
        in_channels: int = 3,
        num_classes: int | None = None,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        residual_blocks: int = 2,
        attention_sizes: Sequence[int] = (16,),
        head_width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = {
            "input_size": input_size, "in_channels": in_channels, "num_classes": num_classes, "width": width,
            "multipliers": list(multipliers), "residual_blocks": residual_blocks,
            "attention_sizes": list(attention_sizes), "head_width": head_width, "dropout": dropout,
        }  # fmt: skip
        self.num_classes, self.width, self.factor = num_classes, width, 2 ** (len(multipliers) - 1)
        widths = [width * multiplier for multiplier in multipliers]
        self._refuse_impossible(input_size, widths)
        embedding = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes + 1, embedding)

        def residual(before: int, after: int) -> ResidualBlock:
            return ResidualBlock(before, after, embedding, dropout)

        def attention(level: int) -> list[nn.Module]:
            return [Attention(widths[level], head_width)] if input_size >> level in attention_sizes else []

        now = widths[0]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, now, 3, padding=1))])
        skipped = [now]
        for level, channels in enumerate(widths):
            for _ in range(residual_blocks):
                self.input_blocks.append(Stage(residual(now, channels), *attention(level)))
                now = channels
                skipped.append(now)
            if level < len(widths) - 1:
                self.input_blocks.append(Stage(Downsample(now)))
                skipped.append(now)
        self.middle_block = Stage(residual(now, now), Attention(now, head_width), residual(now, now))
        self.output_blocks = nn.ModuleList()
        for level, channels in reversed(list(enumerate(widths))):
            for index in range(residual_blocks + 1):
                parts = [residual(now + skipped.pop(), channels), *attention(level)]
                if level and index == residual_blocks:
                    parts.append(Upsample(channels))
                self.output_blocks.append(Stage(*parts))
                now = channels
        self.out = nn.Sequential(GroupNorm(now), nn.SiLU(), nn.Conv2d(now, in_channels, 3, padding=1))
        self._initialize()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        rows, columns = x.shape[-2:]
        if rows % self.factor or columns % self.factor:
            raise DefarError(f"x is {rows} x {columns}; both sides must be multiples of {self.factor}, to be halved")
        features = time_features(t.expand(x.shape[0]), self.width)
        embedding = self.time_embed(features.to(self.time_embed[0].weight.dtype))
        if self.num_classes is not None:
            embedding = embedding + self.label_emb(self._labels(x, labels))
        hidden, skipped = x, []
        for block in self.input_blocks:
            hidden = block(hidden, embedding)
            skipped.append(hidden)
        hidden = self.middle_block(hidden, embedding)
        for block in self.output_blocks:
            hidden = block(torch.cat([hidden, skipped.pop()], dim=1), embedding)
        return self.out(hidden)

    def without_labels(self, num_classes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As every network's; an unconditional one becomes one whose labels add nothing."""
        if self.num_classes is not None:
            return super().without_labels(num_classes)
        weight = self.time_embed[2].weight
        table = weight.new_zeros(num_classes + 1, weight.shape[0])
        return {**self.state_dict(), self.label_table: table}, {**self.config, "num_classes": num_classes}

    def _refuse_impossible(self, input_size: int, widths: list[int]) -> None:
        sizes, head_width = self.config["attention_sizes"], self.config["head_width"]
        if not 0 <= self.config["dropout"] < 1 or self.width < 2 or self.width % 2:
            raise DefarError(f"width {self.width} must be even, dropout {self.config['dropout']} from 0 to below 1")
        if not widths or self.config["residual_blocks"] < 1 or input_size % self.factor:
            raise DefarError(
                f"input_size {input_size} must be a multiple of {self.factor} for {len(widths)} levels, with at least "
                "one level and one of residual_blocks"
            )
        for channels in widths:
            if channels < 1 or channels % GROUPS:
                raise DefarError(f"width x multiplier = {channels} is no multiple of {GROUPS}, the groups of its norms")
        attended = [c for level, c in enumerate(widths) if input_size >> level in sizes or level == len(widths) - 1]
        for channels in attended:
            if head_width < 1 or channels % head_width:
                raise DefarError(f"head_width {head_width} does not divide {channels}, the channels where attention is")
        unreached = [size for size in sizes if size not in [input_size >> level for level in range(len(widths))]]
        if unreached:
            reached = ", ".join(str(input_size >> level) for level in range(len(widths)))
            raise DefarError(f"attention_sizes has {unreached[0]}, which no level has; choose from {reached}")

    def _initialize(self) -> None:
        """ADM's: zero for what every residual block, every attention and the network itself end with."""
        ends = [self.out[-1]]
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                ends.append(module.out_layers[-1])
            elif isinstance(module, Attention):
                ends.append(module.proj_out)
        for end in ends:
            nn.init.zeros_(end.weight)
            nn.init.zeros_(end.bias)
        if self.num_classes is not None:
            nn.init.normal_(self.label_emb.weight, std=0.02)


class Stage(nn.Sequential):
    """Layers in turn; those that take the embedding get it."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class GroupNorm(nn.GroupNorm):
    """In float32 at least. Returns the dtype of x."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x.dtype)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.group_norm(x.to(wide), self.num_groups, weight, bias, self.eps).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a straight way; the embedding is added between them."""

    def __init__(self, before: int, after: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(GroupNorm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, after))
        self.out_layers = nn.Sequential(
            GroupNorm(after), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(after, after, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class Attention(nn.Module):
    """Self-attention over all places, added to its input; qkv is ordered head by head, each with its q, k, v."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x.flatten(2))).unflatten(1, (-1, 3, self.head_width))
        q, k, v = qkv.transpose(-1, -2).unbind(2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed.transpose(-1, -2).flatten(1, 2)).reshape(x.shape)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
