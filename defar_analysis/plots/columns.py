"""Samples of several methods from the same noise and label, one column for each method (as the paper's Figs. 4, 6 to
8), and what stands in the place of a picture that was not made."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..errors import DefarError
from .style import PAPER, Style, applied, pick, require

COLUMNS = ("method", "image", "label", "label_name")
NOT_RUN_COLUMNS = ("row", "status", "protocol", "command")
GAP, APART = 0.03, 0.1  # inches between images, and more of them before the paper's own method
BLOCK_ROWS = 5  # of a single method, whose images stand in several blocks beside each other
OURS = "DEFAR"
GREY = "#555555"


def plot(table: pd.DataFrame, arrays: Mapping[str, np.ndarray], note: str = "", style: Style = PAPER) -> Figure:
    """arrays["samples"] (M, N, H, W, 3) as a grid: column = method, in the table's order; row = one noise and label.

    The images of a single method stand in blocks of five rows. Raises DefarError naming a column or an array that is
    missing, or a method whose images are not those of the others.
    """
    require(table, COLUMNS, "the samples table")
    samples, methods = pick(arrays, "samples"), list(dict.fromkeys(table["method"]))
    if samples.ndim != 5 or len(samples) != len(methods):
        raise DefarError(f"column method names {len(methods)} methods, but 'samples' has shape {samples.shape}")
    labels = _labels(table, methods, samples.shape[1])
    per_block = BLOCK_ROWS if len(methods) == 1 else len(labels)
    starts = range(0, len(labels), per_block)

    cell = style.cell
    left = 0.16 + 0.62 * style.font / 72 * max(map(len, labels))  # about 0.62 of the font size per letter
    apart = APART if len(methods) > 1 and methods[-1] == OURS else 0.0
    block = left + len(methods) * (cell + GAP) + apart
    width = len(starts) * block + 0.06
    note = _filled(note, width, style.small_font)
    top = 0.32 + _note_height(note)
    height = top + min(per_block, len(labels)) * (cell + GAP) + 0.05
    with applied(style):
        figure = Figure(figsize=(width, height))
        for k, start in enumerate(starts):
            for j, method in enumerate(methods):
                x = k * block + left + j * (cell + GAP) + (apart if method == methods[-1] else 0.0)
                _header(figure, (x, height - top + 0.04), method, style)
                for row, label in enumerate(labels[start : start + per_block]):
                    y = height - top - row * (cell + GAP) - cell
                    ax = figure.add_axes((x / width, y / height, cell / width, cell / height), label=f"{method}")
                    ax.imshow(samples[j, start + row], interpolation="nearest")
                    ax.set_axis_off()
                    if j == 0:
                        figure.text((x - 0.07) / width, (y + cell / 2) / height, label, ha="right", va="center")
        if note:
            figure.text(0.1 / width, 1 - 0.05 / height, note, fontsize=style.small_font, va="top", color=GREY)
    return figure


def plot_not_run(table: pd.DataFrame, note: str = "", style: Style = PAPER) -> Figure:
    """An empty panel for each row with its status on it, the protocol, and the commands that would fill the panel.

    table: columns row, status, protocol, command. Raises DefarError naming a column that is missing.
    """
    require(table, NOT_RUN_COLUMNS, "the table of what was not run")
    width, side, line = 8.4, 1.1, 0.145
    protocols = [_filled(text, width, style.font) for text in dict.fromkeys(table["protocol"])]
    note = _filled(note, width, style.small_font)
    commands = [f"{row.row}:\n  " + row.command.replace(" && ", " &&\n  ") for row in table.itertuples()]
    texts = [(text, {}) for text in protocols]
    texts += [(text, {"family": "DejaVu Sans Mono", "fontsize": style.small_font - 0.5}) for text in commands]
    top = 0.35 + _note_height(note)
    height = top + side + 0.2 + sum(line * (text.count("\n") + 1) + 0.1 for text, _ in texts)
    with applied(style):
        figure = Figure(figsize=(width, height))
        step = min(side + 0.3, (width - 0.3) / len(table))
        box = min(side, step - 0.1)
        for k, row in enumerate(table.itertuples()):
            ax = figure.add_axes(((0.15 + k * step) / width, (height - top - box) / height, box / width, box / height))
            ax.add_patch(Rectangle((0, 0), 1, 1, facecolor="#F2F2F2", edgecolor="#999999", linestyle="--"))
            ax.text(0.5, 0.5, str(row.status), ha="center", va="center", color=GREY, fontsize=style.font + 1.5)
            ax.set_axis_off()
            _header(figure, (0.15 + k * step, height - top + 0.05), str(row.row), style, box)
        y = height - top - side - 0.15
        for text, look in texts:
            figure.text(0.15 / width, y / height, text, va="top", linespacing=1.3, **look)
            y -= line * (text.count("\n") + 1) + 0.1
        if note:
            figure.text(0.15 / width, 1 - 0.06 / height, note, fontsize=style.small_font, va="top", color=GREY)
    return figure


# ---- parts


def _filled(text: str, width: float, font: float) -> str:
    """The text in lines that fit into so many inches; a letter is about 0.56 of the font size wide."""
    return textwrap.fill(text, max(20, int((width - 0.3) / (0.56 * font / 72))))


def _note_height(note: str) -> float:
    return 0.08 + 0.12 * len(note.splitlines()) if note else 0.0


def _header(figure: Figure, corner: tuple[float, float], name: str, style: Style, size: float | None = None) -> None:
    """A method's name over its column, with a bar in the method's colour; corner and size in inches."""
    (x, y), (width, height), size = corner, figure.get_size_inches(), size or style.cell
    ends, at = [x / width, (x + size) / width], [y / height] * 2
    figure.add_artist(Line2D(ends, at, color=style.colour(name), linewidth=2.0, solid_capstyle="butt"))
    figure.text((x + size / 2) / width, (y + 0.05) / height, name, ha="center", va="bottom")


def _labels(table: pd.DataFrame, methods: Sequence[str], count: int) -> list[str]:
    """One class name for each row; every method must hold the same images and labels, or the rows do not compare."""
    found: dict[str, list[tuple]] = {}
    for method in methods:
        rows = table[table["method"] == method]
        if len(rows) != count:
            raise DefarError(f"column method: {method!r} has {len(rows)} rows, but 'samples' holds {count} of it")
        found[method] = list(zip(rows["image"], rows["label"], rows["label_name"], strict=True))
        if found[method] != found[methods[0]]:
            raise DefarError(f"column image or label: {method!r} and {methods[0]!r} do not hold the same images")
    return [str(name) if pd.notna(name) else "" for _, _, name in found[methods[0]]]
