"""Autoencoders behind latents, opened from a folder: our own, or diffusers' AutoencoderKL."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DefarError
from ..files import file_sha256
from ..inputs import read_json
from .autoencoders import load_autoencoder
from .cards import CARD

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
SOURCES = (
    "the weights do not come with a checkpoint: SD's are stabilityai/sd-vae-ft-ema on huggingface.co (config.json and "
    f"{DIFFUSERS_WEIGHTS}), ours reproduce/checkpoints/cifar10-autoencoder"
)


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """moments: images (B, C, H, W) in about [-1, 1] -> mean and standard deviation (B, c, h, w); decode: latents back
    to such images. factor: pixels in a row for each place of a latent. scale, shift: what its folder recommends."""

    moments: Callable[[Tensor], tuple[Tensor, Tensor]]
    decode: Callable[[Tensor], Tensor]
    channels: int
    latent_channels: int
    factor: int
    sha256: str
    scale: float = 1.0
    shift: float = 0.0
    device: torch.device | str = "cpu"


def open_autoencoder(folder: Path, device: torch.device | str = "cpu", sha256: str | None = None) -> Autoencoder:
    """The autoencoder in `folder`, float32, in eval mode. sha256: what its weights must have.

    Raises DefarError, naming the folder or file, where it is missing, damaged or another one than asked for.
    """
    folder = Path(folder)
    if not folder.is_dir():
        wanted = f" (sha256 of its weights: {sha256})" if sha256 else ""
        raise DefarError(f"{folder}: no such folder, the codec's autoencoder{wanted}; {SOURCES}")
    own = (folder / CARD).is_file()
    if not own and not (folder / "config.json").is_file():
        raise DefarError(f"{folder}: neither {CARD} nor config.json in it, so no autoencoder; {SOURCES}")
    found = _own(folder, device) if own else _diffusers(folder, device)
    if sha256 is not None and found.sha256 != sha256:
        raise DefarError(
            f"{folder}: is another autoencoder than the checkpoint was trained with (sha256 {found.sha256[:12]}, the "
            f"card has {sha256[:12]}): latents mean something else; {SOURCES}"
        )
    return found


def _own(folder: Path, device: torch.device | str) -> Autoencoder:
    loaded = load_autoencoder(folder, device)
    model, card = loaded.model, loaded.card

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = model.encode(x)
        return mean, (0.5 * logvar).exp()

    channels, latent_channels = model.config["in_channels"], model.config["latent_channels"]
    return Autoencoder(
        moments, model.decode, channels, latent_channels, model.factor, card.sha256, card.scale, card.shift, device
    )


def _diffusers(folder: Path, device: torch.device | str) -> Autoencoder:
    weights = folder / DIFFUSERS_WEIGHTS
    if not weights.is_file():
        raise DefarError(f"{weights}: no such file; weights are read from .safetensors alone: {SOURCES}")
    try:
        kind = read_json(folder / "config.json").get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise DefarError(f"{folder / 'config.json'}: cannot be read ({' '.join(str(error).split())[:100]})") from None
    if kind != "AutoencoderKL":
        raise DefarError(f"{folder / 'config.json'}: is of a {kind}; an AutoencoderKL can be read")
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise DefarError(
            f"{folder}: reading it needs diffusers ({error}): pip install 'defar-analysis[latents]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AutoencoderKL.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
            )
    except Exception as error:  # diffusers raises many kinds for a damaged or ill-fitting file
        raise DefarError(f"{weights}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    model = model.to(device).eval().requires_grad_(False)
    config = model.config

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = model.encode(x).latent_dist
        return posterior.mean, posterior.std

    return Autoencoder(
        moments, lambda z: model.decode(z).sample, config.in_channels, config.latent_channels,
        2 ** (len(config.block_out_channels) - 1), file_sha256(weights),
        config.scaling_factor, config.shift_factor or 0.0, device,
    )  # fmt: skip
