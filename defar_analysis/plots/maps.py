"""Where in the image the exposure bias sits: maps beside the image and its two bands (Fig. 9), overlays (Fig. 3c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import DefarError
from .style import PAPER, Style, applied, ordered_models, pick, require

COLOUR_MAP = "viridis"
BANDS = (("image", "images"), ("high-pass", "high_pass"), ("low-pass", "low_pass"))
COLUMNS = ("model", "image", "label", "t0", "t1", "bias_rms", "corr_low", "corr_high")
STATISTICS = ("model", "quantity", "t0", "t1", "value")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def bias_maps(arrays: Mapping[str, np.ndarray], model: str | None = None) -> np.ndarray:
    """The model's maps, (K, N, H, W), from `bias_<slug>`, or `bias` where the arrays are of one model only.

    Case and punctuation of the slug do not matter; model None: SiT's, or the first.
    """
    keys = [key for key in arrays if key == "bias" or key.startswith("bias_")]
    if model is None:
        keys.sort(key=lambda key: key != "bias_sit")
    else:
        keys = [key for key in keys if key == "bias" or _plain(key[5:]) == _plain(model)]
    if not keys:
        held = ", ".join(sorted(arrays))
        raise DefarError(f"the figure's arrays have no 'bias_<model>' for {model or 'any model'}; they have: {held}")
    maps = np.asarray(arrays[keys[0]], dtype=float)
    pairs, images = pick(arrays, "pairs"), pick(arrays, "images")
    if maps.ndim != 4 or len(maps) != len(pairs) or maps.shape[1] != len(images):
        raise DefarError(f"{keys[0]!r} has shape {maps.shape}; expected ({len(pairs)}, {len(images)}, H, W)")
    return maps


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def step(pair: Sequence[float]) -> str:
    """'t 0.05→0.25', to three digits."""
    return f"t {pair[0]:.3g}→{pair[1]:.3g}"


def draw_overlay(axes: Sequence[Axes], arrays: Mapping[str, np.ndarray], *, model: str | None = None,
                 images: Sequence[int] | None = None, pair: int = 0, strength: float = 0.6,
                 style: Style = PAPER) -> None:  # fmt: skip
    """The bias map as heat over the greyed image, one axes per image; colours run from each map's least to greatest."""
    maps, pictures = bias_maps(arrays, model), pick(arrays, "images")
    images = range(len(axes)) if images is None else images
    if max(images) >= len(pictures):
        raise DefarError(f"image {max(images)} asked for, but the figure's arrays hold {len(pictures)}")
    for ax, index in zip(axes, images, strict=True):
        grey = pictures[index].astype(float) @ np.array([0.299, 0.587, 0.114])
        height, width = grey.shape
        extent = (0, width, height, 0)
        ax.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent)
        ax.imshow(maps[pair, index], cmap=COLOUR_MAP, alpha=strength, interpolation="bicubic", extent=extent)
        _bare(ax)


def plot(df: pd.DataFrame, arrays: Mapping[str, np.ndarray], model: str | None = None, style: Style = PAPER, *,
         scale: str = "map", names: Sequence[str] | None = None, note: str = "") -> Figure:  # fmt: skip
    """Fig. 9: one row per image: the image, its high-pass, its low-pass, then the bias map of each (t0, t1).

    df: one row per image and pair (COLUMNS: its numbers stand below each map), or the table of measures.maps.BiasMaps
    (STATISTICS: the means over all measured images stand below each column). names: class names by label.
    scale: "map" colours each map from its least to its greatest value (the paper's look), "column" shares one scale,
    drawn as a colour bar, among all images of a pair.
    """
    if scale not in ("map", "column"):
        raise DefarError(f"scale must be 'map' or 'column', not {scale!r}")
    pooled = "quantity" in df.columns
    require(df, STATISTICS if pooled else COLUMNS, "the maps table")
    model = ordered_models(df["model"])[0] if model is None else model
    if model not in set(df["model"]):
        held = ", ".join(map(repr, ordered_models(df["model"])))
        raise DefarError(f"the maps table has no rows with model = {model!r}; column model holds: {held}")
    rows = df[df["model"] == model]
    maps, pairs, order = bias_maps(arrays, model), pick(arrays, "pairs"), pick(arrays, "image_index")
    bands = [(title, pick(arrays, key)) for title, key in BANDS]
    labels = _labels(rows, arrays, names)
    count, columns = len(order), len(bands) + len(pairs)

    # Laid out in inches: the pictures stay square and aligned whatever the text around them.
    cell, gap, left, top, bottom = style.cell * 1.15, 0.06, 0.36, 0.58 if note else 0.42, 0.22
    words, bar = 0.29, 0.36 if scale == "column" else 0.0
    pitch = cell + (gap if pooled else words)
    width = left + columns * (cell + gap) + 0.12 + 0.05
    height = top + count * pitch + (words if pooled else 0.0) + bottom + bar
    with applied(style):
        figure = Figure(figsize=(width, height))

        def place(column: int, y: float, tall: float) -> Axes:
            x = left + column * (cell + gap) + (0.12 if column >= len(bands) else 0.0)  # set the maps apart
            return figure.add_axes((x / width, y / height, cell / width, tall / height))

        for row in range(count):
            last = row == count - 1
            y = height - top - row * pitch - cell
            for column, (title, pictures) in enumerate(bands):
                ax = place(column, y, cell)
                _picture(ax, title if row == 0 else "", style)
                ax.imshow(pictures[row], interpolation="nearest")
                if column == 0:
                    ax.set_ylabel(labels[row], fontsize=style.font - 0.5, labelpad=3)
            for k, (pair, shown) in enumerate(zip(pairs, maps, strict=True)):
                ax = place(len(bands) + k, y, cell)
                _picture(ax, step(pair) if row == 0 else "", style)
                low, high = (0.0, float(shown.max())) if scale == "column" else (None, None)
                drawn = ax.imshow(shown[row], COLOUR_MAP, vmin=low, vmax=high, interpolation="nearest")
                if last or not pooled:
                    caption = _pooled_caption(rows, pair) if pooled else _caption(rows, order[row], pair)
                    ax.set_xlabel(caption, fontsize=style.small_font - 1, labelpad=2.5, linespacing=1.05)
                if last and scale == "column":
                    slot = place(len(bands) + k, bottom + 0.16, 0.06)
                    figure.colorbar(drawn, cax=slot, orientation="horizontal")
                    slot.set_xticks([0.0, high], ["0", f"{high:.2g}"])
                    slot.tick_params(labelsize=style.small_font - 1, length=2, pad=1)
                    for text, side in zip(slot.get_xticklabels(), ("left", "right"), strict=True):
                        text.set_horizontalalignment(side)  # inwards, clear of the neighbour's
        heading = f"Exposure bias of {model}"
        figure.text(left / width, 1 - 0.06 / height, heading, fontsize=style.font, va="top", weight="bold")
        figure.text(left / width, 1 - 0.225 / height, note, fontsize=style.small_font, va="top", color="#555555")
        stated = "own least to greatest value" if scale == "map" else "0 to the greatest of its column"
        who = "; means over all images" if pooled else ""
        stated = f"Map colours: {stated}. r: correlation with the strength of the low / high band{who}."
        figure.text(left / width, 0.06 / height, stated, fontsize=style.small_font - 0.5, va="bottom", color="#555555")
    return figure


def _picture(ax: Axes, title: str, style: Style) -> None:
    _bare(ax)
    ax.set_title(title, fontsize=style.font - 0.5, pad=3)


def _labels(rows: pd.DataFrame, arrays: Mapping[str, np.ndarray], names: Sequence[str] | None) -> list[str]:
    """What stands before each row: the class name where one is known, else the label, else the image's index."""
    order = [int(image) for image in pick(arrays, "image_index")]
    if "image" in rows.columns:
        column = "label_name" if "label_name" in rows.columns else "label"
        known = dict(zip(rows["image"], rows[column], strict=True))
        found = [known.get(image, -1) for image in order]
    else:
        found = list(pick(arrays, "labels")) if "labels" in arrays else [-1] * len(order)
    texts = []
    for image, label in zip(order, found, strict=True):
        if isinstance(label, str):
            texts.append(label)
        elif not label >= 0:  # -1 and NaN: without a label
            texts.append(f"image {image}")
        else:
            texts.append(str(names[int(label)]) if names is not None else f"label {int(label)}")
    return texts


def _at(rows: pd.DataFrame, pair: Sequence[float]) -> pd.DataFrame:
    # Times pass through float32 and CSV: compare them within rounding.
    same = np.isclose(rows["t0"], pair[0], atol=1e-5) & np.isclose(rows["t1"], pair[1], atol=1e-5)
    if not same.any():
        raise DefarError(f"the maps table has no row with t0 = {pair[0]:g}, t1 = {pair[1]:g}")
    return rows[same]


def _caption(rows: pd.DataFrame, image: int, pair: Sequence[float]) -> str:
    mine = _at(rows, pair)
    mine = mine[mine["image"] == image]
    if len(mine) == 0:
        raise DefarError(f"the maps table has no row with image = {image}, t0 = {pair[0]:g}, t1 = {pair[1]:g}")
    row = mine.iloc[0]
    return f"rms {row['bias_rms']:.2g}\nr {row['corr_low']:+.2f} / {row['corr_high']:+.2f}"


def _pooled_caption(rows: pd.DataFrame, pair: Sequence[float]) -> str:
    values = _at(rows, pair).set_index("quantity")["value"]
    for quantity in ("bias_rms", "corr_low_band", "corr_high_band"):
        if quantity not in values.index:
            raise DefarError(f"the maps table has no rows with quantity = {quantity!r} at {step(pair)}")
    low, high = values["corr_low_band"], values["corr_high_band"]
    return f"rms {values['bias_rms']:.2g}\nr {low:+.2f} / {high:+.2f}"
