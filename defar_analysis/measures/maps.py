"""Exposure-bias maps with the image and its low- and high-pass parts (Fig. 3c, Fig. 9)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..core.tensors import l2_norm
from .base import Arrays, AtPair, AtTime, Context, measure
from .spectral import CUTOFF, high_pass, low_pass
from .statistics import mean_interval, resampling_weights


@dataclass(frozen=True)
class BiasMaps:
    """Where on the image the exposure bias sits: its L2 norm over channels at chosen (t0, t1), one map for an image.

    pairs: wanted (t0, t1); the nearest pair of the grid is taken and reported. images: how many maps are kept to be
    shown, at most 32. Over *all* images the table gives the root mean square of the bias and the correlation over
    pixels between a map and the local strength of the image's low band (without its mean) and high band.
    """

    pairs: tuple[tuple[float, float], ...] = ((0.1, 0.4), (0.4, 0.7), (0.7, 0.9))
    images: int = 8
    cutoff: float = CUTOFF
    name: str = field(default="maps", init=False)
    version: int = field(default=1, init=False)

    def reducer(self, ctx: Context) -> _Maps:
        return _Maps(self, ctx)

    def run(self, ctx: Context) -> pd.DataFrame:
        """Columns model, quantity, t0, t1, value, low, high, n; attrs["arrays"] holds what Fig. 9 shows."""
        return measure([self], ctx)[self.name]


class _Maps:
    names = ("statistics", "map")

    def __init__(self, settings: BiasMaps, ctx: Context) -> None:
        self.settings, self.ctx = settings, ctx
        self.wanted = [_nearest(ctx, *pair) for pair in settings.pairs]
        pairs = range(len(self.wanted))
        self.collected: dict[tuple[str, int], list[np.ndarray]] = {(name, k): [] for name in self.names for k in pairs}
        self.low = self.high = None

    def at_time(self, step: AtTime) -> None:
        if step.index == 0:
            low = low_pass(step.batch.data, self.settings.cutoff)
            self.low = l2_norm(low - low.mean((2, 3), keepdim=True), 1)
            self.high = l2_norm(step.batch.data - low, 1)

    def at_pair(self, step: AtPair) -> None:
        for k, pair in enumerate(self.wanted):
            if pair == (step.index, step.end):
                bias = step.rollout.bias
                heat = l2_norm(bias, 1)
                rms = bias.square().mean((1, 2, 3)).sqrt()
                columns = torch.stack([rms, correlation(heat, self.low), correlation(heat, self.high)], dim=1)
                self.collected["statistics", k].append(columns.double().cpu().numpy())
                self.collected["map", k].append(heat.cpu().numpy())

    def after_pairs(self, step: AtTime) -> None:
        pass

    def table(self) -> pd.DataFrame:
        grid, rows = self.ctx.grid, []
        weights = resampling_weights(self.ctx.count)
        for place, (i, j) in enumerate(self.wanted):
            value, low, high = mean_interval(np.concatenate(self.collected["statistics", place]), weights)
            for k, quantity in enumerate(("bias_rms", "corr_low_band", "corr_high_band")):
                pair = (grid.t0[i], grid.t1[i][j])
                rows.append((self.ctx.name, quantity, *pair, value[k], low[k], high[k], self.ctx.count))
        table = pd.DataFrame(rows, columns=["model", "quantity", "t0", "t1", "value", "low", "high", "n"])
        table.attrs["arrays"] = Arrays(self._arrays())
        return table

    def _arrays(self) -> dict[str, np.ndarray]:
        """images, low_pass, high_pass uint8 (N, H, W, C), of latents decoded; bias float16 (K, N, H, W); pairs (K, 2);
        image_index, labels (N,)."""
        count = min(self.settings.images, self.ctx.count, 32)
        data, grid = self.ctx.batch.data[:count].cpu(), self.ctx.grid
        parts = {"images": data, "low_pass": low_pass(data, self.settings.cutoff)}
        parts["high_pass"] = high_pass(data, self.settings.cutoff)
        pictures = {k: self.ctx.codec.decode(v).cpu().permute(0, 2, 3, 1).numpy() for k, v in parts.items()}
        maps = [np.concatenate(self.collected["map", k])[:count] for k in range(len(self.wanted))]
        labels = self.ctx.batch.labels
        return {
            **pictures,
            "bias": np.stack(maps).astype(np.float16),
            "pairs": np.asarray([(grid.t0[i], grid.t1[i][j]) for i, j in self.wanted]),
            "image_index": np.asarray((self.ctx.indices or range(self.ctx.count))[:count]),
            "labels": np.full(count, -1) if labels is None else labels[:count].cpu().numpy(),
        }


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation over the pixels of each sample; a, b (B, H, W); (B,). 0 where either is constant."""
    a, b = (z.flatten(1) - z.flatten(1).mean(dim=1, keepdim=True) for z in (a, b))
    size = l2_norm(a, 1) * l2_norm(b, 1)
    return (a * b).sum(dim=1) / size.clamp(min=1e-30)


def _nearest(ctx: Context, t0: float, t1: float) -> tuple[int, int]:
    grid = ctx.grid
    i = min(range(len(grid.t0)), key=lambda k: abs(grid.t0[k] - t0))
    return i, min(range(len(grid.t1[i])), key=lambda k: abs(grid.t1[i][k] - t1))
