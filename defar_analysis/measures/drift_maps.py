"""Drift along real sampling, over time and frequency: three kinds of it, which are not the same thing.

* "one_step": the exposure bias of the sampler's own steps (Eqs. 6-7), from the true state x_t0 of a pair,
  delta = v(x_hat, t1) - v(x_t1, t1), beside v(x_t1, t1). An exact field has one, too.
* "marginal": sampled states against true ones at the same time. Their law should be the same; value is the energy of
  sampled over that of true states, 1 without drift, and says nothing of single images.
* "solver": the state of few steps minus that of a fine solution from the same noise: what steps alone do, whatever the
  field is worth.

Each has a magnitude over t, a map over t and spatial frequency, and a cosine with the direction of the flow: above 0,
the error runs ahead of it, below 0, it lags behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..core.interpolants import Interpolant, Linear
from ..core.rollout import Draw, VelocityModel, rollout
from ..core.samplers import Euler, Heun, sample
from ..errors import DefarError
from .spectral import radial_frequency
from .statistics import mean_interval, ratio_interval, resampling_weights, weights_mean

KINDS = ("one_step", "marginal", "solver")
RINGS = 12
MAPS = ["model", "kind", "nfe", "t", "frequency", "value", "low", "high", "n"]
CURVES = ["model", "kind", "nfe", "t", "magnitude", "magnitude_low", "magnitude_high", "cosine", "cosine_low",
          "cosine_high", "n"]  # fmt: skip
VERSION = 1  # raise it when the numbers change: kept results are then measured again
WORDS = {
    "one_step": "Bias of one step that ends at t = {t:g}, as a share of the velocity there",
    "marginal": "Distance of the spectrum of sampled states from the true states' at t = {t:g}",
    "solver": "Distance from a fine solution's state at t = {t:g} from the same noise, as a share of it",
}
_COSINE = ["cosine", "cosine_low", "cosine_high"]


@dataclass(frozen=True)
class Trajectory:
    """One model by one number of steps. t (S,), times of the grid after its start.

    error, scale: kind -> energies by ring (S, N, RINGS), whose ratio is the map's; of "marginal" they are those of
    sampled and of true states. cosine: kind -> mean and ends of its 95 % interval, (S, 3).
    """

    t: np.ndarray
    error: Mapping[str, np.ndarray]
    scale: Mapping[str, np.ndarray]
    cosine: Mapping[str, np.ndarray]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        parts = {"error": self.error, "scale": self.scale, "cosine": self.cosine}
        return {"t": self.t} | {f"{name}_{kind}": part[kind] for name, part in parts.items() for kind in KINDS}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Trajectory:
        """The same from :attr:`arrays`."""
        return cls(arrays["t"], *({k: arrays[f"{name}_{k}"] for k in KINDS} for name in ("error", "scale", "cosine")))


def fine_states(
    model: VelocityModel, noise: Tensor, steps: int, *, interpolant: Interpolant | None = None,
    labels: Tensor | None = None, chunk: int = 64,
) -> Tensor:  # fmt: skip
    """The states of `steps` of Heun from the noise, (steps + 1, N, C, H, W), on the CPU."""
    solver = Heun(steps)
    return sample(model, noise, solver, interpolant=interpolant, labels=labels, chunk=chunk, save="all").states


def trajectory(
    model: VelocityModel, noise: Tensor, data: Tensor, steps: int, fine: Tensor, *, marks: int = 10,
    mean: Tensor | None = None, interpolant: Interpolant | None = None, labels: Tensor | None = None, chunk: int = 64,
) -> Trajectory:  # fmt: skip
    """All three kinds of drift of Euler's `steps`, looked at after about `marks` of them and after the last.

    noise, data (N, C, H, W), the pairs whose true states are taken; fine, of :func:`fine_states`; mean (C, H, W), of
    the data's law, along which the mean of all states flows: that of these few images would share their deviations.
    Raises DefarError where the fine grid does not hold the times of the coarse one.
    """
    path, intervals = interpolant or Linear(), len(fine) - 1
    if intervals % steps:
        raise DefarError(f"{steps} steps do not divide the fine solution's {intervals}; choose a divisor")
    weights = resampling_weights(len(noise))
    at = sorted({round(k * steps / marks) for k in range(1, marks + 1)} - {0})
    way = data.mean(0) if mean is None else mean
    drawn = sample(model, noise, Euler(steps), interpolant=path, labels=labels, chunk=chunk, save="all")
    error, scale, cosine = ({kind: [] for kind in KINDS} for _ in range(3))
    for k in at:
        t0, t1 = (torch.full((len(noise),), float(drawn.times[i]), device=noise.device) for i in (k - 1, k))
        bias, ideal = _one_step(model, path, noise, data, labels, t0, t1, chunk)
        true, state = path.at(noise, data, t1), drawn.states[k].to(noise)
        place = k * intervals // steps
        exact, before = (fine[place - back].to(noise) for back in (0, 1))
        parts = {
            "one_step": (bias, ideal, _cosines(bias, ideal, weights)),
            "marginal": (state, true.x, _mean_cosine(state - true.x, way, weights)),
            "solver": (state - exact, exact, _cosines(state - exact, exact - before, weights)),
        }
        for kind, (own, beside, direction) in parts.items():
            error[kind].append(ring_energies(own))
            scale[kind].append(ring_energies(beside))
            cosine[kind].append(direction)
    energies = ({kind: np.stack(rows) for kind, rows in part.items()} for part in (error, scale))
    return Trajectory(
        drawn.times.double().numpy()[at].round(6), *energies, {kind: np.stack(rows) for kind, rows in cosine.items()}
    )


def ring_energies(x: Tensor) -> np.ndarray:
    """Energies sum |F|^2 by ring of spatial frequency, all channels together, (N, RINGS) float64; x (N, C, H, W)."""
    power = torch.fft.fft2(x.double(), norm="ortho").abs().square().sum(dim=1).flatten(1).cpu().numpy()
    return power @ _members(*x.shape[-2:])


@cache
def _members(height: int, width: int) -> np.ndarray:
    """Which ring each frequency is in, (H W, RINGS) of 0 and 1: the zero frequency, then rings of equal width."""
    radius = radial_frequency(height, width).double().flatten().numpy()
    rings = np.ceil(radius / radius.max() * (RINGS - 1) * (1 - 1e-9)).astype(int)
    return np.eye(RINGS)[rings]


def ring_frequencies(height: int, width: int) -> np.ndarray:
    """The middle of each ring in cycles per pixel, (RINGS,); 0 for the first."""
    top = float(radial_frequency(height, width).max())
    return np.concatenate([[0.0], (np.arange(RINGS - 1) + 0.5) * top / (RINGS - 1)])


def tables(found: Mapping[tuple[str, int], Trajectory], size: tuple[int, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """MAPS and CURVES of (model, steps) -> trajectory, for images of `size` (H, W), with 95 % bootstrap intervals.

    Map: relative amplitude sqrt(sum |F error|^2 / sum |F scale|^2) of "one_step" and "solver"; of "marginal" the
    ratio of energies. Magnitude: the same amplitude over all frequencies; of "marginal" the distance of the spectra,
    sqrt(sum_r (sqrt(E_r) - sqrt(T_r))^2 / sum_r T_r) over rings, E_r the sampled and T_r the true states' energy.
    """
    frequencies, maps, curves = ring_frequencies(*size), [], []
    for (model, nfe), own in found.items():
        for kind in KINDS:
            error, scale = (part[kind].swapaxes(0, 1) for part in (own.error, own.scale))  # (N, S, R)
            weights, n = resampling_weights(len(error)), len(error)
            value = np.stack(ratio_interval(error, scale, weights))
            if kind == "marginal":
                amount = _distance_interval(error, scale, weights)
            else:
                value = np.sqrt(value)
                amount = np.sqrt(np.stack(ratio_interval(error.sum(-1), scale.sum(-1), weights)))
            place = {"model": model, "kind": kind, "nfe": nfe}
            grid = {"t": np.repeat(own.t, RINGS), "frequency": np.tile(frequencies, len(own.t))}
            maps.append(pd.DataFrame({**place, **grid, **_named(["value", "low", "high"], value), "n": n}))
            magnitude = _named(["magnitude", "magnitude_low", "magnitude_high"], amount)
            curves.append(
                pd.DataFrame({**place, "t": own.t, **magnitude, **_named(_COSINE, own.cosine[kind].T), "n": n})
            )
    return pd.concat(maps, ignore_index=True)[MAPS], pd.concat(curves, ignore_index=True)[CURVES]


def _named(names: list[str], values: np.ndarray) -> dict[str, np.ndarray]:
    return {name: part.ravel() for name, part in zip(names, values, strict=True)}


def spectral_distance(sampled: np.ndarray, true: np.ndarray) -> np.ndarray:
    """sqrt(sum_r (sqrt(E_r) - sqrt(T_r))^2 / sum_r T_r) of energies by ring, (..., RINGS)."""
    return np.sqrt(((np.sqrt(sampled) - np.sqrt(true)) ** 2).sum(-1) / true.sum(-1))


def _distance_interval(sampled: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of (N, S, R) energies: value and ends of the interval, (3, S)."""
    replicates = spectral_distance(weights_mean(weights, sampled), weights_mean(weights, true))
    return np.stack([spectral_distance(sampled.mean(0), true.mean(0)), *np.percentile(replicates, [2.5, 97.5], axis=0)])


@torch.no_grad()
def _one_step(model, path, noise, data, labels, t0, t1, chunk) -> tuple[Tensor, Tensor]:
    """Bias and ideal velocity at t1 of one Euler step from each pair's own state at t0."""
    parts = []
    for start in range(0, len(noise), chunk):
        own = slice(start, start + chunk)
        given = None if labels is None else labels[own]
        walked = rollout(model, path, Draw(data[own], noise[own], given, torch.stack([t0[own], t1[own]])))
        parts.append((walked.bias, walked.v_ideal))
    bias, ideal = (torch.cat(part) for part in zip(*parts, strict=True))
    return bias, ideal


def _cosines(error: Tensor, direction: Tensor, weights: np.ndarray) -> np.ndarray:
    """The mean over images of cos(error, direction), and its interval, (3,)."""
    a, b = error.flatten(1).double(), direction.flatten(1).double()
    each = torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-30).cpu().numpy()
    return np.stack(mean_interval(each, weights))


def _mean_cosine(difference: Tensor, direction: Tensor, weights: np.ndarray) -> np.ndarray:
    """cos(mean difference over images, direction), and its interval, (3,): laws are compared, not single images."""
    each, way = difference.flatten(1).double().cpu().numpy(), direction.flatten().double().cpu().numpy()

    def cosine(mean: np.ndarray) -> np.ndarray:
        return mean @ way / np.maximum(np.linalg.norm(mean, axis=-1) * np.linalg.norm(way), 1e-300)

    ends = np.percentile(cosine(weights_mean(weights, each)), [2.5, 97.5])
    return np.array([cosine(each.mean(0)), *ends])


def sentences(curves: pd.DataFrame, baseline: str, reference: str = "") -> str:
    """Sentences on CURVES: how large each kind of drift is, how it changes with steps, and what an exact field shows.

    Every number is the table's. Raises DefarError without the baseline.
    """
    own = curves[curves["model"] == baseline]
    if own.empty:
        raise DefarError(f"nothing to tell: the curves have no {baseline!r}")
    few, many = own["nfe"].min(), own["nfe"].max()
    times = (set(rows["t"]) for _, rows in own.groupby("nfe"))
    shared, said = sorted(set.intersection(*times)), []
    for kind, words in WORDS.items():
        # Euler never asks for the velocity at its last time, so a bias there has no effect
        before = shared[-2] if kind == "one_step" and len(shared) > 1 else shared[-1]
        rows = curves[(curves["kind"] == kind) & (curves["t"] == before)].set_index(["model", "nfe"])
        parts = []
        for model in dict.fromkeys(curves["model"]):
            at = [f"{said_magnitude(rows.loc[model, nfe])} by {nfe} steps" for nfe in dict.fromkeys((few, many))]
            parts.append(f"{model}{' (exact, without defect)' * (model == reference)} {' and '.join(at)}")
        said.append(
            f"{words.format(t=before)}: {'; '.join(parts)}. {_direction(rows.loc[baseline, many], baseline, many)}"
        )
    said.append(
        f"Brackets are 95 % bootstrap intervals over {int(own['n'].iloc[0])} images. What the exact field shows, too, "
        "is no fault of training."
    )
    return "\n".join(said)


def said_magnitude(row) -> str:
    return f"{row['magnitude']:.3f} [{row['magnitude_low']:.3f}, {row['magnitude_high']:.3f}]"


def _direction(row, baseline: str, nfe: int) -> str:
    amount = f"{row['cosine']:+.2f} [{row['cosine_low']:+.2f}, {row['cosine_high']:+.2f}]"
    if row["cosine_low"] <= 0 <= row["cosine_high"]:
        return f"By {nfe} steps {baseline}'s points neither ahead nor back along the flow (cosine {amount})."
    place = "ahead of" if row["cosine"] > 0 else "behind"
    return f"By {nfe} steps {baseline}'s is {place} the flow (cosine {amount})."
