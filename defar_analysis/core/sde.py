"""Euler-Maruyama for dx = (v + D s) dt + sqrt(2 D) dW, which has the ODE's marginals for every diffusion D(t) >= 0.

s is the score that the velocity implies. The forms of D, their scale `norm` and the last steps are SiT's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import DefarError
from .interpolants import Interpolant
from .solvers import Field, Grid, check_grid, time_grid

Diffusion = Literal["SBDM", "sigma", "linear", "constant", "decreasing", "increasing-decreasing"]
LastStep = Literal["mean", "euler", "tweedie"]


def diffusion(form: Diffusion, interpolant: Interpolant, t: Tensor, norm: float = 1.0) -> Tensor:
    """D(t), in the shape of t.

    SBDM: norm sigma (sigma alpha'/alpha - sigma'), which is norm (1-t)/t on Linear and norm beta_t/2 on VP; where
    alpha = 0 it is infinite and 0 is returned. sigma: norm sigma_t. linear: norm (1-t). constant: norm. decreasing:
    (norm cos(pi t) + 1)^2 / 4. increasing-decreasing: norm sin(pi t)^2.
    """
    if form == "SBDM":
        c = interpolant.coefficients(t)
        return torch.where(c.alpha == 0, 0.0, norm * c.sigma * c.wronskian / c.alpha)
    if form == "sigma":
        return norm * interpolant.coefficients(t).sigma
    if form == "linear":
        return norm * (1 - t)
    if form == "constant":
        return torch.full_like(t, norm)
    if form == "decreasing":
        return 0.25 * (norm * torch.cos(math.pi * t) + 1) ** 2
    if form == "increasing-decreasing":
        return norm * torch.sin(math.pi * t) ** 2
    raise DefarError(f"diffusion must be one of {', '.join(get_args(Diffusion))}; got {form!r}")


@dataclass(frozen=True)
class EulerMaruyama:
    """x <- x + h (v + D s) + sqrt(2 D h) w, w standard normal. Weak order 1.

    `steps` evaluations: one for each step, where SiT's code makes two on the same input (its "250 steps" cost 500; the
    numbers are the same). With a last step the noisy steps run over `steps` points up to 1 - last_step_size and one
    step without noise follows, on either grid; with last_step=None all steps are noisy and grid="sit" makes one fewer.

    last_step: "mean" x + h (v + D s), "euler" x + h v, "tweedie" E[x_* | x]. last_step_size: None takes the
    interpolant's guard, 0.04 as SiT. SBDM on a path with alpha(0) = 0 takes its first step with D = 0.
    Each step draws w, also where D = 0: the noise of an image is the same for every diffusion form.
    """

    steps: int
    diffusion: Diffusion = "sigma"
    last_step: LastStep | None = "mean"
    norm: float = 1.0
    last_step_size: float | None = None
    grid: Grid = "uniform"
    draws_noise = True

    def __post_init__(self) -> None:
        check_grid(self.steps, self.grid if self.last_step is None else "sit")
        check_grid(max(self.steps, 2), self.grid)
        if self.diffusion not in get_args(Diffusion):
            raise DefarError(f"diffusion must be one of {', '.join(get_args(Diffusion))}; got {self.diffusion!r}")
        if self.last_step not in (None, *get_args(LastStep)):
            raise DefarError(f"last_step must be 'mean', 'euler', 'tweedie' or None; got {self.last_step!r}")
        if not 0 <= self.norm < math.inf:
            raise DefarError(f"norm must be finite and not negative; got {self.norm}")
        if self.last_step_size is not None and (self.last_step is None or not 0 < self.last_step_size < 1):
            raise DefarError(
                f"last_step_size must lie in (0, 1) and needs a last step; got {self.last_step_size} with last_step "
                f"{self.last_step!r}"
            )

    def times(self, interpolant: Interpolant) -> Tensor:
        start, end = interpolant.interval("sde")
        if self.last_step is None:
            return time_grid(self.steps, self.grid, start, interpolant.interval("ode")[1])
        if self.last_step_size is not None:
            end = 1 - self.last_step_size
        return torch.cat([time_grid(self.steps, "sit", start, end), torch.ones(1, dtype=torch.float64)])

    def step(self, field: Field, x: Tensor, now: float, then: float, last: bool = False) -> Tensor:
        v, h, path = field(x, now), then - now, field.interpolant
        end = self.last_step if last else None
        if end == "euler":
            return x + h * v
        if end == "tweedie":
            of_v, of_x = _weights(path.endpoint, now)
            return of_v * v + of_x * x
        amount = float(diffusion(self.diffusion, path, torch.tensor(now, dtype=torch.float64), self.norm))
        of_v, of_x = _weights(path.score, now) if amount else (0.0, 0.0)
        mean = x + h * ((1 + amount * of_v) * v + amount * of_x * x)
        return mean if end == "mean" else mean + math.sqrt(2 * amount * h) * field.draw()


def _weights(conversion: Callable[[Tensor, Tensor, Tensor], Tensor], t: float) -> tuple[float, float]:
    """The factors of v and x in one of the interpolant's conversions, in float64 whatever the state's dtype."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    time = torch.tensor([t], dtype=torch.float64)
    return float(conversion(one, zero, time)), float(conversion(zero, one, time))
