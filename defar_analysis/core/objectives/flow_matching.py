"""Plain flow matching: the baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass

from ..rollout import Draw, VelocityModel
from .base import LossTerms, Objective, one_term, squared_error


@dataclass(frozen=True, kw_only=True)
class FlowMatching(Objective):
    """L_FM = mean (v(x_t, t) - v_gt)^2 over samples and entries (Eq. 2; Lipman et al. 2023). One forward."""

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        point = self.interpolant.at(draw.noise, draw.data, draw.t0)
        return one_term("fm", squared_error(model, point.x, draw.t0, point.velocity, draw).mean(), forwards=1)
