"""Interpolants between noise (t = 0) and data (t = 1), and what a velocity says about score, noise and end point.

A path is x_t = alpha_t x_* + sigma_t eps (Eq. 1) with velocity v_t = alpha'_t x_* + sigma'_t eps. Solving the two
equations for x_* and eps needs the Wronskian W = sigma alpha' - alpha sigma', which is positive inside (0, 1):

    x_* = (sigma v - sigma' x) / W          eps = (alpha' x - alpha v) / W          score = -eps / sigma

These are SiT's conversions with the common factor removed, so nothing divides by alpha or alpha' on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import DefarError

Mode = Literal["train", "ode", "sde"]
SDE_LAST_STEP = 0.04  # SiT stops its SDE here and takes one noise-free step


@dataclass(frozen=True)
class Coefficients:
    """alpha multiplies data, sigma multiplies noise; d_ marks the derivative in t. Each has the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def wronskian(self) -> Tensor:
        return self.sigma * self.d_alpha - self.alpha * self.d_sigma


@dataclass(frozen=True)
class PathPoint:
    """A state x_t on the path of one pair and that pair's velocity, both (B, ...)."""

    x: Tensor
    velocity: Tensor


class Interpolant:
    """What all paths share. A subclass gives `coefficients` and, where it has a singular end, `interval`."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """alpha, sigma and their derivatives at t (any shape)."""
        raise NotImplementedError

    def interval(self, mode: Mode) -> tuple[float, float]:
        """The times that are safe to draw ("train") or to integrate over ("ode", "sde"): SiT's guards."""
        return {"train": (0.0, 1.0), "ode": (0.0, 1.0), "sde": (0.0, 1.0 - SDE_LAST_STEP)}[_checked(mode)]

    def at(self, noise: Tensor, data: Tensor, t: Tensor) -> PathPoint:
        """x_t and v_t of the pair (Eq. 1). noise, data (B, ...); t (B,). Raises on shapes that do not match."""
        if noise.shape != data.shape:
            raise DefarError(f"noise {tuple(noise.shape)} and data {tuple(data.shape)} must have one shape")
        c = self._coefficients_for(data, t)
        return PathPoint(c.alpha * data + c.sigma * noise, c.d_alpha * data + c.d_sigma * noise)

    def noise(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """eps that a velocity at (x, t) implies: (alpha' x - alpha v) / W."""
        c = self._coefficients_for(x, t)
        return (c.d_alpha * x - c.alpha * velocity) / c.wronskian

    def endpoint(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """x_* that a velocity at (x, t) implies: (sigma v - sigma' x) / W."""
        c = self._coefficients_for(x, t)
        return (c.sigma * velocity - c.d_sigma * x) / c.wronskian

    def score(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) = -eps / sigma; infinite at t = 1, where sigma = 0."""
        c = self._coefficients_for(x, t)
        return (c.alpha * velocity - c.d_alpha * x) / (c.wronskian * c.sigma)

    def velocity_from_score(self, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """v = (alpha' x + W sigma score) / alpha; singular at t = 0 on paths with alpha(0) = 0."""
        c = self._coefficients_for(x, t)
        return (c.d_alpha * x + c.wronskian * c.sigma * score) / c.alpha

    def _coefficients_for(self, x: Tensor, t: Tensor) -> Coefficients:
        if t.shape != x.shape[:1]:
            raise DefarError(f"t must have shape ({x.shape[0]},), one time for each sample; it has {tuple(t.shape)}")
        t = t.to(torch.promote_types(t.dtype, x.dtype))  # float64 states deserve float64 coefficients
        c = self.coefficients(t.reshape(-1, *[1] * (x.ndim - 1)))
        return c if c.alpha.dtype == x.dtype else Coefficients(*(f.to(x.dtype) for f in vars(c).values()))


@dataclass(frozen=True)
class Linear(Interpolant):
    """alpha = t, sigma = 1 - t: the straight path with constant velocity x_* - eps (the paper's default)."""

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)


@dataclass(frozen=True)
class GVP(Interpolant):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): alpha^2 + sigma^2 = 1."""

    def coefficients(self, t: Tensor) -> Coefficients:
        angle = t * (math.pi / 2)
        sin, cos = torch.sin(angle), torch.cos(angle)
        return Coefficients(sin, cos, cos * (math.pi / 2), -sin * (math.pi / 2))


@dataclass(frozen=True)
class VP(Interpolant):
    """The variance-preserving SDE's path (SBDM-VP) in our clock.

    log alpha = -(beta_max - beta_min) (1-t)^2 / 4 - beta_min (1-t) / 2, sigma = sqrt(1 - alpha^2). At t = 1 the
    derivative of sigma is -inf, so every interval stops before it; alpha(0) is small but not 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min < self.beta_max:
            raise DefarError(f"VP needs 0 <= beta_min < beta_max; got {self.beta_min} and {self.beta_max}")

    def coefficients(self, t: Tensor) -> Coefficients:
        s = 1 - t
        spread = self.beta_max - self.beta_min
        log_alpha = -0.25 * spread * s**2 - 0.5 * self.beta_min * s
        alpha = torch.exp(log_alpha)
        sigma = torch.sqrt(-torch.expm1(2 * log_alpha))  # 1 - alpha^2 without cancellation near t = 1
        d_alpha = alpha * (0.5 * spread * s + 0.5 * self.beta_min)
        return Coefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)

    def interval(self, mode: Mode) -> tuple[float, float]:
        return {"train": (0.0, 1.0 - 1e-5), "ode": (0.0, 1.0 - 1e-3), "sde": (0.0, 1.0 - SDE_LAST_STEP)}[_checked(mode)]


INTERPOLANTS = {"linear": Linear, "gvp": GVP, "vp": VP}


def _checked(mode: str) -> str:
    if mode not in ("train", "ode", "sde"):
        raise DefarError(f"mode must be 'train', 'ode' or 'sde'; got {mode!r}")
    return mode
