"""DEFAR: Anti-Drift Rectification (ADR) and Frequency Compensation (FC), Eqs. 8-9 and 15-16, Algorithm 1.

The paper's display maths is lost; `reproduce/assumptions.md` lists each reading with its evidence. Every open reading
is an option of :class:`Defar`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...errors import DefarError
from ..rollout import Draw, VelocityModel, rollout
from ..tensors import l2_norm, wide
from ..times import increasing_times
from .base import LossTerms, Objective

BiasNorm = Literal["l2", "l1", "max", "mean"]
BiasMap = Literal["pixel", "element", "signed"]
WeightGrad = Literal["none", "v_hat", "both"]

LAST_TIME = 1.0 - 1e-5  # at t1 = 1 a perfect model has arrived and there is no direction left to learn


@dataclass(frozen=True, kw_only=True)
class Defar(Objective):
    """L = beta1 L_ADR + beta2 L_FC (Eq. 8). Forwards: three with both terms, two with ADR alone, three with FC alone.

    adr, fc: switch the terms; without FC the plain loss L_FM(t0) takes its place ("DEFAR w/o FC").
    alpha: strength of the FC weight (Eq. 15); beta1, beta2: weights of the two terms.
    detach_target: stop gradients at the x_hat inside the anti-drift target. detach_step: stop them at x_hat altogether.
    bias_norm, bias_map, inside_square, weight_grad: readings of Eqs. 15-16, see :func:`compensation_weight`;
        weight_grad says through which forward of the bias gradients reach the weight.
    steps, spacing: simulated steps before the last state (Tab. 9), see :func:`increasing_times`.
    """

    alpha: float = 1.0
    beta1: float = 10.0
    beta2: float = 1.0
    adr: bool = True
    fc: bool = True
    detach_target: bool = False
    detach_step: bool = False
    bias_norm: BiasNorm = "l2"
    bias_map: BiasMap = "pixel"
    inside_square: bool = True
    weight_grad: WeightGrad = "none"
    steps: int = 1
    spacing: Literal["random", "equal"] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.adr or self.fc):
            raise DefarError("adr = false and fc = false leave plain flow matching: use the flow_matching objective")
        if self.steps < 1:
            raise DefarError(f"steps must be at least 1; got {self.steps}")

    def draw_times(self, batch: int, generator: torch.Generator) -> Tensor:
        return increasing_times(batch, self.interpolant, generator, self.steps, self.spacing)

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        draw = replace(draw, times=draw.times.clamp(max=LAST_TIME))
        r = rollout(
            model,
            self.interpolant,
            draw,
            ideal=self.fc,
            grad_ideal=self.weight_grad == "both",
            detach_step=self.detach_step,
        )
        error = wide(r.v0) - wide(r.target0)
        terms = {"fm": error.square().mean()}
        total = terms["fm"]
        if self.fc:
            weight = self._weight(wide(r.v_hat), wide(r.v_ideal))
            terms["fc"] = compensated_loss(error, weight, self.inside_square).mean()
            total = self.beta2 * terms["fc"]
        if self.adr:
            x_hat = r.x_hat.detach() if self.detach_target else r.x_hat
            terms["adr"] = anti_drift_loss(wide(r.v_hat), wide(draw.data - x_hat)).mean()
            total = total + self.beta1 * terms["adr"]
        return LossTerms(total, {name: term.detach() for name, term in terms.items()}, r.forwards)

    def _weight(self, v_hat: Tensor, v_ideal: Tensor) -> Tensor:
        bias = v_hat - v_ideal
        if self.weight_grad == "none":
            bias = bias.detach()
        return compensation_weight(bias, self.alpha, self.bias_norm, self.bias_map)


def anti_drift_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """|| v / |v| - v_ADR / |v_ADR| ||^2 = 2 (1 - cos angle) for each sample (Eqs. 9, 20).

    velocity at the drifted state and the way home v_ADR = x_* - x_hat, both (B, ...); returns (B,). Norms run over a
    whole sample and are kept from 0 by eps = 1e-6 sqrt(entries), so a zero velocity or target is finite.
    """
    return (_unit(velocity) - _unit(target)).flatten(1).square().sum(dim=1)


def compensation_weight(
    bias: Tensor, alpha: float = 1.0, norm: BiasNorm = "l2", map: BiasMap = "pixel", eps: float = 1e-6
) -> Tensor:
    """w = 1 + alpha m / |m| for each sample (Eq. 15, reconstructed), m a map of the bias.

    bias (B, C, H, W). map: "pixel", the L2 norm over channels, (B, 1, H, W); "element", |bias|; "signed", the bias
    itself, both (B, C, H, W). norm over all entries of one sample's map: "l2", "l1" (sum), "max", "mean".
    w is 1 where the bias is 0, and scaling the bias leaves it unchanged up to eps.
    """
    return 1 + alpha * normalized_bias_map(bias, norm, map, eps)


def normalized_bias_map(bias: Tensor, norm: BiasNorm = "l2", map: BiasMap = "pixel", eps: float = 1e-6) -> Tensor:
    """m / (|m| + eps), the second term of :func:`compensation_weight` without alpha. Same shapes."""
    if map == "pixel":
        m = l2_norm(bias, 1, keepdim=True)
    elif map in ("element", "signed"):
        m = bias if map == "signed" else bias.abs()
    else:
        raise DefarError(f"bias_map must be 'pixel', 'element' or 'signed'; got {map!r}")
    axes, entries = tuple(range(1, m.ndim)), m[0].numel()
    # eps shrinks with the norm that it guards, so that all four readings forget it at the same size of bias.
    if norm == "l2":
        size = l2_norm(m, axes, keepdim=True) + eps
    elif norm == "l1":
        size = m.abs().sum(axes, keepdim=True) + eps
    elif norm == "mean":
        size = m.abs().mean(axes, keepdim=True) + eps / entries
    elif norm == "max":
        size = m.abs().amax(axes, keepdim=True) + eps / math.sqrt(entries)
    else:
        raise DefarError(f"bias_norm must be 'l2', 'l1', 'max' or 'mean'; got {norm!r}")
    return m / size


def compensated_loss(error: Tensor, weight: Tensor, inside_square: bool = True) -> Tensor:
    """(w e)^2, or w e^2 outside the square (Eq. 16): the reweighted loss map, (B, C, H, W)."""
    return (weight * error).square() if inside_square else weight * error.square()


def _unit(z: Tensor) -> Tensor:
    flat = z.flatten(1)
    eps_squared = 1e-12 * flat.shape[1]
    return (flat / torch.sqrt(flat.square().sum(dim=1, keepdim=True) + eps_squared)).reshape(z.shape)
