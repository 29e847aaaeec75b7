"""How DEFAR's terms act over t0: their gradients, FC's weight (Eq. 15), the loss and the exposure bias (Eqs. 2, 7)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..core.interpolants import Interpolant, Linear
from ..core.objectives.weights import compensation_weight
from ..core.rollout import Draw, VelocityModel, rollout
from ..errors import DefarError
from .gradients import cosine, expected_cosine, interval, norm, other_cosine
from .spectral import band_energies, band_masks
from .statistics import mean_interval, resampling_weights

VERSION = 1  # raise it when the numbers change: kept results are then measured again
COLUMNS = ["model", "quantity", "first", "second", "estimator", "t", "t_low", "t_high", "value", "low", "high", "n"]
CURVES = ["model", "quantity", "t", "t_low", "t_high", "value", "low", "high", "n"]
WEIGHTS = ["model", "reading", "t", "t_low", "t_high", "mean", "p5", "p95", "low_share", "low", "high",
           "white_share", "n"]  # fmt: skip
CHANGES = ["model", "quantity", "t", "t_low", "t_high", "value", "low", "high", "n"]

READINGS = {  # of Eq. 15: the normalizer and the map of the bias
    "l2": ("l2", "pixel"), "l1": ("l1", "pixel"), "mean": ("mean", "pixel"), "simpletuner": ("l1", "signed"),
}  # fmt: skip
BETA1 = 10.0  # of ADR in the total loss (Eq. 8)
PAIRS = (
    ("fm", "fc"), ("fm", "fc_strong"), ("fm", "adr"), ("fm", "adr_stopped"), ("fc", "adr"), ("fc", "adr_stopped"),
    ("adr", "adr_stopped"), ("fm", "defar"), ("fm", "defar_stopped"),
)  # fmt: skip


def bins(count: int) -> np.ndarray:
    """Edges (count + 1,) of equal bins of t0 that partition [0, 1)."""
    if count < 1:
        raise DefarError(f"the times need at least one bin; got {count}")
    return np.arange(count + 1) / count


def times_in(low: float, high: float, uniform: Tensor, interpolant: Interpolant | None = None) -> Tensor:
    """(t0, t1), (2, B), from uniform (2, B): t0 ~ U[low, high), t1 ~ U[t0, 1) as in training (Algorithm 1).

    Shares of the interpolant's training interval. The same uniforms serve every bin.
    """
    if not 0 <= low < high <= 1:
        raise DefarError(f"a bin of t0 lies in [0, 1], low before high; got [{low}, {high})")
    t0 = low + (high - low) * uniform[0]
    start, end = (interpolant or Linear()).interval("train")
    return start + (end - start) * torch.stack([t0, t0 + (1 - t0) * uniform[1]])


@torch.no_grad()
def forward_statistics(model: VelocityModel, interpolant: Interpolant, draw: Draw) -> dict[str, np.ndarray]:
    """What three forwards say of each pair of a draw.

    fm_loss (B,), mean squared error at t0 (Eq. 2); bias_rms (B,), root mean square of delta (Eq. 7), both in the data's
    units; for each of READINGS, weight_<reading>, the map w (Eq. 15), (B, 1 or C, H, W).
    """
    r = rollout(model, interpolant, draw)
    found = {
        "fm_loss": (r.v0 - r.target0).flatten(1).square().mean(1),
        "bias_rms": r.bias.flatten(1).square().mean(1).sqrt(),
    }
    for name, (size, kind) in READINGS.items():
        found[f"weight_{name}"] = compensation_weight(r.bias, 1.0, size, kind)
    return {name: part.cpu().numpy() for name, part in found.items()}


def low_share(weight: np.ndarray) -> np.ndarray:
    """Share of w's energy, mean left out, that is in the low band (Eq. 11): (B,) for (B, C, H, W); NaN for constants.

    A white map has the share of the low band's bins.
    """
    _, low, high = (part.numpy() for part in band_energies(torch.from_numpy(weight).double() - 1))
    with np.errstate(invalid="ignore"):
        return np.where(low + high > 0, low / (low + high), np.nan)


def gradient_rows(model: str, gram: np.ndarray, names: tuple[str, ...], edges: np.ndarray) -> pd.DataFrame:
    """COLUMNS of one model: gram (bins, K, M, K, M) of the terms `names`, in the bins of `edges`.

    quantity "cosine" of two terms, "norm" of one, "norm_over_fm" of its share in the loss (beta1 ADR, beta2 FC).
    Intervals: 95 % jackknife with Student's t over M batches. n counts batches. An "expected" cosine is NaN where a
    term does not agree with itself on other batches: its interval there begins at 0 or below.
    """
    of = {name: row for name, row in zip(names, np.eye(len(names)), strict=True)}
    of["defar"], of["defar_stopped"] = BETA1 * of["adr"] + of["fc"], BETA1 * of["adr_stopped"] + of["fc"]
    rows = []
    for low, high, own in zip(edges[:-1], edges[1:], gram, strict=True):
        found = [("cosine", a, b, "same batch", interval(cosine, own, of[a], of[b])) for a, b in PAIRS]
        found += [("cosine", a, b, "other batch", interval(other_cosine, own, of[a], of[b])) for a, b in PAIRS]
        floors = {a: interval(other_cosine, own, of[a], of[a]) for a in of}
        found += [("cosine", a, a, "other batch", floor) for a, floor in floors.items()]
        lost = (float("nan"),) * 3
        for a, b in PAIRS:
            seen = floors[a][1] > 0 and floors[b][1] > 0
            value = interval(expected_cosine, own, of[a], of[b]) if seen else lost
            found.append(("cosine", a, b, "expected", value))
        found += [("norm", a, "", "same batch", interval(norm, own, of[a])) for a in names]
        for a in names:
            scale = BETA1 if a.startswith("adr") else 1.0
            found.append(("norm_over_fm", a, "fm", "same batch", interval(_ratio, own, scale * of[a], of["fm"])))
        for *what, (value, least, most) in found:
            if what[0] == "cosine":
                least, most = np.clip([least, most], -1, 1)
            rows.append((model, *what, (low + high) / 2, low, high, value, least, most, own.shape[1]))
    return pd.DataFrame(rows, columns=COLUMNS)


def _ratio(gram: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    return norm(gram, first) / norm(gram, second)


def curves(measured: Mapping[str, Mapping[str, np.ndarray]], edges: np.ndarray) -> pd.DataFrame:
    """CURVES: mean fm_loss and bias_rms of each model over images, arrays (bins, N), with 95 % bootstrap intervals."""
    parts = []
    for model, arrays in measured.items():
        for quantity in ("fm_loss", "bias_rms"):
            values = arrays[quantity].T.astype(float)
            value, low, high = mean_interval(values, resampling_weights(len(values)))
            part = {"model": model, "quantity": quantity, **_edges(edges), "value": value, "low": low, "high": high}
            parts.append(pd.DataFrame(part | {"n": len(values)}))
    return pd.concat(parts, ignore_index=True)[CURVES]


def changes(measured: Mapping[str, Mapping[str, np.ndarray]], edges: np.ndarray, baseline: str) -> pd.DataFrame:
    """CHANGES: every model's mean minus `baseline`'s in percent of the latter, paired by image, noise and times.

    95 % bootstrap over images. Raises DefarError where the baseline is missing.
    """
    if baseline not in measured:
        raise DefarError(f"no baseline {baseline!r}; measured: {', '.join(measured)}")
    parts = []
    for model, arrays in measured.items():
        for quantity in ("fm_loss", "bias_rms") if model != baseline else ():
            ours, theirs = (part[quantity].T.astype(float) for part in (arrays, measured[baseline]))
            weights = np.concatenate([np.full((1, len(ours)), 1 / len(ours)), resampling_weights(len(ours))])
            percent = 100 * ((weights @ ours) / (weights @ theirs) - 1)
            low, high = np.percentile(percent[1:], [2.5, 97.5], axis=0)
            part = {"model": model, "quantity": quantity, **_edges(edges), "value": percent[0], "low": low}
            parts.append(pd.DataFrame(part | {"high": high, "n": len(ours)}))
    return pd.concat(parts, ignore_index=True)[CHANGES] if parts else pd.DataFrame(columns=CHANGES)


def weight_rows(model: str, arrays: Mapping[str, np.ndarray], edges: np.ndarray) -> pd.DataFrame:
    """WEIGHTS of one model: mean, 5 and 95 % of w over pixels and images, and low_share with its 95 % bootstrap.

    arrays: w_mean, w_p5, w_p95 (bins, readings), low_share (bins, readings, N), maps (maps, H, W). white_share: what
    low_share is for a white map of that size.
    """
    parts = []
    low_band, high_band = (int(mask.sum()) for mask in band_masks(*arrays["maps"].shape[-2:], drop_dc=True))
    for k, reading in enumerate(READINGS):
        shares = arrays["low_share"][:, k].T.astype(float)
        value, low, high = mean_interval(shares, resampling_weights(len(shares)))
        part = {"model": model, "reading": reading, **_edges(edges)}
        part |= {"mean": arrays["w_mean"][:, k], "p5": arrays["w_p5"][:, k], "p95": arrays["w_p95"][:, k]}
        part |= {"low_share": value, "low": low, "high": high, "n": len(shares)}
        part["white_share"] = low_band / (low_band + high_band)
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)[WEIGHTS]


def _edges(edges: np.ndarray) -> dict[str, np.ndarray]:
    return {"t": (edges[:-1] + edges[1:]) / 2, "t_low": edges[:-1], "t_high": edges[1:]}
