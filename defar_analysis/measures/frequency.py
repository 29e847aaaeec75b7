"""PFR of prediction, target and bias over t (Fig. 3a, b), where they cross, and frequency restoration (Fig. 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from ..errors import DefarError
from .base import CURVE_COLUMNS, Arrays, AtPair, AtTime, Context, curve_rows, measure
from .spectral import CUTOFF, band_energies
from .statistics import first_crossing, mean_interval, ratio_interval, resampling_weights, weights_mean

DC = ("without", "with")
ESTIMATORS = ("mean_of_ratios", "ratio_of_sums")


@dataclass(frozen=True)
class PFR:
    """Predicted Frequency Ratio (Eq. 12) of the velocity, of the pair's target and of the exposure bias, over t.

    Each comes without and with the DC bin, as a mean of per-image ratios (the default reading) and as a ratio of
    summed energies. The bias at t is averaged over the grid's t1 in (t, 1]. cutoff in cycles per pixel.
    """

    cutoff: float = CUTOFF
    name: str = field(default="pfr", init=False)
    version: int = field(default=1, init=False)

    def reducer(self, ctx: Context) -> _Energies:
        return _Energies(self, ctx)

    def run(self, ctx: Context) -> pd.DataFrame:
        """The curve table; see :data:`~defar_analysis.measures.base.CURVE_COLUMNS`."""
        return measure([self], ctx)[self.name]


class _Energies:
    """Collects band energies (dc, low, high) of each image: prediction and target (N, T, 3), bias (N, T0, 3) summed
    over t1, and the bias's per-image ratios (N, T0, 2) averaged over t1."""

    def __init__(self, settings: PFR, ctx: Context) -> None:
        self.settings, self.ctx = settings, ctx
        starts, times = len(ctx.grid.t0), len(ctx.grid.times)
        shapes = {"prediction": (times, 3), "target": (times, 3), "bias": (starts, 3), "bias_ratio": (starts, 2)}
        self.collected: dict[str, list[np.ndarray]] = {name: [] for name in shapes}
        self.shapes = shapes

    def at_time(self, step: AtTime) -> None:
        if step.index == 0:
            for name, shape in self.shapes.items():
                self.collected[name].append(np.zeros((len(step.velocity), *shape)))
        self.collected["prediction"][-1][:, step.index] = self._energies(step.velocity)
        self.collected["target"][-1][:, step.index] = self._energies(step.target)

    def at_pair(self, step: AtPair) -> None:
        energies = self._energies(step.rollout.bias)
        ends = len(self.ctx.grid.t1[step.index])
        self.collected["bias"][-1][:, step.index] += energies
        self.collected["bias_ratio"][-1][:, step.index] += np.stack([_ratio(energies, dc) for dc in DC], axis=1) / ends

    def after_pairs(self, step: AtTime) -> None:
        pass

    def table(self) -> pd.DataFrame:
        arrays = {name: np.concatenate(parts) for name, parts in self.collected.items()}
        arrays["t"] = np.asarray(self.ctx.grid.times)
        table = pfr_table(self.ctx.name, arrays)
        table.attrs["arrays"] = Arrays(arrays)
        return table

    def _energies(self, v) -> np.ndarray:
        return torch.stack(band_energies(v, self.settings.cutoff), dim=1).double().cpu().numpy()


def pfr_table(model: str, arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    """The curve table from collected energies (see :class:`_Energies`), with bootstrap intervals over images."""
    n, t = len(arrays["prediction"]), arrays["t"]
    weights = resampling_weights(n)
    rows = []
    for i, dc in enumerate(DC):
        for quantity in ("prediction", "target", "bias"):
            energies = arrays[quantity]
            times = t[: energies.shape[1]]
            ratios = arrays["bias_ratio"][..., i] if quantity == "bias" else _ratio(energies, dc)
            intervals = {
                "mean_of_ratios": mean_interval(ratios, weights),
                "ratio_of_sums": ratio_interval(_low(energies, dc), energies[..., 2], weights),
            }
            for estimator, interval in intervals.items():
                rows.append(curve_rows(model, f"pfr_{quantity}", times, interval, n, dc, estimator))
    return pd.concat(rows, ignore_index=True)[CURVE_COLUMNS]


def crossings(table: pd.DataFrame) -> pd.DataFrame:
    """Where the PFR of prediction and of bias first cross the target's, with 95 % bootstrap intervals.

    Takes a table of :class:`PFR`. found_share: bootstrap replicates in which the curves cross at all; the interval is
    over those.
    """
    arrays, model = table.attrs["arrays"], table["model"].iloc[0]
    n, t = len(arrays["prediction"]), arrays["t"]
    weights = np.concatenate([np.full((1, n), 1 / n), resampling_weights(n)])  # row 0: the sample itself
    rows = []
    for i, dc in enumerate(DC):
        for quantity in ("prediction", "bias"):
            energies = arrays[quantity]
            target = arrays["target"][:, : energies.shape[1]]
            ratios = arrays["bias_ratio"][..., i] if quantity == "bias" else _ratio(energies, dc)
            curves = {
                "mean_of_ratios": (weights_mean(weights, ratios), weights_mean(weights, _ratio(target, dc))),
                "ratio_of_sums": tuple(_ratio(weights_mean(weights, part), dc) for part in (energies, target)),
            }
            for estimator, (curve, level) in curves.items():
                found = first_crossing(t[: energies.shape[1]], curve, level)
                valid = found[1:][np.isfinite(found[1:])]
                low, high = np.percentile(valid, [2.5, 97.5]) if len(valid) else (np.nan, np.nan)
                share = len(valid) / (len(found) - 1)
                rows.append((model, f"pfr_{quantity}", dc, estimator, found[0], low, high, share, n))
    columns = ["model", "quantity", "dc", "estimator", "t_cross", "low", "high", "found_share", "n"]
    return pd.DataFrame(rows, columns=columns)


def restoration(baseline: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Change in percent of the mean PFR of the prediction from `baseline` to `other`, with intervals (Fig. 5).

    Paired: each replicate takes the same images and noise for both.

    Both are tables of :class:`PFR` on the same images, noise and grid; raises DefarError where they are not.
    """
    ours, theirs = other.attrs["arrays"], baseline.attrs["arrays"]
    same = ours["target"].shape == theirs["target"].shape and np.allclose(ours["target"], theirs["target"], rtol=1e-4)
    if not same:
        raise DefarError("restoration compares two models on the same images, noise and grid; these tables differ")
    n, t = len(ours["prediction"]), ours["t"]
    weights = resampling_weights(n)
    label = f"{other['model'].iloc[0]} against {baseline['model'].iloc[0]}"
    rows = []
    for dc in DC:
        value, low, high = ratio_interval(_ratio(ours["prediction"], dc), _ratio(theirs["prediction"], dc), weights)
        interval = (100 * (value - 1), 100 * (low - 1), 100 * (high - 1))
        rows.append(curve_rows(label, "pfr_change_percent", t, interval, n, dc, "mean_of_ratios"))
    return pd.concat(rows, ignore_index=True)[CURVE_COLUMNS]


def _low(energies: np.ndarray, dc: str) -> np.ndarray:
    return energies[..., 1] + (energies[..., 0] if dc == "with" else 0)


def _ratio(energies: np.ndarray, dc: str) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # a field without high frequencies, or without any
        return _low(energies, dc) / energies[..., 2]
