"""Drift along real sampling: magnitude and direction over t, and maps over t and frequency for every model and NFE."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .plane_idea import small_print
from .style import PAPER, Style, applied, ordered_models, require, select, time_axis

MAPS = ("model", "kind", "nfe", "t", "frequency", "value")
CURVES = ("model", "kind", "nfe", "t", "magnitude", "magnitude_low", "magnitude_high", "cosine", "cosine_low",
          "cosine_high")  # fmt: skip
TITLES = {"one_step": "Bias of one step", "marginal": "Sampled against true", "solver": "Against a fine solution"}
SIZES = {"one_step": "share of the velocity", "marginal": "distance of spectra", "solver": "share of the state"}
BARS = {"one_step": "bias / velocity", "marginal": "log2 energy,\nsampled / true", "solver": "error / state"}
_MARKS = "osD^v"  # of the numbers of steps
_LEAST = 1e-3  # of an amplitude in the maps: below it nothing is told apart


def plot(maps: pd.DataFrame, curves: pd.DataFrame, style: Style = PAPER, *, note: str = "") -> Figure:
    """Two rows of curves, a column for each kind of drift; below, a block of maps for each kind: a row for each number
    of steps, a column for each model, one scale of colours.

    maps, curves: `measures.drift_maps.tables` (MAPS, CURVES). Raises DefarError where a column is missing.
    """
    require(maps, MAPS, "the drift maps")
    require(curves, CURVES, "the drift curves")
    models, nfes = ordered_models(curves["model"]), sorted(curves["nfe"].unique())
    with applied(style):
        figure = Figure(figsize=(7.0, 3.9 + 3 * (0.5 + 0.7 * len(nfes))), layout="constrained")
        upper, *blocks = figure.add_gridspec(4, 1, height_ratios=(3.3, *[0.5 + 0.7 * len(nfes)] * 3))
        axes = upper.subgridspec(2, 3).subplots(sharex=True)
        for column, (kind, title) in enumerate(TITLES.items()):
            own = select(curves, "the drift curves", kind=kind)
            draw_curves(axes[0, column], own, "magnitude", style)
            draw_curves(axes[1, column], own, "cosine", style)
            axes[0, column].set_title(f"({'abc'[column]}) {title}", loc="left")
            axes[0, column].set_ylabel(SIZES[kind])
            axes[1, column].set_ylabel("cosine with the flow" if column == 0 else "")
            axes[1, column].set_ylim(-1.05, 1.05)
            axes[1, column].axhline(0, color="#999999", linewidth=0.6, zorder=0)
            time_axis(axes[1, column], "t")
        for letter, block, kind in zip("def", blocks, TITLES, strict=True):
            draw_block(figure, block, select(maps, "the drift maps", kind=kind), kind, letter, models, nfes, style)
        handles = [Line2D([], [], label=name, **style.line(name)) for name in models]
        handles += [Line2D([], [], color="#555555", marker=m, linestyle="none", markersize=3, label=f"{nfe} steps")
                    for nfe, m in zip(nfes, _MARKS, strict=False)]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.2, handlelength=1.9)
        said = "shaded: 95 % bootstrap over images; cosine: above 0 ahead of the flow, below 0 behind it"
        small_print(figure, "\n".join(filter(None, (note, said))), style)
    return figure


def draw_curves(ax: Axes, curves: pd.DataFrame, column: str, style: Style = PAPER) -> None:
    """`column` over t for every model and number of steps, each number with its mark."""
    for nfe, mark in zip(sorted(curves["nfe"].unique()), _MARKS, strict=False):
        for name in ordered_models(curves["model"]):
            rows = curves[(curves["model"] == name) & (curves["nfe"] == nfe)].sort_values("t")
            t, line = rows["t"].to_numpy(float), style.line(name)
            ax.fill_between(t, rows[f"{column}_low"], rows[f"{column}_high"], color=line["color"],
                            alpha=0.5 * style.interval_opacity, linewidth=0, zorder=2)  # fmt: skip
            ax.plot(t, rows[column], marker=mark, markersize=2.2, zorder=3, **{**line, "linewidth": 0.9})
    if column == "magnitude":
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def draw_map(ax: Axes, rows: pd.DataFrame, kind: str, norm: Normalize):
    """One map over t and ring; the frequencies of the rings stand at the axis. Returns what a colour bar is made of."""
    grid = rows.pivot(index="frequency", columns="t", values="value")
    times, rings = grid.columns.to_numpy(float), grid.index.to_numpy(float)
    edges = np.concatenate([[0.0], times])  # a state at t is what the steps up to t have made
    values = np.log2(grid) if kind == "marginal" else grid.clip(lower=_LEAST)
    drawn = ax.pcolormesh(edges, np.arange(len(rings) + 1), values, norm=norm, rasterized=True,
                          cmap="RdBu_r" if kind == "marginal" else "viridis")  # fmt: skip
    marked = [0, len(rings) // 2, len(rings) - 1]
    ax.set_yticks([k + 0.5 for k in marked], [f"{rings[k]:.2f}" if k else "0" for k in marked])
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    return drawn


def scale_of(maps: pd.DataFrame, kind: str) -> Normalize:
    """One scale of colours for all maps of a kind."""
    values = maps["value"].to_numpy(float)
    if kind == "marginal":
        most = max(float(np.abs(np.log2(values)).max()), 0.1)
        return TwoSlopeNorm(0, -most, most)
    return LogNorm(_LEAST, max(float(values.max()), 2 * _LEAST))


def draw_block(figure: Figure, block, maps: pd.DataFrame, kind: str, letter: str, models: list[str], nfes: list[int],
               style: Style = PAPER) -> None:  # fmt: skip
    """The maps of one kind: a row for each number of steps, a column for each model."""
    part = figure.add_subfigure(block)
    part.suptitle(f"({letter}) {TITLES[kind]}", x=0.01, ha="left", fontsize=style.font)
    part.supylabel("cycles / pixel", fontsize=style.small_font)
    axes = part.subplots(len(nfes), len(models), sharex=True, sharey=True, squeeze=False)
    norm = scale_of(maps, kind)
    for row, nfe in zip(axes, nfes, strict=True):
        for ax, name in zip(row, models, strict=True):
            drawn = draw_map(ax, maps[(maps["model"] == name) & (maps["nfe"] == nfe)], kind, norm)
            if nfe == nfes[0]:
                ax.set_title(_in_lines(name, len(models)), fontsize=style.small_font)
        row[0].set_ylabel(f"{nfe} steps", fontsize=style.small_font)
    for ax in axes[-1]:
        ax.set_xlabel("t", fontsize=style.small_font, labelpad=1)
    bar = part.colorbar(drawn, ax=axes, pad=0.01, aspect=14)
    if kind != "marginal":
        bar.set_ticks([10.0**k for k in range(-3, 1)])
    bar.set_label(BARS[kind], fontsize=style.small_font)


def _in_lines(name: str, models: int) -> str:
    """An exact field's name in two lines where many columns leave it no room."""
    return name.replace(", ", ",\n").replace(" reference", "\nreference") if models > 6 else name
