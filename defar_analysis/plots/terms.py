"""How DEFAR's terms act: cosines of gradients, FC's weight, and loss beside bias, over bins of t0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from .plane_idea import PLANE, small_print
from .style import MEMORIES, REFERENCE, Style, applied, interval_curve, ordered_models, pick, require, time_axis

COLUMNS = ("model", "quantity", "first", "second", "estimator", "t", "value", "low", "high")
WEIGHTS = ("model", "reading", "t", "p5", "p95", "low_share", "low", "high", "white_share")
CHANGES = ("model", "quantity", "t", "value", "low", "high")
FLOOR = "FM, other images"
STOPPED = {"linestyle": (0, (4, 1.6)), "marker": "D", "markersize": 2.6}
CURVES = {  # second term: label, colour's name, and how its line differs
    "adr": ("ADR through $\\hat{x}$", "ADR", {"linestyle": "-", "marker": "o", "markersize": 3}),
    "adr_stopped": ("ADR stopped at $\\hat{x}$", "ADR", STOPPED),
    "fc": ("FC, norm: L2 (default)", "FC", {"linestyle": "-", "marker": "o", "markersize": 3}),
    "fc_strong": ("FC, norm: mean", "FC", STOPPED),
}
READINGS = {"l2": "norm: L2 (default)", "l1": "norm: L1", "mean": "norm: mean"}
WHITE = "white map"
QUANTITIES = {"fm_loss": ("FM loss", "-"), "bias_rms": ("rms of the bias", (0, (4, 1.6)))}
T0 = "$t_0$  (0 noise, 1 data)"


def plot(df: pd.DataFrame, weights: pd.DataFrame, changes: pd.DataFrame, arrays: Mapping[str, np.ndarray],
         models: Sequence[str] = ("SiT", "DEFAR"), edges: Sequence = (), style: Style = PLANE, *,
         note: str = "") -> Figure:  # fmt: skip
    """A panel of cosines with FM's gradient for each network, then FC's weight, loss and bias, and mean maps.

    df, weights, changes: tables of `measures.terms`; arrays: images (models, maps, H, W, 1), mean maps of w - 1;
    edges: the bins of t0 (maps, 2). Raises DefarError for tables without one of the columns.
    """
    require(df, COLUMNS, "the table of gradients")
    with applied(style):
        figure = Figure(figsize=(7.0, 5.4 + 0.9 * len(models)), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(5.3, 0.1 + 0.9 * len(models)))
        above, below = upper.add_gridspec(2, 1)
        letters = iter(ascii_lowercase)
        cosines = above.subgridspec(1, len(models)).subplots(sharey=True, squeeze=False)[0]
        for ax, model in zip(cosines, models, strict=True):
            draw_cosines(ax, df, model, style)
            ax.set_ylabel("cosine with FM's gradient" if ax is cosines[0] else "")
            ax.set_title(f"({next(letters)}) Gradients at {model}'s", loc="left")
        left, right = below.subgridspec(1, 2).subplots()
        draw_weights(left, weights, style)
        where, against = next(letters), next(letters)
        left.set_title(f"({where}) Where FC's weight varies", loc="left")
        draw_changes(right, changes, models[0], style)
        right.set_title(f"({against}) Loss and bias against {models[0]}", loc="left")
        handles = _handles(models, ordered_models(weights["model"]), style)
        upper.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.2, handlelength=2.0)
        draw_maps(lower, pick(arrays, "images")[..., 0], models, edges, style, f"({next(letters)}) ")
        first = f"a-{ascii_lowercase[len(models) - 1]}"
        said = (
            f"({first}) solid and dashed: same images, bars 95 % over batches; hollow: each term on images of its own\n"
            f"({where}, {against}) shaded: 95 % bootstrap over images, in ({against}) paired by image"
        )
        small_print(figure, "\n".join(filter(None, (note, said))), style)
    return figure


def draw_cosines(ax: Axes, df: pd.DataFrame, model: str, style: Style = PLANE) -> None:
    """Cosine of each term's gradient with FM's: lines on the same batch, hollow marks on others, FM's own grey."""
    rows = df[(df["model"] == model) & (df["quantity"] == "cosine") & (df["first"] == "fm")]
    require(rows, COLUMNS, f"the cosines of {model}")
    ax.axhline(0, color="black", linewidth=0.5, zorder=1)
    floor = rows[(rows["second"] == "fm") & (rows["estimator"] == "other batch")].sort_values("t")
    ax.fill_between(floor["t"], floor["low"], floor["high"], color=style.target_colour, alpha=0.2, linewidth=0)
    ax.plot(floor["t"], floor["value"], label=FLOOR, **style.target_line())
    for k, (term, (label, name, look)) in enumerate(CURVES.items()):
        own = rows[rows["second"] == term]
        same = own[own["estimator"] == "same batch"].sort_values("t")
        t, colour = same["t"] + 0.012 * (k - 1.5), style.colour(name)
        ax.vlines(t, same["low"], same["high"], color=colour, linewidth=0.8, zorder=3)
        ax.plot(t, same["value"], label=label, color=colour, linewidth=1.2, zorder=4, **look)
        if name == "ADR":
            other = own[own["estimator"] == "other batch"].sort_values("t")
            ax.plot(other["t"] + 0.012 * (k - 1.5), other["value"], linestyle="none", marker=look["marker"],
                    markersize=4, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=0.8,
                    label=f"{label}, other images", zorder=4)  # fmt: skip
    ax.set_ylim(-1.05, 1.08)
    ax.set_ylabel("cosine with FM's gradient")
    time_axis(ax, "$t_0$")


def draw_weights(ax: Axes, weights: pd.DataFrame, style: Style = PLANE) -> None:
    """Low band's share of w's energy, mean left out, over t0; a white map's is dotted. Inside: how large w is."""
    rows = require(weights, WEIGHTS, "the table of weights")
    default = rows[rows["reading"] == next(iter(READINGS))]
    for model in ordered_models(default["model"]):
        own = default[default["model"] == model]
        interval_curve(ax, own.assign(value=own["low_share"]), style, style.line(model), model)
    ax.axhline(default["white_share"].iloc[0], color="black", linestyle=":", linewidth=0.9, label=WHITE)
    said = ["w, 5 to 95 % of pixels"]
    for reading, label in READINGS.items():
        own = rows[(rows["reading"] == reading) & ~rows["model"].isin((REFERENCE, *MEMORIES))]
        digits = 2 if own["p95"].max() > 1.5 else 3 if own["p95"].max() > 1.01 else 4
        said.append(f"{label}: {own['p5'].min():.{digits}f} to {own['p95'].max():.{digits}f}")
    ax.text(0.98, 0.97, "\n".join(said), transform=ax.transAxes, ha="right", va="top", fontsize=style.small_font)
    ax.set_ylim(0, 1.15)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel("low-band share of w's energy")
    time_axis(ax, T0)


def draw_changes(ax: Axes, changes: pd.DataFrame, baseline: str, style: Style = PLANE) -> None:
    """Change of FM loss and bias in percent of the baseline's, with 95 % intervals."""
    require(changes, CHANGES, "the differences")
    ax.axhline(0, color=style.colour(baseline), linewidth=1.0, zorder=1)
    for model in ordered_models(changes["model"]):
        for quantity, (_, dashes) in QUANTITIES.items():
            own = changes[(changes["model"] == model) & (changes["quantity"] == quantity)].sort_values("t")
            colour, label = style.colour(model), f"{model}, {quantity}"
            ax.fill_between(own["t"], own["low"], own["high"], color=colour, alpha=style.interval_opacity, linewidth=0)
            ax.plot(own["t"], own["value"], color=colour, linestyle=dashes, linewidth=1.2, label=label)
    ax.set_ylabel(f"change against {baseline} (%)")
    time_axis(ax, T0)


def draw_maps(figure: Figure | SubFigure, maps: np.ndarray, models: Sequence[str], edges: Sequence,
              style: Style = PLANE, letter: str = "") -> None:  # fmt: skip
    """Mean over images of (w - 1) over its own mean: a row for each network, a column for each bin of t0."""
    axes = figure.subplots(len(models), maps.shape[1], squeeze=False)
    reach = max(float(np.abs(maps.astype(float) - 1).max()), 1e-3)
    for row, model, own in zip(axes, models, maps.astype(float), strict=True):
        for k, (ax, image) in enumerate(zip(row, own, strict=True)):
            shown = ax.imshow(image, cmap="RdBu_r", vmin=1 - reach, vmax=1 + reach)
            ax.set_xticks([])
            ax.set_yticks([])
            if model == models[0] and len(edges):
                low, high = edges[k]
                ax.set_title(f"{low:g} to {high:g}", fontsize=style.small_font)
        row[0].set_ylabel(model)
    title = f"{letter}Where w is large: mean over images of w − 1, over its mean, by $t_0$"
    figure.suptitle(title, fontsize=style.font)
    bar = figure.colorbar(shown, ax=axes, shrink=0.85, pad=0.02)
    bar.outline.set_visible(False)


def _handles(models: Sequence[str], shown: Sequence[str], style: Style) -> list:
    handles = [Line2D([], [], color=style.colour(name), label=label, linewidth=1.2, **look)
               for label, name, look in CURVES.values()]  # fmt: skip
    handles.append(Line2D([], [], label=FLOOR, **style.target_line()))
    handles.append(Line2D([], [], label="ADR, other images", linestyle="none", marker="o", markersize=4,
                          markerfacecolor="none", markeredgecolor=style.colour("ADR")))  # fmt: skip
    handles += [Line2D([], [], label=model, **style.line(model)) for model in ordered_models([*models, *shown])]
    handles.append(Line2D([], [], color="black", linestyle=":", linewidth=0.9, label=WHITE))
    return handles + [Line2D([], [], color="black", linestyle=dashes, linewidth=1.2, label=label)
                      for label, dashes in QUANTITIES.values()]  # fmt: skip
