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
from .style import PAPER, REFERENCE, Style, applied, interval_curve, labelled, pick, require, select, time_axis

COLUMNS = ("model", "band", "t", "value", "low", "high", "n")
CHANGES = ("model", "band", "percent", "percent_low", "percent_high", "nfe", "forwards")
BASELINE = "SiT"
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
        draw_samples(lower, df, arrays, style, names)
    return figure


def plot_curves(df: pd.DataFrame, changes: pd.DataFrame, style: Style = PAPER, *, note: str = "",
                on_defar: pd.DataFrame | None = None) -> Figure:  # fmt: skip
    """The energies alone; on_defar: the changes against plain DEFAR, a fourth panel."""
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
    """The drift in the low (a) and the high band (b), the paired change at the end (c), and that on DEFAR (d)."""
    require(df, COLUMNS, "the drift table")
    require(changes, CHANGES, "the changes")
    if on_defar is None:
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
    else:
        require(on_defar, CHANGES, "the changes on DEFAR")
        axes = figure.subplots(2, 2).ravel()
        _draw_changes(axes[3], on_defar, style, "DEFAR", "(d) The same on DEFAR")
    models = list(dict.fromkeys(df["model"]))
    for ax, letter, band in zip(axes, "ab", ("low", "high"), strict=False):
        rows = select(df, "the drift table", band=band)
        for name in models:
            own = rows[rows["model"] == name].sort_values("t")
            if name == BASELINE:
                interval_curve(ax, own, style, _line(name, style), name)
            else:
                ax.plot(own["t"], own["value"], label=name, zorder=3, **_line(name, style))
        ax.axhline(1, color=style.target_colour, linestyle="--", linewidth=0.9, zorder=1)
        ax.set_title(f"({letter}) {band.capitalize()} band along sampling", loc="left")
        time_axis(ax)
    axes[0].set_ylabel("energy over the true states'")
    _draw_changes(axes[2], changes, style, BASELINE, "(c) Low band (filled), high (hollow)")
    handles, labels = labelled(axes[:1])
    order = [labels.index(name) for name in models]
    columns = len(models) if len(models) < 10 else -(-len(models) // 2)
    figure.legend([handles[k] for k in order], models, loc="outside lower center", ncols=columns, columnspacing=1.0,
                  handlelength=1.8)  # fmt: skip
    said = f"shaded: 95 % bootstrap over images of {BASELINE}'s ratio (others': in the table); dashed grey: no drift"
    small_print(figure, "\n".join(filter(None, (note, said))), style)


def _draw_changes(ax: Axes, changes: pd.DataFrame, style: Style, baseline: str, title: str) -> None:
    names = [name for name in dict.fromkeys(changes["model"]) if name not in (baseline, REFERENCE)]
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
                 style: Style = PAPER, names: Sequence[str] = ()) -> None:  # fmt: skip
    """arrays["samples"] (M, K, H, W, 3): column = method in the table's order (the reference has none), row = one
    noise and label."""
    samples, labels = pick(arrays, "samples"), pick(arrays, "labels")
    models = [name for name in dict.fromkeys(df["model"]) if name != REFERENCE]
    if samples.ndim != 5 or len(samples) != len(models) or samples.shape[1] != len(labels):
        raise DefarError(f"{len(models)} models and {len(labels)} labels, but 'samples' has shape {samples.shape}")
    axes = figure.subplots(len(labels), len(models), squeeze=False)
    for row, label in zip(range(len(labels)), labels, strict=True):
        for ax, name, picture in zip(axes[row], models, samples[:, row], strict=True):
            ax.imshow(picture, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            if row == 0:
                ax.set_title(name, fontsize=style.font)
        axes[row, 0].set_ylabel(names[label] if 0 <= label < len(names) else str(label))
    figure.suptitle("(d) Samples: a row shares noise and label", fontsize=style.font, x=0.01, ha="left")


def _height(arrays: Mapping[str, np.ndarray]) -> float:
    """Inches that the samples take: one for each row, and the titles."""
    return 0.5 + len(pick(arrays, "labels"))


def _line(name: str, style: Style) -> dict:
    kind = next((kind for kind in sorted(_KINDS, key=len, reverse=True) if name.startswith(kind)), None)
    if kind is None:
        return style.line(name)
    own = replace(style, colours={**style.colours, name: _KINDS[kind]}).line(name)
    return {**own, "linewidth": 0.8 * style.line_width, "linestyle": _DASHES.get(kind, "-")}
