"""One exposure bias looked at closely: image, map, radial spectra and PFR side by side (Eqs. 6-7, 12)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import DefarError
from .maps import COLOUR_MAP, step
from .style import PAPER, Style, applied, require

QUANTITIES = ("bias", "prediction", "target")
SPECTRA = ("frequency", "coefficients", *QUANTITIES)
PFR = ("quantity", "with_dc", "without_dc")
PREDICTION_COLOUR = "#111111"
FIXED = {"y": 1.0, "pad": 5}  # titles where they are put: to look for a free place takes a third of the drawing
LEAST_SHOWN = 1e-3  # PFR; bars begin there or at the least value


def rings(spectra: pd.DataFrame, side: int) -> pd.DataFrame:
    """Mean energy of a coefficient in rings of width 1/side cycles per pixel, by ring; ring 0 is the zero frequency."""
    ring = (spectra["frequency"] * side).round().astype(int).to_numpy()
    sums = spectra[["coefficients", *QUANTITIES]].groupby(ring).sum()
    means = sums[list(QUANTITIES)].div(sums["coefficients"], axis=0)
    return means.assign(frequency=means.index / side)


def plot(
    spectra: pd.DataFrame, pfr: pd.DataFrame, picture: np.ndarray, heat: np.ndarray, *,
    method: str, t0: float, t1: float, cutoff: float, rms: float, overlay: float = 1.0,
    greatest: float | None = None, title: str = "", style: Style = PAPER,
) -> Figure:  # fmt: skip
    """Four panels. spectra: columns SPECTRA, a row for each radius; pfr: columns PFR, a row for each quantity.

    picture (H, W, C) uint8; heat (H, W), the bias's norm over channels. overlay: opacity of the map over the grey
    image, 1 is the map alone. greatest: where the colour scale ends (default: at the map's greatest value).
    """
    require(spectra, SPECTRA, "the spectra")
    require(pfr, PFR, "the PFR table")
    if not 0 <= overlay <= 1:
        raise DefarError(f"overlay must lie between 0 (image) and 1 (map alone); got {overlay}")
    if picture.shape[:2] != heat.shape:
        raise DefarError(f"the picture is {picture.shape[:2]} pixels, the map {heat.shape}; both must be of one image")
    # Laid out in inches: a layout engine would take longer than the network.
    width, height = 9.6, 2.75
    with applied(style):
        figure = Figure(figsize=(width, height))

        def place(x: float, y: float, wide: float, tall: float) -> Axes:
            return figure.add_axes((x / width, y / height, wide / width, tall / height))

        side = 1.75
        image = place(0.1, 0.5, side, side)
        image.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        image.set_title("image", **FIXED)
        _draw_map(place(1.98, 0.5, side, side), place(1.98, 0.37, side, 0.07), picture, heat, overlay, greatest)
        for ax in figure.axes[:2]:
            ax.set_axis_off()
        lines = {
            "bias": {"color": style.colour(method), "linewidth": style.line_width},
            "prediction": {"color": PREDICTION_COLOUR, "linewidth": 0.6 * style.line_width},
            "target": style.target_line(),
        }
        _draw_spectra(place(4.5, 0.5, 2.3, side), rings(spectra, max(heat.shape)), cutoff, lines)
        _draw_pfr(place(7.75, 0.5, 1.7, side), pfr, lines)
        heading = f"{method}, {step((t0, t1))}: rms of the bias {rms:.3g}"
        figure.text(0.1 / width, 1 - 0.07 / height, heading, va="top", weight="bold", fontsize=style.font)
        figure.text(1 - 0.1 / width, 1 - 0.07 / height, title, va="top", ha="right", color="#555555")
    return figure


def _draw_map(ax: Axes, bar: Axes, picture: np.ndarray, heat: np.ndarray, overlay: float, greatest: float | None):
    grey = picture.astype(float).mean(axis=-1)
    greatest = float(heat.max()) if greatest is None else greatest
    if overlay < 1:
        ax.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    drawn = ax.imshow(heat, COLOUR_MAP, vmin=0, vmax=greatest or 1.0, alpha=overlay, interpolation="nearest")
    ax.set_title("bias map" if overlay == 1 else f"bias map at {100 * overlay:.0f} % over the image", **FIXED)
    ax.figure.colorbar(drawn, cax=bar, orientation="horizontal")
    bar.set_xticks([0.0, greatest or 1.0], ["0", f"{greatest:.3g}"])
    for text, end in zip(bar.get_xticklabels(), ("left", "right"), strict=True):
        text.set_horizontalalignment(end)
    bar.tick_params(length=2, pad=1)
    note = {"ha": "center", "va": "top", "fontsize": "small"}
    bar.text(0.5, -2.5, "velocity, norm over channels", transform=bar.transAxes, **note)
    bar.minorticks_off()


def _draw_spectra(ax: Axes, means: pd.DataFrame, cutoff: float, lines: dict) -> None:
    for quantity in QUANTITIES:
        shown = means[means[quantity] > 0]  # an axis of logarithms has no place for none
        beyond = shown[shown["frequency"] > 0]
        ax.plot(beyond["frequency"], beyond[quantity], label=quantity, **lines[quantity])
        ax.plot(shown["frequency"][:1], shown[quantity][:1], "o", color=lines[quantity]["color"], markersize=3)
    ax.axvline(cutoff, color="#555555", linestyle=":", linewidth=1, label=f"cutoff {cutoff:.2f}")
    ax.set_yscale("log")
    ax.minorticks_off()  # they take longer than all else, and nobody reads them
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlim(-0.01, 0.72)
    ax.set_xlabel("radial frequency (cycles per pixel)")
    ax.set_ylabel("energy of a coefficient")
    ax.set_title("radial spectrum (dots: DC)", **FIXED)
    ax.legend(loc="upper right", handlelength=1.3, labelspacing=0.2)


def _draw_pfr(ax: Axes, pfr: pd.DataFrame, lines: dict) -> None:
    values = pfr.set_index("quantity").loc[list(QUANTITIES)]
    finite = values.to_numpy()[np.isfinite(values.to_numpy()) & (values.to_numpy() > 0)]
    low = min([LEAST_SHOWN, 0.5 * finite.min()] if len(finite) and finite.min() < LEAST_SHOWN else [0.01, *finite / 2])
    high = max([10.0, *finite * 2])
    for row, quantity in enumerate(QUANTITIES):
        colour = lines[quantity]["color"]
        for shift, column, fill in ((-0.19, "without_dc", colour), (0.19, "with_dc", "none")):
            value = float(values.loc[quantity, column])
            long = np.clip(value, low, high) - low if np.isfinite(value) else 0.0
            ax.barh(row + shift, long, 0.32, left=low, facecolor=fill, edgecolor=colour, linewidth=1)
            ax.text(low + long, row + shift, f" {value:.3g}", va="center", fontsize="small")
    ax.axvline(1.0, color="#999999", linewidth=0.7, zorder=0)
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlim(low, high * (high / low) ** 0.3)  # room for the numbers
    ax.set_yticks(range(len(QUANTITIES)), QUANTITIES)
    ax.set_ylim(len(QUANTITIES) - 0.45, -0.55)
    ax.set_title("PFR, low / high energy", **FIXED)
    ax.set_xlabel("filled: without DC, hollow: with", fontsize="small")
