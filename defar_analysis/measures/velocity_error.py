"""The flow-matching loss at true states over t (Eq. 2): how far a velocity field is from the pairs' own velocities."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from .base import CURVE_COLUMNS, Arrays, AtPair, AtTime, Context, curve_rows, measure
from .statistics import mean_interval, resampling_weights


@dataclass(frozen=True)
class VelocityError:
    """Mean squared error of the velocity at ideal states, |v(x_t, t) - v_gt|^2 over entries (Eq. 2), over t.

    In the data's units squared. Also of a perfect model it is not 0: v_gt belongs to one pair, the optimum is a mean
    over the pairs that pass through x_t.
    """

    name: str = field(default="velocity_error", init=False)
    version: int = field(default=1, init=False)

    def reducer(self, ctx: Context) -> _Errors:
        return _Errors(ctx)

    def run(self, ctx: Context) -> pd.DataFrame:
        """The curve table with fm_loss; attrs["arrays"] has "loss" (N, T) of each image and "t" (T,)."""
        return measure([self], ctx)[self.name]


class _Errors:
    """Collects each image's loss at every grid time, (N, T)."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.collected: dict[str, list[np.ndarray]] = {"loss": []}

    def at_time(self, step: AtTime) -> None:
        if step.index == 0:
            self.collected["loss"].append(np.zeros((len(step.velocity), len(self.ctx.grid.times))))
        error = (step.velocity - step.target).square().flatten(1).mean(1)
        self.collected["loss"][-1][:, step.index] = error.double().cpu().numpy()

    def at_pair(self, step: AtPair) -> None:
        pass

    def after_pairs(self, step: AtTime) -> None:
        pass

    def table(self) -> pd.DataFrame:
        losses, times = np.concatenate(self.collected["loss"]), np.asarray(self.ctx.grid.times)
        interval = mean_interval(losses, resampling_weights(len(losses)))
        table = curve_rows(self.ctx.name, "fm_loss", times, interval, len(losses), "", "mean")[CURVE_COLUMNS]
        table.attrs["arrays"] = Arrays(loss=losses, t=times)
        return table
