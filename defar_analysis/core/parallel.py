"""Several processes, as torchrun starts them: which one this is, what it computes, how it agrees with the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import DefarError
from .devices import resolve_device

# Only gloo was ever run by us. Beside an accelerator's it carries what lies in the CPU's memory, and so waits for no
# device.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "npu": "cpu:gloo,npu:hccl"}
# DistributedDataParallel's option for buffers exchanged in every forward; torch 2.13 gave it another name.
_OPTIONS = signature(nn.parallel.DistributedDataParallel).parameters
BUFFERS_IN_FORWARDS = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _OPTIONS)


@dataclass(frozen=True)
class Processes:
    """This process among all that work on one job: rank of size, and its place on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """As torchrun's variables say; one alone without them. Raises DefarError where they make no sense."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        told = {name: os.environ.get(name, default) for name, default in zip(names, "010", strict=True)}
        if not all(value.isdecimal() for value in told.values()) or int(told["RANK"]) >= int(told["WORLD_SIZE"]):
            said = " ".join(f"{name}={value}" for name, value in told.items())
            raise DefarError(f"{said}: want whole numbers, RANK below WORLD_SIZE, as torchrun sets them")
        return cls(*(int(told[name]) for name in names))

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the processes, the same numbers in each of them."""
        if self.size == 1:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed / self.size

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any of the processes."""
        return flag if self.size == 1 else bool(self.mean(torch.tensor(float(flag))))

    def told(self, value: Any) -> Any:
        """What the first process has, in every one."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank, in the first; nothing in the others."""
        if self.size == 1:
            return [value]
        boxes = [None] * self.size if self.first else None
        dist.gather_object(value, boxes)
        return boxes or []

    def shared(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with gradients averaged over the processes in every backward pass, and weights from the first."""
        if self.size == 1:
            return model
        # buffers are constants here; sending them in each of a step's forwards would disturb the graph of the last one
        where = None if device.type == "cpu" else [device]
        return nn.parallel.DistributedDataParallel(model, device_ids=where, **{BUFFERS_IN_FORWARDS: False})


ALONE = Processes()


def without_exchange(model: nn.Module, yes: bool = True) -> AbstractContextManager:
    """A backward pass whose gradients stay in this process, to be exchanged with those of a later one."""
    return model.no_sync() if yes and isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


@contextmanager
def joined(device: str = "auto") -> Iterator[tuple[Processes, torch.device]]:
    """This process among the others and its device, connected with them inside the block.

    device: a kind, such as "cuda"; of several processes on a machine each takes the device of its own place. Raises
    DefarError for a numbered device that all would share, or when another process is lost. Inside another such block
    they are connected already, and `device` is this process's own.
    """
    processes = Processes.from_environment()
    if processes.size == 1 or dist.is_initialized():
        yield processes, resolve_device(device)
        return
    kind = resolve_device(device)
    if kind.index is not None and device != "auto":
        raise DefarError(f"--device {device}: {processes.size} processes would share it; give {kind.type}")
    where = kind if kind.type == "cpu" else resolve_device(f"{kind.type}:{processes.local_rank}")
    if kind.type != "cpu":
        torch.accelerator.set_device_index(processes.local_rank)
    if kind.type not in BACKENDS:
        raise DefarError(f"--device {kind.type}: no way to connect processes is known; use {', '.join(BACKENDS)}")
    try:
        dist.init_process_group(BACKENDS[kind.type])
        yield processes, where
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise DefarError(
            f"process {processes.rank} of {processes.size} lost another one, whose own message says why; the last "
            "saved state is kept, the same command goes on"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_lost_peer(error: RuntimeError) -> bool:
    said = str(error)
    return isinstance(error, dist.DistError) or "onnection" in said or "gloo" in said or "Broken pipe" in said
