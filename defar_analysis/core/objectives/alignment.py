"""REPA's representation alignment (Yu et al. 2025, arXiv 2410.06940) around any objective, with any frozen encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import check_fields
from ...errors import DefarError
from ..datasets import Batch
from ..networks.aligned import Aligned, aligned_network
from ..rollout import Draw, VelocityModel
from ..tensors import wide
from .base import LossTerms, Objective

# The widths of the features of the encoders that measures.encoders opens: this floor may not import that one.
ENCODERS = {f"effnet-lite{variant}-{size}": (1280,) for variant in (0, 2) for size in (32, 64, 96, 128, 224)}


class Encoder(Protocol):
    """A frozen network: images (B, C, H, W) in [-1, 1] -> feature maps (B, T, z), tokens row by row, one for each of
    its networks; of latents, what it is given are latents. It may have `dims`, the widths z."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]: ...


@dataclass(frozen=True)
class Alignment:
    """L = L_objective - weight * mean over encoders, samples and tokens of cos(projected token, encoder's feature).

    The tokens are those after the network's tapped block in the objective's first forward that trains it: at the
    pair's own point, for every objective whose first forward has gradients. No forward is added. Features on another
    grid of tokens are interpolated (bilinear; antialiased where they become fewer) to the network's. Needs an
    :class:`Aligned` network; the encoder sees the clean images, in float32 and without gradients. Terms: the
    objective's own and "alignment", without its weight.
    """

    objective: Objective
    encoder: Encoder
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise DefarError(f"alignment.weight must be a number of at least 0; got {self.weight}")
        if not callable(self.encoder) or not hasattr(self.objective, "draw"):
            raise DefarError("Alignment(objective, encoder): give an objective and a function of images, in this order")

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """The objective's own: the alignment draws nothing."""
        return self.objective.draw(batch, generator)

    def __call__(self, model: VelocityModel, draw: Draw) -> LossTerms:
        network = aligned_network(model)
        with network.recording() as taps:
            loss = self.objective(model, draw)
        # an objective that splits its batch begins with the subset
        images = draw.data if draw.subset is None else draw.data[draw.subset.to(draw.data.device)]
        if len(taps.tokens) != len(images):
            raise DefarError(
                f"the first forward had {len(taps.tokens)} of {len(images)} samples; use this objective's own draw()"
            )
        projection = projection_loss(network.projected(taps.tokens), self._features(images), images.shape[-2:])
        terms = {**loss.terms, "alignment": projection.detach()}
        return LossTerms(loss.total + self.weight * projection, terms, loss.forwards)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Sequence[Tensor]:
        with torch.autocast(images.device.type if not images.is_meta else "cpu", enabled=False):
            return self.encoder(images)


def projection_loss(projected: Sequence[Tensor], features: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Minus the mean over encoders, samples and tokens of the cosine similarity. Both hold (B, T, z) for each encoder.

    shape (H, W) of the images, whose sides are in the ratio of the grids' sides. Scalar, in float32 at least. Raises
    DefarError where the features do not fit the projections.
    """
    if len(projected) != len(features):
        raise DefarError(f"the encoder gave {len(features)} feature maps for {len(projected)} projectors")
    means = []
    for ours, theirs in zip(projected, features, strict=True):
        if theirs.ndim != 3 or theirs.shape[0] != ours.shape[0] or theirs.shape[2] != ours.shape[2]:
            raise DefarError(
                f"the encoder gave features {tuple(theirs.shape)} for projections {tuple(ours.shape)}; they are "
                "(B, tokens, width)"
            )
        at_tokens = on_grid(wide(theirs), ours.shape[1], shape)
        means.append(F.cosine_similarity(wide(ours), at_tokens.to(wide(ours).dtype), dim=-1).mean())
    return -torch.stack(means).mean()


def on_grid(features: Tensor, count: int, shape: Sequence[int]) -> Tensor:
    """Features (B, T, z) at `count` tokens, (B, count, z); both grids have the sides' ratio of `shape` (H, W)."""
    if features.shape[1] == count:
        return features
    before, after = _grid(features.shape[1], shape), _grid(count, shape)
    maps = features.transpose(1, 2).unflatten(2, before)
    fewer = after[0] < before[0]
    return F.interpolate(maps, after, mode="bilinear", align_corners=False, antialias=fewer).flatten(2).transpose(1, 2)


def _grid(count: int, shape: Sequence[int]) -> tuple[int, int]:
    rows = round(math.sqrt(count * shape[0] / shape[1]))
    if rows < 1 or count % rows or rows * shape[1] != count // rows * shape[0]:
        raise DefarError(f"{count} tokens are no grid on an image of {shape[0]} x {shape[1]}")
    return rows, count // rows


@dataclass(frozen=True)
class Aligning:
    """A recipe's table [objective.alignment].

    encoder: one of ENCODERS, by name, or a name for your own that is given as train(..., encoder=...), with the widths
    of its features in dims. depth: the tapped block, from 1. width: of the projectors' hidden layers. weight: of the
    projection loss.
    """

    encoder: str
    depth: int = 8
    weight: float = 0.5
    width: int = 2048
    dims: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_fields(self)
        if not all(isinstance(dim, int) and not isinstance(dim, bool) and dim > 0 for dim in self.dims):
            raise DefarError(f"objective.alignment: dims = {self.dims}; give widths of at least 1, such as [768]")
        if self.encoder in ENCODERS and self.dims:
            raise DefarError(f"objective.alignment.dims: follow from {self.encoder} ({self.widths}); leave them out")
        if self.encoder not in ENCODERS and not self.dims:
            raise DefarError(
                f"objective.alignment.encoder = {self.encoder!r}; choose from {', '.join(ENCODERS)}, or give the "
                "dims of your own"
            )
        if not 0 <= self.weight < math.inf or self.width < 1 or self.depth < 1:
            raise DefarError(
                f"objective.alignment: weight = {self.weight} must be at least 0, depth = {self.depth} and "
                f"width = {self.width} at least 1"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        return ENCODERS.get(self.encoder) or tuple(self.dims)

    def network(self, backbone: nn.Module) -> Aligned:
        return Aligned(backbone, self.depth, self.widths, self.width)

    def objective(self, objective: Objective, encoder: Encoder | None) -> Alignment:
        """Raises DefarError where there is no encoder."""
        if encoder is None:
            known = "`defar train` opens it" if self.encoder in ENCODERS else "it is none of ours"
            raise DefarError(
                f"objective.alignment.encoder = {self.encoder!r}: {known}; in Python give it as train(..., encoder=...)"
            )
        return Alignment(objective, encoder, self.weight)


def stand_in(widths: Sequence[int]) -> Encoder:
    """Constant features of the right widths, one token each: to try a step where the encoder's weights are not."""

    def encode(images: Tensor) -> list[Tensor]:
        size = min(images.shape[-2:])
        grid = math.prod(side // size for side in images.shape[-2:])
        return [torch.ones(len(images), grid, width, device=images.device) for width in widths]

    return encode
