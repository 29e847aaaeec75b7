"""What all objectives share: the path, the pairing, label dropout, and the rule that randomness is drawn once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...config import check_fields
from ...errors import DefarError
from ..couplings import Coupling, Independent
from ..datasets import Batch
from ..interpolants import Interpolant, Linear
from ..rollout import Draw, VelocityModel, velocity_at
from ..tensors import wide
from ..times import uniform_times


@dataclass(frozen=True)
class LossTerms:
    """total, a scalar to differentiate; terms, its parts by name, detached; forwards, network calls made."""

    total: Tensor
    terms: dict[str, Tensor]
    forwards: int


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss over pairs of noise and data.

    label_dropout: share of samples whose label becomes null_label, drawn once for all forwards of a step (a network
    that draws it again in every forward inflates the measured bias several times over). The fields of this class are
    keywords; what a subclass adds may be given by position.
    """

    interpolant: Interpolant = field(default_factory=Linear)
    coupling: Coupling = field(default_factory=Independent)
    label_dropout: float = 0.0
    null_label: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.interpolant, type) or not hasattr(self.interpolant, "at"):
            raise DefarError(f"interpolant = {self.interpolant!r}; give one such as Linear(), GVP() or VP()")
        if isinstance(self.coupling, type) or not callable(self.coupling):
            raise DefarError(f"coupling = {self.coupling!r}; give one such as Independent() or MinibatchOT()")
        if self.null_label is not None and self.null_label < 0:
            raise DefarError(f"null_label must not be negative; got {self.null_label}")
        if not 0.0 <= self.label_dropout <= 1.0:
            raise DefarError(f"label_dropout must lie in [0, 1]; got {self.label_dropout}")
        if self.label_dropout > 0 and self.null_label is None:
            raise DefarError(f"label_dropout = {self.label_dropout} needs null_label (SiT's is its number of classes)")

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """Noise, times, dropped labels and dropout seed for one step, from `generator` alone.

        Numbers are drawn on the generator's device and moved to the data's, so a CPU generator gives the same step
        on every kind of device. Raises DefarError for labels that do not fit the batch, or are above null_label.
        """
        self._check(batch)
        device = batch.data.device
        noise = torch.randn(batch.data.shape, generator=generator, device=generator.device)
        times = self.draw_times(batch.data.shape[0], generator)
        times = times.to(device, torch.promote_types(times.dtype, batch.data.dtype))
        labels = self._drop_labels(batch.labels, generator)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        noise = noise.to(device, batch.data.dtype)
        return Draw(batch.data, self.coupling(noise, batch.data, batch.labels), labels, times, seed)

    def draw_times(self, batch: int, generator: torch.Generator) -> Tensor:
        """The times of each sample, (n+1, B)."""
        return uniform_times(batch, self.interpolant, generator)

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        raise NotImplementedError

    def _check(self, batch: Batch) -> None:
        if not isinstance(batch, Batch) or not isinstance(batch.data, Tensor):
            raise DefarError(f"draw() needs a Batch(data, labels) of tensors; got {type(batch).__name__}")
        data, labels = batch.data, batch.labels
        if not data.is_floating_point() or data.ndim < 2 or data.shape[0] == 0:
            raise DefarError(f"batch.data is {data.dtype} {tuple(data.shape)}; give floats (B, ...) with B > 0")
        if labels is None:
            return
        if not isinstance(labels, Tensor):
            raise DefarError(f"batch.labels is a {type(labels).__name__}; give a tensor of integers, or None")
        if labels.shape != data.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
            raise DefarError(
                f"batch.labels is {labels.dtype} {tuple(labels.shape)}; give integers, one for each of "
                f"{data.shape[0]} samples, or None"
            )
        if not labels.is_meta:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or (self.null_label is not None and high > self.null_label):
                last = "" if self.null_label is None else f" to {self.null_label} (null_label)"
                raise DefarError(f"batch.labels holds {low if low < 0 else high}; labels run from 0{last}")

    def _drop_labels(self, labels: Tensor | None, generator: torch.Generator) -> Tensor | None:
        if labels is None:
            return None
        labels = labels.long()  # what embeddings take, and wide enough for any null label
        if self.label_dropout == 0:
            return labels
        uniforms = torch.rand(labels.shape, generator=generator, device=generator.device).to(labels.device)
        return torch.where(uniforms < self.label_dropout, self.null_label, labels)


def squared_error(model: VelocityModel, x: Tensor, t: Tensor, target: Tensor, draw: Draw) -> Tensor:
    """(v(x, t) - target)^2, entry by entry, in float32 at least. One forward."""
    return (wide(velocity_at(model, x, t, draw)) - wide(target)).square()


def velocity_error(model: VelocityModel, interpolant: Interpolant, draw: Draw) -> Tensor:
    """v(x_{t0}, t0) - v_gt of each pair, in float32 at least. One forward."""
    point = interpolant.at(draw.noise, draw.data, draw.t0)
    return wide(velocity_at(model, point.x, draw.t0, draw)) - wide(point.velocity)


def one_term(name: str, loss: Tensor, forwards: int) -> LossTerms:
    """The terms of an objective that has only one."""
    return LossTerms(loss, {name: loss.detach()}, forwards)
