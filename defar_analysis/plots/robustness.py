"""Robustness to the number of steps: our distance over NFE (a), the paired change (b), the paper's FID (c)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..errors import DefarError
from .style import PAPER, Style, applied, ordered_models, require

COLUMNS = ("model", "checkpoint", "solver", "interpolant", "guidance", "nfe", "metric", "value", "low", "high", "n",
           "protocol")  # fmt: skip
DIFFERENCES = ("model", "baseline", "metric", "nfe", "percent", "percent_low", "percent_high")
VALUES = ("row", "iters", "column", "x", "value")
SETTINGS = ("checkpoint", "solver", "interpolant", "guidance", "n", "protocol")
FLOOR = "test images"
SHARES = ("precision", "recall")
# A method is told apart without its colour, too: by its mark and, where the lines are close, by its dashes.
_MARKS = {"SiT": "o", "IP": "s", "SDSS": "^", "MDSS": "v", "MixFlow": "P", "DEFAR": "D"}
_DASHES = {"IP": (0, (5, 1.5)), "SDSS": (0, (1, 1.2)), "MDSS": (0, (4, 1.2, 1, 1.2)), "MixFlow": (0, (2, 1))}
_SPARE_MARKS = "X<>*hpd"
_SMALL = "bars: 95 % intervals; hollow in (b): the interval holds 0"


def plot(df: pd.DataFrame, differences: pd.DataFrame, paper: pd.DataFrame, style: Style = PAPER, *, note: str = "",
         metric: str = "FD-EffNet-128") -> Figure:  # fmt: skip
    """Three panels over NFE; below them precision, recall and an inception score, those that the table has.

    df: one solver, interpolant and guidance (columns COLUMNS); differences: DIFFERENCES, of the same; paper: rows of
    Tab. 4, right (VALUES). Raises DefarError where a point is given twice.
    """
    require(df, COLUMNS, "the robustness table")
    more = sorted({name for name in df["metric"] if name in SHARES or name.startswith("IS-")}, key=_place)[:3]
    left, panel, tall, names, gap = 0.62, 1.95, 1.9, 0.92, 0.58  # inches, as all below; names: room for direct labels
    above, below, between = 0.62, 0.5, 0.88
    rows = 2 if more else 1
    width = left + 3 * (panel + names) + 2 * gap
    height = above + rows * tall + (rows - 1) * between + below
    with applied(style):
        figure = Figure(figsize=(width, height))

        def axes(row: int, column: int) -> Axes:
            x, y = left + column * (panel + names + gap), below + (rows - 1 - row) * (tall + between)
            return figure.add_axes((x / width, y / height, panel / width, tall / height))

        points = tall * 72
        draw_quality(axes(0, 0), df, metric, style, letter="a", height=points)
        draw_differences(axes(0, 1), differences, metric, style, height=points)
        draw_paper(axes(0, 2), paper, style, height=points)
        for k, name in enumerate(more):
            draw_quality(axes(1, k), df, name, style, letter="def"[k], height=points)
        small = "; ".join(filter(None, (note, _SMALL)))
        figure.text(0.5, 1 - 0.08 / height, small, ha="center", va="top", fontsize=style.small_font, color="#555555")
    return figure


def draw_quality(ax: Axes, df: pd.DataFrame, metric: str, style: Style = PAPER, *, letter: str = "a",
                 height: float = 137.0) -> None:  # fmt: skip
    """One metric over NFE, a line for each model with its intervals; real images' own value dashed.

    height: of the axes in points, to keep the names at the lines' ends apart.
    """
    rows = df[df["metric"] == metric]
    if rows.empty:
        held = ", ".join(map(str, dict.fromkeys(df["metric"])))
        raise DefarError(f"the robustness table has no rows with metric = {metric!r}; it has: {held}")
    floor, rows = rows[rows["model"] == FLOOR], rows[rows["model"] != FLOOR]
    require(rows, COLUMNS, f"the robustness table without {FLOOR!r}")
    _refuse_twice(rows, ["model", "nfe"], SETTINGS)
    ends = _lines(ax, rows, "value", "low", "high", style)
    if len(floor):
        value, low, high = (floor[c].mean() for c in ("value", "low", "high"))
        if np.isfinite([low, high]).all():
            ax.axhspan(low, high, color=style.target_colour, alpha=style.interval_opacity, linewidth=0, zorder=1)
        ax.axhline(value, zorder=2, **style.target_line())
        ends.append((FLOOR, value, style.target_colour))
    if metric not in SHARES:
        _logarithmic_if_wide(ax, pd.concat([rows["value"], floor["value"]]))
    _nfe_axis(ax, rows["nfe"])
    _direct_labels(ax, ends, style, height)
    ax.set_ylabel(f"{metric} (share)" if metric in SHARES else metric)
    ax.set_title(f"({letter}) {metric}, ours", loc="left")


def draw_differences(ax: Axes, differences: pd.DataFrame, metric: str, style: Style = PAPER, *,
                     height: float = 137.0) -> None:  # fmt: skip
    """Paired change against the baseline in percent, by NFE; hollow where the interval holds 0."""
    require(differences, DIFFERENCES, "the differences")
    rows = require(differences[differences["metric"] == metric], DIFFERENCES, f"the differences in {metric}")
    baselines = list(dict.fromkeys(rows["baseline"]))
    if len(baselines) > 1:
        raise DefarError(f"the differences have baselines {', '.join(map(str, baselines))}; select one")
    _refuse_twice(rows, ["model", "nfe"], (*SETTINGS, "baseline"))
    ends = _lines(ax, rows, "percent", "percent_low", "percent_high", style, hollow=True)
    ax.axhline(0, color=style.colour(str(baselines[0])), linewidth=1.0, zorder=1)
    _nfe_axis(ax, rows["nfe"])
    _direct_labels(ax, ends, style, height)
    ax.set_ylabel(f"change against {baselines[0]} (%)")
    ax.set_title(f"(b) {metric}, paired change", loc="left")


def draw_paper(ax: Axes, paper: pd.DataFrame, style: Style = PAPER, *, height: float = 137.0) -> None:
    """The paper's FID over steps: another metric on other data, so on axes of its own."""
    require(paper, VALUES, "the paper's table")
    kept = paper[(paper["column"] == "FID") & (paper.get("kind", "value") == "value")]
    rows = require(kept, VALUES, "the paper's FID")
    many = rows.groupby("row")["iters"].nunique()
    name = [f"{row} ({iters / 1000:.0f}k)" if many[row] > 1 else row
            for row, iters in zip(rows["row"], rows["iters"], strict=True)]  # fmt: skip
    rows = rows.assign(model=name, nfe=rows["x"])
    _refuse_twice(rows, ["model", "nfe"], ("panel", "condition", "dataset", "id"))
    longest = rows.groupby("row")["iters"].max()
    short = {model for model, row, iters in zip(name, rows["row"], rows["iters"], strict=True)
             if many[row] > 1 and iters < longest[row]}  # fmt: skip
    methods = dict(zip(name, rows["row"], strict=True))
    ends = _lines(ax, rows, "value", None, None, style, methods=methods, white=short)
    _nfe_axis(ax, rows["nfe"])
    _direct_labels(ax, ends, style, height)
    ax.set_ylabel("FID, ImageNet-256 (the paper's)")
    ax.set_title("(c) FID, the paper's Tab. 4", loc="left")


def _lines(ax: Axes, rows: pd.DataFrame, value: str, low: str | None, high: str | None, style: Style, *,
           hollow: bool = False, methods: Mapping[str, str] | None = None, white: Sequence[str] | set = (),
           ) -> list[tuple[str, float, str]]:  # fmt: skip
    """A line with marks and bars for each model; returns name, last value and colour of each.

    methods: the method that a model's looks come from, where its name says more; white: models with hollow marks.
    """
    ends, models = [], ordered_models(rows["model"])
    for k, model in enumerate(models):
        own = rows[rows["model"] == model].sort_values("nfe")
        look = _look((methods or {}).get(model, model), style)
        # Bars of several models at one NFE stand side by side, 3 % apart.
        nfe = own["nfe"].to_numpy(float) * 1.03 ** ((k - (len(models) - 1) / 2) * (low is not None))
        values = own[value].to_numpy(float)
        if model in white:
            look = {**look, "linestyle": (0, (4, 1.6)), "markerfacecolor": "white"}
        ax.plot(nfe, values, label=model, zorder=3, **look)
        if low is not None:
            lows, highs = own[low].to_numpy(float), own[high].to_numpy(float)
            ax.vlines(nfe, lows, highs, color=look["color"], linewidth=0.6 * style.line_width, zorder=2.5)
            open_ = (lows <= 0) & (highs >= 0) if hollow else np.zeros(len(own), bool)
            ax.plot(nfe[open_], values[open_], zorder=4,
                    **{**look, "linestyle": "none", "markerfacecolor": "white"})  # fmt: skip
        ends.append((model, float(values[-1]), look["color"]))
    return ends


def _look(model: str, style: Style) -> dict:
    mark = _MARKS.get(model, _SPARE_MARKS[zlib.crc32(model.encode()) % len(_SPARE_MARKS)])
    line = style.line(model)
    return {**line, "linestyle": _DASHES.get(model, line["linestyle"]), "linewidth": 0.8 * style.line_width,
            "marker": mark, "markersize": 4.2, "markeredgewidth": 0.9, "markeredgecolor": line["color"]}  # fmt: skip


def _nfe_axis(ax: Axes, nfe: pd.Series) -> None:
    """Logarithmic, a tick at each NFE, and a number where there is room for it."""
    ticks = sorted(set(nfe.astype(float)))
    ax.set_xscale("log")
    spread = max(ticks[-1] / ticks[0], 1.5) ** 0.06
    ax.set_xlim(ticks[0] / spread, ticks[-1] * spread)
    named = ticks[-1:]
    for tick in reversed(ticks[:-1]):
        if np.log(named[-1] / tick) > 0.11 * np.log(ticks[-1] / ticks[0]):
            named.append(tick)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value in named else ""))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("NFE (evaluations per image)")


def _logarithmic_if_wide(ax: Axes, values: pd.Series) -> None:
    if values.min() > 0 and values.max() > 4 * values.min():
        ax.set_yscale("log")
        near = values.max() < 10 * values.min()
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if near else (1.0, 2.0, 5.0)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _direct_labels(ax: Axes, ends: Sequence[tuple[str, float, str]], style: Style, height: float) -> None:
    """Each name beside its line's end, moved apart where lines end close together."""
    ax.set_ylim(ax.get_ylim())
    order = sorted(ends, key=lambda end: end[1])
    places = [(ax.transScale + ax.transLimits).transform((ax.get_xlim()[1], value))[1] for _, value, _ in order]
    for (name, _, colour), place, y in zip(order, places, apart(places, 1.25 * style.small_font / height), strict=True):
        ax.annotate(name, (1.0, place), (1.1, y), xycoords="axes fraction", textcoords="axes fraction", color=colour,
                    fontsize=style.small_font, va="center", annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0,
                                "relpos": (0, 0.5)},
                    )  # fmt: skip


def apart(wanted: Sequence[float], step: float) -> list[float]:
    """Ascending places at least `step` apart, as near to the wanted ascending ones as least squares goes."""
    blocks: list[tuple[float, int]] = []  # (sum of wanted minus offset, members): a block moves as one
    for k, place in enumerate(wanted):
        blocks.append((place - k * step, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, members = blocks.pop()
            blocks[-1] = (blocks[-1][0] + total, blocks[-1][1] + members)
    level = [total / members for total, members in blocks for _ in range(members)]
    return [base + k * step for k, base in enumerate(level)]


def _place(metric: str) -> tuple[int, str]:
    """Where a metric stands in the second row."""
    return (SHARES.index(metric) if metric in SHARES else len(SHARES), metric)


def _refuse_twice(rows: pd.DataFrame, keys: list[str], told_by: Sequence[str]) -> None:
    twice = rows[rows.duplicated(keys, keep=False)]
    if len(twice):
        same = twice[(twice[keys] == twice.iloc[0][keys]).all(axis=1)]
        cause = next((c for c in told_by if c in same and same[c].nunique(dropna=False) > 1), "value")
        held = ", ".join(map(str, dict.fromkeys(same[cause])))
        model, nfe = twice.iloc[0][keys]
        raise DefarError(f"{model!r} has {len(same)} values at NFE {nfe:g}, with {cause} = {held}; select one")
