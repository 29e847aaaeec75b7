"""What one optimizer step measured, read once the device has gone further."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DefarError
from .objectives import LossTerms
from .parallel import Processes


@dataclass(frozen=True)
class StepValues:
    """Loss, loss terms and gradient norm of one optimizer step, on its device still. step counts from 1."""

    step: int
    names: tuple[str, ...]
    values: Tensor

    @classmethod
    def of(cls, step: int, losses: Sequence[LossTerms], gradient_norm: Tensor, processes: Processes) -> StepValues:
        """Means over a step's parts, the same in every process."""
        parts = torch.stack([torch.stack([*loss.terms.values(), loss.total.detach()]).float() for loss in losses])
        means = processes.mean(parts.mean(dim=0))
        return cls(step, (*losses[0].terms, "loss", "gradient_norm"), torch.cat([means, gradient_norm[None]]))

    def read(self) -> dict[str, float]:
        """The values by name; waits until the device has them. Raises DefarError where one is not finite."""
        found = dict(zip(self.names, self.values.tolist(), strict=True))
        for name, value in found.items():
            if not math.isfinite(value):
                raise DefarError(
                    f"step {self.step}: {name} is {value}; the last good state is kept: "
                    "try a lower optimizer.lr or float32, in another --out"
                )
        return found
