"""Plain flow matching: the baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass

from ..rollout import Draw, VelocityModel, same_dropout
from ..tensors import wide
from .base import LossTerms, Objective


@dataclass(frozen=True, kw_only=True)
class FlowMatching(Objective):
    """L_FM = mean (v(x_t, t) - v_gt)^2 over samples and entries (Eq. 2; Lipman et al. 2023). One forward."""

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        point = self.interpolant.at(draw.noise, draw.data, draw.t0)
        with same_dropout(draw.seed, draw.data.device):
            velocity = model(point.x, draw.t0, draw.labels)
        loss = (wide(velocity) - wide(point.velocity)).square().mean()
        return LossTerms(loss, {"fm": loss.detach()}, forwards=1)
