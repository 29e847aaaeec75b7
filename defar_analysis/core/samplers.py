"""Sampling: solve dx/dt = v(x, t) from noise (t = 0) to data (t = 1), with every network call counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import DefarError
from .interpolants import Interpolant, Linear
from .rollout import VelocityModel

Grid = Literal["uniform", "sit"]
Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Sample:
    """x (N, C, H, W); nfe, velocity evaluations for each image; forwards, network calls in all; times, the grid;
    states, (len(times), N, C, H, W) on the CPU where they were asked for."""

    x: Tensor
    nfe: int
    forwards: int
    times: Tensor
    states: Tensor | None = None


class Solver(Protocol):
    """A time grid and a rule for one step of it."""

    def times(self, interval: tuple[float, float]) -> Tensor: ...
    def step(self, velocity: Velocity, x: Tensor, now: float, then: float) -> Tensor: ...


def _grid(steps: int, grid: Grid, interval: tuple[float, float]) -> Tensor:
    """steps + 1 uniform times; grid="sit" takes `steps` as the number of points, as SiT does: one step fewer."""
    if grid not in ("uniform", "sit"):
        raise DefarError(f"grid must be 'uniform' or 'sit'; got {grid!r}")
    points = steps + 1 if grid == "uniform" else steps
    if points < 2:
        raise DefarError(f"steps = {steps} with grid {grid!r} makes no step; give more")
    return torch.linspace(*interval, points, dtype=torch.float64)


@dataclass(frozen=True)
class Euler:
    """x <- x + h v(x, t). Order 1; Euler(50) makes 50 evaluations, with grid="sit" 49."""

    steps: int
    grid: Grid = "uniform"

    def times(self, interval: tuple[float, float]) -> Tensor:
        return _grid(self.steps, self.grid, interval)

    def step(self, velocity: Velocity, x: Tensor, now: float, then: float) -> Tensor:
        return x + (then - now) * velocity(x, now)


@dataclass(frozen=True)
class Heun:
    """Euler, then the mean of the slopes at both ends. Order 2; Heun(50) makes 100 evaluations."""

    steps: int
    grid: Grid = "uniform"

    def times(self, interval: tuple[float, float]) -> Tensor:
        return _grid(self.steps, self.grid, interval)

    def step(self, velocity: Velocity, x: Tensor, now: float, then: float) -> Tensor:
        slope = velocity(x, now)
        ahead = velocity(x + (then - now) * slope, then)
        return x + (then - now) * (slope + ahead) / 2


@torch.no_grad()
def sample(
    model: VelocityModel,
    noise: Tensor,
    solver: Solver,
    *,
    interpolant: Interpolant | None = None,
    labels: Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
    chunk: int = 64,
    save: Literal["all"] | None = None,
) -> Sample:
    """Images from `noise` (N, C, H, W), the whole batch in fixed chunks.

    The network always sees `chunk` images, the last chunk padded with repeats, so image i is the same bit for bit
    whatever else is asked for beside it. The state keeps the noise's dtype. labels (N,) or None; save="all" keeps the
    state at every grid time. generators, one for each image, are for solvers that draw noise on the way: Euler and Heun
    draw none.

    Raises DefarError when the labels do not fit or the result is not finite.
    """
    if labels is not None and labels.shape != noise.shape[:1]:
        raise DefarError(f"labels must have shape ({noise.shape[0]},), one for each image; got {tuple(labels.shape)}")
    if chunk < 1 or noise.shape[0] == 0:
        raise DefarError(f"nothing to sample: {noise.shape[0]} images in chunks of {chunk}")
    times = solver.times((interpolant or Linear()).interval("ode"))
    images, states, forwards, nfe = [], [], 0, 0
    for start in range(0, noise.shape[0], chunk):
        x, count = _padded(noise[start : start + chunk], chunk)
        y = None if labels is None else _padded(labels[start : start + chunk], chunk)[0]
        calls = 0

        def velocity(x: Tensor, t: float, y: Tensor | None = y) -> Tensor:
            nonlocal calls
            calls += 1
            return model(x, torch.full((x.shape[0],), t, dtype=x.dtype, device=x.device), y)

        kept = [x[:count].cpu()] if save else []
        for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            x = solver.step(velocity, x, now, then)
            if save:
                kept.append(x[:count].cpu())
        images.append(x[:count])
        if save:
            states.append(torch.stack(kept))
        nfe = calls
        forwards += calls
    x = torch.cat(images)
    if not bool(torch.isfinite(x).all()):
        raise DefarError(f"sampling with {solver} gave values that are not finite; more steps or float32 may mend it")
    return Sample(x, nfe, forwards, times, torch.cat(states, dim=1) if save else None)


def _padded(tensor: Tensor, length: int) -> tuple[Tensor, int]:
    count = tensor.shape[0]
    if count == length:
        return tensor, count
    return torch.cat([tensor, tensor[-1:].expand(length - count, *tensor.shape[1:])]), count
