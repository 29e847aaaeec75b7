"""Slow Flow: at which time of a true pair's path a sampled state seems to be (MixFlow, arXiv 2512.19311, Fig. 1).

A state x_t sampled from the noise eps is laid beside the path of eps and a real image x_*. Its slowed time is

    m_t = argmin_m ||x_t - (alpha_m x_* + sigma_m eps)||,    0 <= m <= 1,

on the linear path clip(<x_t - eps, x_* - eps> / ||x_* - eps||^2, 0, 1), on others the best of GRID times. The paper
calls the path "the ground-truth interpolation"; which image eps is paired with is not public. Two readings (PAIRINGS):

* "class", the default: x_* is a real image of the class that eps is sampled with. It knows nothing of eps, so m_t < t
  for a perfect model too, whose sample is another image of the class: a small m_t alone is no defect.
* "inversion": eps is what the model's own reverse ODE makes of x_*. A perfect model with fine steps comes back to x_*
  and reads m_1 = 1; before that it reads t up to how far its paths bend away from the straight line. Euler ends short
  of x_* or beyond, so here m_t is not clipped, lest all that overshoots count as exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..core.interpolants import Interpolant, Linear
from ..core.rollout import VelocityModel
from ..core.samplers import Euler, Heun, Sample, sample
from ..errors import DefarError
from .statistics import mean_interval, resampling_weights

PAIRINGS = ("class", "inversion")
GRID = 1001
MARKS = (0.2, 0.4, 0.6, 0.8, 1.0)  # where models are compared
COLUMNS = ["model", "pairing", "t", "value", "low", "high", "median", "p5", "p95", "minimum", "maximum", "n"]
CHANGES = ["model", "pairing", "t", "value", "low", "high", "n"]
VERSION = 1  # raise it when the numbers change: kept results are then measured again

Slowed = Mapping[tuple[str, str], np.ndarray]  # (model, pairing) -> m_t, (S, N)


def slowed_time(
    x: Tensor,
    noise: Tensor,
    data: Tensor,
    interpolant: Interpolant | None = None,
    *,
    points: int = GRID,
    beyond: bool = False,
) -> Tensor:
    """m_t of each state, (N,) float64 between 0 and 1. x, noise, data (N, ...).

    points: times of the grid on paths that are not linear; m_t is then exact to half its spacing. beyond: the nearest
    point of the whole straight line through eps and x_*, so that m_t may leave [0, 1]; no other path goes on there.
    Raises DefarError for that, for other shapes, and for a pair whose noise and data are the same: its path is a point.
    """
    path = interpolant or Linear()
    if beyond and not isinstance(path, Linear):
        raise DefarError(f"{path} has no times beyond 0 and 1; leave out beyond")
    if not x.shape == noise.shape == data.shape or x.ndim < 2:
        shapes = ", ".join(str(tuple(part.shape)) for part in (x, noise, data))
        raise DefarError(f"states, noise and data must have one shape (N, ...); got {shapes}")
    if points < 2:
        raise DefarError(f"a grid of {points} times has no spacing; give at least 2")
    x, noise, data = (part.flatten(1).double() for part in (x, noise, data))
    way = data - noise
    length = _products(way, way)
    if bool((length == 0).any()):
        which = int((length == 0).nonzero()[0])
        raise DefarError(
            f"pair {which}: noise and data are the same, so its path has no times; pair it with other data"
        )
    if isinstance(path, Linear):
        nearest = _products(x - noise, way) / length
        return nearest if beyond else nearest.clamp(0, 1)
    times = torch.linspace(0, 1, points, dtype=torch.float64, device=x.device)
    c = path.coefficients(times)
    # ||x - alpha x_* - sigma eps||^2 without ||x||^2, which no m changes: the grid needs inner products only.
    parts = ((c.alpha**2, _products(data, data)), (2 * c.alpha * c.sigma, _products(data, noise)),
             (c.sigma**2, _products(noise, noise)), (-2 * c.alpha, _products(x, data)),
             (-2 * c.sigma, _products(x, noise)))  # fmt: skip
    distance = sum(product[:, None] * factor for factor, product in parts)
    return times[distance.argmin(dim=1)]


def slowed_times(
    states: Tensor, noise: Tensor, data: Tensor, interpolant: Interpolant | None = None, *, beyond: bool = False
) -> np.ndarray:
    """m_t of states (S, N, ...) of pairs noise, data (N, ...): (S, N) float64."""
    noise, data = noise.to(states.device), data.to(states.device)
    return torch.stack([slowed_time(x, noise, data, interpolant, beyond=beyond) for x in states]).cpu().numpy()


@dataclass(frozen=True)
class Backwards:
    """`model` with its clock turned round on an interval whose ends sum to `total`: it leads from data to noise."""

    model: VelocityModel
    total: float = 1.0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return -self.model(x, self.total - t, labels)


def invert(
    model: VelocityModel,
    data: Tensor,
    solver: Heun | Euler,
    *,
    interpolant: Interpolant | None = None,
    labels: Tensor | None = None,
    chunk: int = 64,
) -> Sample:
    """The noise, .x, from which `model` would make `data` (N, C, H, W), by `solver`'s grid walked from data to noise.

    Heun's error is of second order, so what a round trip by Euler misses afterwards is the sampler's own.
    """
    path = interpolant or Linear()
    field = Backwards(model, sum(path.interval("ode")))
    return sample(field, data, solver, interpolant=path, labels=labels, chunk=chunk)


def both_pairings(
    model: VelocityModel, noise: Tensor, data: Tensor, solver: Euler, back: Heun | None, *,
    interpolant: Interpolant | None = None, labels: Tensor | None = None, chunk: int = 64,
) -> tuple[dict[str, np.ndarray], Sample, Sample | None]:  # fmt: skip
    """Slowed times (S, N) by pairing, of `model` sampled by `solver`; with the last samples, and the inverted noise.

    noise, data (N, C, H, W): the pairs of "class". Without `back`, which goes from data to noise, no "inversion".
    """
    path = interpolant or Linear()
    given = {"interpolant": path, "labels": labels, "chunk": chunk}
    inverted = None if back is None else invert(model, data, back, **given)
    starts = {"class": noise} | ({} if inverted is None else {"inversion": inverted.x})
    found = {}
    for pairing, start in starts.items():
        drawn = sample(model, start, solver, save="all", **given)
        beyond = pairing == "inversion" and isinstance(path, Linear)
        found[pairing] = slowed_times(drawn.states, start, data, path, beyond=beyond)
    return found, drawn, inverted


def bands(slowed: Slowed, times: np.ndarray) -> pd.DataFrame:
    """COLUMNS over images, for each model, pairing and time of `times` (S,).

    value is the mean m_t, low and high end its 95 % bootstrap interval; median, p5 and p95 (percentiles), minimum and
    maximum are of single images. Raises DefarError where arrays do not fit `times` or each other.
    """
    weights = resampling_weights(_images(slowed, times))
    parts = []
    for (model, pairing), own in slowed.items():
        value, low, high = mean_interval(own.T, weights)
        median, p5, p95 = np.percentile(own, [50, 5, 95], axis=1)
        parts.append(pd.DataFrame({
            "model": model, "pairing": pairing, "t": times, "value": value, "low": low, "high": high, "median": median,
            "p5": p5, "p95": p95, "minimum": own.min(axis=1), "maximum": own.max(axis=1), "n": own.shape[1],
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def changes(slowed: Slowed, times: np.ndarray, baseline: str, marks: Sequence[float] = MARKS) -> pd.DataFrame:
    """CHANGES: m_t of every other model minus m_t of `baseline`, at the times of the grid next to `marks`.

    Paired by image: with the same x_* (and in the class pairing the same noise) in both, what images differ in cancels.
    value is the mean difference, low and high end its 95 % bootstrap interval.
    """
    weights = resampling_weights(_images(slowed, times))
    chosen = np.unique([np.abs(times - mark).argmin() for mark in marks])
    parts = []
    for (model, pairing), own in slowed.items():
        if (baseline, pairing) not in slowed:
            raise DefarError(f"no slowed times of the baseline {baseline!r} in the pairing {pairing!r}")
        if model == baseline:
            continue
        value, low, high = mean_interval((own - slowed[baseline, pairing])[chosen].T, weights)
        part = {"model": model, "pairing": pairing, "t": times[chosen], "value": value, "low": low, "high": high}
        parts.append(pd.DataFrame(part | {"n": own.shape[1]}))
    if not parts:
        raise DefarError(f"nothing to compare: {baseline!r} is the only model")
    return pd.concat(parts, ignore_index=True)[CHANGES]


def sentences(
    table: pd.DataFrame, differences: pd.DataFrame, baseline: str, reference: str = "", others: Sequence[str] = ()
) -> str:
    """Sentences on the rows of :func:`bands` and :func:`changes`: is m_t < t, by how much, and whose is how far off.

    reference: an exact field among the models, if there is one; others: more of them. Every number is the tables'.
    """
    plain, inverted = (table[table["pairing"] == pairing] for pairing in PAIRINGS)
    own = plain[plain["model"] == baseline]
    if own.empty:
        raise DefarError(f"nothing to tell: the table has no {baseline!r} in the pairing 'class'")
    last, later = own.loc[own["t"].idxmax()], own[own["t"] > 0]
    end = last["t"]
    said = [
        f"Beside a real image of its class, {baseline} at t = {end:g} is at m = {_reading(last)} of the path on "
        f"average, single images from {last['minimum']:.2f} to {last['maximum']:.2f}. "
        f"The interval lies below t at {int((later['high'] < later['t']).sum())} of {len(later)} times after the start."
    ]
    exact = plain[(plain["model"] == reference) & (plain["t"] == end)]
    perfect = "m_t < t holds for a perfect model in this pairing too, as its sample is not the image it is laid beside"
    if exact.empty:
        said.append(f"{perfect[0].upper()}{perfect[1:]}.")
    else:
        beside = plain[plain["model"].isin(others) & (plain["t"] == end)]
        more = "".join(f", {row['model']} at {_reading(row)}" for _, row in beside.iterrows())
        said.append(
            f"The {reference}, an exact field without defect, is at {_reading(exact.iloc[0])}{more}: {perfect}."
        )
    moved = differences[(differences["pairing"] == "class") & (differences["t"] == end)]
    told = [_told(row, baseline) for row in moved[~moved["model"].isin([reference, *others])].itertuples()]
    if told:
        said.append(f"On the same noise and images, at t = {end:g}: {'; '.join(told)}.")
    ends = inverted[inverted["t"] == inverted["t"].max()]
    if not ends.empty:
        read = ", ".join(f"{row['model']} {_reading(row)}" for _, row in ends.iterrows())
        perfect = f"at t = {end:g}, where a perfect model with fine steps reads 1"
        said.append(f"Beside the noise that each model itself makes of the image, {perfect}: {read}.")
    said.append(
        f"Brackets are 95 % bootstrap intervals over {int(own['n'].iloc[0])} images. A larger m_t is not a better "
        "image: no quality metric is measured here."
    )
    return "\n".join(said)


def _reading(row) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _told(row, baseline: str) -> str:
    amount = f"{row.value:+.4f} [{row.low:+.4f}, {row.high:+.4f}]"
    if row.low <= 0 <= row.high:
        return f"{row.model} cannot be told from {baseline} ({amount})"
    return f"{row.model} is {'ahead of' if row.value > 0 else 'behind'} {baseline} ({amount})"


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of a and b (N, D): (N,)."""
    return (a * b).sum(dim=1)


def _images(slowed: Slowed, times: np.ndarray) -> int:
    """How many images all arrays share."""
    if not slowed:
        raise DefarError("no slowed times were given")
    shape = (len(times), next(iter(slowed.values())).shape[-1])
    for (model, pairing), own in slowed.items():
        if own.shape != shape:
            raise DefarError(f"{model}, {pairing}: slowed times {own.shape}; expected {shape}, times and images")
    return shape[1]
