"""What every objective changes that trains from nothing: its loss as it learns, then samples, bias and frequencies."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import PAPER, Style, applied, labelled, ordered_models, percent_axis, require

COLUMNS = ("method", "equal", "metric", "cell", "percent", "percent_low", "percent_high")
CURVES = ("method", "equal", "step", "passes", "fm")
CELL = "euler-50"  # of the distances that are drawn
# Panels: how a metric's name begins, what its axis says, and where better lies.
PANELS = {
    "distance": ("FD-", "{metric}, 50 Euler steps (%)", "better: left"),
    "bias": ("bias", "exposure bias, energy (%)", "better: left"),
    "loss": ("loss", "flow-matching loss (%)", "better: left"),
    "PFR": ("PFR", "PFR of the prediction (%)", "nearer to the target: right"),
}
MOSAIC = [["curve", "curve", "distance"], ["bias", "loss", "PFR"]]
LOSSES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0, 2.0)  # where the loss's axis has ticks
FILLED, DASHES = ("steps", "both"), {"compute": (0, (4, 1.5))}


def plot(table: pd.DataFrame, curves: pd.DataFrame, style: Style = PAPER, *, note: str = "") -> Figure:
    """Top left: the flow-matching loss in each training's log over its network passes; then a row for each objective, a
    panel for each metric: its change against SiT in percent with a 95 % interval over images.

    Filled, and full lines: as many steps as SiT; hollow, and dashes: as much compute. table: columns COLUMNS; curves:
    CURVES. Raises DefarError where a column is missing.
    """
    require(table, COLUMNS, "the zoo's changes")
    require(curves, CURVES, "the zoo's curves")
    distance = table["metric"].str.startswith("FD-")
    table = table[~distance | (table["cell"] == CELL)]
    methods = ordered_models(table["method"])
    with applied(style):
        figure = Figure(figsize=(7.4, 2.2 + 0.36 * len(methods)), layout="constrained")
        axes = figure.subplot_mosaic(MOSAIC)
        _curves(axes["curve"], curves, style)
        for name, (start, words, better) in PANELS.items():
            own = table[table["metric"].str.startswith(start)]
            _panel(axes[name], methods, require(own, COLUMNS, f"the zoo's {name}"), style)
            axes[name].set_xlabel(words.format(metric=own["metric"].iloc[0]))
            axes[name].set_title(better, fontsize=style.small_font, color="#555555")
            axes[name].set_yticks(range(len(methods)), methods if name in ("distance", "bias") else [""] * len(methods))
        if note:
            figure.suptitle(note, fontsize=style.small_font, color="#555555", x=0.01, ha="left")
    return figure


def _curves(ax: Axes, curves: pd.DataFrame, style: Style) -> None:
    order = {method: place for place, method in enumerate(ordered_models(curves["method"]))}
    for (method, equal), own in sorted(curves.groupby(["method", "equal"]), key=lambda part: order[part[0][0]]):
        look = {**style.line(method), "linestyle": DASHES.get(equal, "-"), "linewidth": 0.75 * style.line_width}
        ax.plot(own["passes"] / 1000, own["fm"], label=method, **look)
    ax.set_yscale("log")
    low, high = curves["fm"].min(), curves["fm"].max()
    ticks = [tick for tick in LOSSES if low / 1.3 <= tick <= 1.3 * high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("network passes of a batch, thousands (forward 1, backward 2)")
    ax.set_ylabel("flow-matching loss")
    handles, names = labelled([ax])  # a method with both budgets once
    ax.legend(handles, names, ncols=2, fontsize=style.small_font)


def _panel(ax: Axes, methods: list[str], own: pd.DataFrame, style: Style) -> None:
    """own: a metric's rows, of each objective one or, with both budgets, two, side by side."""
    for (method, equal), row in own.groupby(["method", "equal"], sort=False):
        two = own.loc[own["method"] == method, "equal"].nunique() > 1
        y, colour = methods.index(method) + (0.16 if equal in FILLED else -0.16) * two, style.colour(method)
        ax.hlines(y, row["percent_low"], row["percent_high"], color=colour, linewidth=1.4)
        inside = colour if equal in FILLED else "white"
        ax.plot(row["percent"], [y] * len(row), "o", color=colour, markerfacecolor=inside, markersize=4)
    ax.axvline(0, color="#999999", linewidth=0.7, zorder=0)
    percent_axis(ax, "x", own["percent_low"].min(), own["percent_high"].max(), 5)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(axis="y", color="#EEEEEE", linewidth=0.6)
