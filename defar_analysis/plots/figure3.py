"""The paper's Fig. 3 in one row: what the bias holds (a, b), where it sits (c), what it does to the loss (d)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .emphasis import draw_gain
from .frequency import crossing_note, draw_pfr
from .maps import draw_overlay, pick, step
from .style import PAPER, RAW_LOSS, TARGET, Style, applied, labelled

SMALL_PRINT = "shading: 95 % bootstrap interval over samples"


def plot(df: pd.DataFrame, arrays: Mapping[str, np.ndarray] | None = None, paper: pd.DataFrame | None = None,
         crossings: pd.DataFrame | None = None, style: Style = PAPER, *, note: str = "", dc: str = "without",
         estimator: str = "mean_of_ratios", overlay_model: str | None = None, images: Sequence[int] = (0, 1),
         pair: int = 0) -> Figure:  # fmt: skip
    """Fig. 3 from the curves table; panel (c) from the arrays of the maps, left out where there are none.

    note: n images, grid, profile, in one line above the panels. overlay_model, images, pair: what panel (c) shows.
    """
    panel, tall, tile = 2.05, 1.75, 1.2  # inches, as all below: captions and numbers line up across the panels
    left, gap, right, below = 0.6, 0.74, 0.15, 1.0
    models = 0 if crossings is None else crossings["model"].nunique()
    above = 0.34 + models * 1.35 * style.small_font / 72
    spans = [("a", panel), ("b", panel)] + ([("c", 2 * tile + 0.06)] if arrays is not None else []) + [("d", panel)]
    width = left + sum(size for _, size in spans) + gap * (len(spans) - 1) + right
    height = below + tall + above
    captions = {
        "a": "(a) PFR of model prediction",
        "b": "(b) PFR of exposure bias",
        "c": "(c) Exposure bias at high noise",
        "d": "(d) Relative improvement in FEL",
    }
    with applied(style):
        figure = Figure(figsize=(width, height))
        curves, x = [], left
        for letter, size in spans:
            if letter == "c":
                low = below + (tall - tile) / 2
                tiles = [figure.add_axes(((x + k * (tile + 0.06)) / width, low / height, tile / width, tile / height))
                         for k in range(2)]  # fmt: skip
                draw_overlay(tiles, arrays, model=overlay_model, images=images, pair=pair, style=style)
                figure.text((x + size / 2) / width, (low - 0.09) / height, step(pick(arrays, "pairs")[pair]),
                            ha="center", va="top", fontsize=style.small_font + 0.5)  # fmt: skip
            else:
                ax = figure.add_axes((x / width, below / height, size / width, tall / height))
                curves.append(ax)
                if letter == "d":
                    draw_gain(ax, df, paper, style=style, figure="fig3")
                else:
                    draw_pfr(ax, df, "pfr_prediction" if letter == "a" else "pfr_bias", paper, crossings, style=style,
                             dc=dc, estimator=estimator, figure="fig3")  # fmt: skip
            figure.text((x + size / 2) / width, 0.5 / height, captions[letter], ha="center", va="center",
                        weight="bold", fontsize=style.font)  # fmt: skip
            x += size + gap
        handles, names = labelled(curves)
        # Both are the level to compare with, in the same dashed grey: one entry says which is which.
        if TARGET in names and RAW_LOSS in names:
            handles.pop(names.index(RAW_LOSS))
            names.remove(RAW_LOSS)
            names[names.index(TARGET)] = "target (a, b), raw loss (d)"
        figure.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 0.03 / height), ncols=len(names),
                      columnspacing=1.8, handlelength=2.4, borderaxespad=0.2)  # fmt: skip
        small = "; ".join(filter(None, (note, SMALL_PRINT, crossing_note(crossings))))
        figure.text(0.5, 1 - 0.07 / height, small, ha="center", va="top", fontsize=style.small_font, color="#555555")
    return figure
