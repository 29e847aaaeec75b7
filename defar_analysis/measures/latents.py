"""What the exposure bias of a network of latents looks like once it is decoded, and where latents keep their energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.rollout import Draw, rollout
from ..core.seeding import image_noise
from ..core.tensors import l2_norm
from .base import Arrays, Context
from .maps import correlation
from .radial import radial_energies, radii
from .statistics import mean_interval, resampling_weights

if TYPE_CHECKING:
    from ..core.codecs import Codec

COLUMNS = ["model", "quantity", "t0", "t1", "value", "low", "high", "n"]
SPECTRA = ["space", "t0", "t1", "frequency", "coefficients", "share"]


@torch.no_grad()
def decoded_bias(ctx: Context, pairs: Sequence[tuple[float, float]], shown: int) -> pd.DataFrame:
    """One simulated step t0 -> t1 of every image of `ctx`, decoded by its codec. pairs: shares of the path's interval.

    COLUMNS: decoded_rms, root mean square of decode(x_hat) - decode(x_t1) over pixels and channels in levels of 255,
    and corr_decoded, the correlation over places of the bias's map with that difference, pooled to the same places.
    attrs["arrays"], of the first `shown` images: x_hat, x_true and end uint8 (K, N, H, W, C), the decoded states and
    the end point seen from x_hat; energies (K, R) of the bias over the `radii`, summed over channels and images.
    """
    path, codec = ctx.interpolant, ctx.codec
    begin, end = path.interval("train")
    columns: list[list[np.ndarray]] = [[] for _ in pairs]
    pictures: dict[str, list[list[np.ndarray]]] = {key: [[] for _ in pairs] for key in ("x_hat", "x_true", "end")}
    energies = np.zeros((len(pairs), len(radii(*ctx.batch.data.shape[-2:])[0])))
    for start in range(0, ctx.count, ctx.chunk):
        data = ctx.batch.data[start : start + ctx.chunk].to(ctx.device)
        labels = None if ctx.batch.labels is None else ctx.batch.labels[start : start + ctx.chunk].to(ctx.device)
        noise = image_noise(ctx.seed, range(start, start + len(data)), data.shape[1:]).to(data)
        for k, pair in enumerate(pairs):
            times = torch.stack([torch.full((len(data),), begin + (end - begin) * t, device=data.device) for t in pair])
            step = rollout(ctx.model, path, Draw(data, noise, labels, times))
            states = {
                "x_hat": step.x_hat,
                "x_true": path.at(noise, data, times[1]).x,
                "end": path.endpoint(step.v_hat, step.x_hat, times[1]),
            }
            decoded = {key: codec.decode(state).cpu() for key, state in states.items()}
            change = decoded["x_hat"].double() - decoded["x_true"].double()
            heat = l2_norm(step.bias, 1).cpu()
            pooled = F.adaptive_avg_pool2d(change.square().sum(1, keepdim=True), heat.shape[-2:])[:, 0].sqrt()
            found = torch.stack([change.square().mean((1, 2, 3)).sqrt(), correlation(heat.double(), pooled)], dim=1)
            columns[k].append(found.numpy())
            energies[k] += radial_energies(step.bias).sum(0)
            for key, picture in decoded.items():
                pictures[key][k].append(picture[: max(0, shown - start)].permute(0, 2, 3, 1).numpy())
    rows, weights = [], resampling_weights(ctx.count)
    for pair, chunks in zip(pairs, columns, strict=True):
        value, low, high = mean_interval(np.concatenate(chunks), weights)
        for k, quantity in enumerate(("decoded_rms", "corr_decoded")):
            rows.append((ctx.name, quantity, *pair, value[k], low[k], high[k], ctx.count))
    table = pd.DataFrame(rows, columns=COLUMNS)
    stacked = {key: np.stack([np.concatenate(parts) for parts in lists]) for key, lists in pictures.items()}
    table.attrs["arrays"] = Arrays(stacked, energies=energies)
    return table


def spectra(images: Tensor, codec: Codec, latents: Tensor, bias: np.ndarray, pairs: Sequence) -> pd.DataFrame:
    """Where energy lies, SPECTRA: the share that one coefficient at that frequency has of all energy without the mean.

    images uint8 (N, C, H, W) and `latents` of them, their mean over images taken off; bias (K, R), energies at `pairs`.
    frequency: in cycles per place of its own grid, pixels or latents.
    """
    from ..core.codecs import PixelCodec

    parts = []
    for space, x in (("pixels", PixelCodec().encode(images)), ("latents", latents)):
        parts.append((space, np.nan, np.nan, radial_energies(x - x.mean(0)).sum(0), x.shape[-2:]))
    for pair, energies in zip(pairs, bias, strict=True):
        parts.append(("bias", *pair, energies, latents.shape[-2:]))
    rows = []
    for space, t0, t1, energies, size in parts:
        distances, counts = radii(*size)
        inside = distances > 0
        share = energies / counts / energies[inside].sum()
        rows.append(
            pd.DataFrame(
                {"space": space, "t0": t0, "t1": t1, "frequency": distances, "coefficients": counts, "share": share}
            )[inside]
        )
    return pd.concat(rows, ignore_index=True)[SPECTRA]


def sentences(table: pd.DataFrame, curves: pd.DataFrame, spectrum: pd.DataFrame, model: str) -> str:
    """Sentences on the tables of the entry "latents"; every number is theirs."""
    said = []
    rows = table.set_index(["quantity", "t0", "t1"])
    for t0, t1 in table[["t0", "t1"]].drop_duplicates().itertuples(index=False):
        rms, levels, where = (rows.loc[(q, t0, t1)] for q in ("bias_rms", "decoded_rms", "corr_decoded"))
        follows = "follows" if where["low"] > 0 else "does not clearly follow"
        said.append(
            f"Step {t0:.2f} to {t1:.2f}: rms of the bias {rms['value']:.3f} [{rms['low']:.3f}, {rms['high']:.3f}] in "
            f"latents; decoded, the simulated state is {levels['value']:.1f} [{levels['low']:.1f}, "
            f"{levels['high']:.1f}] levels of 255 from the true one. The decoded change {follows} the bias's map: "
            f"r {where['value']:+.2f} [{where['low']:+.2f}, {where['high']:+.2f}] over the latent's places."
        )
    shares = {}
    for space in ("pixels", "latents"):
        own = spectrum[spectrum["space"] == space]
        low = own["frequency"] <= 0.2 + 1e-9
        shares[space] = 100 * float((own["share"] * own["coefficients"])[low].sum())
    said.append(
        f"Below 0.2 cycles per place lie {shares['pixels']:.0f} % of the pixels' energy, {shares['latents']:.0f} % of "
        "the latents': the bands of PFR and FEL split other things in the two spaces, so their values do not compare."
    )
    first = curves[(curves["quantity"] == "pfr_prediction") & (curves["dc"] == "without")]
    first = first[(first["estimator"] == "mean_of_ratios") & (first["t"] == first["t"].min())]
    parts = [f"{row.model} {row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in first.itertuples()]
    said.append(f"PFR of the prediction at t = {first['t'].iloc[0]:g}, without DC: {'; '.join(parts)}.")
    said.append(
        f"Brackets are 95 % bootstrap intervals over {int(table['n'].iloc[0])} images; {model} is small and was "
        "trained shortly: these numbers show the path through latents, not what latents are good for."
    )
    return "\n".join(said)
