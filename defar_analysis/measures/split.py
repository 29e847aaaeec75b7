"""Measured = inherent + model: exact on data whose optimal field v* is known, and quoted on no other.

At true states the loss splits by Pythagoras, since v*(x, t) = E[v_gt | x_t = x]:

    E|v - v_gt|^2 = E|v* - v_gt|^2 + E|v - v*|^2.

Of any other number the inherent part is what v* reads on the same images, noise and times, and the model's part is the
difference, paired by image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field

import numpy as np
import pandas as pd
import torch

from ..core.rollout import VelocityModel
from ..errors import DefarError
from .base import Arrays, AtPair, AtTime, Context, TimeGrid, measure
from .statistics import mean_interval, resampling_weights

COLUMNS = ["model", "quantity", "t", "measured", "measured_low", "measured_high", "inherent", "of_model",
           "of_model_low", "of_model_high", "n"]  # fmt: skip
QUANTITIES = ("loss", "excess", "bias_energy", "pfr_prediction", "pfr_bias", "fel_gain_percent")


@dataclass(frozen=True)
class Loss:
    """Mean squared error of the velocity at true states over t, and its distance from the exact field.

    Columns model, quantity ("loss", E|v - v_gt|^2; "excess", E|v - v*|^2; "rest", what is missing of the loss when the
    inherent part and the excess are added, 0 in expectation), t, value, low, high, n; means over pixels and channels.
    """

    exact: InitVar[VelocityModel]
    law: str = ""  # names the exact field in the key of a kept result
    name: str = field(default="loss", init=False)
    version: int = field(default=1, init=False)

    def __post_init__(self, exact: VelocityModel) -> None:
        object.__setattr__(self, "field", exact)  # no setting: a field is not written into a key

    def reducer(self, ctx: Context) -> _Losses:
        return _Losses(self.field, ctx)

    def run(self, ctx: Context) -> pd.DataFrame:
        return measure([self], ctx)[self.name]


class _Losses:
    """(N, T, 3): loss, the exact field's loss, excess."""

    def __init__(self, exact: VelocityModel, ctx: Context) -> None:
        self.exact, self.ctx = exact, ctx
        self.collected: dict[str, list[list[np.ndarray]]] = {"losses": []}

    def at_time(self, step: AtTime) -> None:
        if step.index == 0:
            self.collected["losses"].append([])
        t = torch.full((len(step.x),), step.t, device=step.x.device)
        exact = self.exact(step.x, t, step.batch.labels)
        errors = (step.velocity - step.target, exact - step.target, step.velocity - exact)
        losses = torch.stack([e.double().square().mean((1, 2, 3)) for e in errors], 1)
        self.collected["losses"][-1].append(losses.cpu().numpy())

    def at_pair(self, step: AtPair) -> None:
        pass

    def after_pairs(self, step: AtTime) -> None:
        pass

    def table(self) -> pd.DataFrame:
        losses = np.concatenate([np.stack(times, axis=1) for times in self.collected["losses"]])
        loss, inherent, excess = (losses[..., k] for k in range(3))
        parts = {"loss": loss, "excess": excess, "rest": loss - inherent - excess}
        weights, t, rows = resampling_weights(len(losses)), np.asarray(self.ctx.grid.times), []
        for quantity, each in parts.items():
            value, low, high = mean_interval(each, weights)
            rows.append(pd.DataFrame({"model": self.ctx.name, "quantity": quantity, "t": t, "value": value, "low": low,
                                      "high": high, "n": len(losses)}))  # fmt: skip
        table = pd.concat(rows, ignore_index=True)
        table.attrs["arrays"] = Arrays(losses=losses, t=t)
        return table


Tables = Mapping[str, pd.DataFrame]  # of one sweep, by measurement: "pfr", "fel" and, of a model, "loss"


def split(models: Mapping[str, Tables], exact: Tables, grid: TimeGrid, dimensions: int) -> pd.DataFrame:
    """COLUMNS for QUANTITIES of every model: what was measured, the inherent part and the model's, over t.

    of_model = measured - inherent with its 95 % bootstrap interval, paired by image. "loss", "excess" and "bias_energy"
    are means over the image's `dimensions` C H W, the bias's also over the grid's t1; PFR without the zero frequency.
    Raises DefarError where a model and the exact field were not swept on the same images and times.
    """
    rows = []
    for name, own in models.items():
        if not np.allclose(_array(own, "pfr", "target"), _array(exact, "pfr", "target"), rtol=1e-4):
            raise DefarError(f"{name}: was swept on other images or noise than the exact field; sweep both on the same")
        readings = _readings(own, exact, dimensions * np.array([len(ends) for ends in grid.t1]))
        n = len(_array(own, "pfr", "target"))
        weights = resampling_weights(n)
        for quantity, (t, mine, theirs) in readings.items():
            (value, low, high), (inherent, *_) = mean_interval(mine, weights), mean_interval(theirs, weights)
            difference = mean_interval(mine - theirs, weights)
            rows.append(pd.DataFrame(dict(zip(COLUMNS, (name, quantity, t, value, low, high, inherent, *difference, n),
                                              strict=True))))  # fmt: skip
    return pd.concat(rows, ignore_index=True)[COLUMNS]


def _readings(own: Tables, exact: Tables, terms: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """quantity -> times and both readings of each image, (N, T). terms: of the bias's sum at each start."""
    losses, t = _array(own, "loss", "losses"), _array(own, "loss", "t")
    starts = _array(own, "fel", "t")
    pfr, theirs = own["pfr"].attrs["arrays"], exact["pfr"].attrs["arrays"]
    fel = [100 * (tables["fel"].attrs["arrays"]["fel"] @ [-1, 1]) / tables["fel"].attrs["arrays"]["fel"][..., 0]
           for tables in (own, exact)]  # fmt: skip
    return {
        "loss": (t, losses[..., 0], losses[..., 1]),
        "excess": (t, losses[..., 2], 0 * losses[..., 2]),
        "bias_energy": (starts, pfr["bias"].sum(-1) / terms, theirs["bias"].sum(-1) / terms),
        "pfr_prediction": (t, *(a["prediction"][..., 1] / a["prediction"][..., 2] for a in (pfr, theirs))),
        "pfr_bias": (starts, pfr["bias_ratio"][..., 0], theirs["bias_ratio"][..., 0]),
        "fel_gain_percent": (starts, *fel),
    }


def _array(tables: Tables, measurement: str, name: str) -> np.ndarray:
    return tables[measurement].attrs["arrays"][name]


def sentences(table: pd.DataFrame, baseline: str) -> str:
    """Sentences on :func:`split`: how much of loss and bias is inherent, and which model adds less than `baseline`.

    Every number is the table's. Raises DefarError without the baseline.
    """
    if baseline not in set(table["model"]):
        raise DefarError(f"nothing to tell: the table has no {baseline!r}")
    said = []
    for quantity, words in (("loss", "loss"), ("bias_energy", "energy of the exposure bias")):
        parts = []
        for name, rows in table[table["quantity"] == quantity].groupby("model", sort=False):
            share = 100 * rows["inherent"].mean() / rows["measured"].mean()
            parts.append(f"{share:.0f} % of {name}'s")
        said.append(f"The {words} of the exact field, mean over t, is {', '.join(parts)}: so much is inherent.")
    for quantity, words in (("pfr_prediction", "PFR of the prediction"), ("pfr_bias", "PFR of the bias")):
        start = table[(table["quantity"] == quantity) & (table["t"] == table["t"].min())]
        parts = [f"{row.model} {row.measured:.3f} = {row.inherent:.3f} + ({row.of_model:+.3f} "
                 f"[{row.of_model_low:+.3f}, {row.of_model_high:+.3f}])" for row in start.itertuples()]  # fmt: skip
        said.append(f"{words} at t = {start['t'].iloc[0]:g}, measured = inherent + model: {'; '.join(parts)}.")
    n = int(table["n"].iloc[0])
    said.append(f"Brackets are 95 % bootstrap intervals over {n} images, paired with the exact field.")
    return "\n".join(said)
