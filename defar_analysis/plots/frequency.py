"""PFR of the prediction and of the exposure bias over time (Fig. 3a, 3b), and frequency restoration (Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .style import (
    PAPER,
    TARGET,
    Style,
    applied,
    interval_curve,
    labelled,
    ordered_models,
    paper_points,
    require,
    select,
    time_axis,
)

CURVES = ("model", "quantity", "dc", "estimator", "t", "value", "low", "high")
CROSSINGS = ("model", "quantity", "dc", "estimator", "t_cross", "low", "high")
TITLES = {"pfr_prediction": "PFR of model prediction", "pfr_bias": "PFR of exposure bias"}
HIGH_NOISE = 0.25  # the paper's high-noise stage, t < 0.25


def draw_target(ax: Axes, df: pd.DataFrame, style: Style = PAPER, *, dc="without", estimator="mean_of_ratios") -> None:
    """The PFR of the target velocity, dashed; one line, since every model is measured on the same pairs.

    Where the models' targets differ by more than 1 % they were not: then each is drawn and named.
    """
    rows = select(df, "the curves table", quantity="pfr_target", dc=dc, estimator=estimator)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for model in ordered_models(rows["model"]):
        mine = rows[rows["model"] == model].sort_values("t")
        t, value = mine["t"].to_numpy(float), mine["value"].to_numpy(float)
        known = any(len(t) == len(u) and np.allclose(t, u) and np.allclose(value, w, rtol=0.01)
                    for u, w in curves.values())  # fmt: skip
        if not known:
            curves[model] = (t, value)
    for model, (t, value) in curves.items():
        label = TARGET if len(curves) == 1 else f"{TARGET} ({model})"
        ax.plot(t, value, label=label, zorder=2.5, **style.target_line())


def draw_crossings(ax: Axes, crossings: pd.DataFrame, quantity: str, style: Style = PAPER, *,
                   dc="without", estimator="mean_of_ratios") -> float:  # fmt: skip
    """A thin dashed line where each model's curve crosses the target's, its interval shaded.

    The numbers stand above the axes, where they can cover no curve; returns the height that they take, in points.
    """
    require(crossings, CROSSINGS, "the crossings table")
    rows = select(crossings, "the crossings table", quantity=quantity, dc=dc, estimator=estimator)
    lines = []
    for model in ordered_models(rows["model"]):
        row = rows[rows["model"] == model].iloc[0]
        colour = style.colour(model)
        if np.isfinite(row["t_cross"]):
            text = f"{model} crosses at {row['t_cross']:.2f}"
            if np.isfinite(row["low"]) and np.isfinite(row["high"]):
                ax.axvspan(row["low"], row["high"], color=colour, alpha=0.6 * style.interval_opacity, linewidth=0,
                           zorder=0.5)  # fmt: skip
                text += f" [{row['low']:.2f}, {row['high']:.2f}]"
            if row.get("found_share", 1.0) < 0.995:
                text += f" ({row['found_share']:.0%})"
            ax.axvline(row["t_cross"], color=colour, linestyle=(0, (3, 2)), linewidth=0.8, zorder=1)
        else:
            text = f"{model} never crosses"
        lines.append((text, colour))
    step = 1.35 * style.small_font
    for k, (text, colour) in enumerate(reversed(lines)):
        ax.annotate(text, (0.0, 1.0), (2.0, 3.0 + k * step), xycoords="axes fraction", textcoords="offset points",
                    color=colour, fontsize=style.small_font, ha="left", va="bottom")  # fmt: skip
    return len(lines) * step


def crossing_note(crossings: pd.DataFrame | None) -> str:
    """What the "(83%)" beside a crossing means, where a figure has one."""
    if crossings is None or "found_share" not in crossings.columns:
        return ""
    require(crossings, CROSSINGS, "the crossings table")
    rare = crossings["t_cross"].notna() & (crossings["found_share"] < 0.995)
    return "(%): share of the bootstrap's resamples that cross at all" if rare.any() else ""


def draw_pfr(ax: Axes, df: pd.DataFrame, quantity: str, paper: pd.DataFrame | None = None,
             crossings: pd.DataFrame | None = None, *, style: Style = PAPER, dc: str = "without",
             estimator: str = "mean_of_ratios", target: bool = True, figure: str | None = None) -> float:  # fmt: skip
    """PFR over t (Eq. 12), one curve per model, on one axes; a ratio that spans decades has a logarithmic axis.

    paper: hollow markers, only rows of `figure` where that is given. crossings: where a curve meets the target's;
    returns the points of height that their numbers take above the axes (0 without), for the title to clear.
    """
    require(df, CURVES, "the curves table")
    rows = select(df, "the curves table", quantity=quantity, dc=dc, estimator=estimator)
    ax.set_yscale("log", nonpositive="clip")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if quantity == "pfr_bias" else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    for model in ordered_models(rows["model"]):
        interval_curve(ax, rows[rows["model"] == model], style, style.line(model), model)
    if target:
        draw_target(ax, df, style, dc=dc, estimator=estimator)
    paper_points(ax, paper, quantity, style, figure)
    time_axis(ax)
    ax.set_ylabel("PFR, low / high energy")
    if crossings is None:
        return 0.0
    return draw_crossings(ax, crossings, quantity, style, dc=dc, estimator=estimator)


def plot(df: pd.DataFrame, arrays: Mapping | None = None, paper: pd.DataFrame | None = None,
         crossings: pd.DataFrame | None = None, style: Style = PAPER, *, dc: str = "without",
         estimator: str = "mean_of_ratios", note: str = "") -> Figure:  # fmt: skip
    """PFR of the prediction (left) and of the exposure bias (right); `arrays` is taken for symmetry and not used."""
    with applied(style):
        figure, axes = two_panels(style, "; ".join(filter(None, (note, crossing_note(crossings)))))
        for ax, letter, quantity in zip(axes, "ab", TITLES, strict=True):
            taken = draw_pfr(ax, df, quantity, paper, crossings, style=style, dc=dc, estimator=estimator)
            ax.set_title(f"({letter}) {TITLES[quantity]}", loc="left", pad=6 + taken)
        shared_legend(figure, axes)
    return figure


def plot_restoration(df: pd.DataFrame, arrays: Mapping | None = None, paper: pd.DataFrame | None = None,
                     crossings: pd.DataFrame | None = None, style: Style = PAPER, *, dc: str = "without",
                     estimator: str = "mean_of_ratios", note: str = "") -> Figure:  # fmt: skip
    """Fig. 5: PFR of the predictions, and the paired change from SiT to DEFAR on the very same inputs."""
    with applied(style):
        figure, (left, right) = two_panels(style, "; ".join(filter(None, (note, crossing_note(crossings)))))
        taken = draw_pfr(left, df, "pfr_prediction", paper, crossings, style=style, dc=dc, estimator=estimator,
                         figure="fig5")  # fmt: skip
        left.set_title("(a) PFR of model prediction", loc="left", pad=6 + taken)

        rows = select(df, "the curves table", quantity="pfr_change_percent", dc=dc, estimator=estimator)
        right.axhline(0.0, **style.target_line(), zorder=1.5)
        names = ordered_models(rows["model"])
        for name in names:
            # A row may be named "DEFAR" or "DEFAR against SiT": the colour is DEFAR's either way.
            model = name.split(" ")[0] if name.split(" ")[0] in style.colours else name
            interval_curve(right, rows[rows["model"] == name], style, style.line(model), name)
        right.set_title("(b) Paired change of PFR", loc="left")
        right.set_ylabel("PFR, DEFAR against SiT (%)" if len(names) == 1 else "PFR, against SiT (%)")
        time_axis(right)
        for ax in (left, right):
            low, high = ax.get_ylim()
            ax.set_ylim(low, high + 0.08 * (high - low))  # room for the words
            ax.axvspan(0.0, HIGH_NOISE, color=style.highlight_colour, linewidth=0, zorder=0)
            ax.text(HIGH_NOISE / 2, 1.0, "high noise", transform=ax.get_xaxis_transform(), ha="center", va="top",
                    fontsize=style.small_font, color="#6B5E2E")  # fmt: skip
        shared_legend(figure, [left] if len(names) == 1 else [left, right])
    return figure


def two_panels(style: Style, note: str = "") -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure of two curve panels with a line of small print above; made without pyplot, so nobody has to close it."""
    figure = Figure(figsize=(2 * style.panel[0] + 0.5, style.panel[1] + 0.75), layout="constrained")
    axes = figure.subplots(1, 2)
    if note:
        figure.suptitle(note, fontsize=style.small_font, color="#555555")
    return figure, tuple(axes)


def shared_legend(figure: Figure, axes) -> None:
    handles, names = labelled(axes)
    figure.legend(handles, names, loc="outside lower center", ncols=3 if len(names) > 5 else len(names),
                  columnspacing=1.4, handlelength=2.2)  # fmt: skip
