"""A small, smooth velocity field for points of the plane: what the 2-D study trains in a second."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class PlaneMLP(nn.Module):
    """v(x, t, labels) for points of the plane. x (B, 1, 1, 2); t (B,) in [0, 1]; labels are ignored.

    A point is an image of one channel and 1 x 2 pixels, its coordinates. So whatever in this package takes images takes
    points: ADR's direction is a direction in the plane, and FC's map of one weight for each pixel is one weight for
    each coordinate. width, depth: hidden units and hidden layers. frequencies: t enters as itself and as sin and cos of
    pi t, 2 pi t, 4 pi t, ...; SiLU keeps the field smooth in x and t.

    It is not among the NETWORKS of recipes: those train on data sets of images, which are never 1 x 2 pixels.
    """

    def __init__(self, width: int = 64, depth: int = 3, frequencies: int = 3) -> None:
        super().__init__()
        self.config = {"width": width, "depth": depth, "frequencies": frequencies}
        self.register_buffer("rates", math.pi * 2.0 ** torch.arange(frequencies), persistent=False)
        sizes = [2 + 1 + 2 * frequencies] + [width] * depth
        layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        t = t.to(x.dtype)[:, None]
        angles = t * self.rates.to(x.dtype)
        return self.layers(torch.cat([x.flatten(1), t, angles.sin(), angles.cos()], dim=1)).reshape(x.shape)
