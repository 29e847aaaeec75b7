"""A folder of weights and the card that says what they are: written together, and believed only together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import dump_toml
from ..errors import DefarError
from ..files import file_sha256, replaced

CARD, WEIGHTS = "card.toml", "weights.safetensors"
AnyCard = TypeVar("AnyCard")  # a dataclass with sha256 and network


def write_pair(folder: Path, tensors: dict[str, Tensor], card: AnyCard, network: dict[str, Any], mend: str) -> Path:
    """Write weights and card into `folder`, each beside and then renamed, so that an error leaves the old pair.

    The card's sha256 and network are filled in here. Raises DefarError, and says the mend, for a weight that is not
    finite.
    """
    folder = Path(folder)
    broken = next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
    if broken is not None:
        raise DefarError(f"{broken} is not finite in {tensors[broken].dtype}; nothing was written: {mend}")
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / WEIGHTS) as weights_file:
        save_file(tensors, weights_file)
        card = dataclasses.replace(card, sha256=file_sha256(weights_file), network=network)
        with replaced(folder / CARD) as card_file:
            card_file.write_text(dump_toml(dataclasses.asdict(card)), encoding="utf-8")
    return folder


def read_weights(folder: Path, sha256: str) -> dict[str, Tensor]:
    """The weights beside a card that has their checksum. Raises DefarError where they are not those, or no weights."""
    file = Path(folder) / WEIGHTS
    if not file.is_file():
        raise DefarError(f"{file}: no such file, though {file.with_name(CARD)} describes it; restore it")
    if file_sha256(file) != sha256:
        raise DefarError(f"{file}: corrupt or replaced (its checksum is not the card's); restore it or export it again")
    try:
        return load_file(file)
    except Exception as error:  # SafetensorError, and what torch says of a type that it does not know
        raise DefarError(f"{file}: cannot be read: {' '.join(str(error).split())[:200]}") from None


def as_saved(tensors: dict[str, Tensor], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Copies on the CPU, floats in `dtype`, none sharing memory with another."""
    return {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
