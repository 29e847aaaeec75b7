"""From a family's own tensors to those of the network here: old layouts, training's extras, label tables, positions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import DefarError
from ..networks.lightningdit import RotaryTable
from ..networks.sit import sincos_position_embedding
from .families import Tensors, blocks

TRAINING_ONLY = ("projectors", "diffusion_trainer")  # what aligned the features of REPA's and DDT's networks
DRIFT = 3e-4  # an averaged position table is not quite the formula: averaging a constant in float32 moves it
ROTARY = ("freqs_cos", "freqs_sin")
LABELS = "y_embedder.embedding_table.weight"


def modernized(tensors: Tensors) -> tuple[Tensors, list[str]]:
    """(without what only training needs, in today's layout; what was done, in words)."""
    left_out = sorted({name.partition(".")[0] for name in tensors} & set(TRAINING_ONLY))
    kept = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] not in left_out}
    said = [f"left out {name}.*: only its training needs them" for name in left_out]
    if any(name.startswith("decoder_blocks.") for name in kept):
        first, count = blocks(kept), blocks(kept, "decoder_blocks")
        kept = {_renumbered(name, first): tensor for name, tensor in kept.items()}
        said.append(f"old layout: decoder_blocks.0 ... {count - 1} are blocks.{first} ... {first + count - 1}")
    return kept, said


def _renumbered(name: str, first: int) -> str:
    if not name.startswith("decoder_blocks."):
        return name
    _, index, *rest = name.split(".")
    return ".".join(["blocks", str(int(index) + first), *rest])


def with_null_row(tensors: Tensors, classes: int | None) -> tuple[Tensors, list[str]]:
    """A row of zeros for "no label" where the table has one for each of `classes` only, as after training without."""
    table = tensors.get(LABELS)
    if classes is not None and table is None:
        raise DefarError(f"--classes {classes}: the network has no table of labels, it takes none")
    if classes is None or table.shape[0] == classes + 1:
        return tensors, []
    if table.shape[0] != classes:
        raise DefarError(
            f"--classes {classes}: the file's table of labels has {table.shape[0]} rows, one more than classes"
        )
    said = "no row for 'no label': zeros stand there, so guidance and labels=None mean nothing with this network"
    return {**tensors, LABELS: torch.cat([table, torch.zeros_like(table[:1])])}, [said]


def resized(
    tensors: Tensors, config: dict[str, Any], input_size: int | None
) -> tuple[Tensors, dict[str, Any], list[str]]:
    """The same for inputs of another side.

    Tables that follow the sin-cos formula are computed anew on the larger grid, as published 512-pixel networks have
    them, and so are rotary ones; learned ones are interpolated, bicubic. Raises DefarError for a side that is no
    multiple of the patch.
    """
    if input_size is None or input_size == config["input_size"]:
        return tensors, config, []
    patch, before = config.get("patch_size", 1), config["input_size"]
    if input_size < 1 or input_size % patch:
        raise DefarError(f"--input-size {input_size}: must be a multiple of the patch, {patch}")
    config = {**config, "input_size": input_size}
    for name in [name for name in tensors if name.endswith(ROTARY)]:
        angles = RotaryTable(input_size // patch, tensors[name].shape[-1])
        tensors = {**tensors, name: getattr(angles, name.rpartition(".")[2])}
    said = [f"input {before} -> {input_size}"]
    if "pos_embed" in tensors:
        table, how = _positions(tensors["pos_embed"], input_size // patch)
        tensors = {**tensors, "pos_embed": table}
        said = [f"input {before} -> {input_size}: position table {how}"]
    return tensors, config, said


def _positions(table: Tensor, grid: int) -> tuple[Tensor, str]:
    side, width = math.isqrt(table.shape[1]), table.shape[2]
    if width % 4 == 0 and torch.allclose(table[0].double(), sincos_position_embedding(width, side), rtol=0, atol=DRIFT):
        return sincos_position_embedding(width, grid)[None].to(table.dtype), "computed anew, sin-cos"
    square = table.float().reshape(1, side, side, width).permute(0, 3, 1, 2)
    larger = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return larger.flatten(2).transpose(1, 2).contiguous(), "is learned: interpolated, bicubic, and to be fine-tuned"
