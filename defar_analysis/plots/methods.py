"""Sample quality of every objective against plain flow matching, each training seed by itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import PAPER, Style, applied, require
from .tables import TINTS

COLUMNS = ("method", "seed", "metric", "percent", "percent_low", "percent_high")
SEED_MARKS = "oD"
WIDE = 150  # percent: beyond it the axis is linear near zero and logarithmic outside


def plot(
    table: pd.DataFrame,
    differences: pd.DataFrame,
    equal_steps: pd.DataFrame | None = None,
    style: Style = PAPER,
    *,
    note: str = "",
) -> Figure:
    """Left: paired change of the Fréchet distance (percent, 95 % interval); right: precision over recall.

    table: columns method, seed, metric, value; differences: COLUMNS, at equal compute; equal_steps: the same at equal
    steps, filled. Raises DefarError where a column is missing.
    """
    require(table, ("method", "seed", "metric", "value"), "the methods table")
    change = _distances(differences)
    budgets = {"": change}
    if equal_steps is not None and len(equal_steps):
        budgets[", equal steps"] = _distances(equal_steps)
    methods = list(dict.fromkeys(method for part in budgets.values() for method in part["method"]))
    wide = table.pivot_table(index=["method", "seed"], columns="metric", values="value", sort=False)
    with applied(style):
        figure = Figure(figsize=(7.0, 1.2 + 0.2 * max(5, len(methods))), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        seeds = sorted(change["seed"].unique())
        for place, seed in enumerate(seeds):
            for budget, part in budgets.items():
                own = part[part["seed"] == seed]
                y = [methods.index(method) + 0.16 * (2 * place - 1) * (len(seeds) > 1) for method in own["method"]]
                left.hlines(y, own["percent_low"], own["percent_high"], color=TINTS[place], linewidth=1.2)
                look = {"markersize": 2.4} if budget else {"markersize": 4.5, "markerfacecolor": "none"}
                left.plot(own["percent"], y, SEED_MARKS[place % 2], color=TINTS[place], **look,
                          label=f"training seed {seed}{budget}")  # fmt: skip
        left.set_yticks(range(len(methods)), methods)
        left.set_ylim(len(methods) - 0.5, -0.5)
        left.axvline(0, color="#999999", linewidth=0.7, zorder=0)
        if change["percent"].abs().max() > WIDE:
            left.set_xscale("symlog", linthresh=20)
            left.set_xticks([-10, 0, 10, 100, 1000], ["-10", "0", "10", "100", "1000"])
        left.set_xlabel(f"change of {change['metric'].iloc[0]} against SiT (%)")
        left.grid(axis="y", color="#EEEEEE", linewidth=0.6)
        left.legend(fontsize=style.small_font)
        span, named = np.ptp(wide[["recall", "precision"]].to_numpy(), axis=0) + 1e-12, []
        for name, (seed, point) in ((name, (seed, row)) for (name, seed), row in wide.iterrows()):
            right.plot(point["recall"], point["precision"], SEED_MARKS[seeds.index(seed) % 2], markersize=4,
                       color=style.colours.get(name, "#777777"), markerfacecolor="none")  # fmt: skip
            at = point[["recall", "precision"]].to_numpy() / span
            if seed == seeds[0] and all(np.abs(at - other)[1] > 0.05 or (at - other)[0] > 0.4 for other in named):
                named.append(at)  # a name only where it covers no other
                right.annotate(name, (point["recall"], point["precision"]), xytext=(3, 3), textcoords="offset points",
                               fontsize=style.small_font - 1)  # fmt: skip
        right.set_xlabel("recall")
        right.set_ylabel("precision")
        right.margins(0.15)
        if note:
            figure.suptitle(note, fontsize=style.small_font, color="#555555", x=0.01, ha="left")
    return figure


def _distances(differences: pd.DataFrame) -> pd.DataFrame:
    require(differences, COLUMNS, "the differences")
    return differences[differences["metric"].str.startswith("FD-")]
