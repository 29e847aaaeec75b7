"""Which statements survive another reading: shares of settings, and how the numbers behind them move."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .plane_idea import small_print
from .style import MEMORIES, PAPER, REFERENCE, Style, applied, ordered_models, require

COLUMNS = ("statement", "model", "cutoff", "dc", "channels", "estimator", "low_share", "high_share", "mask_norm",
           "bias_norm", "value", "low", "high", "where", "where_low", "where_high")  # fmt: skip
VERDICTS = ("statement", "model", "settings", "holds", "does_not_hold", "undecided", "by_default")
TITLES = {  # in two lines, beside the bars
    "prediction below target": "prediction's PFR below\nthe target's, t < 0.25",
    "bias falls": "bias's PFR falls\nat every step",
    "bias crosses target": "bias's PFR above the target's\nat first, below at last",
    "gain positive": "FEL gain positive,\nt < 0.25",
    "gain vanishes": "|FEL gain| at 0.5 below\na fifth of its most, t < 0.25",
    "DEFAR above SiT": "DEFAR's PFR above SiT's,\nt < 0.25",
}
DC = {"without": {"marker": "o", "linestyle": "-"}, "with": {"marker": "s", "linestyle": (0, (1, 1.2))}}
MARKERS = {"l2": "o", "l1": "s", "mean": "^"}
DEFAULT = {"holds": "full", "does not hold": "none", "undecided": "left"}  # fill of its marker


def plot(df: pd.DataFrame, verdicts: pd.DataFrame, style: Style = PAPER, *, note: str = "") -> Figure:
    """Shares of settings in which each statement holds (a); crossing, margin and gain over their settings (b-d).

    df, verdicts: tables of `measures.sensitivity`. Raises DefarError for tables without one of the columns or rows.
    """
    require(df, COLUMNS, "the table of statements")
    with applied(style):
        figure = Figure(figsize=(7.0, 3.4 + 0.19 * len(verdicts)), layout="constrained")
        upper, lower = figure.add_gridspec(2, 1, height_ratios=(0.19 * len(verdicts), 2.0))
        ax = figure.add_subplot(upper)
        draw_shares(ax, verdicts, style)
        ax.set_title("(a) Settings under which each statement holds", loc="left")
        axes = [figure.add_subplot(cell) for cell in lower.subgridspec(1, 3)]
        df = df[~df["model"].isin(MEMORIES)]  # six fields with their intervals would hide each other
        draw_crossings(axes[0], df, style)
        axes[0].set_title("(b) Bias crosses target", loc="left")
        draw_margins(axes[1], df, style)
        axes[1].set_title("(c) Prediction, t < 0.25", loc="left")
        draw_gains(axes[2], df, style)
        axes[2].set_title("(d) FEL gain, t < 0.25", loc="left")
        figure.legend(handles=_handles(ordered_models(verdicts["model"]), style), loc="outside lower center", ncols=4,
                      columnspacing=1.3, handlelength=1.8)  # fmt: skip
        said = (
            "(a) circle: the default setting says full: holds, half: undecided, hollow: does not hold\n"
            "(b-d) bars: 95 % bootstrap over images, of the setting that the axis and marks name, others at default; "
            "without the empirical fields"
        )
        small_print(figure, "\n".join(filter(None, (note, said))), style)
    return figure


def draw_shares(ax: Axes, verdicts: pd.DataFrame, style: Style = PAPER) -> None:
    """A bar for each statement and model: share of settings in which it holds (full) and is undecided (light)."""
    rows, places, ticks = require(verdicts, VERDICTS, "the verdicts"), [], []
    top = 0.0
    for name in dict.fromkeys(rows["statement"]):
        own = rows[rows["statement"] == name]
        middle = top + (len(own) - 1) / 2
        places.append(middle)
        ticks.append(TITLES.get(name, name))
        for row in (own[own["model"] == m].iloc[0] for m in ordered_models(own["model"])):
            colour = style.colour(_named(row["model"]))
            held, left = row["holds"] / row["settings"], row["undecided"] / row["settings"]
            ax.barh(top, held, 0.82, color=colour)
            ax.barh(top, left, 0.82, left=held, color=_light(colour))
            ax.barh(top, 1, 0.82, facecolor="none", edgecolor=colour, linewidth=0.6)
            ax.plot(1.025, top, marker="o", markersize=4.5, color=colour, fillstyle=DEFAULT[row["by_default"]],
                    markeredgewidth=0.8, markerfacecoloralt="white", clip_on=False)  # fmt: skip
            ax.text(1.05, top, f"{row['holds']} of {row['settings']}", va="center", fontsize=style.small_font - 0.5)
            top += 1
        top += 0.7
    ax.set_ylim(top - 0.9, -0.6)
    ax.set_yticks(places, ticks)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of settings")


def draw_crossings(ax: Axes, df: pd.DataFrame, style: Style = PAPER) -> None:
    """Where the bias's PFR crosses the target's over the cutoff, without and with the DC bin."""
    rows = _joint(df, "bias crosses target")
    rows = rows.assign(value=rows["where"], low=rows["where_low"], high=rows["where_high"]).dropna(subset=["value"])
    _over_cutoff(ax, rows, style)
    ax.set_ylim(0, 1)
    ax.set_ylabel("t  (0 noise, 1 data)")


def draw_margins(ax: Axes, df: pd.DataFrame, style: Style = PAPER) -> None:
    """By how much the prediction's PFR is below the target's, least over t < 0.25, over the cutoff."""
    rows = _joint(df, "prediction below target")
    rows = rows.assign(**{name: 100 * rows[name] for name in ("value", "low", "high")})
    ax.axhline(0, color="black", linewidth=0.5)
    _over_cutoff(ax, rows, style)
    ax.set_ylabel("below target, least (%)")


def draw_gains(ax: Axes, df: pd.DataFrame, style: Style = PAPER) -> None:
    """The least FEL gain at t < 0.25 over the shares of salient pixels, a mark for each norm of the masks."""
    rows = df[(df["statement"] == "gain positive") & np.isclose(df["cutoff"], 0.2) & (df["bias_norm"] == "l2")]
    require(rows, COLUMNS, "the FEL gains at the default cutoff")
    shares = list(dict.fromkeys(zip(rows["low_share"], rows["high_share"], strict=True)))
    models = ordered_models(rows["model"])
    ax.axhline(0, color="black", linewidth=0.5)
    for k, model in enumerate(models):
        for j, (norm, marker) in enumerate(MARKERS.items()):
            own = rows[(rows["model"] == model) & (rows["mask_norm"] == norm)]
            at = [shares.index(pair) for pair in zip(own["low_share"], own["high_share"], strict=True)]
            at = np.array(at) + 0.8 / len(models) * (k - (len(models) - 1) / 2 + 0.27 * (j - 1))
            colour = style.colour(model)
            ax.vlines(at, own["low"], own["high"], color=colour, linewidth=0.8)
            ax.plot(at, own["value"], marker=marker, markersize=2.6, color=colour, linestyle="none",
                    label=f"{model}, {norm}")  # fmt: skip
    ax.set_xticks(range(len(shares)), [f"{100 * low:g}\n{100 * high:g}" for low, high in shares])
    ax.set_xlim(-0.5, len(shares) - 0.5)
    ax.set_xlabel("pixels of low, of high mask (%)")
    ax.set_ylabel("least gain (%)")


def _joint(df: pd.DataFrame, statement: str) -> pd.DataFrame:
    """A PFR statement's rows with all channels together and ratios averaged over images."""
    rows = df[(df["statement"] == statement) & (df["channels"] == "joint") & (df["estimator"] == "mean_of_ratios")]
    return require(rows, COLUMNS, f"the settings of {statement!r}")


def _over_cutoff(ax: Axes, rows: pd.DataFrame, style: Style) -> None:
    for k, model in enumerate(ordered_models(rows["model"])):
        for dc, look in DC.items():
            own = rows[(rows["model"] == model) & (rows["dc"] == dc)].sort_values("cutoff")
            at, colour = own["cutoff"] + 0.002 * (k - 1), style.colour(model)
            ax.vlines(at, own["low"], own["high"], color=colour, linewidth=0.8)
            ax.plot(at, own["value"], color=colour, linewidth=0.9, markersize=2.8, label=f"{model}, {dc} DC", **look)
    ax.set_xticks([0.1, 0.2, 0.3])
    ax.set_xlabel("cutoff (cycles per pixel)")


def _named(model: str) -> str:
    """Whose colour a comparison has: "DEFAR against SiT" has DEFAR's."""
    return model.split(" against ")[0]


def _light(colour: str) -> tuple[float, float, float]:
    return tuple(1 - 0.35 * (1 - part) for part in to_rgb(colour))


def _handles(models: list[str], style: Style) -> list:
    known = [name for name in models if name == _named(name)]
    grey = style.colour(REFERENCE)
    handles = [Patch(color=style.colour(name), label=name) for name in known]
    handles.append(Patch(facecolor=_light(grey), label="light in (a): undecided"))
    handles += [Line2D([], [], color=grey, markersize=3, linewidth=0.9, label=f"(b, c) {dc} DC bin", **look)
                for dc, look in DC.items()]  # fmt: skip
    names = {"l2": "L2", "l1": "L1", "mean": "mean"}
    handles += [Line2D([], [], color=grey, marker=marker, markersize=3.2, linestyle="none",
                       label=f"(d) masks by {names[norm]} norm" if norm != "mean" else "(d) masks by channel mean")
                for norm, marker in MARKERS.items()]  # fmt: skip
    return handles
