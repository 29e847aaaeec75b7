"""Measured, inherent and the model's part of every number, on data whose optimum is known."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .plane_idea import small_print
from .style import PAPER, REFERENCE, Style, applied, require, select, time_axis

COLUMNS = ("model", "quantity", "t", "measured", "measured_low", "measured_high", "inherent", "of_model",
           "of_model_low", "of_model_high")  # fmt: skip
PANELS = {
    "loss": "Loss",
    "bias_energy": "Energy of the bias",
    "pfr_prediction": "PFR, prediction",
    "pfr_bias": "PFR, bias",
    "fel_gain_percent": "Gain in FEL (%)",
}
_SYMLOG = {"pfr_prediction": 0.01, "pfr_bias": 0.1}  # linear below
_LOGARITHMIC = ("bias_energy", "pfr_prediction", "pfr_bias")


def plot(df: pd.DataFrame, style: Style = PAPER, *, note: str = "") -> Figure:
    """A column for each of PANELS: above, what was measured and the inherent part; below, the model's part.

    df: `measures.split.split` (COLUMNS). Raises DefarError where a column or a quantity is missing.
    """
    require(df, COLUMNS, "the split")
    models = list(dict.fromkeys(df["model"]))
    with applied(style):
        figure = Figure(figsize=(9.2, 3.9), layout="constrained")
        axes = figure.subplots(2, len(PANELS), sharex=True)
        for column, (quantity, title) in enumerate(PANELS.items()):
            own = select(df, "the split", quantity=quantity)
            above, below = axes[:, column]
            for name in models:
                rows = own[own["model"] == name].sort_values("t")
                _curve(above, rows, "measured", style, name)
                _curve(below, rows, "of_model", style, name)
            first = own[own["model"] == models[0]].sort_values("t")
            above.plot(first["t"], first["inherent"], zorder=4, label="inherent", **style.line(REFERENCE))
            below.axhline(0, zorder=1, **style.line(REFERENCE))
            above.set_title(f"({'abcde'[column]}) {title}", loc="left")
            if quantity in _LOGARITHMIC:
                above.set_yscale("log")
                above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                above.yaxis.set_minor_formatter(NullFormatter())
            if quantity in _SYMLOG:  # at one end many times what it is anywhere else
                below.set_yscale("symlog", linthresh=_SYMLOG[quantity])
            time_axis(below, "t")
        axes[0, 0].set_ylabel("measured")
        axes[1, 0].set_ylabel("model's part")
        handles = [Line2D([], [], label=name, **style.line(name)) for name in models]
        handles.append(Line2D([], [], label="inherent: the exact field", **style.line(REFERENCE)))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.3)
        said = "measured = inherent + model's part; shaded: 95 % bootstrap over images, paired with the exact field"
        small_print(figure, "\n".join(filter(None, (note, said))), style)
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, column: str, style: Style, name: str) -> None:
    t, line = rows["t"].to_numpy(float), style.line(name)
    low, high = (rows[f"{column}_{end}"].to_numpy(float) for end in ("low", "high"))
    ax.fill_between(t, low, high, color=line["color"], alpha=style.interval_opacity, linewidth=0, zorder=2)
    ax.plot(t, rows[column].to_numpy(float), zorder=3, label=name, **{**line, "linewidth": 1.1})
