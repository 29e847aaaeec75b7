"""How badly a field fits real noised data, per image, on a scale that does not depend on the data's own scale.

The loss of a field is only telling beside what is easy: a straight line from x_t to the velocity, fitted to these very
data, channel by channel. Data ten times too large have other losses and another line; their quotient stays
comparable, so that clocks, signs and scales can all be held against each other, image by image.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.interpolants import Interpolant
from ..core.rollout import VelocityModel
from .plug import asked

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # inside every path's interval; both clocks meet at 0.5
BLURS = (3, 7, 15)  # pixels: with x itself and its channels' mean, what a linear filter can see


@dataclass(frozen=True, eq=False)
class Patient:
    """Real data (B, C, H, W) with labels (B,) or None and one noise for each image; affine: data as scale, shift."""

    data: Tensor
    noise: Tensor
    labels: Tensor | None
    interpolant: Interpolant
    affine: tuple[float, float] = (1.0, 0.0)
    known: dict[float, tuple[float, float]] = field(default_factory=dict, init=False)  # what `trivial` has computed

    def first(self, count: int) -> Patient:
        labels = None if self.labels is None else self.labels[:count]
        return Patient(self.data[:count], self.noise[:count], labels, self.interpolant, self.affine)

    def scaled(self, scale: float, shift: float) -> Patient:
        return Patient(self.data, self.noise, self.labels, self.interpolant, (scale, shift))

    def without_labels(self, null: int) -> Patient:
        labels = None if self.labels is None else torch.full_like(self.labels, null)
        return Patient(self.data, self.noise, labels, self.interpolant, self.affine)

    def point(self, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, t (B,), the velocity of each pair)."""
        scale, shift = self.affine
        times = torch.full((len(self.data),), t, device=self.data.device)
        point = self.interpolant.at(self.noise, scale * self.data + shift, times)
        return point.x, times, point.velocity

    def trivial(self, t: float) -> tuple[float, float]:
        """The loss of the best straight line of x_t, and of the best small linear filter."""
        if t not in self.known:
            self.known[t] = self._trivial(t)
        return self.known[t]

    def _trivial(self, t: float) -> tuple[float, float]:
        x, _, velocity = self.point(t)
        seen = [x, x.mean(dim=1, keepdim=True).expand_as(x)]
        for width in BLURS:
            if width < min(x.shape[2:]):
                seen.append(F.avg_pool2d(x, width, 1, width // 2, count_include_pad=False))
        return _linear_loss(seen[:1], velocity), _linear_loss(seen, velocity)


def _linear_loss(seen: list[Tensor], target: Tensor) -> float:
    """Mean squared error of the least squares fit of target from `seen` and a constant, channel by channel."""
    channels = [part.transpose(0, 1).flatten(1).cpu().double() for part in seen]  # (C, n) each
    matrix = torch.stack([*channels, torch.ones_like(channels[0])], dim=-1)
    wanted = target.transpose(0, 1).flatten(1).cpu().double()[..., None]
    normal = matrix.mT @ matrix
    # a hair of ridge: a channel may be constant, and its mean over channels is x itself where there is one channel
    ridge = (
        1e-9 * normal.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None] * torch.eye(normal.shape[-1]).to(normal)
    )
    weights = torch.linalg.solve(normal + ridge, matrix.mT @ wanted)
    return float((matrix @ weights - wanted).square().mean())


def errors(
    field: VelocityModel, patient: Patient, times: tuple[float, ...], labels: Tensor | None, sign: int = 1
) -> Tensor:
    """Mean squared error of sign * v for each time and image, (T, B); infinite where the field gives no number."""
    rows = []
    for t in times:
        x, at, target = patient.point(t)
        velocity, _ = asked(field, x, at, labels)
        if velocity is None or velocity.shape != target.shape:
            rows.append(torch.full((len(x),), torch.inf))
            continue
        error = (sign * velocity.float() - target).flatten(1).square().mean(dim=1).cpu()
        rows.append(error.nan_to_num(torch.inf, torch.inf))
    return torch.stack(rows)


def misfit(field: VelocityModel, patient: Patient, times: tuple[float, ...], labels: Tensor | None = None) -> Tensor:
    """The field's loss in units of the straight line's, mean over times, (B,)."""
    easy = torch.tensor([patient.trivial(t)[0] for t in times])
    return (errors(field, patient, times, patient.labels if labels is None else labels) / easy[:, None]).mean(dim=0)
