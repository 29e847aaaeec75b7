"""Solvers of dx/dt = v(x, t): fixed steps by Euler or Heun, adaptive steps by torchdiffeq's dopri5."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import DefarError
from .interpolants import Interpolant

Grid = Literal["uniform", "sit"]
MOST_STEPS = 1_000_000  # a step is then as small as float32's spacing near t = 1 a few times over


class Field(Protocol):
    """What a solver integrates: field(x, t) is the velocity of a chunk (B, ...) at one time t.

    `draw` gives standard normal noise in the shape of the chunk, the next of each image's own stream.
    """

    interpolant: Interpolant

    def __call__(self, x: Tensor, t: float) -> Tensor: ...
    def draw(self) -> Tensor: ...


class StepSolver(Protocol):
    """A time grid and a rule for one step of it; `last` marks the grid's last step."""

    draws_noise: bool

    def times(self, interpolant: Interpolant) -> Tensor: ...
    def step(self, field: Field, x: Tensor, now: float, then: float, last: bool) -> Tensor: ...


def time_grid(steps: int, grid: Grid, start: float, end: float) -> Tensor:
    """steps + 1 uniform times; grid="sit" takes `steps` as the number of points, as SiT does: one step fewer."""
    return torch.linspace(start, end, steps + 1 if grid == "uniform" else steps, dtype=torch.float64)


def check_grid(steps: int, grid: Grid) -> None:
    """Raises DefarError where `steps` on `grid` is not at least one step."""
    if grid not in ("uniform", "sit"):
        raise DefarError(f"grid must be 'uniform' or 'sit'; got {grid!r}")
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise DefarError(f"steps must be a whole number; got {steps!r}")
    if steps < (1 if grid == "uniform" else 2):
        raise DefarError(f"steps = {steps} with grid {grid!r} makes no step; give more")
    if steps > MOST_STEPS:
        raise DefarError(f"steps = {steps} are more than float32 can tell apart; give at most {MOST_STEPS}")


@dataclass(frozen=True)
class _FixedGrid:
    """What Euler and Heun share: a grid of `steps` over the path's interval, and no noise on the way.

    end: where to stop, if before the interval does. shift: t' = shift t / (1 + (shift - 1) t) bends the uniform grid;
    below 1 its steps are small near noise. LightningDiT samples with 0.3; RAE's s, meant for its clock, is 1 / s here.
    """

    steps: int
    grid: Grid = "uniform"
    shift: float = field(default=1.0, kw_only=True)
    end: float | None = field(default=None, kw_only=True)
    draws_noise = False

    def __post_init__(self) -> None:
        check_grid(self.steps, self.grid)
        if not 0 < self.shift < math.inf:
            raise DefarError(f"shift = {self.shift}; it must be positive, 1 changes nothing")
        if self.end is not None and not 0 < self.end <= 1:
            raise DefarError(f"end = {self.end}; it must lie in (0, 1]")

    def __repr__(self) -> str:
        """Without a shift or an end that change nothing: kept samples are known by it, some older than either."""
        told = [f for f in fields(self) if f.name not in ("shift", "end") or getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in told)})"

    def times(self, interpolant: Interpolant) -> Tensor:
        start, end = interpolant.interval("ode")
        t = time_grid(self.steps, self.grid, start, end if self.end is None else min(end, self.end))
        return self.shift * t / (1 + (self.shift - 1) * t)


@dataclass(frozen=True, repr=False)
class Euler(_FixedGrid):
    """x <- x + h v(x, t). Order 1; Euler(50) makes 50 evaluations, with grid="sit" 49."""

    def step(self, field: Field, x: Tensor, now: float, then: float, last: bool = False) -> Tensor:
        return x + (then - now) * field(x, now)


@dataclass(frozen=True, repr=False)
class Heun(_FixedGrid):
    """Euler, then the mean of the slopes at both ends. Order 2; Heun(50) makes 100 evaluations.

    euler_last: the last step is plain Euler, as in EDM and REPA: 2 steps - 1 evaluations, none at the end of the path.
    """

    euler_last: bool = False

    def step(self, field: Field, x: Tensor, now: float, then: float, last: bool = False) -> Tensor:
        slope = field(x, now)
        if last and self.euler_last:
            return x + (then - now) * slope
        ahead = field(x + (then - now) * slope, then)
        return x + (then - now) * (slope + ahead) / 2


@dataclass(frozen=True)
class Dopri5:
    """Dormand-Prince 5(4) with adaptive steps, by torchdiffeq; SiT's tolerances by default. Needs the `analysis` extra.

    One step size serves a whole chunk, chosen from an error norm over all of its images: an image then depends, within
    the tolerance, on the images beside it and on `chunk`, and the evaluations differ from chunk to chunk. `points`
    output times are interpolated and can be saved; their number changes nothing else.

    torchdiffeq does not cut its last step at the end but interpolates back, so it asks for velocities beyond the end
    (t = 1.03 is usual, more on an easy field), as the published numbers do. overshoot=False ends the last step exactly
    at the end and never asks beyond it. The default None overshoots as published, except on a path whose interval ends
    before 1 (VP): there the end is singular and sigma is not a number beyond 1.
    """

    rtol: float = 1e-3
    atol: float = 1e-6
    points: int = 2
    overshoot: bool | None = None
    draws_noise = False

    def __post_init__(self) -> None:
        if not (0 < self.rtol < math.inf and 0 < self.atol < math.inf):
            raise DefarError(f"tolerances must be positive; got rtol = {self.rtol} and atol = {self.atol}")
        check_grid(self.points, "sit")

    def times(self, interpolant: Interpolant) -> Tensor:
        return time_grid(self.points, "sit", *interpolant.interval("ode"))

    def solve(self, field: Field, x: Tensor, times: list[float]) -> Tensor:
        """The states at `times`, (len(times), ...), all on x's device."""
        try:
            from torchdiffeq import odeint
        except ImportError:
            raise DefarError("Dopri5 needs torchdiffeq: pip install 'defar-analysis[analysis]'") from None
        beyond = times[-1] >= 1 if self.overshoot is None else self.overshoot
        end = math.inf if beyond else times[-1]
        options = {} if beyond else {"step_t": torch.tensor(times[-1:], dtype=torch.float64, device=x.device)}
        grid = torch.tensor(times, dtype=torch.float64, device=x.device)

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            return field(x, min(float(t), end))  # the first step's size is found by a probe that step_t does not bind

        try:
            return odeint(velocity, x, grid, rtol=self.rtol, atol=self.atol, method="dopri5", options=options)
        except AssertionError as error:  # how torchdiffeq says that the step became too small
            reason = str(error).splitlines()[0][:80]
            raise DefarError(f"{self} cannot go on ({reason}); a looser tolerance or float64 may mend it") from None
