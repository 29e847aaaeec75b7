"""The simulated sampling step and the exposure bias (Eqs. 6-7): the one place where either is computed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import DefarError
from .interpolants import Interpolant, Linear


class VelocityModel(Protocol):
    """A velocity field: x (B, C, H, W), t (B,), labels (B,) long or None -> (B, C, H, W)."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Draw:
    """Everything random in one training step or measurement, drawn once and shared by all of its forwards.

    data, noise (B, C, H, W); labels (B,) after label dropout, or None; times (n+1, B), increasing; seed of the
    network's own dropout, or None to leave the global generator alone.
    """

    data: Tensor
    noise: Tensor
    labels: Tensor | None
    times: Tensor
    seed: int | None = None

    @property
    def t0(self) -> Tensor:
        return self.times[0]

    @property
    def t1(self) -> Tensor:
        return self.times[-1]


@dataclass(frozen=True)
class Rollout:
    """One simulated stretch of sampling.

    v0 at the ideal x_{t0}; target0, the pair's velocity there; x_hat, the state reached at t1 (Eq. 6); v_hat, the
    velocity there; v_ideal at the same pair's x_{t1}; bias = v_hat - v_ideal (Eq. 7). All (B, C, H, W); the last two
    are None where they were not asked for. `forwards` counts the network calls that this rollout made.
    """

    v0: Tensor
    target0: Tensor
    x_hat: Tensor
    v_hat: Tensor
    v_ideal: Tensor | None
    bias: Tensor | None
    forwards: int


def rollout(
    model: VelocityModel,
    interpolant: Interpolant,
    draw: Draw,
    *,
    ideal: bool = True,
    grad_ideal: bool = False,
    detach_step: bool = False,
    v0: Tensor | None = None,
    v_ideal: Tensor | None = None,
) -> Rollout:
    """Walk the model from the ideal x_{t0} along draw.times by Euler steps, then compare with the ideal x_{t1}.

        x_hat_{t0,t1} = x_{t0} + (t1 - t0) v(x_{t0}, t0)                              (Eq. 6)
        delta_{t0,t1} = v(x_hat_{t0,t1}, t1) - v(x_{t1}, t1)                          (Eq. 7)

    Args:
        ideal: also evaluate the model at x_{t1} and form the bias.
        grad_ideal: let gradients flow through v(x_{t1}, t1); otherwise that forward runs without autograd.
        detach_step: stop gradients at x_hat.
        v0, v_ideal: velocities at x_{t0} and x_{t1} that the caller already has (a sweep over many t1 shares them).

    Raises DefarError when draw.times has fewer than two rows.
    """
    if draw.times.shape[0] < 2:
        raise DefarError(f"a rollout needs at least two times for each sample; draw.times is {tuple(draw.times.shape)}")
    call = _Caller(model, draw)
    start = interpolant.at(draw.noise, draw.data, draw.t0)
    v0 = call(start.x, draw.t0) if v0 is None else v0

    x, v = start.x, v0
    for now, then in zip(draw.times[:-1], draw.times[1:], strict=True):
        x = x + _per_sample(then - now, x) * v
        if detach_step:
            x = x.detach()
        v = call(x, then)

    if ideal and v_ideal is None:
        with torch.set_grad_enabled(grad_ideal and torch.is_grad_enabled()):
            v_ideal = call(interpolant.at(draw.noise, draw.data, draw.t1).x, draw.t1)
    bias = v - v_ideal if v_ideal is not None else None
    return Rollout(v0, start.velocity, x, v, v_ideal, bias, call.count)


@torch.no_grad()
def exposure_bias(
    model: VelocityModel,
    noise: Tensor,
    data: Tensor,
    t0: Tensor,
    t1: Tensor,
    *,
    interpolant: Interpolant | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """delta_{t0,t1} (Eq. 7) of the given pairs, without gradients. noise, data (B, C, H, W); t0 < t1, both (B,).

    Call it on a model in eval mode: dropout drawn anew in each forward would count as bias.
    """
    if bool((t1 <= t0).any()):
        raise DefarError(f"exposure bias needs t0 < t1; got t0 = {t0.tolist()} and t1 = {t1.tolist()}")
    draw = Draw(data, noise, labels, torch.stack([t0, t1]))
    return rollout(model, interpolant or Linear(), draw).bias


class _Caller:
    """The model, conditioned alike in every call of one draw, and the number of calls."""

    def __init__(self, model: VelocityModel, draw: Draw) -> None:
        self.model, self.draw, self.count = model, draw, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.count += 1
        with same_dropout(self.draw.seed, x.device):
            return self.model(x, t, self.draw.labels)


@contextmanager
def same_dropout(seed: int | None, device: torch.device):
    """Run the network's own dropout from `seed`, so that the forwards of one step drop the same units."""
    if seed is None:
        yield
        return
    if device.type == "cpu":
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(
                seed
            )  # torch.manual_seed would reseed accelerators, which nobody forked
            yield
    else:
        with torch.random.fork_rng([device], device_type=device.type):
            torch.manual_seed(seed)
            yield


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
