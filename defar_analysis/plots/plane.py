"""The study in the plane: what bias, drift, ADR, FC and MixFlow are, what samples they lead to, and who is helped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .plane_idea import BASELINE, EXACT, FRESH, PLANE, STOPPED, TRUE, background, draw_idea, small_print
from .style import REFERENCE, Style, applied, pick, require, select, time_axis

COLUMNS = ("model", "seed", "quantity", "t", "nfe", "value")
VERDICTS = ("model", "quantity", "nfe", "percent", "difference", "low", "high", "verdict", "seeds")
SMALL_PRINT = "lines: mean over seeds; bands: lowest to highest seed"


def plot(df: pd.DataFrame, arrays: Mapping[str, np.ndarray], verdicts: pd.DataFrame, style: Style = PLANE, *,
         note: str = "") -> Figure:  # fmt: skip
    """All three pictures, one above the other."""
    with applied(style):
        figure = Figure(figsize=(9.6, 13.3), layout="constrained")
        parts = figure.subfigures(3, 1, height_ratios=(3.35, 5.15, 4.8), hspace=0.02)
        draw_idea(parts[0], arrays, style)
        draw_samples(parts[1], arrays, _models(df), style)
        draw_curves(parts[2], df, verdicts, style, note)
    return figure


def plot_idea(arrays: Mapping[str, np.ndarray], style: Style = PLANE) -> Figure:
    """What bias and drift are on a flow-matching model, and what ADR, FC and MixFlow make of them."""
    return _alone(draw_idea, (9.6, 3.35), style, arrays, style)


def plot_samples(df: pd.DataFrame, arrays: Mapping[str, np.ndarray], style: Style = PLANE) -> Figure:
    """Samples and some of the walks to them, every method from the same noise."""
    return _alone(draw_samples, (9.6, 5.15), style, arrays, _models(df), style)


def plot_curves(df: pd.DataFrame, verdicts: pd.DataFrame, style: Style = PLANE, *, note: str = "") -> Figure:
    """Loss, bias, speed and drift over t, quality over evaluations, and the change against FM with its interval."""
    return _alone(draw_curves, (9.6, 4.8), style, df, verdicts, style, note)


def _alone(draw, size: tuple[float, float], style: Style, *given) -> Figure:
    with applied(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, *given)
    return figure


# ---- samples


def draw_samples(figure: Figure | SubFigure, arrays: Mapping[str, np.ndarray], models: Sequence[str],
                 style: Style = PLANE) -> None:  # fmt: skip
    """Eight panels: the data, the exact field, then each method, every one from the same noise."""
    order = [EXACT, *(name for name in models if name != EXACT)]
    samples, walks = (np.asarray(pick(arrays, key), float) for key in ("samples", "walks"))
    axes = figure.subplots(2, (len(order) + 2) // 2).ravel()
    background(axes[0], arrays)
    noise = walks[0, 0]
    axes[0].plot(*noise.T, linestyle="none", marker="o", markersize=2.2, color=TRUE, markeredgewidth=0)
    axes[0].set_title("data (grey) and noise")
    for ax, name in zip(axes[1:], order, strict=False):
        k = list(models).index(name)
        background(ax, arrays)
        for walk in walks[k].transpose(1, 0, 2):
            ax.plot(*walk.T, color=style.colour(name), linewidth=0.5, alpha=0.55, zorder=2)
        ax.plot(*samples[k].T, linestyle="none", marker="o", markersize=1.5, color=style.colour(name),
                markeredgewidth=0, alpha=0.75, zorder=3)  # fmt: skip
        ax.set_title(name)
    text = f"seed 0; {samples.shape[1]} samples by Euler with {walks.shape[1] - 1} evaluations, from the same noise"
    small_print(figure, f"{text} in every panel; lines: the walks of {walks.shape[2]} of them", style)
    for ax in axes[len(order) + 1 :]:
        ax.set_axis_off()


# ---- curves


def draw_curves(figure: Figure | SubFigure, df: pd.DataFrame, verdicts: pd.DataFrame, style: Style = PLANE,
                note: str = "") -> None:  # fmt: skip
    """Six panels: what the field is like at true states (e-g), and where sampling ends up (h-j)."""
    require(df, COLUMNS, "the plane's table")
    require(verdicts, VERDICTS, "the verdicts")
    axes = figure.subplots(2, 3).ravel()
    panels = (
        ("excess_loss", "t", "(e) Loss above its minimum", "mean squared error", True),
        ("bias_rms", "t", r"(f) Exposure bias $\delta$", "root mean square", False),
        ("speed", "t", "(g) Length of the velocity", "mean |v|", False),
        ("drift", "t", "(h) Drift along sampling", r"distance from true $x_t$", True),
        ("quality", "nfe", "(i) Quality of samples", "distance from data", True),
    )
    for ax, (quantity, over, title, label, log) in zip(axes, panels, strict=False):
        rows = select(df, "the plane's table", quantity=quantity)
        for name in _drawn(rows):
            _seeds_curve(ax, rows[rows["model"] == name], over, name, style)
        ax.set_title(title, loc="left")
        ax.set_ylabel(label)
        ax.set_yscale("log" if log else "linear")
        if not log:
            ax.set_ylim(bottom=0)
        if over == "t":
            time_axis(ax)
        else:
            ax.set_xscale("log")
            ax.set_xticks(ticks := sorted(rows[over].unique()), [f"{tick:g}" for tick in ticks])
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xlabel("network evaluations (Euler)")
        if quantity in ("drift", "quality"):
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set_yticks([0.05, 0.1, 0.2, 0.5], minor=False)
    _draw_verdicts(axes[5], verdicts, style)
    handles = {label: handle for ax in axes[:5] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), columnspacing=1.4,
                  handlelength=2.0)  # fmt: skip
    small_print(figure, "\n".join(filter(None, (note, SMALL_PRINT))), style)


def _seeds_curve(ax: Axes, rows: pd.DataFrame, over: str, name: str, style: Style) -> None:
    by = rows.groupby(over)["value"]
    x, mean, low, high = by.mean().index.to_numpy(float), by.mean(), by.min(), by.max()
    if rows["value"].eq(0).all():  # the exact field's own excess loss
        return
    if name != EXACT and name != FRESH:
        ax.fill_between(x, low, high, color=style.colour(name), alpha=style.interval_opacity, linewidth=0, zorder=2)
    ax.plot(x, mean, label=name, zorder=3, **_line(name, style))


def _line(name: str, style: Style) -> dict:
    if name == EXACT:
        return style.line(REFERENCE)
    if name == FRESH:
        return {"color": style.target_colour, "linestyle": (0, (1, 1.5)), "linewidth": 0.75 * style.line_width}
    return {**style.line(name), **({"linestyle": (0, (5, 1, 1, 1))} if name == STOPPED else {})}


def _draw_verdicts(ax: Axes, verdicts: pd.DataFrame, style: Style) -> None:
    """Each method's paired change of the distance from data against FM, at the most evaluations."""
    rows = select(verdicts, "the verdicts", quantity="quality")
    names = list(dict.fromkeys(rows["model"]))
    most = rows["nfe"].max()
    for k, name in enumerate(reversed(names)):
        row = rows[(rows["model"] == name) & (rows["nfe"] == most)].iloc[0]
        scale = 100 / row["baseline"]
        colour = style.colour(name)
        ax.plot([row["low"] * scale, row["high"] * scale], [k, k], color=colour, linewidth=style.line_width)
        ax.plot(row["percent"], k, marker="o", markersize=4, color=colour, markeredgewidth=0)
        word = "" if name == EXACT else f" {row['verdict']}"
        ax.annotate(f"{row['percent']:+.0f} %{word}", (row["high"] * scale, k), (4, 0), textcoords="offset points",
                    ha="left", va="center", fontsize=style.small_font, color=colour)  # fmt: skip
    ax.axvline(0, color=style.colour(BASELINE), linewidth=1.0, zorder=1)
    ax.set_yticks(range(len(names)), list(reversed(names)))
    left, right = ax.get_xlim()
    ax.set_xlim(left, right + 0.42 * (right - left))  # room for the words
    ax.set_xlabel(f"change against {BASELINE} (%), 95 % t-interval")
    ax.set_title(f"(j) Distance from data, {most:g} evaluations", loc="left")


# ---- parts


def _models(df: pd.DataFrame) -> list[str]:
    """The rows of `samples` and `walks`: every model of the table that draws samples, in the table's order."""
    return [name for name in dict.fromkeys(require(df, COLUMNS, "the plane's table")["model"]) if name != FRESH]


def _drawn(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["model"]))
