"""Exponential moving average of a network's weights, with a warm-up that suits short runs as well."""

from __future__ import annotations

import copy

import torch
from torch import nn

HALF_LIFE_SHARE = 0.05  # of the whole run: a longer memory would keep the initial weights of a short run


class Ema:
    """Averaged copy of `model`; parameters that are not trained are copied, not averaged (averaging drifts them)."""

    def __init__(self, model: nn.Module, decay: float, total_steps: int) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.longest = min(decay, 0.5 ** (1 / max(1.0, HALF_LIFE_SHARE * total_steps)))

    def decay_at(self, step: int) -> float:
        """min(decay, (1 + n) / (10 + n)), with a half-life of at most 5 % of the run."""
        return min(self.longest, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = self.decay_at(step)
        averaged, current = [], []
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            if theirs.requires_grad:
                averaged.append(mine)
                current.append(theirs.detach())
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
