"""Our own autoencoders on disk: a folder with weights.safetensors and card.toml; `autoencoder_training` makes them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..config import dump_toml, from_table, read_toml
from ..errors import DefarError
from ..files import file_sha256, replaced
from .networks.autoencoder import KLAutoencoder

CARD, WEIGHTS = "card.toml", "weights.safetensors"


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
    folder = Path(folder)
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise DefarError(f"{broken[0]} is not finite in float16; nothing was written: try a lower optimizer.lr")
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / WEIGHTS) as weights_file, replaced(folder / CARD) as card_file:
        save_file(tensors, weights_file)
        card = dataclasses.replace(card, sha256=file_sha256(weights_file), network=model.config)
        card_file.write_text(dump_toml(dataclasses.asdict(card)), encoding="utf-8")
    return folder


def load_autoencoder(folder: Path, device: torch.device | str = "cpu") -> LoadedAutoencoder:
    """The autoencoder in a folder, as float32, in eval mode, without gradients.

    Raises DefarError where files are missing, damaged or do not fit together."""
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise DefarError(f"{folder}: no such autoencoder; give a folder with {WEIGHTS} and {CARD}")
    card = from_table(AutoencoderCard, read_toml(folder / CARD), str(folder / CARD))
    file = folder / WEIGHTS
    if not file.is_file() or file_sha256(file) != card.sha256:
        raise DefarError(f"{file}: missing, corrupt or replaced (its checksum is not the card's); restore it")
    try:
        model = KLAutoencoder(**card.network)
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    except (DefarError, SafetensorError, TypeError, RuntimeError) as error:
        raise DefarError(f"{file}: does not fit {CARD}: {' '.join(str(error).split())[:200]}") from None
    return LoadedAutoencoder(model.to(device).eval().requires_grad_(False), card)
