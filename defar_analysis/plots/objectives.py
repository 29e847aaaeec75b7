"""What every objective changes against SiT over t: loss, exposure bias, low frequencies, emphasis of the loss."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .frequency import HIGH_NOISE
from .style import PAPER, Style, applied, ordered_models, percent_axis, require

COLUMNS = ("method", "seed", "quantity", "t", "percent", "low", "high")
PANELS = {
    "loss": "(a) flow-matching loss", "step": "(b) bias after a step of 0.1", "bias": "(c) bias over all later t1",
    "PFR": "(d) PFR of the prediction", "FEL": "(e) FEL of the loss",
}  # fmt: skip
MARKS = "osD^vPX"  # of methods: colours alone are too near one another
SEED_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))


def plot(table: pd.DataFrame, style: Style = PAPER, *, note: str = "") -> Figure:
    """A panel for each quantity: change against SiT in percent over t, a line for each method and training seed.

    Filled marks: beyond doubt over images (95 %). Axes are linear up to 1 percent and logarithmic beyond. table:
    columns COLUMNS. Raises DefarError where a column is missing.
    """
    require(table, COLUMNS, "the table of objectives")
    methods, seeds = ordered_models(table["method"]), sorted(table["seed"].unique())
    with applied(style):
        figure = Figure(figsize=(7.4, 4.6), layout="constrained")
        *axes, free = figure.subplots(2, 3, sharex=True).flat
        for ax, (quantity, words) in zip(axes, PANELS.items(), strict=True):
            own = table[table["quantity"] == quantity]
            for (method, seed), line in own.groupby(["method", "seed"], sort=False):
                _line(ax, line, MARKS[methods.index(method) % len(MARKS)], seeds.index(seed), style)
            _dress(ax, own, style)
            ax.set_title(words, loc="left")
            ax.xaxis.set_tick_params(labelbottom=True)
        for ax in (axes[0], axes[3]):
            ax.set_ylabel("against SiT (%)")
        for ax in axes[2:]:
            ax.set_xlabel("t  (0 noise, 1 data)")
        free.set_axis_off()
        handles = [line for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")]
        look = {"color": "#555555", "linewidth": style.line_width}
        for place, seed in enumerate(seeds if len(seeds) > 1 else ()):
            handles.append(Line2D([], [], linestyle=SEED_DASHES[place % 3], label=f"training seed {seed}", **look))
        free.legend(handles=handles, loc="center")
        if note:
            figure.suptitle(note, fontsize=style.small_font, color="#555555")
    return figure


def _line(ax: Axes, own: pd.DataFrame, mark: str, place: int, style: Style) -> None:
    """One method and seed, the place-th. The first seeds' lines name their methods in the legend."""
    method = own["method"].iloc[0]
    colour, marks = style.colour(method), {"marker": mark, "markersize": 3.2}
    ax.plot(own["t"], own["percent"], color=colour, linestyle=SEED_DASHES[place % 3], linewidth=0.75 * style.line_width,
            label=method if place == 0 else "_", **marks)  # fmt: skip
    doubt = own[(own["low"] <= 0) & (own["high"] >= 0)]
    ax.plot(doubt["t"], doubt["percent"], linestyle="none", color=colour, markerfacecolor="white", label="_", **marks)


def _dress(ax: Axes, own: pd.DataFrame, style: Style) -> None:
    ax.axvspan(0, HIGH_NOISE, color=style.highlight_colour, linewidth=0, zorder=0)
    ax.axhline(0, **style.target_line(), zorder=0, label="_zero")
    percent_axis(ax, "y", own["percent"].min(), own["percent"].max())
    ax.grid(axis="y", color="#EEEEEE", linewidth=0.6)
