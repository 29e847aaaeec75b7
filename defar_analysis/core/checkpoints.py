"""Checkpoints: a folder with one .safetensors file and a card.toml that says what it is and where it came from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..config import dump_toml, from_table, read_toml
from ..errors import DefarError
from ..files import file_sha256, replaced
from .adapters import build_model, described
from .codecs import CODECS, PixelCodec
from .interpolants import INTERPOLANTS, Interpolant

CARD, WEIGHTS = "card.toml", "weights.safetensors"


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself.

    weights: "ema" or "raw". sha256: of the weights file. network: family and constructor arguments. data: name, split,
    hash, classes. training: recipe, steps, seconds, hardware, versions.
    """

    name: str
    weights: str
    sha256: str
    network: dict[str, Any]
    interpolant: str = "linear"
    codec: str = "pixel"
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A network ready to be evaluated, the codec between its space and pixels, and its card."""

    model: nn.Module
    codec: PixelCodec
    card: Card

    @property
    def interpolant(self) -> Interpolant:
        return INTERPOLANTS[self.card.interpolant]()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one sample."""
        size = self.model.config["input_size"]
        return self.model.config["in_channels"], size, size

    @property
    def classes(self) -> int | None:
        """How many labels the network was trained with; None for a network trained without."""
        return self.model.config["num_classes"] if self.card.data.get("class_conditional", True) else None


def save_checkpoint(folder: Path, model: nn.Module, card: Card, dtype: torch.dtype = torch.float16) -> Path:
    """Write `model` in `dtype` and its card into `folder`, each file beside and then renamed. Returns the folder.

    The card's sha256 and network are filled in here. Raises DefarError for a network no family knows.
    """
    network, holder = described(model)
    folder = Path(folder)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in holder.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise DefarError(f"{broken[0]} is not finite in {dtype}; nothing was written: save with dtype=torch.float32")
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replaced(folder / WEIGHTS) as weights_file,
        replaced(folder / CARD) as card_file,
    ):  # an error leaves the old pair
        save_file(tensors, weights_file)
        digest = file_sha256(weights_file)
        card = dataclasses.replace(card, sha256=digest, network=network)
        card_file.write_text(dump_toml(dataclasses.asdict(card)), encoding="utf-8")
    return folder


def load_checkpoint(path: Path, weights: str = "ema", device: torch.device | str = "cpu") -> Checkpoint:
    """The checkpoint in a folder (or the .safetensors file inside it), as float32, in eval mode, without gradients.

    Raises DefarError, naming the file, when something is missing, when the weights do not match the card's checksum
    or the network, or when the file holds other weights ("ema" or "raw") than asked for.
    """
    named = Path(path)
    folder = named.parent if named.suffix == ".safetensors" else named
    if not folder.is_dir() or (named != folder and named.name != WEIGHTS):
        raise DefarError(f"{path}: no such checkpoint; give a folder with {WEIGHTS} and {CARD}")
    card = from_table(Card, read_toml(folder / CARD), str(folder / CARD))
    if card.weights != weights:
        raise DefarError(f"{folder}: holds {card.weights!r} weights, not {weights!r}; pass weights={card.weights!r}")
    file = folder / WEIGHTS
    if not file.is_file():
        raise DefarError(f"{file}: no such file, though {folder / CARD} describes it; restore it")
    if file_sha256(file) != card.sha256:
        raise DefarError(f"{file}: corrupt or replaced (its checksum is not the card's); restore it or export it again")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise DefarError(f"{file}: cannot be read: {error}") from None
    options = {key: value for key, value in card.network.items() if key != "family"}
    try:
        model = build_model(card.network.get("family", "?"), None, options)
    except (DefarError, TypeError, ArithmeticError, RuntimeError) as error:
        raise DefarError(f"{folder / CARD}: network: {' '.join(str(error).split())[:200]}") from None
    try:
        described(model)[1].load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
    except RuntimeError as error:
        raise DefarError(f"{file}: does not fit the network in {CARD}: {' '.join(str(error).split())[:200]}") from None
    if card.codec not in CODECS or card.interpolant not in INTERPOLANTS:
        raise DefarError(f"{folder / CARD}: unknown codec {card.codec!r} or interpolant {card.interpolant!r}")
    return Checkpoint(model.to(device).eval().requires_grad_(False), CODECS[card.codec](), card)
