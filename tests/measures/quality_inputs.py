"""An extractor without a network, and streams for it: features that a test can compute by hand."""

from dataclasses import dataclass, field

import numpy as np
import torch

from defar_analysis.measures.extractors import Features


@dataclass
class MeanColours:
    """pool: the mean of each channel and of each row of pixels; spatial: the first row; logits: the channels' means."""

    name: str = "mean-colours"
    calls: list = field(default_factory=list)

    @property
    def identity(self):
        return {"name": self.name}

    @property
    def dimension(self):
        return 3 + 4

    def __call__(self, images):
        self.calls.append(len(images))
        x = images.double() / 255
        pool = torch.cat([x.mean(dim=(2, 3)), x.mean(dim=(1, 3))], dim=1)
        return Features(pool.float(), x[:, :, 0].flatten(1).float(), 5 * x.mean(dim=(2, 3)).float())


@dataclass
class Counted:
    """A stream of given images that counts which chunks were asked for."""

    everything: np.ndarray
    name: str = "counted"
    chunk: int = 4
    labels: np.ndarray | None = None
    asked: list = field(default_factory=list)

    @property
    def identity(self):
        return {"name": self.name, "sum": int(self.everything.sum())}

    @property
    def count(self):
        return len(self.everything)

    def images(self, start):
        self.asked.append(start)
        return self.everything[start : start + self.chunk]


def some_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
