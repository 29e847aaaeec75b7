"""MixFlow's Slow Flow (its Fig. 1): bands of the slowed time for each model, all means, and paired differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..errors import DefarError
from .plane_idea import small_print
from .style import (
    MEMORIES,
    PAPER,
    REFERENCE,
    Style,
    applied,
    interval_curve,
    ordered_models,
    require,
    select,
    time_axis,
)

COLUMNS = ("model", "pairing", "t", "value", "low", "high", "p5", "p95", "minimum", "maximum")
CHANGES = ("model", "pairing", "t", "value", "low", "high")
PUBLISHED = ("row", "column", "t", "value")
ENDS = ("slowed time, low", "slowed time, high")  # of a band that the paper drew
PUBLISHED_LABEL = "MixFlow's Fig. 1: SiT-B, ImageNet-256"
BASELINE = "SiT"  # of the differences
TITLES = {"class": "Image of the class", "inversion": "Image's own noise"}
_WIDE, _NARROW = 0.16, 0.34  # opacity of the bands


def plot(df: pd.DataFrame, changes: pd.DataFrame, paper: pd.DataFrame | None = None, style: Style = PAPER, *,
         note: str = "") -> Figure:  # fmt: skip
    """A panel for each model in the class pairing; below, all means minus t in both pairings, and the differences.
    The fields that memorize have neither a panel nor a difference: their means say it.

    df: `measures.slow_flow.bands` (COLUMNS); changes: `measures.slow_flow.changes` (CHANGES); paper: the published
    bands (PUBLISHED), each drawn with the model of its row. Raises DefarError for tables without one of the pairings.
    """
    require(df, COLUMNS, "the table of slowed times")
    models, letters = ordered_models(df["model"]), iter("abcdefghijkl")
    paneled = [name for name in models if name not in MEMORIES]
    with applied(style):
        figure = Figure(figsize=(7.0, 5.0), layout="constrained")
        upper, lower = figure.add_gridspec(2, 1, height_ratios=(1, 1.1))
        own, first = select(df, "the table of slowed times", pairing="class"), None
        for cell, name in zip(upper.subgridspec(1, len(paneled)), paneled, strict=True):
            ax = figure.add_subplot(cell, sharey=first)
            draw_bands(ax, own, name, style, paper)
            ax.set_title(f"({next(letters)}) {name}", loc="left")
            ax.set_ylabel("slowed time  $m_t$" if first is None else "")
            ax.tick_params(labelleft=first is None)
            first = first or ax
        cells = list(lower.subgridspec(1, len(TITLES) + 1))
        for cell, (pairing, title) in zip(cells, TITLES.items(), strict=False):
            ax = figure.add_subplot(cell)
            draw_means(ax, df, pairing, style)
            ax.set_title(f"({next(letters)}) {title}", loc="left")
        ax = figure.add_subplot(cells[-1])
        draw_changes(ax, changes, style)
        ax.set_title(f"({next(letters)}) {TITLES['class']}", loc="left")
        figure.legend(handles=_handles(models, paper, style), loc="outside lower center", ncols=4, columnspacing=1.4,
                      handlelength=1.8)  # fmt: skip
        said = "top: noise with an image of its class; below, shaded and bars: 95 % bootstrap of the mean over images"
        small_print(figure, "\n".join(filter(None, (note, said))), style)
    return figure


def draw_bands(ax: Axes, df: pd.DataFrame, model: str, style: Style = PAPER, paper: pd.DataFrame | None = None) -> None:
    """One model: all images from the least to the most, 5 to 95 % of them, their mean, and m = t."""
    rows = select(df, "the table of slowed times", model=model).sort_values("t")
    if rows["t"].duplicated().any():
        raise DefarError(f"column t repeats for {model!r}: more than one pairing is left; select one")
    t, line = rows["t"].to_numpy(float), style.line(model)
    for (low, high), opacity in ((("minimum", "maximum"), _WIDE), (("p5", "p95"), _NARROW)):
        ax.fill_between(t, rows[low], rows[high], color=line["color"], alpha=opacity, linewidth=0, zorder=2)
    ax.plot(t, rows["value"], label=model, zorder=3, **line)
    ax.plot([0, 1], [0, 1], zorder=1, **_diagonal(style))
    if paper is not None:
        _draw_published(ax, require(paper, PUBLISHED, "the published bands"), model, style)
    time_axis(ax, "t")
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_ylim(0, 1)


def draw_means(ax: Axes, df: pd.DataFrame, pairing: str, style: Style = PAPER) -> None:
    """Mean m_t - t of every model in one pairing, with its 95 % interval."""
    rows = select(df, "the table of slowed times", pairing=pairing)
    rows = rows.assign(**{column: rows[column] - rows["t"] for column in ("value", "low", "high")})
    for name in ordered_models(rows["model"]):
        interval_curve(ax, rows[rows["model"] == name], style, style.line(name), name)
    ax.axhline(0, zorder=1, **_diagonal(style))
    ax.set_ylabel("mean  $m_t - t$")
    time_axis(ax)


def draw_changes(ax: Axes, changes: pd.DataFrame, style: Style = PAPER) -> None:
    """Every model's m_t minus BASELINE's in the class pairing, paired by image, with its 95 % interval."""
    rows = select(require(changes, CHANGES, "the differences"), "the differences", pairing="class")
    names = [name for name in ordered_models(rows["model"]) if name not in MEMORIES]
    for k, name in enumerate(names):
        own, line = rows[rows["model"] == name].sort_values("t"), style.line(name)
        t = own["t"].to_numpy(float) + 0.02 * (k - (len(names) - 1) / 2)  # side by side, so that bars do not hide bars
        ax.vlines(t, own["low"], own["high"], color=line["color"], linewidth=0.75 * style.line_width, clip_on=False)
        ax.plot(t, own["value"], marker="o", markersize=3, label=name, clip_on=False, **{**line, "linewidth": 0.8})
    ax.axhline(0, color=style.colour(BASELINE), linewidth=1.0, zorder=1)
    ax.set_ylabel(f"$m_t$ minus {BASELINE}'s")
    time_axis(ax)


def _draw_published(ax: Axes, paper: pd.DataFrame, model: str, style: Style) -> None:
    """Both ends of each published band of this model, joined."""
    rows = paper[(paper["row"] == model) & paper["column"].isin(ENDS)]
    for t, ends in rows.groupby("t"):
        ax.plot(np.full(len(ends), t), ends["value"], zorder=4, clip_on=False, **_published(style))


def _handles(models: list[str], paper: pd.DataFrame | None, style: Style) -> list:
    handles = [Line2D([], [], label=name, **style.line(name)) for name in models]
    for label, opacity in (("5 to 95 % of images", _NARROW + _WIDE), ("least to most", _WIDE)):
        handles.append(Patch(facecolor=style.colour(REFERENCE), alpha=opacity, linewidth=0, label=label))
    handles.append(Line2D([], [], label="$m_t = t$", **_diagonal(style)))
    if paper is not None:
        handles.append(Line2D([], [], label=PUBLISHED_LABEL, **_published(style)))
    return handles


def _diagonal(style: Style) -> dict:
    return {"color": style.target_colour, "linestyle": ":", "linewidth": 1.1}


def _published(style: Style) -> dict:
    return {**style.paper_marker(), "color": style.paper_colour, "linestyle": "-", "linewidth": 0.6}
