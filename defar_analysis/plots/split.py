"""Measured, inherent and the model's part of every number, on data whose optimum is known."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .plane_idea import PLANE, small_print
from .style import REFERENCE, Style, applied, require, select, time_axis

COLUMNS = ("model", "quantity", "t", "measured", "measured_low", "measured_high", "inherent", "of_model",
           "of_model_low", "of_model_high")  # fmt: skip
PANELS = {
    "loss": "Loss",
    "bias_energy": "Energy of the bias",
    "pfr_prediction": "PFR, prediction",
    "pfr_bias": "PFR, bias",
    "fel_gain_percent": "Gain in FEL (%)",
    "slowed_class": "Slowed time, other image",
    "slowed_inversion": "Slowed time, own noise",
}
BAND = ("_p5", "_p95")  # of slowed times: thin lines around their mean, in the upper panel
ROW = 4  # panels beside one another
PARTS = ("ADR", "FC")
_SYMLOG = {"pfr_prediction": 0.01, "pfr_bias": 0.1}  # linear below
_LOGARITHMIC = ("bias_energy", "pfr_prediction", "pfr_bias")


@dataclass(frozen=True)
class Dashed(Style):
    """PARTS of DEFAR are dashed: their curves often lie on flow matching's and on DEFAR's."""

    def line(self, model: str) -> dict:
        return {**super().line(model), **({"linestyle": (0, (2.4, 1.1))} if model in PARTS else {})}


METHODS = Dashed(colours=PLANE.colours)


def plot(df: pd.DataFrame, style: Style = METHODS, *, note: str = "") -> Figure:
    """Two panels for each of PANELS: above, what was measured and the inherent part; below, the model's part.

    df: `measures.split.split` and `measures.slow_split.slow_split` (COLUMNS). Raises DefarError where a column or a
    quantity is missing.
    """
    require(df, COLUMNS, "the split")
    models = list(dict.fromkeys(df["model"]))
    with applied(style):
        figure = Figure(figsize=(8.4, 7.4), layout="constrained")
        axes = figure.subplots(4, ROW)
        for number, (quantity, title) in enumerate(PANELS.items()):
            row, column = divmod(number, ROW)
            above, below = axes[2 * row, column], axes[2 * row + 1, column]
            _draw(above, below, df, quantity, models, style)
            above.set_title(f"({'abcdefg'[number]}) {title}", loc="left")
            if column == 0:
                above.set_ylabel("measured")
                below.set_ylabel("model's part")
        for ax in axes[2:, len(PANELS) % ROW]:
            ax.set_axis_off()
        handles = [Line2D([], [], label=name, **style.line(name)) for name in models]
        handles.append(Line2D([], [], label="inherent: the exact field", **style.line(REFERENCE)))
        handles.append(Line2D([], [], color="#777777", linewidth=0.6, label="(f, g) 5 and 95 % of images"))
        axes[2, -1].legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.15, 1.05), borderaxespad=0)
        said = "measured = inherent + model's part; shaded: 95 % bootstrap over images, paired with the exact field"
        small_print(figure, "\n".join(filter(None, (note, said))), style)
    return figure


def _draw(above: Axes, below: Axes, df: pd.DataFrame, quantity: str, models: list[str], style: Style) -> None:
    own = select(df, "the split", quantity=quantity)
    for name in models:
        rows = own[own["model"] == name].sort_values("t")
        _curve(above, rows, "measured", style, name)
        _curve(below, rows, "of_model", style, name)
    first = own[own["model"] == models[0]].sort_values("t")
    above.plot(first["t"], first["inherent"], zorder=4, label="inherent", **style.line(REFERENCE))
    below.axhline(0, zorder=1, **style.line(REFERENCE))
    for rows in (df[df["quantity"] == f"{quantity}{end}"] for end in BAND):
        for name, band in rows.groupby("model", sort=False):
            band = band.sort_values("t")
            above.plot(band["t"], band["measured"], **{**style.line(name), "linewidth": 0.6})
            if name == models[0]:
                above.plot(band["t"], band["inherent"], **{**style.line(REFERENCE), "linewidth": 0.6})
    if quantity in _LOGARITHMIC:
        above.set_yscale("log")
        above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        above.yaxis.set_minor_formatter(NullFormatter())
    if quantity in _SYMLOG:  # at one end many times what it is anywhere else
        below.set_yscale("symlog", linthresh=_SYMLOG[quantity])
    time_axis(above, "")
    above.set_xticklabels([])
    time_axis(below, "t")


def _curve(ax: Axes, rows: pd.DataFrame, column: str, style: Style, name: str) -> None:
    t, line = rows["t"].to_numpy(float), style.line(name)
    low, high = (rows[f"{column}_{end}"].to_numpy(float) for end in ("low", "high"))
    ax.fill_between(t, low, high, color=line["color"], alpha=style.interval_opacity, linewidth=0, zorder=2)
    ax.plot(t, rows[column].to_numpy(float), zorder=3, label=name, **{**line, "linewidth": 1.1})
