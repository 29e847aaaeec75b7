"""Whether a method helps: differences to a baseline, paired by seed, with a t-interval, and the words for them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ..errors import DefarError
from .statistics import LEVEL

HELPS, HARMS, UNDECIDED = "helps", "harms", "undecided"
COLUMNS = ["model", "quantity", "nfe", "baseline", "value", "difference", "low", "high", "percent", "verdict", "seeds"]


def t_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of independent values (N,) and the ends of its 95 % interval by Student's t. Raises for fewer than two."""
    if len(values) < 2:
        raise DefarError(f"an interval over seeds needs at least two; got {len(values)}")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * error
    return mean, mean - half, mean + half


def paired_verdicts(values: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """One row for each model and quantity: its mean, the paired difference to the baseline, and what follows.

    values: columns model, seed, quantity, nfe (may be NaN), value; lower is better. difference = value - baseline;
    low, high: its 95 % t-interval over seeds; percent: of the baseline. verdict: "helps" where the whole interval lies
    below 0, "harms" where it lies above, else "undecided". Each row stands alone: no correction for many comparisons.
    Raises DefarError where a model lacks one of the baseline's seeds.
    """
    rows = []
    for (quantity, nfe), group in values.groupby(["quantity", "nfe"], sort=False, dropna=False):
        wide = group.pivot(index="seed", columns="model", values="value")
        if baseline not in wide or wide.isna().any(axis=None):
            raise DefarError(f"{quantity}: every model needs a value for each seed of {baseline!r}")
        start = float(wide[baseline].mean())
        for model in (name for name in group["model"].unique() if name != baseline):
            difference, low, high = t_interval((wide[model] - wide[baseline]).to_numpy())
            verdict = HELPS if high < 0 else HARMS if low > 0 else UNDECIDED
            percent = 100 * difference / start
            rows.append((model, quantity, nfe, start, float(wide[model].mean()), difference, low, high, percent,
                         verdict, len(wide)))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def sentences(verdicts: pd.DataFrame, quantity: str, nfe: float, baseline: str, reference: str, unit: str) -> str:
    """Sentences on one quantity: who helps, who harms, by how much, and how much there was to gain at all.

    reference: the model that no method can be expected to beat; unit: what `quantity` is, in words, such as "the
    distance of samples from data". Every number and every verdict is the table's.
    """
    rows = verdicts[(verdicts["quantity"] == quantity) & (verdicts["nfe"] == nfe)]
    methods, best = rows[rows["model"] != reference], rows[rows["model"] == reference]
    if methods.empty or best.empty:
        raise DefarError(f"the verdicts lack rows with quantity = {quantity!r}, nfe = {nfe:g}, or of {reference!r}")
    parts = []
    for verdict in (HELPS, HARMS, UNDECIDED):
        found = [_amount(row) for row in methods[methods["verdict"] == verdict].itertuples()]
        parts.append(f"{verdict}: {', '.join(found) or 'none'}")
    first, best = methods.iloc[0], next(best.itertuples())
    return (
        f"At {nfe:g} evaluations and equal compute, {unit} is {first['baseline']:.3g} for {baseline}; against that, "
        f"{'; '.join(parts)}. Brackets are 95 % t-intervals of the difference, paired over {first['seeds']} seeds. "
        f"What there was to gain: {_amount(best)}."
    )


def _amount(row) -> str:
    """Such as: FC +18 % [+4, +31]."""
    low, high = (100 * end / row.baseline for end in (row.low, row.high))
    return f"{row.model} {row.percent:+.0f} % [{low:+.0f}, {high:+.0f}]"
