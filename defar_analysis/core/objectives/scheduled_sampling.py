"""Scheduled sampling for flows: train at the state that the model itself reached, towards the pair's velocity there.

SDSS and MDSS (Ren et al., AAAI 2024) were made for DDPM; the paper adapts them in App. 0.E, in words only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...errors import DefarError
from ..rollout import Draw, Rollout, VelocityModel, rollout
from ..tensors import wide
from ..times import increasing_times
from .base import LossTerms, Objective, one_term


@dataclass(frozen=True)
class SDSS(Objective):
    """L_SDSS = mean (v(x_hat_{t0,t1}, t1) - v_gt)^2 at the simulated state of Eq. 6. Two forwards.

    v_gt is the pair's velocity at t1. detach_step stops gradients at x_hat; add_fm adds L_FM(t0). At t1 = t0 the loss
    is flow matching's.
    """

    detach_step: bool = False
    add_fm: bool = False

    def draw_times(self, batch: int, generator: torch.Generator) -> Tensor:
        return increasing_times(batch, self.interpolant, generator)

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        needs_v0 = self.add_fm or not self.detach_step
        r = rollout(model, self.interpolant, draw, ideal=False, grad_v0=needs_v0, detach_step=self.detach_step)
        drifted = drifted_loss(r)
        terms, total = {"sdss": drifted}, drifted
        if self.add_fm:
            terms["fm"] = (wide(r.v0) - wide(r.target0)).square().mean()
            total = drifted + terms["fm"]
        return LossTerms(total, {name: term.detach() for name, term in terms.items()}, r.forwards)


@dataclass(frozen=True)
class MDSS(Objective):
    """SDSS with the drift of `steps` steps (4 in the paper), in three readings. With h = t1 - t0:

    form="amplified": the drift of one step taken `steps` times, x_{t1} + steps (x_hat_{t0,t1} - x_{t1}), at t1; two
    forwards, as the paper's hours say. Beware: on the linear path this state is x_{t1} + steps h (v0 - v_gt), so it
    carries the target, and a network learns to read it there (reproduce/records/2026-11-21-objectives).
    form="exact": `steps` real steps of length h without gradients, as in the AAAI paper's Algorithm 3; steps + 1
    forwards. form="constant_velocity": the further steps repeat the first velocity, which is SDSS with a step of
    steps * h. These two end at t0 + steps h, or where the path's interval does; their own draws keep h short enough.
    steps=1 is SDSS in every form (detached in "exact").
    """

    steps: int = 4
    form: Literal["amplified", "exact", "constant_velocity"] = "amplified"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise DefarError(f"steps must be at least 1; got {self.steps}")

    def draw_times(self, batch: int, generator: torch.Generator) -> Tensor:
        t0, end = increasing_times(batch, self.interpolant, generator)
        return torch.stack([t0, end if self.form == "amplified" else t0 + (end - t0) / self.steps])

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        if draw.times.shape[0] != 2:
            shape = tuple(draw.times.shape)
            raise DefarError(f"MDSS needs two times for each sample, draw.times is {shape}; use MDSS's own draw()")
        if self.form == "amplified":
            r = rollout(model, self.interpolant, draw, ideal=False, drift_scale=float(self.steps))
        elif self.form == "constant_velocity":
            r = rollout(model, self.interpolant, self._stretched(draw, [self.steps]), ideal=False)
        else:
            walk = self._stretched(draw, range(1, self.steps + 1))
            r = rollout(model, self.interpolant, walk, ideal=False, grad_v0=False, detach_step=True)
        return one_term("mdss", drifted_loss(r), r.forwards)

    def _stretched(self, draw: Draw, multiples) -> Draw:
        """The draw with times t0 and t0 + k h for each k in `multiples`, none beyond the path's interval."""
        last = self.interpolant.interval("train")[1]
        later = [(draw.t0 + k * (draw.t1 - draw.t0)).clamp(max=last) for k in multiples]
        return replace(draw, times=torch.stack([draw.t0, *later]))


def drifted_loss(r: Rollout) -> Tensor:
    """mean (v_hat - v_gt)^2 at the state that a rollout reached."""
    return (wide(r.v_hat) - wide(r.end.velocity)).square().mean()
