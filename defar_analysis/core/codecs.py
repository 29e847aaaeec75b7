"""Between uint8 images and what a network sees: the pixels themselves, or the latents of an autoencoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import check_fields, from_table
from ..errors import DefarError
from ..files import file_sha256
from .arrays import read_npz
from .vae import Autoencoder, open_autoencoder

RULE = "round_half_up"


@dataclass(frozen=True)
class PixelCodec:
    """uint8 pixels <-> [-1, 1]: encode u/127.5 - 1; decode trunc(127.5 x + 128), SiT's rule ("round_half_up")."""

    rule = RULE
    identity = "pixel"  # what it is, for provenance and the keys of stored results

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 in [-1, 1]."""
        return images.float() / 127.5 - 1

    def decode(self, x: Tensor) -> Tensor:
        """float (B, C, H, W) -> uint8; values outside [-1, 1] are clipped."""
        return (127.5 * x.float() + 128).clamp(0, 255).to(torch.uint8)

    def pixel_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the images behind a network's input of (C, H, W)."""
        return shape


@dataclass(frozen=True, eq=False)
class VAECodec:
    """uint8 pixels <-> latents x = ((z - mean)/std - shift) * scale, z a sample or the mean of the posterior.

    mean, std: standardisation per channel or per place, broadcast over (C, h, w), as VA-VAE and RAE do; None: none.
    SD's is scale 0.18215 alone. Images go through the autoencoder in [-1, 1], `chunk` at a time, the last ones padded,
    so that an image's numbers do not depend on its neighbours. Results lie where the input lay.
    """

    autoencoder: Autoencoder
    scale: float = 1.0
    shift: float = 0.0
    mean: Tensor | None = None
    std: Tensor | None = None
    chunk: int = 16
    identity: dict[str, Any] = field(default_factory=lambda: {"kind": "vae"})
    rule = RULE

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0 and np.isfinite(self.shift) and self.chunk >= 1):
            raise DefarError(
                f"codec: scale = {self.scale} must be positive, shift = {self.shift} finite, chunk = {self.chunk} >= 1"
            )

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z's posterior, (B, C, h, w) float32 each, before scale and shift.

        images: uint8 (B, C, H, W). Raises DefarError where they do not fit the autoencoder."""
        self._check(images)
        found = [self._chunked(self.autoencoder.moments, part) for part in images.split(self.chunk)]
        return torch.cat([mean for mean, _ in found]), torch.cat([std for _, std in found])

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """uint8 (B, C, H, W) -> latents (B, c, h, w) float32: the posterior's mean, or with a generator on the CPU a
        sample of it."""
        mean, std = self.moments(images)
        if generator is not None:
            mean = mean + std * torch.randn(mean.shape, generator=generator).to(mean)
        return self.normalized(mean)

    def decode(self, x: Tensor) -> Tensor:
        """Latents (B, c, h, w) -> uint8 (B, C, H, W), rounded by `rule`."""
        z = self.denormalized(x.float())
        parts = [self._chunked(lambda part: (self.autoencoder.decode(part),), part)[0] for part in z.split(self.chunk)]
        return PixelCodec().decode(torch.cat(parts))

    def normalized(self, z: Tensor) -> Tensor:
        """The autoencoder's numbers as the network sees them."""
        return normalized(z, self.scale, self.shift, self.mean, self.std)

    def denormalized(self, x: Tensor) -> Tensor:
        """The way back of `normalized`."""
        z = x / self.scale + self.shift
        if self.mean is not None and self.std is not None:
            z = z * self.std.to(z) + self.mean.to(z)
        return z

    def pixel_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the images behind latents of (c, h, w). Raises DefarError for another number of channels."""
        channels, height, width = shape
        if channels != self.autoencoder.latent_channels:
            raise DefarError(
                f"codec: its latents have {self.autoencoder.latent_channels} channels, the network takes {channels}"
            )
        factor = self.autoencoder.factor
        return self.autoencoder.channels, height * factor, width * factor

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(c, h, w) of the latents of images of (C, H, W). Raises DefarError where they do not fit."""
        channels, height, width = shape
        factor = self.autoencoder.factor
        if channels != self.autoencoder.channels or height % factor or width % factor:
            raise DefarError(
                f"codec: images are {tuple(shape)}; the autoencoder takes {self.autoencoder.channels} channels and "
                f"multiples of {factor} pixels"
            )
        return self.autoencoder.latent_channels, height // factor, width // factor

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DefarError(f"codec: images are {images.dtype} {tuple(images.shape)}; give uint8 (B, C, H, W)")
        self.latent_shape(tuple(images.shape[1:]))

    @torch.no_grad()
    def _chunked(self, call, part: Tensor) -> tuple[Tensor, ...]:
        """One call on a whole chunk. Batches of one size take one way through a convolution: rounding and all."""
        count, where = len(part), part.device
        if part.dtype == torch.uint8:
            part = PixelCodec().encode(part)
        padded = torch.cat([part, part.new_zeros(self.chunk - count, *part.shape[1:])])
        return tuple(found[:count].to(where) for found in call(padded.to(self.autoencoder.device)))


def normalized(z: Tensor, scale: float, shift: float, mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
    """((z - mean)/std - shift) * scale; z (B, C, h, w), mean and std (C, 1, 1) or (C, h, w), or None."""
    if mean is not None and std is not None:
        z = (z - mean.to(z)) / std.to(z)
    return (z - shift) * scale


Codec = PixelCodec | VAECodec
CODECS = {"pixel": PixelCodec}


@dataclass(frozen=True)
class VAESpec:
    """A card's table [codec].

    path: the autoencoder's folder, relative to the card: one of diffusers' (config.json beside a .safetensors) or one
    of `defar train-autoencoder`. sha256: of its weights, where others must be refused. scale, shift: None takes what
    the folder itself says. statistics: a file of mean and std (or var, to which RAE adds 1e-5), .safetensors, .npz or
    .pt, relative to the card.
    """

    kind: str
    path: str
    scale: float | None = None
    shift: float | None = None
    statistics: str | None = None
    sha256: str | None = None
    chunk: int = 16

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind != "vae":
            raise DefarError(f"kind = {self.kind!r}; choose from 'vae', or write codec = \"pixel\"")


def open_codec(spec: str | dict[str, Any], base: Path = Path("."), device: torch.device | str = "cpu") -> Codec:
    """The codec that a card's `codec` names: "pixel", or the table of a VAESpec, whose paths are relative to `base`.

    Raises DefarError naming the file that is missing, with where such autoencoders come from, or that does not fit.
    """
    if isinstance(spec, str):
        if spec not in CODECS:
            raise DefarError(f'codec = {spec!r}; choose from {", ".join(CODECS)}, or give a table with kind = "vae"')
        return CODECS[spec]()
    wanted = from_table(VAESpec, spec, "codec")
    folder = Path(base) / Path(wanted.path).expanduser()
    found = open_autoencoder(folder, device, wanted.sha256)
    scale = found.scale if wanted.scale is None else wanted.scale
    shift = found.shift if wanted.shift is None else wanted.shift
    identity: dict[str, Any] = {"kind": "vae", "sha256": found.sha256, "scale": scale, "shift": shift}
    mean = std = None
    if wanted.statistics is not None:
        file = Path(base) / Path(wanted.statistics).expanduser()
        mean, std = (part.to(device) for part in _statistics(file, found.latent_channels))
        identity["statistics"] = file_sha256(file)
    return VAECodec(found, scale, shift, mean, std, wanted.chunk, identity)


def codec_table(spec: str | dict[str, Any], codec: Codec) -> str | dict[str, Any]:
    """`spec` with all that the opened codec settled (scale, shift, checksum): what a card keeps."""
    if isinstance(spec, str) or isinstance(codec, PixelCodec):
        return "pixel"
    settled = {key: codec.identity[key] for key in ("scale", "shift", "sha256")}
    table = {**asdict(from_table(VAESpec, spec, "codec")), **settled}
    return {key: value for key, value in table.items() if value is not None}


def _statistics(file: Path, channels: int) -> tuple[Tensor, Tensor]:
    """mean and std of a statistics file, each (C, 1, 1) or (C, h, w). Raises DefarError for anything else."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(file)
        elif file.suffix == ".npz":
            found = {name: torch.from_numpy(array) for name, array in read_npz(file).items()}
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)  # tensors only: nothing in it may run
        mean = found["mean"].float()
        std = found["std"].float() if "std" in found else (found["var"].float() + 1e-5).sqrt()
    except FileNotFoundError:
        raise DefarError(f"{file}: no such file; the codec's statistics come with its autoencoder") from None
    except Exception as error:  # torch, numpy and safetensors each have their own ways to say "broken"
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise DefarError(f"{file}: not a statistics file with mean and std or var ({reason})") from None
    mean, std = (part.reshape(part.shape[-3:]) if part.ndim > 3 else part for part in (mean, std))
    mean, std = (part[:, None, None] if part.ndim == 1 else part for part in (mean, std))
    if mean.shape != std.shape or mean.ndim != 3 or mean.shape[0] != channels:
        raise DefarError(
            f"{file}: mean {tuple(mean.shape)} and std {tuple(std.shape)} do not fit latents of {channels} channels"
        )
    if not bool((mean.isfinite() & std.isfinite() & (std > 0)).all()):
        raise DefarError(f"{file}: mean and std must be finite and std above 0; write it again")
    return mean, std
