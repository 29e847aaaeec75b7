"""How far the bias-weighted loss leans towards low frequencies: the gain in FEL over time (Fig. 3d)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .frequency import CURVES, shared_legend
from .style import (
    PAPER,
    RAW_LOSS,
    Style,
    applied,
    interval_curve,
    ordered_models,
    paper_points,
    require,
    select,
    time_axis,
)


def draw_gain(ax: Axes, df: pd.DataFrame, paper: pd.DataFrame | None = None, *, style: Style = PAPER,
              figure: str | None = None, **wanted: str) -> None:  # fmt: skip
    """Gain in FEL (Eq. 14) of the reweighted loss over the raw one, in percent; the raw loss is the line at zero.

    wanted: further columns to select by, e.g. estimator="ratio_of_sums" where the table holds both.
    """
    require(df, CURVES, "the curves table")
    rows = select(df, "the curves table", quantity="fel_gain_percent", **wanted)
    ax.axhline(0.0, label=RAW_LOSS, zorder=1.5, **style.target_line())
    for model in ordered_models(rows["model"]):
        interval_curve(ax, rows[rows["model"] == model], style, style.line(model), model)
    paper_points(ax, paper, "fel_gain_percent", style, figure)
    time_axis(ax)
    ax.set_ylabel("FEL gain over raw loss (%)")


def plot(df: pd.DataFrame, arrays: Mapping | None = None, paper: pd.DataFrame | None = None,
         crossings: pd.DataFrame | None = None, style: Style = PAPER, *, note: str = "",
         **wanted: str) -> Figure:  # fmt: skip
    """The FEL gain alone; `arrays` and `crossings` are taken for symmetry and not used."""
    with applied(style):
        figure = Figure(figsize=(style.panel[0] + 1.0, style.panel[1] + 0.75), layout="constrained")
        ax = figure.subplots()
        draw_gain(ax, df, paper, style=style, **wanted)
        ax.set_title("Relative improvement in FEL", loc="left")
        if note:
            figure.suptitle(note, fontsize=style.small_font, color="#555555")
        shared_legend(figure, [ax])
    return figure
