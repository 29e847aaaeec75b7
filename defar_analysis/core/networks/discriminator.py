"""A small network that tells noised data from noised samples of one model, at every t and for every class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DefarError
from .sit import LabelEmbedder, TimeEmbedder


class ConvDiscriminator(nn.Module):
    """Logits (B,), log(d / (1 - d)), of "x is noised data". x (B, in_channels, H, W); t (B,); labels (B,) or None.

    A stem of stride 2 and residual blocks at three sizes (`width`, then twice as many channels), each scaled and
    shifted by t and the label, then a mean over space. num_classes is "no label", as in a SiT, and so is labels=None.
    SiLU keeps the logit smooth in x, whose gradient is what guides.

    It is not among the NETWORKS of recipes: it is no velocity field.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10, width: int = 48, embedding: int = 128) -> None:
        super().__init__()
        if width < 8 or width % 8 or embedding < 2 or embedding % 2:
            raise DefarError(f"width must be a multiple of 8 and embedding even; got {width} and {embedding}")
        self.config = {
            "in_channels": in_channels, "num_classes": num_classes, "width": width, "embedding": embedding,
        }  # fmt: skip
        self.num_classes = num_classes
        self.t_embedder = TimeEmbedder(embedding)
        self.y_embedder = LabelEmbedder(num_classes, embedding)
        self.stem = nn.Conv2d(in_channels, width, 4, stride=2, padding=1)
        sizes = [(width, width), (width, 2 * width), (2 * width, 2 * width)]
        self.blocks = nn.ModuleList(_Block(*pair, embedding) for pair in sizes)
        self.norm = _norm(2 * width)
        self.head = nn.Linear(2 * width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            labels = torch.full((x.shape[0],), self.num_classes, device=x.device)
        conditioning = F.silu(self.t_embedder(10 * t) + self.y_embedder(labels)).to(x.dtype)
        hidden = self.stem(x)
        for index, block in enumerate(self.blocks):
            if index and min(hidden.shape[-2:]) > 1:
                hidden = F.avg_pool2d(hidden, 2)
            hidden = block(hidden, conditioning)
        return self.head(F.silu(self.norm(hidden)).mean(dim=(-2, -1)))[:, 0]


def _norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Groups of eight channels: fewer, over a single place, would leave nothing but signs."""
    return nn.GroupNorm(channels // 8, channels, affine=affine)


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a straight way; the conditioning scales and shifts between them."""

    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = _norm(after, affine=False), nn.Conv2d(after, after, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * after)
        self.straight = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(conditioning)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm2(hidden) * (1 + scale) + shift
        return self.straight(x) + self.conv2(F.silu(hidden))
