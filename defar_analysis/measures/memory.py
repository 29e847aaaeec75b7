"""The bytes that a training step keeps for its backward pass, counted without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from ..core.objectives import Objective
from ..core.rollout import Draw


def kept_bytes(objective: Objective, model: nn.Module, draw: Draw) -> int:
    """Bytes of the tensors that autograd keeps between a step's forward and backward pass, each memory once; the
    model's own weights and buffers are not counted.

    What an operation needs while it runs, the gradients and the optimizer come on top.
    """
    own = {z.untyped_storage()._cdata for z in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(saved: Tensor) -> Tensor:
        memory = saved.untyped_storage()
        if memory._cdata not in own:
            kept[memory._cdata] = memory  # held, so that its place is not given to another
        return saved

    with saved_tensors_hooks(note, lambda saved: saved):
        objective(model, draw)
    return sum(memory.nbytes() for memory in kept.values())


def planned_bytes(objective: Objective, build: Callable[[], nn.Module], draw: Draw) -> int:
    """:func:`kept_bytes` of a network of any size: it is built, and the step runs, on tensors without memory, which
    take the operations that a CPU would (attention never keeps its matrix).
    """
    with FakeTensorMode() as mode:
        tensors = {f.name: getattr(draw, f.name) for f in fields(draw)}
        fake = {name: mode.from_tensor(z) for name, z in tensors.items() if isinstance(z, Tensor)}
        return kept_bytes(objective, build(), replace(draw, **fake))
