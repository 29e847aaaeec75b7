"""What every reading of Eq. 15 changes against SiT: each training seed, and their mean beside the paper's claim."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import PAPER, Style, applied, percent_axis, require

COLUMNS = ("metric", "place", "norm", "gradient", "seed", "percent", "percent_low", "percent_high")
MEANS = ("metric", "place", "norm", "gradient", "percent", "low", "high")
# Panels: how a metric's name begins, what its axis says, and where better lies.
PANELS = (
    ("FD-", "{metric} (%)", "better: left"),
    ("bias", "exposure bias, energy (%)", "better: left"),
    ("loss", "flow-matching loss (%)", "better: left"),
    ("PFR", "PFR of the prediction (%)", "nearer to the target: right"),
)
NORMS = {"l1": "L1", "l2": "L2", "mean": "mean", "max": "max"}
MOST_TICKS = 5
_SEEDS, _MEAN, _CLAIM = "#8C8C8C", "#0072B2", "#D55E00"


def plot(table: pd.DataFrame, means: pd.DataFrame, claim: float, style: Style = PAPER, *, note: str = "") -> Figure:
    """A row for each reading, a panel for each metric: grey, the seeds with 95 % intervals over images; blue, their
    mean with its 95 % t interval over seeds; orange, in the first panel, the `claim` of the paper in percent. Axes are
    linear up to 1 percent and logarithmic beyond.

    table: columns COLUMNS; means: columns MEANS. Raises DefarError where a column is missing.
    """
    require(table, COLUMNS, "the table of readings")
    require(means, MEANS, "the readings' means")
    rows = sorted(set(means[["place", "norm", "gradient"]].itertuples(index=False, name=None)))
    panels = [panel for panel in PANELS if table["metric"].str.startswith(panel[0]).any()]
    with applied(style):
        figure = Figure(figsize=(7.4, 1.3 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (start, words, better) in zip(axes, panels, strict=True):
            own = table[table["metric"].str.startswith(start)]
            shown = [claim] if start == "FD-" else []
            _panel(ax, rows, own, means[means["metric"].str.startswith(start)], shown)
            ax.set_xlabel(words.format(metric=own["metric"].iloc[0]))
            ax.set_title(better, fontsize=style.small_font, color="#555555")
        if panels[0][0] == "FD-":
            axes[0].axvline(claim, color=_CLAIM, linewidth=1.2, linestyle="--", label=f"paper's FID: {claim:.1f} %")
        axes[0].set_yticks(range(len(rows)), [_named(*row) for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        handles = axes[0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=style.small_font)
        if note:
            figure.suptitle(note, fontsize=style.small_font, color="#555555", x=0.01, ha="left")
    return figure


def _named(place: str, norm: str, gradient: str) -> str:
    outside = ", outside the square" if place == "outside" else ""
    return f"{NORMS.get(norm, norm)}, {gradient}{outside}"


def _panel(ax: Axes, rows: list[tuple], table: pd.DataFrame, means: pd.DataFrame, shown: list[float]) -> None:
    """Grey: the seeds, one above another around the row; blue: their mean. shown: what the axis must reach besides."""
    seeds = sorted(table["seed"].unique())
    for place, seed in enumerate(seeds):
        own = table[table["seed"] == seed]
        offset = 0.16 * (place - (len(seeds) - 1) / 2)
        y = [rows.index(row) + offset for row in own[["place", "norm", "gradient"]].itertuples(index=False, name=None)]
        ax.hlines(y, own["percent_low"], own["percent_high"], color=_SEEDS, linewidth=1.0)
        label = "one training seed, interval over images" if place == 0 else None
        ax.plot(own["percent"], y, "o", color=_SEEDS, markersize=2.6, label=label)
    y = [rows.index(row) for row in means[["place", "norm", "gradient"]].itertuples(index=False, name=None)]
    ax.hlines(y, means["low"], means["high"], color=_MEAN, linewidth=1.8, alpha=0.55)
    ax.plot(means["percent"], y, "D", color=_MEAN, markersize=4.2, label="mean, interval over seeds")
    ax.axvline(0, color="#999999", linewidth=0.7, zorder=0)
    percents = (table["percent_low"].min(), table["percent_high"].max(), *shown)
    percent_axis(ax, "x", min(percents), max(percents), MOST_TICKS)
    ax.grid(axis="y", color="#EEEEEE", linewidth=0.6)
