"""Which statements of the paper hold under every reading of PFR and FEL (Eqs. 12-14), and for which fields.

Each statement becomes one number for each setting, positive where it holds, with a 95 % bootstrap interval over images
(paired: all curves of a replicate are of the same images). Its verdict: "holds" where the interval is above 0, "does
not hold" where it is below, else "undecided". The least of several numbers lies below 0 by noise alone; so the upper
end is the least of the single numbers' upper ends: a statement fails only where one time by itself contradicts it.
EARLY and HALF are the times that the paper's text speaks of.

1 prediction below target   1 - PFR(prediction) / PFR(target), the least over grid times t < EARLY
2 bias falls                log of PFR(bias) over its next grid time's, the least over all steps
3 bias crosses target       the lesser of log PFR(bias)/PFR(target) at the first time and its negative at the last
4 gain positive             the least FEL gain in percent over grid times t < EARLY
5 gain vanishes             NEAR - |gain at HALF| / the largest |gain| at t < EARLY
6 DEFAR above SiT           PFR(prediction) of DEFAR / SiT's - 1, the least over grid times t < EARLY
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from ..errors import DefarError
from .frequency import DC, ESTIMATORS
from .radial import EDGE
from .sensitivity_sweep import BIAS_NORMS, FEL_CUTOFFS, MASK_NORMS, SHARES
from .statistics import first_crossing, resampling_weights, weights_mean

EARLY, HALF, NEAR = 0.25, 0.5, 0.2
CUTOFFS = (0.10, 0.15, 0.1875, 0.2, 0.21875, 0.25, 0.30)  # cycles per pixel; 6/32 and 7/32 among them
CHANNELS = ("joint", "each")
PFR_STATEMENTS = ("prediction below target", "bias falls", "bias crosses target")
FEL_STATEMENTS = ("gain positive", "gain vanishes")
BETWEEN = "DEFAR above SiT"
STATEMENTS = (*PFR_STATEMENTS, *FEL_STATEMENTS, BETWEEN)
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
READINGS = ["cutoff", "dc", "channels", "estimator", "low_share", "high_share", "mask_norm", "bias_norm"]
COLUMNS = ["statement", "model", *READINGS, "value", "low", "high", "verdict", "where", "where_low", "where_high", "n"]
VERDICTS = ["statement", "model", "settings", "holds", "does_not_hold", "undecided", "share_holds", "by_default"]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reading:
    """One reading of PFR. channels: energies of all channels together (joint) or a ratio for each, averaged (each)."""

    cutoff: float = 0.2
    dc: str = "without"
    channels: str = "joint"
    estimator: str = "mean_of_ratios"


PFR_READINGS = tuple(Reading(*parts) for parts in product(CUTOFFS, DC, CHANNELS, ESTIMATORS))


def ratio_curves(spectra: np.ndarray, radii: np.ndarray, reading: Reading, weights: np.ndarray) -> np.ndarray:
    """PFR over t of each replicate, (W, T), from spectra (N, T, C, R) or, of the bias, (N, T, J, C, R).

    weights (W, N), rows that sum to 1. The bias is averaged over its J ends as measures.frequency.PFR does.
    """
    pairs = spectra if spectra.ndim == 5 else spectra[:, :, None]
    low_bins = radii <= reading.cutoff + EDGE
    high = pairs[..., ~low_bins].sum(-1)
    low = pairs[..., low_bins if reading.dc == "with" else low_bins & (radii > 0)].sum(-1)
    if reading.channels == "joint":
        low, high = low.sum(-1, keepdims=True), high.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        if reading.estimator == "mean_of_ratios":
            return weights_mean(weights, (low / high).mean(axis=(2, 3)))
        return (weights_mean(weights, low.sum(2)) / weights_mean(weights, high.sum(2))).mean(-1)


def evaluate(spectra: Mapping[str, Arrays], emphases: Mapping[str, Arrays], baseline: str, method: str) -> pd.DataFrame:
    """COLUMNS: every statement for every model under every setting; the last only for `method` against `baseline`.

    spectra, emphases: arrays of Spectra and Emphases of each model, on the same images, noise and grid.
    where: the time at which the bias's PFR first falls below the target's, with its interval. Raises DefarError where
    grids differ.
    """
    count = _images(spectra, emphases)
    weights = np.concatenate([np.full((1, count), 1 / count), resampling_weights(count)])  # row 0: the sample itself
    rows = []
    for reading in PFR_READINGS:
        cells = {"cutoff": reading.cutoff, "dc": reading.dc, "channels": reading.channels}
        cells["estimator"] = reading.estimator
        predictions = {}
        for model, arrays in spectra.items():
            curves = {
                name: ratio_curves(arrays[name], arrays["radii"], reading, weights)
                for name in ("prediction", "target", "bias")
            }
            predictions[model] = curves["prediction"]
            for statement, margins, crossing in _pfr_margins(curves, arrays["t"]):
                rows.append({"statement": statement, "model": model, **cells, **_judged(margins, crossing)})
        if {baseline, method} <= set(predictions):
            early = spectra[baseline]["t"] < EARLY
            margins = (predictions[method] / predictions[baseline] - 1)[:, early]
            rows.append({"statement": BETWEEN, "model": f"{method} against {baseline}", **cells, **_judged(margins)})
    for model, arrays in emphases.items():
        rows += [{"model": model, **row} for row in _fel_rows(arrays, weights)]
    table = pd.DataFrame(rows).reindex(columns=[c for c in COLUMNS if c != "n"]).assign(n=count)
    order = {name: place for place, name in enumerate(STATEMENTS)}
    return table.sort_values("statement", key=lambda s: s.map(order), kind="stable", ignore_index=True)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """VERDICTS: in how many settings each statement holds for each model, and what the default settings say."""
    rows = []
    for (statement, model), own in table.groupby(["statement", "model"], sort=False):
        counts = own["verdict"].value_counts()
        held, failed, left = (int(counts.get(name, 0)) for name in (HOLDS, FAILS, OPEN))
        default = own[is_default(own)]["verdict"]
        said = default.iloc[0] if len(default) else ""
        rows.append((statement, model, len(own), held, failed, left, held / len(own), said))
    return pd.DataFrame(rows, columns=VERDICTS)


def is_default(table: pd.DataFrame) -> pd.Series:
    """Rows of the project's default readings (reproduce/assumptions.md); cells that do not apply are empty."""
    default = {"cutoff": 0.2, "dc": "without", "channels": "joint", "estimator": "mean_of_ratios", "low_share": 0.20,
               "high_share": 0.25, "mask_norm": "l2", "bias_norm": "l2"}  # fmt: skip
    fits = pd.Series(True, index=table.index)
    for column, value in default.items():
        cell = table[column]
        same = np.isclose(cell.astype(float), value) if isinstance(value, float) else cell == value
        fits &= same | cell.isna() | (cell.astype(object) == "")
    return fits


def _pfr_margins(curves: Arrays, t: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    early, bias = t < EARLY, curves["bias"]
    start, times = curves["target"][:, : bias.shape[1]], t[: bias.shape[1]]
    gap = np.log(bias) - np.log(start)
    yield PFR_STATEMENTS[0], (1 - curves["prediction"] / curves["target"])[:, early], None
    yield PFR_STATEMENTS[1], -np.diff(np.log(bias), axis=1), None
    from_above = np.where(gap[:, 0] > 0, first_crossing(times, bias, start), np.nan)
    yield PFR_STATEMENTS[2], np.stack([gap[:, 0], -gap[:, -1]], axis=1), from_above


def _fel_rows(arrays: Arrays, weights: np.ndarray) -> Iterator[dict]:
    fel, t = arrays["fel"], arrays["t"]
    half = int(np.abs(t - HALF).argmin())
    settings = product(*(enumerate(part) for part in (FEL_CUTOFFS, SHARES, MASK_NORMS, BIAS_NORMS)))
    for (i, cutoff), (j, (low, high)), (k, mask), (n, bias) in settings:
        raw, reweighted = fel[:, :, i, j, k, 0], fel[:, :, i, j, k, 1 + n]
        gain = weights_mean(weights, 100 * (reweighted - raw) / raw)
        early = gain[:, t < EARLY]
        cells = {"cutoff": cutoff, "low_share": low, "high_share": high, "mask_norm": mask, "bias_norm": bias}
        yield {"statement": FEL_STATEMENTS[0], **cells, **_judged(early)}
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.abs(gain[:, half]) / np.abs(early).max(axis=1)
        yield {"statement": FEL_STATEMENTS[1], **cells, **_judged(NEAR - left[:, None])}


def _judged(margins: np.ndarray, crossing: np.ndarray | None = None) -> dict:
    """Value (replicate 0), interval and verdict of the least of K margins (W, K); where the curves cross, if asked."""
    least = margins.min(axis=1)
    low, high = np.percentile(least[1:], 2.5), np.percentile(margins[1:], 97.5, axis=0).min()
    found = {"value": least[0], "low": low, "high": high}
    found["verdict"] = HOLDS if low > 0 else FAILS if high < 0 else OPEN
    if crossing is not None and np.isfinite(crossing[0]):
        ends = np.nanpercentile(crossing[1:], [2.5, 97.5])
        found |= {"where": crossing[0], "where_low": ends[0], "where_high": ends[1]}
    return found


def _images(spectra: Mapping[str, Arrays], emphases: Mapping[str, Arrays]) -> int:
    """How many images all arrays share, after a look at their grids."""
    if not spectra or set(spectra) != set(emphases):
        raise DefarError(f"spectra of {', '.join(spectra) or 'nothing'} and emphases of {', '.join(emphases)}")
    first = next(iter(spectra.values()))
    for model, arrays in spectra.items():
        if arrays["target"].shape != first["target"].shape or not np.array_equal(arrays["t"], first["t"]):
            raise DefarError(f"{model} was measured on other images or times than {next(iter(spectra))}")
    return len(first["target"])
