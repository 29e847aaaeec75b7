"""Input perturbation (IP): train on inputs that are noisier than their label says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from ...errors import DefarError
from ..datasets import Batch
from ..rollout import Draw, VelocityModel
from .base import LossTerms, Objective, one_term, squared_error


@dataclass(frozen=True)
class InputPerturbation(Objective):
    """L_IP = mean (v(x'_t, t) - v_gt)^2, x'_t perturbed by xi ~ N(0, I), the target left alone (Ning et al. 2023).

    space="noise": x'_t = alpha_t x_* + sigma_t (eps + scale xi), as DDPM-IP perturbs its noise. space="state":
    x'_t = x_t + scale xi, the other reading of the paper's App. 0.E. One forward. scale=0 is flow matching.
    """

    scale: float = 0.1
    space: Literal["noise", "state"] = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.scale < float("inf"):
            raise DefarError(f"scale must be a number of at least 0; got {self.scale}")

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        draw = super().draw(batch, generator)
        xi = torch.randn(batch.data.shape, generator=generator, device=generator.device)
        return replace(draw, perturbation=xi.to(draw.noise))

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        point = self.interpolant.at(draw.noise, draw.data, draw.t0)
        x = point.x
        if self.scale > 0:
            if draw.perturbation is None:
                raise DefarError("this draw has no perturbation; draw it with InputPerturbation's own draw()")
            xi = self.scale * draw.perturbation
            x = x + xi if self.space == "state" else self.interpolant.at(draw.noise + xi, draw.data, draw.t0).x
        return one_term("ip", squared_error(model, x, draw.t0, point.velocity, draw).mean(), forwards=1)
