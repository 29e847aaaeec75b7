"""What all objectives share: the path, the pairing, label dropout, and the rule that randomness is drawn once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...config import check_choices
from ...errors import DefarError
from ..couplings import Independent
from ..datasets import Batch
from ..interpolants import Interpolant, Linear
from ..rollout import Draw, VelocityModel
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
    that draws it again in every forward inflates the measured bias several times over).
    """

    interpolant: Interpolant = field(default_factory=Linear)
    coupling: Independent = field(default_factory=Independent)
    label_dropout: float = 0.0
    null_label: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0.0 <= self.label_dropout <= 1.0:
            raise DefarError(f"label_dropout must lie in [0, 1]; got {self.label_dropout}")
        if self.label_dropout > 0 and self.null_label is None:
            raise DefarError(f"label_dropout = {self.label_dropout} needs null_label (SiT's is its number of classes)")

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """Noise, times, dropped labels and dropout seed for one step, from `generator` alone.

        Numbers are drawn on the generator's device and moved to the data's, so a CPU generator gives the same step
        on every kind of device.
        """
        device = batch.data.device
        noise = torch.randn(batch.data.shape, generator=generator, device=generator.device)
        times = self.draw_times(batch.data.shape[0], generator).to(device)
        labels = self._drop_labels(batch.labels, generator)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        noise = noise.to(device, batch.data.dtype)
        return Draw(batch.data, self.coupling(noise, batch.data), labels, times, seed)

    def draw_times(self, batch: int, generator: torch.Generator) -> Tensor:
        """The times of each sample, (n+1, B)."""
        return uniform_times(batch, self.interpolant, generator)

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        raise NotImplementedError

    def _drop_labels(self, labels: Tensor | None, generator: torch.Generator) -> Tensor | None:
        if labels is None or self.label_dropout == 0:
            return labels
        uniforms = torch.rand(labels.shape, generator=generator, device=generator.device).to(labels.device)
        return torch.where(uniforms < self.label_dropout, self.null_label, labels)
