"""Drift along real sampling: how much of each frequency band sampled states hold, against true noisy images.

At time t a sampled state should be distributed as x_t = alpha x_* + sigma eps. So in each band

    drift(t) = sum_i |F sampled_t,i|^2 / sum_i |F x_t,i|^2          over images i and the band's frequencies,

is 1 for a sampler without error. A ratio of 1 is necessary, not sufficient: it sees energy and no content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..core.interpolants import Interpolant, Linear
from ..errors import DefarError
from .spectral import CUTOFF, band_energies
from .statistics import ratio_interval, resampling_weights

BANDS = ("dc", "low", "high")  # the last axis of all energies here; low leaves the DC bin out
COLUMNS = ["model", "band", "t", "value", "low", "high", "n"]
CHANGES = ["model", "band", "t", "value", "low", "high", "percent", "percent_low", "percent_high", "n"]
VERSION = 1  # raise it when the numbers change: kept results are then measured again

Energies = Mapping[str, np.ndarray]  # model -> (S, N, 3)


def state_energies(states: Tensor, cutoff: float = CUTOFF) -> np.ndarray:
    """Energies by BANDS of states (S, N, C, H, W), all channels together: (S, N, 3) float64."""
    return np.stack([torch.stack(band_energies(state, cutoff), dim=1).double().cpu().numpy() for state in states])


def true_energies(
    noise: Tensor, data: Tensor, times: Tensor, cutoff: float = CUTOFF, interpolant: Interpolant | None = None
) -> np.ndarray:
    """Energies by BANDS of the true states x_t of pairs (N, C, H, W) at `times` (S,): (S, N, 3) float64."""
    path = interpolant or Linear()
    at = (path.at(noise, data, t.to(noise).expand(len(noise))).x for t in times)
    return np.concatenate([state_energies(x[None], cutoff) for x in at])


def drift(energies: Energies, true: np.ndarray, times: np.ndarray) -> pd.DataFrame:
    """COLUMNS: each model's band energies over the true ones, at each of `times` (S,).

    value is the ratio of means over images; low and high end its 95 % bootstrap interval over images, which take their
    true partner along. Where sampled and true states share noise, both are the same at t = 0 and the ratio is exactly
    1. Raises DefarError for energies of other shapes than `true`'s.
    """
    weights = resampling_weights(true.shape[1])
    parts = []
    for name, own in _checked(energies, true).items():
        if len(times) != len(own):
            raise DefarError(f"{name}: energies at {len(own)} states, but {len(times)} times")
        value, low, high = ratio_interval(own.swapaxes(0, 1), true.swapaxes(0, 1), weights)
        for k, band in enumerate(BANDS):
            part = {"model": name, "band": band, "t": times, "value": value[:, k], "low": low[:, k], "high": high[:, k]}
            parts.append(pd.DataFrame(part | {"n": true.shape[1]}))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def changes(energies: Energies, true: np.ndarray, times: np.ndarray, baseline: str) -> pd.DataFrame:
    """CHANGES: the drift at the last time, and beside it the change of energy against `baseline` in percent.

    The change is paired by image: with the same noise and labels in both, what images differ in cancels, the true
    energies altogether; percent_low and percent_high end its 95 % bootstrap interval.
    """
    weights = resampling_weights(true.shape[1])
    if baseline not in energies:
        raise DefarError(f"no energies of the baseline {baseline!r}; there are {', '.join(energies)}")
    end = drift({name: own[-1:] for name, own in _checked(energies, true).items()}, true[-1:], times[-1:])
    percent = []
    for own in energies.values():
        found = np.stack(ratio_interval(own[-1], energies[baseline][-1], weights), axis=1)
        percent.append(100 * (found - 1))
    end[["percent", "percent_low", "percent_high"]] = np.concatenate(percent)
    return end[CHANGES]


def sentences(table: pd.DataFrame, baseline: str, reference: str = "", others: Sequence[str] = ()) -> str:
    """Sentences on the rows of :func:`changes`: how far the baseline is off, and who moves which band by how much.

    reference: an exact field among the models, if there is one: what steps and the choice of images do by themselves;
    others: more of them.

    Every number is the table's. They tell of energies, not of quality.
    """
    own = table[table["model"] == baseline].set_index("band")
    if own.empty or set(table["model"]) == {baseline}:
        raise DefarError(f"nothing to tell: the table needs {baseline!r} and one more model")
    said = [f"{baseline}, uncorrected, ends with {_ratios(own)}."]
    exact = table[table["model"] == reference].set_index("band")
    if not exact.empty:
        said.append(f"The {reference}, an exact field without defect, ends with {_ratios(exact)}.")
    more = table[table["model"].isin(others)]
    if not more.empty:
        parts = (f"{name} {_ratios(rows.set_index('band'))}" for name, rows in more.groupby("model", sort=False))
        said.append(f"The exact fields of the training images: {'; '.join(parts)}.")
    for name, rows in table[~table["model"].isin([baseline, reference, *others])].groupby("model", sort=False):
        parts = [_moved(row, row.band) for row in rows[rows["band"] != "dc"].itertuples()]
        said.append(f"{name}: {'; '.join(parts)}.")
    n = int(table["n"].iloc[0])
    said.append(
        f"Brackets are 95 % bootstrap intervals over {n} images; changes are against {baseline} from the same noise "
        "and labels. More or less energy is not better or worse images: no quality metric is measured here."
    )
    return "\n".join(said)


def _ratios(rows: pd.DataFrame) -> str:
    return f"{_ratio(rows.loc['low'])} of the low band's true energy and {_ratio(rows.loc['high'])} of the high band's"


def _ratio(row) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _moved(row, band: str) -> str:
    amount = f"{row.percent:+.1f} % [{row.percent_low:+.1f}, {row.percent_high:+.1f}]"
    if row.percent_low <= 0 <= row.percent_high:
        return f"{band} band not moved detectably ({amount})"
    return f"{band} band {'raised' if row.percent > 0 else 'lowered'}, {amount}"


def _checked(energies: Energies, true: np.ndarray) -> Energies:
    for name, own in energies.items():
        if own.shape != true.shape:
            raise DefarError(f"{name}: energies {own.shape} beside true energies {true.shape}; shapes must agree")
    return energies
