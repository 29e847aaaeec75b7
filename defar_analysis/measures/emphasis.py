"""FEL, the frequency emphasis of the loss, before and after reweighting by the exposure bias (Fig. 3d)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from ..config import check_fields
from ..core.objectives.weights import BiasMap, BiasNorm, compensated_loss, normalized_bias_map
from .base import CURVE_COLUMNS, Arrays, AtPair, AtTime, Context, curve_rows, measure
from .spectral import CUTOFF, frequency_emphasis, saliency_masks
from .statistics import mean_interval, resampling_weights


@dataclass(frozen=True)
class FEL:
    """FEL of the raw and of the reweighted loss, and the relative gain in percent, over t (Eq. 14; App. 0.D).

    At each t the bias's normalized maps are aggregated over the grid's t1 in (t, 1] ("mean", or "sum" as a second
    reading) into one weight w; the reweighted loss is (w e)^2. low, high: shares of pixels that count as salient.
    """

    cutoff: float = CUTOFF
    low: float = 0.20
    high: float = 0.25
    alpha: float = 1.0
    bias_norm: BiasNorm = "l2"
    bias_map: BiasMap = "pixel"
    inside_square: bool = True
    aggregate: Literal["mean", "sum"] = "mean"
    name: str = field(default="fel", init=False)
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        check_fields(self)

    def reducer(self, ctx: Context) -> _Emphasis:
        return _Emphasis(self, ctx)

    def run(self, ctx: Context) -> pd.DataFrame:
        """The curve table with fel_raw, fel_reweighted and fel_gain_percent."""
        return measure([self], ctx)[self.name]


class _Emphasis:
    """Raw and reweighted FEL of each image, (N, T0, 2)."""

    def __init__(self, settings: FEL, ctx: Context) -> None:
        self.settings, self.ctx = settings, ctx
        self.collected: dict[str, list[np.ndarray]] = {"fel": []}
        self.maps = 0

    def at_time(self, step: AtTime) -> None:
        if step.index == 0:
            self.collected["fel"].append(np.zeros((len(step.velocity), len(self.ctx.grid.t0), 2)))
        self.maps = 0

    def at_pair(self, step: AtPair) -> None:
        self.maps = self.maps + normalized_bias_map(step.rollout.bias, self.settings.bias_norm, self.settings.bias_map)

    def after_pairs(self, step: AtTime) -> None:
        s = self.settings
        maps = self.maps / (len(self.ctx.grid.t1[step.index]) if s.aggregate == "mean" else 1)
        error = step.velocity - step.target
        masks = saliency_masks(step.target, s.cutoff, s.low, s.high)
        losses = (error.square(), compensated_loss(error, 1 + s.alpha * maps, s.inside_square))
        for i, loss in enumerate(losses):
            self.collected["fel"][-1][:, step.index, i] = frequency_emphasis(loss.mean(dim=1), *masks).cpu().numpy()

    def table(self) -> pd.DataFrame:
        fel = np.concatenate(self.collected["fel"])
        raw, reweighted = fel[..., 0], fel[..., 1]
        curves = {
            "fel_raw": raw,
            "fel_reweighted": reweighted,
            "fel_gain_percent": 100 * (reweighted - raw) / raw,
        }
        weights = resampling_weights(len(fel))
        rows = [
            curve_rows(self.ctx.name, quantity, self.ctx.grid.t0, mean_interval(values, weights), len(fel))
            for quantity, values in curves.items()
        ]
        table = pd.concat(rows, ignore_index=True)[CURVE_COLUMNS]
        table.attrs["arrays"] = Arrays(fel=fel, t=np.asarray(self.ctx.grid.t0))
        return table
