"""Training-free corrections: band energies along sampling, what each changes at the end, and samples side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ..errors import DefarError
from .plane_idea import small_print
from .style import (
    MEMORIES,
    PAPER,
    REFERENCE,
    Style,
    applied,
    interval_curve,
    labelled,
    pick,
    require,
    select,
    time_axis,
)

COLUMNS = ("model", "band", "t", "value", "low", "high", "n")
CHANGES = ("model", "band", "percent", "percent_low", "percent_high", "nfe", "forwards")
EXACT = (REFERENCE, *MEMORIES)  # fields without defect, which have no pictures
BASELINE, OTHER = "SiT", "DEFAR"  # a correction of the second is called "... on DEFAR"
# Colours by kind, whatever the setting; none of a model of the paper.
_KINDS = {"CFG": "#117733", "ES": "#AA4499", "TS label": "#44AA99", "TS target": "#332288", "DCW Haar": "#882255",
          "DCW": "#999933", "DG": "#661100"}  # fmt: skip
_DASHES = {"TS label": (0, (1, 1.2)), "TS target": (0, (4, 1.4)), "DCW Haar": (0, (4, 1.4))}


def plot(df: pd.DataFrame, arrays: Mapping[str, np.ndarray], changes: pd.DataFrame, style: Style = PAPER, *,
         names: Sequence[str] = (), note: str = "") -> Figure:  # fmt: skip
    """Curves and changes above, samples below; names: of the labels."""
    require(df, COLUMNS, "the drift table")
    with applied(style):
        figure = Figure(figsize=(9.6, 3.5 + _height(arrays)), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(3.5, _height(arrays)), hspace=0.02)
        draw_curves(upper, df, changes, style, note)
        draw_samples(lower, df, arrays, style, names, "(d) ")
    return figure


def plot_curves(df: pd.DataFrame, changes: pd.DataFrame, style: Style = PAPER, *, note: str = "",
                on_defar: pd.DataFrame | None = None) -> Figure:  # fmt: skip
    """The energies alone; on_defar: the changes against plain DEFAR, for a second row on it."""
    with applied(style):
        figure = Figure(figsize=(9.6, 3.5 if on_defar is None else 6.4), layout="constrained")
        draw_curves(figure, df, changes, style, note, on_defar)
    return figure


def plot_samples(df: pd.DataFrame, arrays: Mapping[str, np.ndarray], style: Style = PAPER, *,
                 names: Sequence[str] = ()) -> Figure:  # fmt: skip
    """The samples alone."""
    with applied(style):
        figure = Figure(figsize=(9.6, _height(arrays)), layout="constrained")
        draw_samples(figure, df, arrays, style, names)
    return figure


def draw_curves(figure: Figure | SubFigure, df: pd.DataFrame, changes: pd.DataFrame, style: Style = PAPER,
                note: str = "", on_defar: pd.DataFrame | None = None) -> None:  # fmt: skip
    """Three panels: the drift in the low (a) and the high band (b), and the paired change at the end (c); with
    `on_defar` three more (d-f) of the same on DEFAR."""
    require(df, COLUMNS, "the drift table")
    parts = {BASELINE: changes} if on_defar is None else {BASELINE: changes, OTHER: on_defar}
    grid = figure.subplots(len(parts), 3, width_ratios=(1, 1, 1.05), squeeze=False)
    for axes, letters, (baseline, table) in zip(grid, ("abc", "def"), parts.items(), strict=False):
        require(table, CHANGES, f"the changes against {baseline}")
        where = "" if baseline == BASELINE else f", on {baseline}"
        _draw_drift(axes, df, style, baseline, letters, where)
        _draw_changes(axes[2], table, style, baseline, f"({letters[2]}) Low band (filled), high (hollow){where}")
    handles, labels = labelled(grid[0, :1])
    models = _models(df, BASELINE)
    order = [labels.index(name) for name in models]
    columns = len(models) if len(models) < 10 else -(-len(models) // 2)
    figure.legend([handles[k] for k in order], models, loc="outside lower center", ncols=columns, columnspacing=1.0,
                  handlelength=1.8)  # fmt: skip
    plain = " and ".join(f"{baseline}'s" for baseline in parts)
    said = f"shaded: 95 % bootstrap over images of {plain} ratio (others': in the table); dashed grey: no drift"
    small_print(figure, "\n".join(filter(None, (note, said))), style)


def _models(df: pd.DataFrame, baseline: str) -> list[str]:
    """The table's models that are drawn beside `baseline`, itself first and exact fields last."""
    names = list(dict.fromkeys(df["model"]))
    other = [name for name in names if name.endswith(f" on {OTHER}")]
    if baseline == BASELINE:
        return [name for name in names if name not in other]
    return [baseline, *other, *(name for name in names if name in EXACT)]


def _draw_drift(axes: Sequence[Axes], df: pd.DataFrame, style: Style, baseline: str, letters: str, where: str) -> None:
    for ax, letter, band in zip(axes, letters, ("low", "high"), strict=False):
        rows = select(df, "the drift table", band=band)
        for name in _models(df, baseline):
            own = rows[rows["model"] == name].sort_values("t")
            if name == baseline:
                interval_curve(ax, own, style, _line(name, style), name)
            else:
                ax.plot(own["t"], own["value"], label=name, zorder=3, **_line(name, style))
        ax.axhline(1, color=style.target_colour, linestyle="--", linewidth=0.9, zorder=1)
        ax.set_title(f"({letter}) {band.capitalize()} band along sampling{where}", loc="left")
        time_axis(ax)
    axes[0].set_ylabel("energy over the true states'")


def _draw_changes(ax: Axes, changes: pd.DataFrame, style: Style, baseline: str, title: str) -> None:
    names = [name for name in dict.fromkeys(changes["model"]) if name not in (baseline, *EXACT)]
    if not names:
        raise DefarError(f"the changes have no model beside {baseline!r}")
    for k, name in enumerate(reversed(names)):
        for band, offset, fill in (("low", 0.17, True), ("high", -0.17, False)):
            (row,) = select(changes, "the changes", model=name, band=band).itertuples()
            colour, y = _line(name, style)["color"], k + offset
            ax.plot([row.percent_low, row.percent_high], [y, y], color=colour, linewidth=style.line_width)
            ax.plot(row.percent, y, marker="o", markersize=4.5, color=colour, markeredgewidth=1.1,
                    markerfacecolor=colour if fill else "white", zorder=3)  # fmt: skip
    ax.axvline(0, color=style.colour(baseline), linewidth=1.0, zorder=1)
    ax.set_yticks(range(len(names)), [name.removesuffix(f" on {baseline}") for name in reversed(names)])
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(f"change of energy against {baseline} at t = 1 (%)")
    ax.set_title(title, loc="left")


def draw_samples(figure: Figure | SubFigure, df: pd.DataFrame, arrays: Mapping[str, np.ndarray],
                 style: Style = PAPER, names: Sequence[str] = (), letter: str = "") -> None:  # fmt: skip
    """arrays["samples"] (M, K, H, W, 3) in the table's order of models (exact fields have none): column = correction,
    none in the first; row = checkpoint, noise and label."""
    samples, labels = pick(arrays, "samples"), pick(arrays, "labels")
    models = [name for name in dict.fromkeys(df["model"]) if name not in EXACT]
    if samples.ndim != 5 or len(samples) != len(models) or samples.shape[1] != len(labels):
        raise DefarError(f"{len(models)} models and {len(labels)} labels, but 'samples' has shape {samples.shape}")
    made = dict.fromkeys(name.removesuffix(f" on {OTHER}") for name in models if name not in (BASELINE, OTHER))
    blocks = {BASELINE: [BASELINE, *made], OTHER: [OTHER, *(f"{name} on {OTHER}" for name in made)]}
    axes = figure.subplots(len(blocks) * len(labels), 1 + len(made), squeeze=False)
    for block, (checkpoint, row_models) in enumerate(blocks.items()):
        for row, label in enumerate(labels, start=block * len(labels)):
            for ax, name in zip(axes[row], row_models, strict=True):
                if name in models:  # a discriminator may be there for one checkpoint alone
                    ax.imshow(samples[models.index(name), row % len(labels)], interpolation="nearest")
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(False)
            called = names[label] if 0 <= label < len(names) else str(label)
            axes[row, 0].set_ylabel(f"{checkpoint}: {called}")
    for ax, name in zip(axes[0], ["no correction", *made], strict=True):
        ax.set_title(name, fontsize=style.font)
    title = f"{letter}Samples: rows of one class share noise and label"
    figure.suptitle(title, fontsize=style.font, x=0.01, ha="left")


def _height(arrays: Mapping[str, np.ndarray]) -> float:
    """Inches that the samples take: two rows for each label, and the titles."""
    return 0.5 + 2 * 1.13 * len(pick(arrays, "labels"))


def _line(name: str, style: Style) -> dict:
    kind = next((kind for kind in sorted(_KINDS, key=len, reverse=True) if name.startswith(kind)), None)
    if kind is None:
        return style.line(name)
    own = replace(style, colours={**style.colours, name: _KINDS[kind]}).line(name)
    return {**own, "linewidth": 0.8 * style.line_width, "linestyle": _DASHES.get(kind, "-")}
