"""The papers' tables as pictures: by how much each row differs from its baseline, the paper's beside ours."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import PAPER, Style, applied, require

COLUMNS = ("where", "row", "who", "seed", "metric", "percent", "low", "high")
MARKS = "os^Dv<>P"
TINTS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#777777")
MOST_GROUPS = 8  # above it a group's name goes to the row
WIDE = 150  # percent: beyond it the axis is linear near zero and logarithmic outside
ROW_HEIGHT = 0.2


def plot(changes: pd.DataFrame, style: Style = PAPER, *, note: str = "") -> Figure:
    """changes: COLUMNS, one line for each row of the paper's table (who = "paper"), and each of ours with its ends of a
    95 % interval (who = "ours"). Left the paper's, right ours, the same rows; lower is better. Raises DefarError where
    a column is missing or nothing is left to draw."""
    require(changes, COLUMNS, "the changes")
    paper = changes[changes["who"] == "paper"]
    if paper["where"].nunique() > MOST_GROUPS:
        paper = paper.assign(row=paper["row"] + " (" + paper["where"] + ")", where="")
    ours = changes[changes["who"] == "ours"]
    rows = list(dict.fromkeys([*paper["row"], *ours["row"]]))
    height = 0.95 + ROW_HEIGHT * max(4, len(rows)) + (0.17 * _legend_rows(paper) if paper["where"].any() else 0)
    with applied(style):
        figure = Figure(figsize=(7.0, height), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for place, (where, group) in enumerate(paper.groupby("where", sort=False)):
            _marks(left, group, rows, MARKS[place], TINTS[place], where)
        runs = list(ours.groupby(["where", "seed"], sort=False))
        shifts = np.linspace(0.24, -0.24, len(runs)) if len(runs) > 1 else (0.0,)
        for place, ((where, seed), group) in enumerate(runs):
            label = ", ".join(filter(None, (where, f"training seed {seed}" * (ours["seed"].nunique() > 1))))
            _marks(right, group, rows, MARKS[place % len(MARKS)], TINTS[place % len(TINTS)], label, shifts[place])
        left.set_yticks(range(len(rows)), rows, fontsize=style.small_font)
        left.set_ylim(len(rows) - 0.5, -0.5)
        _finish(left, paper, f"paper: {_metric(paper)}, change (%)", style)
        if len(ours):
            _finish(right, ours, f"ours: {_metric(ours)}, change (%)", style)
            if len(runs) > 1:
                right.legend(loc="best", fontsize=style.small_font)
        else:
            right.set_xticks([])
            right.text(0.5, 0.5, "not run here", transform=right.transAxes, ha="center", va="center", color="#555555")
        if paper["where"].any():
            figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", fontsize=style.small_font,
                          ncols=2)  # fmt: skip
        if note:
            figure.suptitle(note, fontsize=style.small_font, color="#555555", x=0.01, ha="left")
    return figure


def plot_configurations(table: pd.DataFrame, style: Style = PAPER, *, note: str = "") -> Figure:
    """Tab. 11 as text: one column for each configuration, "paper | ours" in each cell, bold where they differ by more
    than the paper's rounding. table: columns parameter, quantity (the configuration), paper, ours, decimals."""
    require(table, ("parameter", "quantity", "paper", "ours", "decimals"), "the configurations")
    names, parameters = (list(dict.fromkeys(table[column])) for column in ("quantity", "parameter"))
    with applied(style):
        figure = Figure(figsize=(7.4, 0.75 + 0.19 * len(parameters)))
        ax = figure.add_axes((0.01, 0.01, 0.98, 0.92))
        ax.set_axis_off()
        ax.set_xlim(0, len(names) + 1.35)
        ax.set_ylim(len(parameters) + 0.2, -2.0)
        for column, name in enumerate(names):
            ax.text(column + 1.85, -1.15, name.replace(", ", "\n"), ha="center", va="center", fontsize=style.small_font)
        for line, parameter in enumerate(parameters):
            ax.text(0.0, line, parameter, va="center", fontsize=style.small_font)
            for column, name in enumerate(names):
                for cell in table[(table["parameter"] == parameter) & (table["quantity"] == name)].itertuples():
                    wrong = abs(cell.ours - cell.paper) > 0.5 * 10 ** -float(cell.decimals) * 1.000001
                    text = f"{_short(cell.paper)} | {_short(cell.ours)}"
                    ax.text(column + 1.85, line, text, ha="center", va="center", fontsize=style.small_font,
                            weight="bold" if wrong else "normal")  # fmt: skip
        ax.axhline(-0.4, color="#999999", linewidth=0.6)
        figure.text(0.01, 0.985, f"paper | ours. {note}", fontsize=style.small_font, color="#555555", va="top")
    return figure


def _marks(ax: Axes, group: pd.DataFrame, rows: list[str], mark: str, colour: str, label: str, shift=0.0) -> None:
    y = np.array([rows.index(row) for row in group["row"]]) - shift
    x, ends = group["percent"].to_numpy(), group[["low", "high"]].to_numpy(dtype=float)
    known = np.isfinite(ends).all(axis=1)
    if known.any():
        ax.hlines(y[known], ends[known, 0], ends[known, 1], color=colour, linewidth=1.2)
    ax.plot(x, y, mark, color=colour, markersize=4, markerfacecolor="none", label=label or None)


def _finish(ax: Axes, group: pd.DataFrame, label: str, style: Style) -> None:
    ax.axvline(0, color="#999999", linewidth=0.7, zorder=0)
    if group["percent"].abs().max() > WIDE:
        ax.set_xscale("symlog", linthresh=20)
        ax.set_xticks([-100, -10, 0, 10, 100, 1000], ["-100", "-10", "0", "10", "100", "1000"])
        least, most = group["percent"].min(), group["percent"].max()
        ax.set_xlim(min(-15, 1.5 * least), max(15, 1.5 * most))
    ax.set_xlabel(label, fontsize=style.small_font)
    ax.grid(axis="y", color="#EEEEEE", linewidth=0.6)
    ax.tick_params(labelsize=style.small_font)


def _metric(group: pd.DataFrame) -> str:
    return group["metric"].iloc[0] if len(group) else "FID"


def _legend_rows(paper: pd.DataFrame) -> int:
    return (paper["where"].nunique() + 1) // 2


def _short(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
