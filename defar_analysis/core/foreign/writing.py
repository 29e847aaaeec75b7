"""The checkpoint that an import writes, and the words for what was taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...config import read_toml
from ...errors import DefarError
from ...files import file_sha256
from ..adapters import Adapted
from ..cards import CARD, WEIGHTS, as_saved
from ..checkpoints import Card, save_checkpoint, tensors_digest
from ..codecs import codec_table, open_codec
from .entries import Entries
from .families import Tensors
from .options import ImportOptions

DTYPE = torch.float32  # what they were trained in: rounding would look like a fault to whoever compares


def save(model: nn.Module, out: Path, asked: ImportOptions, source: dict[str, Any], name: str) -> list[str]:
    codec = "pixel" if asked.codec is None else _codec(asked.codec, model, out)
    classes = model.config.get("num_classes")
    data = {"class_conditional": False} if classes is None else {"classes": classes}
    card = Card(asked.name or name, asked.weights, "", {}, asked.interpolant, codec, data, source=source)
    save_checkpoint(out, model, card, DTYPE)
    channels, said = model.config["in_channels"], []
    if channels not in (1, 3) and asked.codec is None:
        said = [f"{channels} channels are latents: measurements work there, images need a codec: --codec FILE.toml"]
    return [*said, f"{out}: {WEIGHTS} and {CARD}, noise at t = 0, velocity data - noise"]


def _codec(file: Path, model: nn.Module, out: Path) -> dict[str, Any]:
    """The table of a codec that opens and fits, its paths as seen from `out`."""
    table = read_toml(file)
    table = table["codec"] if isinstance(table.get("codec"), dict) else table
    try:
        codec = open_codec(table, file.parent)
        codec.pixel_shape((model.config["in_channels"], model.config["input_size"], model.config["input_size"]))
    except DefarError as error:
        raise DefarError(f"{file}: {error}") from None
    settled = codec_table(table, codec)
    inside = {key: os.path.relpath(file.parent / settled[key], out) for key in ("path", "statistics") if key in settled}
    return {**settled, **inside}


def digests(by_kind: dict[str, Tensors]) -> dict[str, str]:
    """ema_digest and raw_digest: tensors_digest of each kind of weights as they are, or would be, saved."""
    return {f"{kind}_digest": tensors_digest(as_saved(tensors, DTYPE)) for kind, tensors in by_kind.items()}


def source_of(file: Path, family: str, entries: Entries, kind: str) -> dict[str, Any]:
    return {"file": file.name, "sha256": file_sha256(file), "family": family, "entry": entries.names[kind]}


def taken(entries: Entries, kind: str, asked: ImportOptions) -> str:
    if kind == "bare":
        return f"one set of weights, which the file does not call averaged or raw; taken as {asked.weights}"
    others = [f"{entries.names[other]!r}" for other in entries.weights if other != kind]
    return f"{kind} weights, its entry {entries.names[kind]!r}" + "".join(f" (not {other})" for other in others)


def in_words(model: nn.Module) -> str:
    config, count = model.config, sum(p.numel() for p in model.parameters())
    side, labels = config["input_size"], config.get("num_classes")
    turned = isinstance(model, Adapted) and model.conventions.noise_at == 1
    clock = ", its clock and sign turned over" if turned else ""
    return f"{count:,} parameters, x ({config['in_channels']}, {side}, {side}), {labels or 'no'} classes{clock}"
