"""The exposure bias in latent space: its maps beside what they become once decoded, spectra, PFR and FEL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import DefarError
from .frequency import draw_pfr
from .maps import COLOUR_MAP, step
from .plane_idea import small_print
from .style import PAPER, Style, applied, interval_curve, labelled, ordered_models, pick, require, select, time_axis

COLUMNS = ("model", "quantity", "t0", "t1", "value", "low", "high")
SPECTRA = ("space", "t0", "t1", "frequency", "coefficients", "share")
SHADES, RING = ("#1f77b4", "#2ca02c", "#d62728", "#9467bd"), 0.06


def plot(df: pd.DataFrame, curves: pd.DataFrame, spectra: pd.DataFrame, arrays: Mapping[str, np.ndarray],
         style: Style = PAPER, *, names: Sequence[str] | None = None, note: str = "") -> Figure:  # fmt: skip
    """Above, a row for each image: it, its way through the autoencoder, and for each (t0, t1) the bias's map, the
    decoded simulated state and the decoded end point seen from it. Below: spectra, PFR of prediction and bias, FEL.

    df: measures.maps and measures.latents.decoded_bias (COLUMNS); spectra: measures.latents.spectra. Raises DefarError
    where something is missing.
    """
    require(df, COLUMNS, "the latents table")
    require(spectra, SPECTRA, "the spectra")
    pairs, maps = pick(arrays, "pairs"), np.asarray(pick(arrays, "bias"), float)
    images, count = pick(arrays, "images"), len(pick(arrays, "images"))
    if maps.shape[:2] != (len(pairs), count):
        raise DefarError(f"'bias' has shape {maps.shape}; expected ({len(pairs)}, {count}, h, w)")
    with applied(style):
        figure = Figure(figsize=(9.2, 1.0 + 0.82 * count + 2.5), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(0.82 * count + 0.5, 2.5))
        axes = above.subplots(count, 2 + 3 * len(pairs), squeeze=False)
        labels = pick(arrays, "labels")
        for row in range(count):
            _show(axes[row, 0], images[row], "image" if row == 0 else "")
            if names is not None and labels[row] >= 0:
                axes[row, 0].set_ylabel(names[int(labels[row])], fontsize=style.small_font)
            _show(axes[row, 1], pick(arrays, "decoded")[row], "decoded" if row == 0 else "")
            for k, pair in enumerate(pairs):
                heat, hat, end = axes[row, 2 + 3 * k : 5 + 3 * k]
                _show(
                    heat,
                    maps[k, row],
                    f"bias\n{pair[0]:.2g}→{pair[1]:.2g}" if row == 0 else "",
                    vmin=0,
                    vmax=maps[k].max(),
                )
                _show(hat, pick(arrays, "x_hat")[k, row], "its $\\hat{x}$\ndecoded" if row == 0 else "")
                _show(end, pick(arrays, "end")[k, row], "its end\ndecoded" if row == 0 else "")
        panels = below.subplots(1, 4)
        _spectra(panels[0], spectra, pairs, style)
        for ax, quantity, letter, title in (
            (panels[1], "pfr_prediction", "b", "PFR, prediction"), (panels[2], "pfr_bias", "c", "PFR, bias"),
        ):  # fmt: skip
            draw_pfr(ax, curves, quantity, style=style, target=quantity == "pfr_prediction")
            ax.set_title(f"({letter}) {title}", loc="left")
            time_axis(ax, "t")
        gain = select(curves, "the curves", quantity="fel_gain_percent")
        for model in ordered_models(gain["model"]):
            interval_curve(panels[3], gain[gain["model"] == model], style, style.line(model), model)
        panels[3].set_title("(d) Gain in FEL (%)", loc="left")
        time_axis(panels[3], "t")
        handles, names_of = labelled(panels)
        below.legend(handles, names_of, loc="outside lower center", ncols=len(names_of), columnspacing=1.1,
                     fontsize=style.small_font)  # fmt: skip
        said = "maps: from 0 to the greatest of their column; places of latents, 4 x 4 pixels each"
        small_print(figure, "\n".join(filter(None, (note, said))), style)
    return figure


def _show(ax: Axes, picture: np.ndarray, title: str, **colours) -> None:
    ax.imshow(picture, cmap=COLOUR_MAP, interpolation="nearest", **colours)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title)


def _spectra(ax: Axes, spectra: pd.DataFrame, pairs: np.ndarray, style: Style) -> None:
    """Means over rings of RING: single radii of so small a grid, on its axes and off them, jump."""
    lines = [(("pixels",), {"color": "#777777", "linestyle": "--"}), (("latents",), {"color": "black"})]
    lines += [(("bias", *pair), {"color": SHADES[k % len(SHADES)]}) for k, pair in enumerate(pairs)]
    for (space, *pair), line in lines:
        own = spectra[spectra["space"] == space]
        if pair:
            near = np.isclose(own["t0"], pair[0], atol=1e-4) & np.isclose(own["t1"], pair[1], atol=1e-4)
            own = own[near]
        rings = (own["frequency"] // RING).astype(int)
        weights = own["coefficients"].groupby(rings).sum()
        x, y = ((own[column] * own["coefficients"]).groupby(rings).sum() / weights for column in ("frequency", "share"))
        ax.plot(x, y, linewidth=1, label=f"bias, {step(pair)}" if pair else space, **line)
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_xlabel("cycles per place of its grid")
    ax.set_title("(a) Share of a coefficient", loc="left")
