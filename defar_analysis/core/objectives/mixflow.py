"""MixFlow: post-training on slowed interpolants (Liu et al. 2025, arXiv 2512.19311)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import DefarError
from ..rollout import Draw, VelocityModel
from ..times import slowed_times
from .base import LossTerms, Objective, one_term, squared_error

MIXFLOW_GAMMA = {"sit": 0.8, "repa": 0.8, "rae": 0.4}  # by backbone; the paper does not print REPA's


@dataclass(frozen=True)
class MixFlow(Objective):
    """L = mean (v(x_m, t) - v_gt)^2: the state of a slowed time m, labelled with the nominal time t. One forward.

    t ~ Beta(2, 1) and m ~ U[(1 - gamma) t, t], so (m, t) fills its triangle evenly at gamma = 1. draw.times holds m,
    then t. target_time: the pair's velocity at "slowed" m (the paper) or at "nominal" t (its released code); equal on
    the linear path. gamma: 0.8 for SiT, 0.4 for RAE (MIXFLOW_GAMMA); 0 is flow matching under Beta(2, 1).
    nominal_law, slowed_law: the paper's ablation, t ~ U[0, 1] and m ~ U[0, 1] whatever t.
    """

    gamma: float = 0.8
    target_time: Literal["slowed", "nominal"] = "slowed"
    nominal_law: Literal["beta", "uniform"] = "beta"
    slowed_law: Literal["below", "anywhere"] = "below"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise DefarError(f"gamma must lie in [0, 1]; got {self.gamma}")

    def draw_times(self, batch: int, generator: torch.Generator) -> Tensor:
        return slowed_times(batch, self.interpolant, generator, self.gamma, self.nominal_law, self.slowed_law)

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        slowed, nominal = draw.t0, draw.t1
        point = self.interpolant.at(draw.noise, draw.data, slowed)
        target = point.velocity
        if self.target_time == "nominal":
            target = self.interpolant.at(draw.noise, draw.data, nominal).velocity
        return one_term("mixflow", squared_error(model, point.x, nominal, target, draw).mean(), forwards=1)
