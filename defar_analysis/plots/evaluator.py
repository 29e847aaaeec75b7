"""What an evaluator reads on damaged real images: distance over its floor, precision and recall, over the damage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..errors import DefarError
from .style import PAPER, Style, applied, labelled, pick, require

COLUMNS = ("set", "kind", "strength", "metric", "value", "low", "high", "n", "protocol")
FLOOR = "floor"
KINDS = {
    "noise": ("Gaussian noise", "sigma (grey levels of 255)"),
    "blur": ("Gaussian blur", "sigma (pixels)"),
    "removal": ("Classes removed", "classes removed (of 10)"),
}
DISTANCE, SHARES = "FD-", ("precision", "recall")
# By order of appearance; marks tell the evaluators apart without colour.
_LOOKS = (("#0072B2", "o"), ("#D55E00", "D"), ("#009E73", "s"), ("#CC79A7", "^"))
_SMALL = "bars and bands: 95 % intervals; dashed: undamaged test images"


def plot(df: pd.DataFrame, arrays: Mapping[str, np.ndarray] | None = None, style: Style = PAPER, *,
         note: str = "") -> Figure:  # fmt: skip
    """One column for each kind of damage; rows: Fréchet distance over the floor's, precision, recall.

    df: COLUMNS, one line for each protocol; arrays: "images" (M,H,W,3) uint8 with "kind" and "strength" (M,), one image
    at every strength of noise and blur, drawn above their columns. Raises DefarError where a protocol has no floor.
    """
    require(df, COLUMNS, "the evaluator's table")
    kinds = [kind for kind in KINDS if (df["kind"] == kind).any()]
    if not kinds:
        held = ", ".join(map(str, dict.fromkeys(df["kind"])))
        raise DefarError(f"the evaluator's table has no kind of {', '.join(KINDS)}; it has: {held}")
    strip = 0.0 if arrays is None else 0.62  # inches, as all below: pictures and the strengths above them
    left, panel, gap, tall, between, above, below = 0.66, 2.3, 0.3, 1.5, 0.24, 0.8, 0.5
    rows = (DISTANCE, *SHARES)
    width = left + len(kinds) * (panel + gap)
    height = above + strip + len(rows) * tall + (len(rows) - 1) * between + below
    with applied(style):
        figure = Figure(figsize=(width, height))
        axes = {}
        for k, kind in enumerate(kinds):
            x = left + k * (panel + gap)
            for r, metric in enumerate(rows):
                y = below + (len(rows) - 1 - r) * (tall + between)
                shared = axes.get((r, 0))
                ax = figure.add_axes((x / width, y / height, panel / width, tall / height), sharey=shared)
                axes[r, k] = ax
                draw(ax, df, metric, kind, style)
                if k:
                    ax.set_ylabel("")
                    ax.tick_params(labelleft=False)
                if r + 1 < len(rows):
                    ax.set_xlabel("")
                    ax.tick_params(labelbottom=False)
            top = (height - above + 0.05) / height
            figure.text(x / width, top, f"({'abc'[k]}) {KINDS[kind][0]}", va="bottom")
            if arrays is not None:
                y = below + len(rows) * tall + (len(rows) - 1) * between + 0.06
                _strip(figure, axes[0, k], arrays, kind, y / height, 0.42 / height, 0.42 / width, style)
        handles, names = labelled(list(axes.values()))
        figure.legend(handles, names, loc="upper center", ncols=len(names), bbox_to_anchor=(0.5, 1 - 0.28 / height))
        small = "\n".join(filter(None, (note, _SMALL)))
        figure.text(0.5, 1 - 0.06 / height, small, ha="center", va="top", fontsize=style.small_font, color="#555555")
    return figure


def draw(ax: Axes, df: pd.DataFrame, metric: str, kind: str, style: Style = PAPER) -> None:
    """One metric over the strength of one kind of damage, a line for each protocol, from the floor at strength 0.

    metric: "precision", "recall", or the beginning of a distance's name: a distance is drawn over its own floor, since
    two networks' distances have no common unit.
    """
    rows = df[df["metric"].str.startswith(metric) & df["kind"].isin([kind, FLOOR])]
    require(rows, COLUMNS, f"the evaluator's table of {metric} and {kind}")
    distance = metric not in SHARES
    for k, (protocol, own) in enumerate(rows.groupby("protocol", sort=False)):
        own = own.sort_values("strength")
        floor = own[own["kind"] == FLOOR]
        if len(floor) != 1 or own["strength"].duplicated().any():
            raise DefarError(f"{protocol}, {metric}, {kind}: want one row {FLOOR!r} and one of each strength above 0")
        colour, mark = _LOOKS[k % len(_LOOKS)]
        value, low, high = (own[c].to_numpy(float) / (floor["value"].iloc[0] if distance else 1.0)
                            for c in ("value", "low", "high"))  # fmt: skip
        strength = own["strength"].to_numpy(float)
        name = df.loc[(df["protocol"] == protocol) & df["metric"].str.startswith(DISTANCE), "metric"].iloc[0]
        at_floor = df[(df["protocol"] == protocol) & (df["metric"] == name) & (df["kind"] == FLOOR)]["value"].iloc[0]
        ax.axhspan(low[0], high[0], color=colour, alpha=0.6 * style.interval_opacity, linewidth=0, zorder=1)
        ax.axhline(value[0], color=colour, linestyle="--", linewidth=0.5 * style.line_width, zorder=1.5)
        ax.vlines(strength, low, high, color=colour, linewidth=0.6 * style.line_width, zorder=2.5)
        ax.plot(strength, value, color=colour, marker=mark, markersize=3.2, linewidth=0.8 * style.line_width,
                zorder=3, label=f"{name} (floor {at_floor:.4g})")  # fmt: skip
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(rows["strength"].astype(float)))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
    ax.set_xlabel(KINDS[kind][1])
    if distance:
        ax.set_yscale("log")
        near = ax.get_ylim()[1] < 4 * ax.get_ylim()[0]
        ax.yaxis.set_major_locator(LogLocator(subs=(0.8, 1.0, 1.2, 1.5, 2.0, 3.0) if near else (1.0, 2.0, 5.0)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
        ax.set_ylabel("Fréchet distance\n(times its floor)")
    else:
        ax.set_ylim(-0.04, 1.04)
        ax.set_ylabel(f"{metric} (share)")


def _strip(figure: Figure, ax: Axes, arrays: Mapping[str, np.ndarray], kind: str, y: float, height: float,
           width: float, style: Style) -> None:  # fmt: skip
    """One image at each strength, side by side in the order of the axis: what a person sees of the damage."""
    kinds, strengths, images = (pick(arrays, key) for key in ("kind", "strength", "images"))
    shown = [k for k in np.argsort(strengths, kind="stable") if kinds[k] in (kind, FLOOR)]
    if len(shown) < 2:
        return  # classes removed: what is missing cannot be shown on one image
    place = ax.get_position()
    for n, k in enumerate(shown):
        x = place.x0 + (place.width - width) * n / (len(shown) - 1)
        picture = figure.add_axes((x, y, 0.92 * width, 0.92 * height))
        picture.imshow(images[k], interpolation="nearest")
        picture.set_axis_off()
        picture.set_title(f"{strengths[k]:g}", fontsize=style.small_font, pad=1.5)
