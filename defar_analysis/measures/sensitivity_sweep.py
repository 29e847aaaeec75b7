"""What one sweep keeps so that every reading of PFR and FEL (Eqs. 12-14) can be taken from it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..core.objectives.weights import compensated_loss, normalized_bias_map
from ..errors import DefarError
from .base import Arrays, AtPair, AtTime, Context, measure
from .radial import radial_energies, radii
from .spectral import NORMS, frequency_emphasis, low_pass, top_pixels

FEL_CUTOFFS = (0.15, 0.2, 0.25)  # cycles per pixel
SHARES = ((0.20, 0.25), (0.25, 0.20), (0.10, 0.125), (0.40, 0.50))  # of pixels that count as salient: low, high
MASK_NORMS = tuple(NORMS)
BIAS_NORMS = ("l2", "l1", "mean")


def channel_energies(v: Tensor) -> np.ndarray:
    """Energy sum |F|^2 at each of `radial.radii`, for each sample and channel, (B, C, R); its sum is that of v^2."""
    return radial_energies(v.flatten(0, 1)[:, None]).reshape(*v.shape[:2], -1)


@dataclass(frozen=True)
class Spectra:
    """Radial energy spectra of prediction and target at each time, and of the bias at each pair of times.

    Arrays prediction, target (N, T, C, R), bias (N, T0, J, C, R), radii (R,), t (T,), every t0 with J ends t1.
    """

    name: str = field(default="radial_spectra", init=False)
    version: int = field(default=1, init=False)

    def reducer(self, ctx: Context) -> _Spectra:
        return _Spectra(ctx)

    def run(self, ctx: Context) -> pd.DataFrame:
        """One row for each time; what counts is in attrs["arrays"]."""
        return measure([self], ctx)[self.name]


class _Spectra:
    def __init__(self, ctx: Context) -> None:
        ends = {len(row) for row in ctx.grid.t1}
        if len(ends) != 1:
            raise DefarError(f"every t0 needs as many t1 as the others; the grid {ctx.grid.name!r} has {sorted(ends)}")
        self.ctx, self.ends = ctx, ends.pop()
        self.collected: dict[str, list[np.ndarray]] = {"prediction": [], "target": [], "bias": []}

    def at_time(self, step: AtTime) -> None:
        found = {"prediction": channel_energies(step.velocity), "target": channel_energies(step.target)}
        times, starts = len(self.ctx.grid.times), len(self.ctx.grid.t0)
        if step.index == 0:
            count, *rest = found["prediction"].shape
            for name, shape in (("prediction", (times,)), ("target", (times,)), ("bias", (starts, self.ends))):
                self.collected[name].append(np.zeros((count, *shape, *rest)))
        for name, energies in found.items():
            self.collected[name][-1][:, step.index] = energies

    def at_pair(self, step: AtPair) -> None:
        self.collected["bias"][-1][:, step.index, step.end] = channel_energies(step.rollout.bias)

    def after_pairs(self, step: AtTime) -> None:
        pass

    def table(self) -> pd.DataFrame:
        arrays = {name: np.concatenate(parts) for name, parts in self.collected.items()}
        arrays |= {"radii": radii(*self.ctx.batch.data.shape[-2:])[0], "t": np.asarray(self.ctx.grid.times)}
        table = pd.DataFrame({"model": self.ctx.name, "t": arrays["t"], "n": len(arrays["prediction"])})
        table.attrs["arrays"] = Arrays(arrays)
        return table


@dataclass(frozen=True)
class Emphases:
    """FEL (Eq. 14) of the raw and of each reweighted loss under every cutoff, pair of shares and norm.

    Arrays fel (N, T0, cutoffs, shares, mask norms, 1 + bias norms), the raw loss first; t (T0,).
    """

    cutoffs: tuple[float, ...] = FEL_CUTOFFS
    shares: tuple[tuple[float, float], ...] = SHARES
    mask_norms: tuple[str, ...] = MASK_NORMS
    bias_norms: tuple[str, ...] = BIAS_NORMS
    name: str = field(default="emphases", init=False)
    version: int = field(default=1, init=False)

    def reducer(self, ctx: Context) -> _Emphases:
        return _Emphases(self, ctx)

    def run(self, ctx: Context) -> pd.DataFrame:
        """One row for each start t0; what counts is in attrs["arrays"]."""
        return measure([self], ctx)[self.name]


class _Emphases:
    def __init__(self, settings: Emphases, ctx: Context) -> None:
        self.settings, self.ctx = settings, ctx
        self.collected: dict[str, list[np.ndarray]] = {"fel": []}
        self.masks: tuple[Tensor, list] | None = None  # of which target
        self.maps: list = []

    def at_time(self, step: AtTime) -> None:
        s = self.settings
        if step.index == 0:
            shape = (len(s.cutoffs), len(s.shares), len(s.mask_norms), 1 + len(s.bias_norms))
            self.collected["fel"].append(np.zeros((len(step.velocity), len(self.ctx.grid.t0), *shape)))
        self.maps = [0] * len(s.bias_norms)

    def at_pair(self, step: AtPair) -> None:
        for k, norm in enumerate(self.settings.bias_norms):
            self.maps[k] = self.maps[k] + normalized_bias_map(step.rollout.bias, norm)

    def after_pairs(self, step: AtTime) -> None:
        error = step.velocity - step.target
        ends = len(self.ctx.grid.t1[step.index])
        losses = [error.square(), *(compensated_loss(error, 1 + maps / ends) for maps in self.maps)]
        losses = [loss.mean(dim=1) for loss in losses]
        for place, masks in self._masks(step.target):
            for k, loss in enumerate(losses):
                self.collected["fel"][-1][(slice(None), step.index, *place, k)] = (
                    frequency_emphasis(loss, *masks).cpu().numpy()
                )

    def _masks(self, target: Tensor) -> list:
        """All masks with their places; on a straight path the target, and so they, are the same at every time."""
        if self.masks is None or not torch.equal(self.masks[0], target):
            s, found = self.settings, []
            lows, highs = zip(*s.shares, strict=True)
            for i, cutoff in enumerate(s.cutoffs):
                v_low = low_pass(target, cutoff)
                for k, norm in enumerate(s.mask_norms):
                    pairs = zip(top_pixels(v_low, lows, norm), top_pixels(target - v_low, highs, norm), strict=True)
                    found += [((i, j, k), pair) for j, pair in enumerate(pairs)]
            self.masks = target, found
        return self.masks[1]

    def table(self) -> pd.DataFrame:
        t = np.asarray(self.ctx.grid.t0)
        fel = np.concatenate(self.collected["fel"])
        table = pd.DataFrame({"model": self.ctx.name, "t": t, "n": len(fel)})
        table.attrs["arrays"] = Arrays(fel=fel, t=t)
        return table


SENSITIVITY = (Spectra(), Emphases())
