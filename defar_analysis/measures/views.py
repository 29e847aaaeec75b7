"""What the inspector shows: bias map and radial energies of every image at every (t0, t1), from the shared sweep."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..core.tensors import l2_norm
from ..errors import DefarError
from .base import Arrays, AtPair, AtTime, Context, measure
from .radial import radial_energies, radii


@dataclass(frozen=True)
class BiasViews:
    """The exposure bias (Eqs. 6-7) of every image and pair, as a map and as a spectrum, nothing averaged.

    Every map is kept: meant for a few images, unlike measures.maps.BiasMaps.
    """

    name: str = field(default="views", init=False)
    version: int = field(default=1, init=False)

    def reducer(self, ctx: Context) -> _Views:
        return _Views(ctx)

    def run(self, ctx: Context) -> pd.DataFrame:
        """Columns model, image, t0, t1, bias_rms, pairs in the grid's order and the images of each together.

        attrs["arrays"]: map (P, N, H, W) float32, the bias's L2 norm over channels; bias (P, N, R), prediction and
        target (S, N, R), energies over radii (R,), S starts t0; counts (R,), coefficients at each radius. Raises
        DefarError where a bias is not finite.
        """
        return measure([self], ctx)[self.name]


class _Views:
    def __init__(self, ctx: Context) -> None:
        self.ctx, grid = ctx, ctx.grid
        self.pairs = [(i, j) for i, ends in enumerate(grid.t1) for j in range(len(ends))]
        self.places = dict.fromkeys(("rms", "map", "bias"), range(len(self.pairs)))
        self.places |= dict.fromkeys(("prediction", "target"), range(len(grid.t0)))
        self.collected: dict[tuple[str, int], list[np.ndarray]] = {
            (name, place): [] for name, places in self.places.items() for place in places
        }

    def at_time(self, step: AtTime) -> None:
        if step.index < len(self.ctx.grid.t0):  # the last time starts no pair
            self.collected["prediction", step.index].append(radial_energies(step.velocity))
            self.collected["target", step.index].append(radial_energies(step.target))

    def at_pair(self, step: AtPair) -> None:
        place, bias = self.pairs.index((step.index, step.end)), step.rollout.bias
        if not bool(bias.isfinite().all()):
            raise DefarError(f"{self.ctx.name}: the bias at t = {step.t0:.3g}, {step.t1:.3g} is not finite; check it")
        self.collected["rms", place].append(bias.square().mean((1, 2, 3)).sqrt().cpu().numpy())
        self.collected["map", place].append(l2_norm(bias, 1).float().cpu().numpy())
        self.collected["bias", place].append(radial_energies(bias))

    def after_pairs(self, step: AtTime) -> None:
        pass

    def table(self) -> pd.DataFrame:
        ctx, grid = self.ctx, self.ctx.grid
        found = {
            name: np.stack([np.concatenate(self.collected[name, place]) for place in places])
            for name, places in self.places.items()
        }
        times = [(grid.t0[i], grid.t1[i][j]) for i, j in self.pairs]
        images = ctx.indices or range(ctx.count)
        rows = [(ctx.name, image, *pair) for pair in times for image in images]
        table = pd.DataFrame(rows, columns=["model", "image", "t0", "t1"])
        table["bias_rms"] = found.pop("rms").ravel()
        distances, counts = radii(*ctx.batch.data.shape[-2:])
        table.attrs["arrays"] = Arrays(found, radii=distances, counts=counts)
        return table
