"""Guidance: each kind wraps a velocity field into another velocity field v(x, t, labels), so they compose.

    CFG                     v = v_null + scale (v_label - v_null)
    Autoguidance            v = v_weaker + scale (v_field - v_weaker)
    DiscriminatorGuidance   v = v_field + weight (sigma^2 alpha'/alpha - sigma sigma') grad_x log(d / (1 - d))

Intervals of time are in this package's clock (t = 0 noise, t = 1 data), both ends included; an end at 0 or 1 also
covers what lies beyond it, where dopri5 may ask. The other clock's [low, high] is [1 - high, 1 - low] here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import DefarError
from .interpolants import Interpolant, Linear
from .rollout import VelocityModel

ROUNDING = 1e-6  # a grid time this close to an end of an interval is that end: float32 and float64 grids agree

Discriminator = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance: v_null + scale (v_label - v_null) inside `interval`, the conditional field outside.

    Samples inside the interval take one forward of twice their number, conditional first; a call with no sample inside
    is one plain conditional forward, and so is every call at scale 1, which is the conditional field.

    field: v(x, t, labels), x (B, C, H, W), t (B,), labels (B,). null_label: what the field takes as "no label"; a SiT
    of K classes takes K. channels="first3" guides the first three channels only and leaves the others conditional, as
    the published SiT, DiT and LightningDiT samplers do; on three channels that is "all".

    Raises DefarError for settings out of range, a call without labels, and "first3" on one or two channels.
    """

    field: VelocityModel = dataclasses.field(repr=False)
    scale: float
    null_label: int
    interval: tuple[float, float] = (0.0, 1.0)
    channels: Literal["all", "first3"] = "all"

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        _check_interval(self.interval)
        if self.channels not in ("all", "first3"):
            raise DefarError(f"channels must be 'all' or 'first3'; got {self.channels!r}")
        if not isinstance(self.null_label, int) or self.null_label < 0:
            raise DefarError(f"null_label must be a whole number, not negative; got {self.null_label!r}")

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The guided velocity, in the shape of x."""
        if labels is None:
            raise DefarError("CFG guides from the null label towards the labels: give labels, or leave CFG out")
        if self.channels == "first3" and x.shape[1] < 3:
            raise DefarError(f"channels='first3' needs three channels or more; x has {x.shape[1]}: use 'all'")
        guided = _guided(t, self.scale, self.interval)
        if len(guided) == 0:
            return self.field(x, t, labels)
        null = torch.full_like(labels[guided], self.null_label)
        both = self.field(torch.cat([x, x[guided]]), torch.cat([t, t[guided]]), torch.cat([labels, null]))
        conditional, unconditional = both.split([len(x), len(guided)])
        return _extrapolate(conditional, unconditional, guided, self.scale, 3 if self.channels == "first3" else None)


@dataclass(frozen=True)
class Autoguidance:
    """Guidance by a weaker field, such as an earlier or smaller checkpoint: v_weaker + scale (v_field - v_weaker).

    Two forwards, both under the same labels; outside `interval` and at scale 1 the field alone is called. Samples of
    one call may have different times: the weaker field then sees those inside.

    Raises DefarError for settings out of range.
    """

    field: VelocityModel = dataclasses.field(repr=False)
    weaker: VelocityModel = dataclasses.field(repr=False)
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        _check_interval(self.interval)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The guided velocity, in the shape of x."""
        strong = self.field(x, t, labels)
        guided = _guided(t, self.scale, self.interval)
        if len(guided) == 0:
            return strong
        weak = self.weaker(x[guided], t[guided], None if labels is None else labels[guided])
        return _extrapolate(strong, weak, guided, self.scale)


@dataclass(frozen=True)
class DiscriminatorGuidance:
    """Discriminator guidance (Kim et al. 2023) as a velocity:

        v + weight (sigma^2 alpha'/alpha - sigma sigma') grad_x log(d / (1 - d))

    With the exact ratio of densities, data over model, weight 1 turns the model's field into the data's. The factor, on
    the linear path (1 - t)/t, is singular at t = 0, so times below `t_min` are not guided.

    discriminator(x, t, labels) returns logits (B,), log(d / (1 - d)), of "x is noised data, not a noised sample of the
    model"; it must be differentiable in x, which is given in float32 at least. Where d leaves [clip, 1 - clip] there is
    no guidance; the authors clip at 1e-5. The correction is a constant to autograd. One forward and one backward of the
    discriminator a call; none where no sample is guided and none at weight 0, which is the field.

    Raises DefarError for settings out of range and for logits that are not one for each sample.
    """

    field: VelocityModel = dataclasses.field(repr=False)
    discriminator: Discriminator = dataclasses.field(repr=False)
    weight: float
    t_min: float = 0.05
    clip: float = 0.0
    interpolant: Interpolant = dataclasses.field(default_factory=Linear)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise DefarError(f"weight must be a finite number, not negative; got {self.weight}")
        if not 0 < self.t_min < 1:
            raise DefarError(f"t_min must lie between 0, where the guidance is singular, and 1; got {self.t_min}")
        if not 0 <= self.clip < 0.5:
            raise DefarError(f"clip is a probability from 0 to below 0.5; got {self.clip}")

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The guided velocity, in the shape of x."""
        velocity = self.field(x, t, labels)
        guided = _indices(t >= self.t_min - ROUNDING) if self.weight else _indices(t[:0])
        if len(guided) == 0:
            return velocity
        x, t = x[guided], t[guided]
        slope = self._slope(x, t, None if labels is None else labels[guided])
        c = self.interpolant.coefficients(t.reshape(-1, *[1] * (x.ndim - 1)).to(slope.dtype))
        change = self.weight * (c.wronskian * c.sigma / c.alpha) * slope
        return velocity.index_add(0, guided, change.to(velocity.dtype))

    def _slope(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """grad_x of the logit, (B, C, H, W), also under no_grad and inference_mode."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().to(torch.promote_types(x.dtype, torch.float32), copy=True).requires_grad_()
            logits = self.discriminator(x, t.clone(), None if labels is None else labels.clone())
            if logits.shape != t.shape:
                got = tuple(logits.shape)
                raise DefarError(f"a discriminator returns one logit for each sample, ({len(t)},); this one gave {got}")
            if self.clip:
                edge = math.log((1 - self.clip) / self.clip)
                logits = logits.clamp(-edge, edge)
            return torch.autograd.grad(logits.sum(), x)[0]


def _guided(t: Tensor, scale: float, interval: tuple[float, float]) -> Tensor:
    """Indices (m,) of the samples that guidance changes."""
    if scale == 1:
        return _indices(t[:0])
    low, high = interval
    if low <= 0 and high >= 1:
        return torch.arange(len(t), device=t.device)  # nothing to look up: no wait for the device
    inside = torch.ones_like(t, dtype=torch.bool)
    if low > 0:
        inside &= t >= low - ROUNDING
    if high < 1:
        inside &= t <= high + ROUNDING
    return _indices(inside)


def _indices(mask: Tensor) -> Tensor:
    return mask.nonzero()[:, 0]


def _extrapolate(strong: Tensor, weak: Tensor, guided: Tensor, scale: float, channels: int | None = None) -> Tensor:
    """weak + scale (strong - weak) for the samples `guided` and the first `channels` of them; strong elsewhere."""
    origin = strong.clone()
    origin[guided, :channels] = weak[:, :channels]
    return origin + scale * (strong - origin)


def _check_scale(scale: float) -> None:
    if not (math.isfinite(scale) and scale >= 0):
        raise DefarError(f"scale must be a finite number, not negative; got {scale}")


def _check_interval(interval: tuple[float, float]) -> None:
    low, high = interval
    if not (0 <= low <= 1 and 0 <= high <= 1):
        raise DefarError(f"interval must lie in [0, 1], t = 0 is noise; got [{low}, {high}]")
    if low > high:
        raise DefarError(f"interval must run upwards, from noise to data; got [{low}, {high}]")
