"""Activation checkpointing: a network's blocks forget what they computed and compute it again in the backward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import DefarError


def recompute_blocks(model: nn.Module) -> None:
    """Make every block of `model` keep its inputs only, from now on. Same numbers, less memory, one forward more.

    Raises DefarError for a network without `blocks`. A copy of the network made later would still call this one's
    blocks: copy first.
    """
    blocks = next((m.blocks for m in model.modules() if isinstance(getattr(m, "blocks", None), nn.ModuleList)), None)
    if blocks is None:
        raise DefarError(f"recompute_blocks = true: {type(model).__name__} has no blocks to recompute; leave it out")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
