"""Which noise a training image is paired with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Independent:
    """Noise and data are drawn independently: the plain flow-matching pairing."""

    def __call__(self, noise: Tensor, data: Tensor) -> Tensor:
        """The noise in the order in which it is paired with the data; both (B, ...)."""
        return noise
