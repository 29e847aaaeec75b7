"""Drift of every method: over t by as many steps as the paper takes, against SiT's over the steps, and all maps."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .drift import CURVES, MAPS, SIZES, TITLES, draw_block, draw_curves
from .plane_idea import small_print
from .split import METHODS
from .style import Style, applied, ordered_models, require, select, time_axis

PAIRED = ("model", "kind", "nfe", "t", "percent", "percent_low", "percent_high")
BASELINE, STEPS = "SiT", 50  # whose steps the curves over t are of, where the table has them


def plot(maps: pd.DataFrame, curves: pd.DataFrame, paired: pd.DataFrame, style: Style = METHODS, *,
         note: str = "") -> Figure:  # fmt: skip
    """Three rows of curves, a column for each kind of drift: magnitude and cosine over t, change against SiT over the
    steps. Below, a block of maps for each kind: a row for each number of steps, a column for each model.

    maps, curves: `measures.drift_maps.tables` (MAPS, CURVES); paired: `measures.drift_changes.changes` (PAIRED).
    Raises DefarError where a column or a kind is missing.
    """
    require(maps, MAPS, "the drift maps")
    require(curves, CURVES, "the drift curves")
    require(paired, PAIRED, "the changes")
    models, nfes = ordered_models(curves["model"]), sorted(curves["nfe"].unique())
    steps = STEPS if STEPS in nfes else nfes[-1]
    with applied(style):
        height = 0.6 + 0.62 * len(nfes)
        figure = Figure(figsize=(9.2, 5.6 + 3 * height), layout="constrained")
        upper, *blocks = figure.add_gridspec(4, 1, height_ratios=(5.0, *[height] * 3))
        axes = upper.subgridspec(3, 3).subplots()
        for column, (kind, title) in enumerate(TITLES.items()):
            own = select(curves, "the drift curves", kind=kind)
            own, over, along, against = own[own["nfe"] == steps], *axes[:, column]
            draw_curves(over, own, "magnitude", style)
            draw_curves(along, own, "cosine", style)
            over.set_title(f"({'abc'[column]}) {title}", loc="left")
            over.set_ylabel(SIZES[kind])
            over.set_xlabel("")
            along.set_ylabel("cosine with the flow" if column == 0 else "")
            along.set_ylim(-1.05, 1.05)
            along.axhline(0, color="#999999", linewidth=0.6, zorder=0)
            time_axis(over, "")
            time_axis(along, "t")
            draw_changes(against, select(paired, "the changes", kind=kind), style)
            against.set_ylabel(f"against {BASELINE} (%)" if column == 0 else "")
        for letter, block, kind in zip("def", blocks, TITLES, strict=True):
            draw_block(figure, block, select(maps, "the drift maps", kind=kind), kind, letter, models, nfes, style)
        handles = [Line2D([], [], label=name, **style.line(name)) for name in models]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) // 2, columnspacing=1.4)
        t = {kind: select(paired, "the changes", kind=kind)["t"].iloc[0] for kind in TITLES}
        said = (
            f"(a-c) above by {steps} steps, below paired by image, at t = {t['one_step']:g}, {t['marginal']:g} and "
            f"{t['solver']:g}; shades and bars: 95 % bootstrap over images"
        )
        small_print(figure, "\n".join(filter(None, (note, said))), style)
    return figure


def draw_changes(ax: Axes, paired: pd.DataFrame, style: Style = METHODS) -> None:
    """Change of the magnitude against the baseline's over the number of steps, in percent, with 95 % intervals."""
    nfes, models = sorted(paired["nfe"].unique()), ordered_models(paired["model"])
    ax.axhline(0, color=style.colour(BASELINE), linewidth=1.0, zorder=1)
    for k, name in enumerate(models):
        rows = paired[paired["model"] == name].sort_values("nfe")
        at = [nfes.index(nfe) + 0.07 * (k - (len(models) - 1) / 2) for nfe in rows["nfe"]]
        line = style.line(name)
        ax.vlines(at, rows["percent_low"], rows["percent_high"], color=line["color"], linewidth=0.9)
        ax.plot(at, rows["percent"], marker="o", markersize=2.2, label=name, **{**line, "linewidth": 0.6})
    ax.set_yscale("symlog", linthresh=20)
    ax.set_yticks([-50, -20, 0, 20, 100, 500], ["-50", "-20", "0", "20", "100", "500"])
    ax.minorticks_off()
    ax.set_xticks(range(len(nfes)), [str(nfe) for nfe in nfes])
    ax.set_xlim(-0.5, len(nfes) - 0.5)
    ax.set_xlabel("steps")
