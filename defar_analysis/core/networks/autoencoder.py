"""A small convolutional KL autoencoder: images of 32 pixels become latents of 4 x 8 x 8 numbers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DefarError


class KLAutoencoder(nn.Module):
    """encode: x (B, in_channels, H, W) -> mean, logvar (B, latent_channels, H/4, W/4); decode: the way back.

    Residual blocks at half and at a quarter of the size (`width`, twice as many channels), each way beside one linear
    map of overlapping patches. The blocks' last layers start at zero, so training starts from that map, which soon is
    about as good as principal components, and learns what they miss. H and W must be multiples of 4.
    """

    factor = 4  # pixels in a row of an image for each place of a latent

    def __init__(self, in_channels: int = 3, latent_channels: int = 4, width: int = 48, blocks: int = 1) -> None:
        super().__init__()
        if width < 8 or width % 8 or blocks < 1 or in_channels < 1 or latent_channels < 1:
            raise DefarError(
                f"width = {width} must be a multiple of 8, blocks = {blocks}, in_channels = {in_channels} and "
                f"latent_channels = {latent_channels} at least 1"
            )
        self.config = {
            "in_channels": in_channels, "latent_channels": latent_channels, "width": width, "blocks": blocks,
        }  # fmt: skip
        moments = 2 * latent_channels
        self.linear_encoder = nn.Conv2d(in_channels, moments, 8, stride=4, padding=2)
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
            *(_Block(width) for _ in range(blocks)),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            *(_Block(2 * width) for _ in range(blocks)),
            _Head(2 * width, moments),
        )
        self.linear_decoder = nn.ConvTranspose2d(latent_channels, in_channels, 8, stride=4, padding=2)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, 2 * width, 3, padding=1),
            *(_Block(2 * width) for _ in range(blocks + 1)),
            nn.Conv2d(2 * width, 4 * width, 1),
            nn.PixelShuffle(2),
            _Block(width),
            *(_Block(width) for _ in range(blocks)),
            _Head(width, 4 * in_channels),
            nn.PixelShuffle(2),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, (B, latent_channels, H/4, W/4) each; x in [-1, 1].

        Raises DefarError where H or W is no multiple of 4."""
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise DefarError(f"images of {tuple(x.shape[-2:])} pixels; give multiples of {self.factor}")
        moments = self.linear_encoder(x) + self.encoder(x)
        mean, logvar = moments.float().chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)  # diffusers' bounds: a variance stays a number

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, in_channels, H, W), about [-1, 1] but not clipped, of latents (B, latent_channels, H/4, W/4)."""
        return (self.linear_decoder(latents) + self.decoder(latents)).float()


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a straight way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = _norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden)))


class _Head(nn.Module):
    """Norm, SiLU and a 3 x 3 convolution that starts at zero."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm, self.conv = _norm(channels), nn.Conv2d(channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(x)))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 8), channels)
