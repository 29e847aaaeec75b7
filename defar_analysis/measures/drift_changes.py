"""Every model's drift against one of them: paired by image, noise and label, and told in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..errors import DefarError
from .drift_maps import KINDS, Trajectory, said_magnitude, spectral_distance
from .statistics import resampling_weights, weights_mean

COLUMNS = ["model", "kind", "nfe", "t", "percent", "percent_low", "percent_high", "n"]
WORDS = {
    "one_step": "bias of one step that ends at t = {t:g}, as a share of the velocity there,",
    "marginal": "distance of the sampled states' spectrum from the true states' at t = {t:g}",
    "solver": "distance from a fine solution's state at t = {t:g}",
}


def changes(found: Mapping[tuple[str, int], Trajectory], baseline: str) -> pd.DataFrame:
    """COLUMNS: how much larger each kind of drift is than `baseline`'s by as many steps, in percent.

    Of the magnitudes of `drift_maps.tables`: of "one_step" at the last time but one (Euler never asks for a velocity at
    its last), of the others at the end. 95 % bootstrap over images, which take their partner along. Raises DefarError
    where the baseline is missing.
    """
    rows = []
    for (model, nfe), own in found.items():
        if (baseline, nfe) not in found:
            raise DefarError(f"no drift of the baseline {baseline!r} by {nfe} steps")
        if model == baseline:
            continue
        for kind in KINDS:
            place = max(len(own.t) - 2, 0) if kind == "one_step" else len(own.t) - 1
            value, *ends = 100 * (_magnitudes(own, kind, place) / _magnitudes(found[baseline, nfe], kind, place) - 1)
            interval = np.percentile(ends, [2.5, 97.5])
            rows.append((model, kind, nfe, own.t[place], value, *interval, own.error[kind].shape[1]))
    if not rows:
        raise DefarError(f"nothing to compare: {baseline!r} is the only model")
    return pd.DataFrame(rows, columns=COLUMNS)


def _magnitudes(own: Trajectory, kind: str, place: int) -> np.ndarray:
    """The magnitude at one time, of the sample and then of each bootstrap replicate."""
    error, scale = own.error[kind][place], own.scale[kind][place]  # (N, R)
    count = len(error)
    weights = np.concatenate([np.full((1, count), 1 / count), resampling_weights(count)])
    error, scale = weights_mean(weights, error), weights_mean(weights, scale)
    if kind == "marginal":
        return spectral_distance(error, scale)
    return np.sqrt(error.sum(-1) / scale.sum(-1))


def sentences(curves: pd.DataFrame, paired: pd.DataFrame, baseline: str, references: Sequence[str] = ()) -> str:
    """Sentences on CURVES of `drift_maps` and the rows of :func:`changes`: whose drift is less, and at which steps.

    references: exact fields among the models. Every number and every name is the tables'. Raises DefarError without the
    baseline.
    """
    own = curves[curves["model"] == baseline]
    if own.empty or paired.empty:
        raise DefarError(f"nothing to tell: the tables have no {baseline!r} and another model")
    said = []
    for kind, words in WORDS.items():
        rows = paired[paired["kind"] == kind]
        t, nfes = rows["t"].iloc[0], sorted(rows["nfe"].unique())
        at = own[(own["kind"] == kind) & (own["t"] == t)].set_index("nfe")
        ends = [f"{said_magnitude(at.loc[nfe])} by {nfe}" for nfe in dict.fromkeys((nfes[0], nfes[-1]))]
        groups = _groups(rows[~rows["model"].isin(references)])
        said.append(f"{baseline}'s {words.format(t=t)} is {' and '.join(ends)} steps. Against it: {groups}.")
        exact = rows[rows["model"].isin(references) & (rows["nfe"] == nfes[-1])]
        if not exact.empty:
            told = ", ".join(f"{row.model} {_percent(row)}" for row in exact.itertuples())
            said[-1] += f" Exact fields, without defect, by {nfes[-1]} steps: {told}."
    said.append(
        f"Less and more are beyond doubt: 95 % bootstrap intervals, paired over {int(paired['n'].iloc[0])} images. One "
        "training seed; less drift is not better images."
    )
    return "\n".join(said)


def _groups(rows: pd.DataFrame) -> str:
    """Models by their verdict over all numbers of steps, with the changes' extent."""
    groups: dict[str, list[str]] = {}
    for model, own in rows.groupby("model", sort=False):
        less, more = (own["percent_high"] < 0), (own["percent_low"] > 0)
        if less.all() or more.all():
            verdict = f"{'less' if less.all() else 'more'} by every number of steps"
        elif less.any() or more.any():
            parts = [f"{word} by {', '.join(map(str, sorted(own.loc[mask, 'nfe'])))}"
                     for word, mask in (("less", less), ("more", more)) if mask.any()]  # fmt: skip
            verdict = f"{' and '.join(parts)} steps{'' if (less | more).all() else ', else undecided'}"
        else:
            verdict = "undecided"
        low, high = own["percent"].min(), own["percent"].max()
        extent = f"{low:+.0f} %" if f"{low:+.0f}" == f"{high:+.0f}" else f"{low:+.0f} to {high:+.0f} %"
        groups.setdefault(verdict, []).append(f"{model} ({extent})")
    return "; ".join(f"{verdict}: {', '.join(models)}" for verdict, models in groups.items())


def _percent(row) -> str:
    return f"{row.percent:+.0f} % [{row.percent_low:+.0f}, {row.percent_high:+.0f}]"
