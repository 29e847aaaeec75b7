"""RAE's DiT^DH (Zheng et al. 2025) under its published parameter names: a narrow, deep encoder and a wide, shallow
decoder ("head") on features of a pretrained encoder.

Its published weights run the other way than ours, t = 0 data and velocity noise - data; what turns them over is no part
of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lightningdit import RotaryTable, gated_block, gated_final_layer
from .parts import Labelled, check_patch, check_rotary, check_split, check_square, initialize, named_size, unpatch
from .sit import LabelEmbedder, PatchEmbedder, sincos_position_embedding

SIZES = {  # name: depth, encoder_depth, hidden_size, num_heads, decoder_hidden_size, decoder_num_heads
    "S": (14, 12, 384, 6, 2048, 16),
    "XL": (30, 28, 1152, 16, 2048, 16),
}


def ditdh(name: str, *, input_size: int = 16, in_channels: int = 768, num_classes: int = 1000, **kwargs) -> DiTDH:
    """A DiT^DH of a named size and patch, such as "XL/1". Raises DefarError on a name it does not know."""
    (depth, encoder_depth, hidden_size, num_heads, decoder_hidden_size, decoder_num_heads), patch = named_size(
        name, SIZES
    )
    shape = {
        "depth": depth, "encoder_depth": encoder_depth, "hidden_size": hidden_size, "num_heads": num_heads,
        "decoder_hidden_size": decoder_hidden_size, "decoder_num_heads": decoder_num_heads,
    }  # fmt: skip
    return DiTDH(input_size, patch, in_channels, num_classes=num_classes, **{**shape, **kwargs})


class DiTDH(Labelled):
    """v(x, t, labels). x (B, in_channels, input_size, input_size); t (B,) in [0, 1]; labels (B,), num_classes = null.

    labels=None means the null label for every sample. Of the `depth` blocks the first encoder_depth are hidden_size
    wide, the others decoder_hidden_size. The random frequencies of the time, t_embedder.W, are stored with the weights.
    """

    kept_in_float32 = ("t_embedder.W",)  # it is multiplied by 2 pi t before a cosine is taken

    def __init__(
        self,
        input_size: int = 16,
        patch_size: int = 1,
        in_channels: int = 768,
        hidden_size: int = 384,
        decoder_hidden_size: int = 2048,
        depth: int = 14,
        encoder_depth: int = 12,
        num_heads: int = 6,
        decoder_num_heads: int = 16,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        check_patch(input_size, patch_size)
        check_rotary(hidden_size, num_heads)
        check_rotary(decoder_hidden_size, decoder_num_heads)
        check_split(depth, encoder_depth)
        self.config = {
            "input_size": input_size, "patch_size": patch_size, "in_channels": in_channels,
            "hidden_size": hidden_size, "decoder_hidden_size": decoder_hidden_size, "depth": depth,
            "encoder_depth": encoder_depth, "num_heads": num_heads, "decoder_num_heads": decoder_num_heads,
            "num_classes": num_classes,
        }  # fmt: skip
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.encoder_depth, self.num_classes = encoder_depth, num_classes
        grid, wide = input_size // patch_size, decoder_hidden_size
        self.x_embedder = PatchEmbedder(patch_size, in_channels, wide)
        self.s_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.s_projector = nn.Linear(hidden_size, wide) if wide != hidden_size else nn.Identity()
        self.t_embedder = FourierTimeEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.pos_embed = nn.Parameter(sincos_position_embedding(hidden_size, grid)[None].float(), requires_grad=False)
        self.enc_feat_rope = RotaryTable(grid, hidden_size // num_heads)
        self.dec_feat_rope = RotaryTable(grid, wide // decoder_num_heads)
        encoder = [gated_block(hidden_size, num_heads) for _ in range(encoder_depth)]
        decoder = [gated_block(wide, decoder_num_heads) for _ in range(depth - encoder_depth)]
        self.blocks = nn.ModuleList(encoder + decoder)
        self.final_layer = gated_final_layer(wide, patch_size**2 * in_channels)
        initialize(self)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        check_square(x, self.input_size)
        time = self.t_embedder(t)[:, None]
        conditioning = F.silu(time + self.y_embedder(self._labels(x, labels))[:, None])
        tokens = self.s_embedder(x) + self.pos_embed
        for block in self.blocks[: self.encoder_depth]:
            tokens = block(tokens, conditioning, self.enc_feat_rope.freqs_cos, self.enc_feat_rope.freqs_sin)
        state = self.s_projector(F.silu(time + tokens))
        tokens = self.x_embedder(x)
        for block in self.blocks[self.encoder_depth :]:
            tokens = block(tokens, state, self.dec_feat_rope.freqs_cos, self.dec_feat_rope.freqs_sin)
        return unpatch(self.final_layer(tokens, state), self.patch_size, self.in_channels)


class FourierTimeEmbedder(nn.Module):
    """sin, then cos, of 2 pi W t for 256 random, fixed frequencies W, through a two-layer MLP."""

    frequencies = 256

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(self.frequencies), requires_grad=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * self.frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * t.float()[:, None] * self.W.float()
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.mlp(features.to(self.mlp[0].weight.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FourierTimeEmbedder:
        """W stays in float32 when the network is cast."""
        kept = self.W.data
        super()._apply(fn, recurse)
        if self.W.dtype != kept.dtype:
            self.W.data = kept.to(self.W.device)
        return self
