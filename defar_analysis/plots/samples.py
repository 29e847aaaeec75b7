"""Samples of several methods from the same noise and labels: one row per method (Fig. 4, 6-8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..errors import DefarError
from .style import PAPER, Style, applied, pick, require

COLUMNS = ("method", "image", "label")


def plot(df: pd.DataFrame, arrays: Mapping[str, np.ndarray], paper: pd.DataFrame | None = None,
         crossings: pd.DataFrame | None = None, style: Style = PAPER, *, note: str = "") -> Figure:  # fmt: skip
    """arrays["samples"] (M, N, H, W, 3) as a grid: row = method, in the table's order; column = one noise and label."""
    require(df, COLUMNS, "the samples table")
    samples = pick(arrays, "samples")
    methods = list(dict.fromkeys(df["method"]))
    if samples.ndim != 5 or len(samples) != len(methods):
        raise DefarError(f"column method names {len(methods)} methods, but 'samples' has shape {samples.shape}")
    count = samples.shape[1]
    titles = _titles(df, methods, count)

    cell, gap = style.cell, 0.03
    # Left margin for the longest row label, about 0.62 of the font size per letter; a point is 1/72 inch.
    left = 0.12 + 0.62 * style.font / 72 * max(len(str(method)) for method in methods)
    top, bottom = 0.24 + (0.2 if note else 0.0), 0.05
    width, height = left + count * (cell + gap) + 0.04, top + len(methods) * (cell + gap) + bottom
    letter = style.small_font * 0.6 / 72
    with applied(style):
        figure = Figure(figsize=(width, height))
        for row, method in enumerate(methods):
            y = height - top - row * (cell + gap) - cell
            for column in range(count):
                x = left + column * (cell + gap)
                ax = figure.add_axes((x / width, y / height, cell / width, cell / height))
                ax.imshow(samples[row, column], interpolation="nearest")
                ax.set_axis_off()
                if row == 0 and titles[column]:
                    # A long class name shrinks rather than run into its neighbour.
                    fit = min(1.0, cell / (letter * len(titles[column])))
                    ax.set_title(titles[column], fontsize=style.small_font * fit, pad=3)
            figure.text((left - 0.07) / width, (y + cell / 2) / height, str(method), ha="right", va="center",
                        color="black", fontsize=style.font)  # fmt: skip
        if note:
            figure.text(left / width, 1 - 0.05 / height, note, fontsize=style.small_font, va="top", color="#555555")
    return figure


def _titles(df: pd.DataFrame, methods: list, count: int) -> list[str]:
    """One class name per column; every method must hold the same label there, or the columns would not compare."""
    column = "label_name" if "label_name" in df.columns else "label"
    titles: list[str] | None = None
    for method in methods:
        rows = df[df["method"] == method].sort_values("image", kind="stable")
        if len(rows) != count:
            raise DefarError(f"column method: {method!r} has {len(rows)} rows, but 'samples' holds {count} of it")
        mine = [str(item) if pd.notna(item) else "" for item in rows[column]]
        if titles is not None and mine != titles:
            raise DefarError(f"column {column}: {method!r} and {methods[0]!r} have different labels in the same places")
        titles = mine
    return titles or []
