"""DEFAR: Anti-Drift Rectification (ADR) and Frequency Compensation (FC), Eqs. 8-9 and 15-20, Algorithm 1.

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
from ..datasets import Batch
from ..filters import CUTOFF, band_masks, high_pass, low_pass
from ..rollout import Draw, Rollout, VelocityModel, rollout
from ..tensors import wide
from ..times import increasing_times
from .base import LossTerms, Objective, one_term, velocity_error
from .weights import BiasMap, BiasNorm, compensated_loss, compensation_weight

LAST_TIME = 1.0 - 1e-5  # at t1 = 1 a perfect model has arrived and there is no direction left to learn


@dataclass(frozen=True)
class Defar(Objective):
    """L = beta1 L_ADR + beta2 L_FC (Eq. 8). Forwards: three with both terms, two with ADR alone, three with FC alone.

    adr, fc: switch the terms; without FC the plain loss L_FM(t0) takes its place ("DEFAR w/o FC").
    alpha: strength of the FC weight (Eq. 15); beta1, beta2: weights of the two terms.
    detach_target: stop gradients at the x_hat inside the anti-drift target. detach_step: stop them at x_hat altogether.
    direction (Tab. 6): from x_hat to the data ("anti_drift") or to the pair's own x_{t1} ("straight").
    normalize (Tab. 6): "unit" compares directions (Eqs. 9, 20). "none" (Eq. 17) and "rescale" (Eq. 19) regress the
        target itself, mean (v_hat - target)^2, and this alone is the loss: no FM, no FC, no beta1; two forwards.
    weight_source (Tab. 7): what the FC weight is made of: the "bias", or the data's "low_pass" or "high_pass" part at
        `cutoff` cycles per pixel, the "image" or the "noise"; all but the first save the forward at x_{t1}.
    bias_norm, bias_map, inside_square, weight_grad: readings of Eqs. 15-16, see :func:`compensation_weight`;
        weight_grad says through which forward of the bias gradients reach the weight.
    steps, spacing: simulated steps before the last state (Tab. 9), see :func:`increasing_times`.
    sampled_fraction: ReflexFlow's scheduled sampling: this share of each batch gets ADR and the FC weight, the rest
        plain flow matching. bias_fraction: compute both on this share of those samples only and scale them up, an
        unbiased estimate at less cost: L_FC = mean plain + mean_subset (reweighted - plain), L_ADR = mean_subset. For
        both, a draw of another objective, without a subset, gives the expectation over subsets.
    """

    alpha: float = 1.0
    beta1: float = 10.0
    beta2: float = 1.0
    adr: bool = True
    fc: bool = True
    detach_target: bool = False
    detach_step: bool = False
    direction: Literal["anti_drift", "straight"] = "anti_drift"
    normalize: Literal["unit", "none", "rescale"] = "unit"
    weight_source: Literal["bias", "low_pass", "high_pass", "image", "noise"] = "bias"
    cutoff: float = CUTOFF
    bias_norm: BiasNorm = "l2"
    bias_map: BiasMap = "pixel"
    inside_square: bool = True
    weight_grad: Literal["none", "v_hat", "both"] = "none"
    steps: int = 1
    spacing: Literal["random", "equal"] = "random"
    sampled_fraction: float = 1.0
    bias_fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.adr or self.fc):
            raise DefarError("adr = false and fc = false leave plain flow matching: use the flow_matching objective")
        if self.normalize != "unit" and not self.adr:
            raise DefarError(f"normalize = {self.normalize!r} is a form of ADR; it needs adr = true")
        if self.steps < 1:
            raise DefarError(f"steps must be at least 1; got {self.steps}")
        for name in ("alpha", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < math.inf:
                raise DefarError(f"{name} must be a number of at least 0; got {getattr(self, name)}")
        for name in ("sampled_fraction", "bias_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise DefarError(f"{name} must lie in (0, 1]; got {getattr(self, name)}")
            if self.normalize != "unit" and getattr(self, name) != 1:
                raise DefarError(f"{name} = {getattr(self, name)} needs normalize = 'unit': the rest has no other loss")
        band_masks(8, 8, self.cutoff)  # refuses a cutoff that is none

    def draw_times(self, batch: int, generator: torch.Generator) -> Tensor:
        return increasing_times(batch, self.interpolant, generator, self.steps, self.spacing)

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        draw, count = super().draw(batch, generator), batch.data.shape[0]
        share = self.sampled_fraction * self.bias_fraction
        if share == 1:
            return draw
        order = torch.randperm(count, generator=generator, device=generator.device)
        return replace(draw, subset=order[: max(1, round(share * count))])

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        draw = replace(draw, times=wide(draw.times).clamp(max=LAST_TIME))
        part, rest = (draw, None) if draw.subset is None else draw.split(draw.subset)
        if self.normalize != "unit":
            r = self._walk(model, part)
            return one_term("adr", (wide(r.v_hat) - self._target(part, r)).square().mean(), r.forwards)

        if self.adr or self._weighs_bias:
            r = self._walk(model, part)
            error, forwards = wide(r.v0) - wide(r.target0), r.forwards
        else:  # a weight that is known beforehand needs no simulated step
            r, error, forwards = None, velocity_error(model, self.interpolant, part), 1
        plain = error.square()
        fm = plain.mean()
        if rest is not None and len(rest.data):
            others = velocity_error(model, self.interpolant, rest).square().mean()
            fm = (len(part.data) * fm + len(rest.data) * others) / len(draw.data)
            forwards += 1
        terms, total = {"fm": fm}, fm
        if self.fc:
            reweighted = compensated_loss(error, self._weight(part, r), self.inside_square)
            terms["fc"] = fm + self.sampled_fraction * (reweighted - plain).mean()
            total = self.beta2 * terms["fc"]
        if self.adr:
            terms["adr"] = self.sampled_fraction * anti_drift_loss(wide(r.v_hat), self._target(part, r)).mean()
            total = total + self.beta1 * terms["adr"]
        return LossTerms(total, {name: term.detach() for name, term in terms.items()}, forwards)

    @property
    def _weighs_bias(self) -> bool:
        return self.fc and self.weight_source == "bias" and self.normalize == "unit"

    def _walk(self, model: VelocityModel, draw: Draw) -> Rollout:
        """The simulated steps, with gradients only where this form of the loss has some."""
        return rollout(
            model,
            self.interpolant,
            draw,
            ideal=self._weighs_bias,
            grad_v0=self.normalize == "unit" or not self.detach_step,
            grad_hat=self.adr or self.weight_grad != "none",
            grad_ideal=self.weight_grad == "both",
            detach_step=self.detach_step,
        )

    def _target(self, draw: Draw, r: Rollout) -> Tensor:
        """Where v_hat should point (Tab. 6), (B, C, H, W)."""
        x_hat = r.x_hat.detach() if self.detach_target else r.x_hat
        way = wide((draw.data if self.direction == "anti_drift" else r.end.x) - x_hat)
        if self.normalize == "rescale":
            way = way / (1 - draw.t1).to(way.dtype).reshape(-1, *[1] * (way.ndim - 1))
        return way

    def _weight(self, draw: Draw, r: Rollout | None) -> Tensor:
        if self.weight_source == "bias":
            source = wide(r.v_hat) - wide(r.v_ideal)
            source = source.detach() if self.weight_grad == "none" else source
        elif self.weight_source in ("image", "noise"):
            source = wide(draw.data if self.weight_source == "image" else draw.noise)
        else:
            source = (low_pass if self.weight_source == "low_pass" else high_pass)(wide(draw.data), self.cutoff)
        return compensation_weight(source, self.alpha, self.bias_norm, self.bias_map)


def anti_drift_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """|| v / |v| - v_ADR / |v_ADR| ||^2 = 2 (1 - cos angle) for each sample (Eqs. 9, 20).

    velocity at the drifted state and the way home v_ADR = x_* - x_hat, both (B, ...); returns (B,). Norms run over a
    whole sample and are kept from 0 by eps = 1e-6 sqrt(entries), so a zero velocity or target is finite.
    """
    return (_unit(velocity) - _unit(target)).flatten(1).square().sum(dim=1)


def _unit(z: Tensor) -> Tensor:
    flat = z.flatten(1)
    eps_squared = 1e-12 * flat.shape[1]
    return (flat / torch.sqrt(flat.square().sum(dim=1, keepdim=True) + eps_squared)).reshape(z.shape)


# Readings of FC as other defaults. ReflexFlow's follows the one public port of the first version.
_SIGNED = {"bias_norm": "l1", "bias_map": "signed", "inside_square": False, "weight_grad": "none"}
PRESETS = {"reflexflow": _SIGNED, "simpletuner": _SIGNED, "strong": {"bias_norm": "mean"}}


def reflexflow(sampled_fraction: float = 1.0, **options) -> Defar:
    """DEFAR's first version: an FC weight from the signed bias over its L1 norm, detached, outside the square.

    sampled_fraction is the share of each batch under its scheduled sampling; other options override the preset's.
    """
    return Defar(**{**PRESETS["reflexflow"], "sampled_fraction": sampled_fraction, **options})


def simpletuner(**options) -> Defar:
    """SimpleTuner's reading of Eqs. 15-16, the same weight as :func:`reflexflow`'s; options override the preset's."""
    return Defar(**{**PRESETS["simpletuner"], **options})


def strong(**options) -> Defar:
    """A weight large enough to matter: over its mean, so that w is 2 on average where the default's is 1.03."""
    return Defar(**{**PRESETS["strong"], **options})
