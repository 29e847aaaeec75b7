"""Slow Flow split: the slowed time's band, measured = inherent + model, on data whose optimal field is known.

An exact field reads m_t < t beside another image, too (`measures.slow_flow`), and Euler's steps move it a little beside
its own noise. The inherent part is what the exact field reads on the same images, noise and steps; the model's part is
the difference. Of each band: its mean over images and its ends, the 5th and the 95th percentile.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..errors import DefarError
from .slow_flow import PAIRINGS
from .split import COLUMNS
from .statistics import resampling_weights

BAND = {"": None, "_p5": 5, "_p95": 95}  # the ending of a quantity's name: the percentile of images, or their mean
BESIDE = dict(zip(PAIRINGS, ("another image of the law", "the noise that it makes of the image"), strict=True))
QUANTITIES = tuple(f"slowed_{pairing}{end}" for pairing in PAIRINGS for end in BAND)

Slowed = Mapping[str, np.ndarray]  # pairing -> m_t, (S, N)


def slow_split(models: Mapping[str, Slowed], exact: Slowed, times: np.ndarray) -> pd.DataFrame:
    """`split.COLUMNS` for QUANTITIES of every model over `times` (S,), with 95 % bootstrap intervals over images.

    An image's slowed times in the model and in the exact field are drawn together. Raises DefarError for shapes that
    differ.
    """
    rows = []
    for name, own in models.items():
        for pairing in PAIRINGS:
            mine, theirs = own[pairing], exact[pairing]
            if not len(times) == len(mine) or mine.shape != theirs.shape:
                raise DefarError(
                    f"{name}, {pairing}: slowed times {mine.shape} beside the exact field's {theirs.shape} at "
                    f"{len(times)} times; they must be of the same images and times"
                )
            drawn = _replicates(mine.shape[1])
            for end, percentile in BAND.items():
                measured, inherent = (_statistic(part, drawn, percentile) for part in (mine, theirs))
                of_model = measured - inherent
                ends = [np.percentile(part[1:], [2.5, 97.5], axis=0) for part in (measured, of_model)]
                values = (name, f"slowed_{pairing}{end}", times, measured[0], *ends[0], inherent[0], of_model[0],
                          *ends[1], mine.shape[1])  # fmt: skip
                rows.append(pd.DataFrame(dict(zip(COLUMNS, values, strict=True))))
    return pd.concat(rows, ignore_index=True)[COLUMNS]


def _replicates(count: int) -> np.ndarray:
    """Images of the sample itself and of each bootstrap replicate, (1 + R, N)."""
    counts = np.rint(resampling_weights(count) * count).astype(int)
    return np.stack([np.arange(count), *(np.repeat(np.arange(count), times) for times in counts)])


def _statistic(slowed: np.ndarray, drawn: np.ndarray, percentile: int | None) -> np.ndarray:
    """Mean or percentile over images at each time, of the sample and of each replicate, (1 + R, S)."""
    each = slowed[:, drawn]  # (S, 1 + R, N)
    found = each.mean(axis=2) if percentile is None else np.percentile(each, percentile, axis=2)
    return found.T


def sentences(table: pd.DataFrame) -> str:
    """Sentences on :func:`slow_split`: how much of the slowness at the end is inherent. Every number is the table's.

    Raises DefarError without its quantities.
    """
    rows = table[table["quantity"].isin(QUANTITIES)]
    if rows.empty:
        raise DefarError("nothing to tell: the table has no slowed times")
    end, said = rows["t"].max(), []
    for pairing, words in BESIDE.items():
        own = rows[(rows["quantity"] == f"slowed_{pairing}") & (rows["t"] == end)]
        band = rows[rows["quantity"].str.startswith(f"slowed_{pairing}_") & (rows["t"] == end)]
        low, high = (band.loc[band["quantity"].str.endswith(p), "inherent"].iloc[0] for p in ("_p5", "_p95"))
        parts = ", ".join(
            f"{row.model} {row.of_model:+.4f} [{row.of_model_low:+.4f}, {row.of_model_high:+.4f}]"
            for row in own.itertuples()
        )
        said.append(
            f"Beside {words} the exact field's samples end at m = {own['inherent'].iloc[0]:.3f} on average, 90 % of "
            f"them from {low:.3f} to {high:.3f}: that is inherent. The models' parts: {parts}."
        )
    n = int(rows["n"].iloc[0])
    return "\n".join([*said, f"Brackets of slowed times are over {n} images, paired with the exact field."])
