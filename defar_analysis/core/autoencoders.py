"""Our own autoencoders on disk: a folder with weights.safetensors and card.toml; `autoencoder_training` makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..config import from_table, read_toml
from ..errors import DefarError
from .cards import CARD, WEIGHTS, as_saved, read_weights, write_pair
from .networks.autoencoder import KLAutoencoder


@dataclass(frozen=True)
class AutoencoderCard:
    """What an autoencoder says of itself.

    scale, shift: latents are (z - shift) * scale, of mean 0 and standard deviation 1 over the training images. psnr:
    of uint8 images against what becomes of them through the posterior's mean, in dB, with data, split and images.
    """

    name: str
    sha256: str
    network: dict[str, Any]
    scale: float = 1.0
    shift: float = 0.0
    size: int | None = None  # side in pixels of the images that it was trained on
    psnr: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedAutoencoder:
    model: KLAutoencoder
    card: AutoencoderCard


def save_autoencoder(folder: Path, model: KLAutoencoder, card: AutoencoderCard) -> Path:
    """Write `model` in float16 and its card, whose sha256 and network are filled in here. Returns the folder."""
    return write_pair(folder, as_saved(model.state_dict()), card, model.config, "try a lower optimizer.lr")


def load_autoencoder(folder: Path, device: torch.device | str = "cpu") -> LoadedAutoencoder:
    """The autoencoder in a folder, as float32, in eval mode, without gradients.

    Raises DefarError where files are missing, damaged or do not fit together."""
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise DefarError(f"{folder}: no such autoencoder; give a folder with {WEIGHTS} and {CARD}")
    card = from_table(AutoencoderCard, read_toml(folder / CARD), str(folder / CARD))
    weights = read_weights(folder, card.sha256)
    try:
        model = KLAutoencoder(**card.network)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (DefarError, TypeError, RuntimeError) as error:
        raise DefarError(f"{folder / WEIGHTS}: does not fit {CARD}: {' '.join(str(error).split())[:200]}") from None
    return LoadedAutoencoder(model.to(device).eval().requires_grad_(False), card)
