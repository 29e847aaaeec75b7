"""The simulated sampling step and the exposure bias (Eqs. 6-7): the one place where either is computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..errors import DefarError
from .interpolants import Interpolant, Linear, PathPoint


class VelocityModel(Protocol):
    """A velocity field: x (B, C, H, W), t (B,), labels (B,) long or None -> (B, C, H, W)."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Draw:
    """Everything random in one training step or measurement, drawn once and shared by all of its forwards.

    data, noise (B, C, H, W); labels (B,) after label dropout, or None; times (n+1, B), increasing; seed of the
    network's own dropout, or None to leave the global generator alone. perturbation (B, C, H, W) is input
    perturbation's second noise; subset (m,), on the generator's device, the samples on which an objective computes its
    costlier terms; both are None where an objective needs none.
    """

    data: Tensor
    noise: Tensor
    labels: Tensor | None
    times: Tensor
    seed: int | None = None
    perturbation: Tensor | None = None
    subset: Tensor | None = None

    @property
    def t0(self) -> Tensor:
        return self.times[0]

    @property
    def t1(self) -> Tensor:
        return self.times[-1]

    def to(self, device: torch.device | str) -> Draw:
        """The same draw on `device`, but for `subset`. From pinned memory the copy does not wait for the device."""
        return self._each(lambda z: z.to(device, non_blocking=True))

    def pinned(self) -> Draw:
        """The same draw in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def split(self, indices: Tensor) -> tuple[Draw, Draw]:
        """The draws of the samples `indices` (m,) and of all others, neither with a `subset`."""
        others = torch.ones(self.data.shape[0], dtype=torch.bool)
        others[indices.cpu()] = False
        return self._take(indices), self._take(others.nonzero()[:, 0])

    def part(self, index: int, count: int) -> Draw:
        """The `index`-th of `count` equal parts, each with an equal share of the `subset`: the mean of their losses is
        the loss of the whole. Raises DefarError where they cannot be equal."""
        chosen = torch.arange(len(self.data)) if self.subset is None else self.subset.cpu()
        others = torch.ones(len(self.data), dtype=torch.bool)
        others[chosen] = False
        mine = []
        for group in (chosen, others.nonzero()[:, 0]):
            if len(group) % count:
                raise DefarError(
                    f"{len(group)} of a batch's {len(self.data)} samples cannot be shared equally by {count}: "
                    "change global_batch, accumulate or the number of processes"
                )
            size = len(group) // count
            mine.append(group[index * size : (index + 1) * size])
        part = self._take(torch.cat(mine))
        if self.subset is not None:
            part = replace(part, subset=torch.arange(len(mine[0]), device=self.subset.device))
        return part

    def _each(self, change: Callable[[Tensor], Tensor]) -> Draw:
        names = ("data", "noise", "labels", "times", "perturbation")
        given = {name: getattr(self, name) for name in names}
        return replace(self, **{name: change(z) for name, z in given.items() if z is not None})

    def _take(self, indices: Tensor) -> Draw:
        indices = indices.to(self.data.device)

        def of(z: Tensor | None) -> Tensor | None:
            return None if z is None else z[indices]

        return Draw(
            self.data[indices], self.noise[indices], of(self.labels), self.times[:, indices],
            self.seed, of(self.perturbation),
        )  # fmt: skip


@dataclass(frozen=True)
class Rollout:
    """One simulated stretch of sampling.

    v0 at the ideal x_{t0}; target0, the pair's velocity there; x_hat, the state reached at t1 (Eq. 6); v_hat, the
    velocity there; v_ideal at the same pair's x_{t1}; bias = v_hat - v_ideal (Eq. 7); end, the pair's own x_{t1} and
    velocity. All (B, C, H, W); v_ideal and bias are None where they were not asked for. `forwards` counts the network
    calls that this rollout made.
    """

    v0: Tensor
    target0: Tensor
    x_hat: Tensor
    v_hat: Tensor
    v_ideal: Tensor | None
    bias: Tensor | None
    end: PathPoint
    forwards: int


def rollout(
    model: VelocityModel,
    interpolant: Interpolant,
    draw: Draw,
    *,
    ideal: bool = True,
    grad_v0: bool = True,
    grad_hat: bool = True,
    grad_ideal: bool = False,
    detach_step: bool = False,
    drift_scale: float = 1.0,
    v0: Tensor | None = None,
    v_ideal: Tensor | None = None,
) -> Rollout:
    """Walk the model from the ideal x_{t0} along draw.times by Euler steps, then compare with the ideal x_{t1}.

        x_hat_{t0,t1} = x_{t0} + (t1 - t0) v(x_{t0}, t0)                              (Eq. 6)
        delta_{t0,t1} = v(x_hat_{t0,t1}, t1) - v(x_{t1}, t1)                          (Eq. 7)

    Args:
        ideal: also evaluate the model at x_{t1} and form the bias.
        grad_v0, grad_hat, grad_ideal: whether v0, v_hat and v_ideal carry gradients; a forward whose gradients nobody
            needs runs without autograd, at a third of the cost.
        detach_step: stop gradients at x_hat.
        drift_scale: x_hat <- x_{t1} + drift_scale (x_hat - x_{t1}), MDSS's amplified drift.
        v0, v_ideal: velocities at x_{t0} and x_{t1} that the caller already has (a sweep over many t1 shares them).

    Raises DefarError when draw.times has fewer than two rows or the model returns anything but a velocity.
    """
    if draw.times.shape[0] < 2:
        shape = tuple(draw.times.shape)
        raise DefarError(
            f"a simulated step needs at least two times for each sample, draw.times is {shape}; "
            "use this objective's own draw()"
        )
    start = interpolant.at(draw.noise, draw.data, draw.t0)
    end = interpolant.at(draw.noise, draw.data, draw.t1)
    forwards = 0

    def call(x: Tensor, t: Tensor, grad: bool) -> Tensor:
        nonlocal forwards
        forwards += 1
        if grad or not torch.is_grad_enabled():
            return velocity_at(model, x, t, draw)
        with torch.no_grad():
            velocity = velocity_at(model, x, t, draw)
        if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
            # torch below 2.10 or so keeps this forward's low-precision weights, which are cut off from their gradients
            torch.clear_autocast_cache()
        return velocity

    v0 = call(start.x, draw.t0, grad_v0) if v0 is None else v0
    x, v = start.x, v0
    for i, (now, then) in enumerate(zip(draw.times[:-1], draw.times[1:], strict=True), start=2):
        x = x + _per_sample(then - now, x) * v
        if detach_step or not grad_hat:
            x = x.detach()
        last = i == draw.times.shape[0]
        if last and drift_scale != 1.0:
            x = end.x + drift_scale * (x - end.x)
        v = call(x, then, grad_hat and (last or not detach_step))

    if ideal and v_ideal is None:
        v_ideal = call(end.x, draw.t1, grad_ideal)
    bias = v - v_ideal if v_ideal is not None else None
    return Rollout(v0, start.velocity, x, v, v_ideal, bias, end, forwards)


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


def velocity_at(model: VelocityModel, x: Tensor, t: Tensor, draw: Draw) -> Tensor:
    """v(x, t) under the draw's labels and dropout seed: how every forward of a step is conditioned.

    Raises DefarError where the model returns anything but a tensor of x's shape.
    """
    if draw.labels is not None and draw.labels.shape != x.shape[:1]:
        raise DefarError(f"labels {tuple(draw.labels.shape)} must have shape ({x.shape[0]},), one for each sample")
    with same_dropout(draw.seed, x.device):
        velocity = model(x, t, draw.labels)
    if not isinstance(velocity, Tensor) or velocity.shape != x.shape:
        got = tuple(velocity.shape) if isinstance(velocity, Tensor) else type(velocity).__name__
        raise DefarError(f"the model returned {got} for x {tuple(x.shape)}; a velocity has the shape of x")
    return velocity


@contextmanager
def same_dropout(seed: int | None, device: torch.device):
    """Run the network's own dropout from `seed`, so that the forwards of one step drop the same units."""
    if seed is None or device.type == "meta":
        yield
        return
    if device.type == "cpu":
        with torch.random.fork_rng([]):
            # torch.manual_seed would reseed accelerators, which nobody forked
            torch.default_generator.manual_seed(seed)
            yield
    else:
        with torch.random.fork_rng([device], device_type=device.type):
            torch.manual_seed(seed)
            yield


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
