"""Frozen encoders whose feature maps a network in training is aligned with, by the names that recipes give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.factories import build_from, is_factory
from ..core.objectives.alignment import ENCODERS, Encoder
from ..errors import DefarError
from .efficientnet import EfficientNetLite
from .extractors import packaged_weights

PART = 8  # images at once on a CPU, whose cache small parts stay in


@dataclass(frozen=True, eq=False)
class EfficientNetEncoder:
    """The last map of an EfficientNet-Lite at size x size pixels: one list entry (B, (size/32)^2, 1280), without
    gradients, from images (B, 3, H, W) or (B, 1, H, W) in [-1, 1]. It follows the images from device to device. Raises
    DefarError for other numbers of channels."""

    name: str
    size: int
    network: nn.Module
    sha256: str
    dims: tuple[int, ...] = (1280,)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise DefarError(
                f"{self.name} sees images (B, 3, H, W); got {tuple(images.shape)}: latents need an encoder of your own"
            )
        self.network.to(images.device)
        bytes_ = (images.float().expand(-1, 3, -1, -1) + 1) * 127.5
        parts = bytes_.split(PART if images.device.type == "cpu" else len(images))
        return [torch.cat([self._tokens(part) for part in parts])]

    def _tokens(self, x: Tensor) -> Tensor:
        size = (self.size, self.size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
        x = (x.clamp(0, 255) - 127) / 128
        last = self.network(x.contiguous(memory_format=torch.channels_last))[0]
        return last.flatten(2).transpose(1, 2).contiguous()


def open_encoder(name: str) -> Encoder:
    """The encoder of that name (ENCODERS), such as "effnet-lite0-128": network and input size in pixels; or what the
    user's own "module:function", if it is trusted (core.factories), returns. Raises DefarError for another name, for
    code that nobody trusts, and where weights are not installed."""
    if is_factory(name):
        return build_from(name, {})
    if name not in ENCODERS:
        raise DefarError(
            f"encoder {name!r} does not come with this; choose from {', '.join(ENCODERS)}, name a function of yours "
            "as module:function, or give it to train() in Python"
        )
    variant, size = name.removeprefix("effnet-lite").split("-")
    state, digest = packaged_weights(int(variant), name)
    network = EfficientNetLite(int(variant))
    network.load_state_dict(state)
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return EfficientNetEncoder(name, int(size), network, digest)
