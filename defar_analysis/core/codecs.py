"""Between uint8 images and what a network sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PixelCodec:
    """uint8 pixels <-> [-1, 1]: encode u/127.5 - 1; decode trunc(127.5 x + 128), SiT's rule ("round_half_up")."""

    rule = "round_half_up"

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 in [-1, 1]."""
        return images.float() / 127.5 - 1

    def decode(self, x: Tensor) -> Tensor:
        """float (B, C, H, W) -> uint8; values outside [-1, 1] are clipped."""
        return (127.5 * x.float() + 128).clamp(0, 255).to(torch.uint8)


CODECS = {"pixel": PixelCodec}
