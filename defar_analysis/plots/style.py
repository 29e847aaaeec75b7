"""How every figure looks, and how it is checked and saved: one colour per model, whichever figure it appears in."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import DefarError
from ..files import replaced

REFERENCE = "Gaussian reference"
MEMORIES = ("Empirical, own class", "Empirical, all images")  # exact fields of the training images
TARGET, RAW_LOSS, PAPER_LABEL = "target", "raw loss", "paper, read off its figure"

# Okabe and Ito's palette: told apart with any common colour blindness, and in grey print by lightness.
_COLOURS = {
    "SiT": "#0072B2",
    "FM": "#0072B2",  # what SiT is where no SiT is trained
    "DEFAR": "#D55E00",
    "IP": "#E69F00",
    "SDSS": "#56B4E9",
    "MDSS": "#009E73",
    "MixFlow": "#CC79A7",
    REFERENCE: "#333333",
    MEMORIES[0]: "#6B6B6B",
    MEMORIES[1]: "#A0A0A0",
}
# Paul Tol's muted set, for models that the paper does not name.
_SPARE_COLOURS = ("#332288", "#882255", "#117733", "#999933", "#AA4499", "#44AA99", "#661100")
_SPARE_DASHES = ("-", "-.", (0, (1, 1)))


@dataclass(frozen=True)
class Style:
    """Sizes in points and inches; colours by model name, with a fixed fallback for any other name."""

    font: float = 8.5
    small_font: float = 7.0
    line_width: float = 1.6
    panel: tuple[float, float] = (3.1, 2.35)  # inches, one curve panel
    cell: float = 0.82  # inches, one image in a grid
    dpi: int = 180
    interval_opacity: float = 0.18
    target_colour: str = "#7F7F7F"
    paper_colour: str = "#111111"
    highlight_colour: str = "#F8F2DD"
    colours: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(_COLOURS))

    def colour(self, model: str) -> str:
        """The model's colour: a function of its name alone, never of its place in a table."""
        if model in self.colours:
            return self.colours[model]
        return _SPARE_COLOURS[zlib.crc32(model.encode()) % len(_SPARE_COLOURS)]

    def line(self, model: str) -> dict:
        """Keywords for Axes.plot."""
        if model == REFERENCE:
            return {"color": self.colour(model), "linestyle": (0, (4, 1.6)), "linewidth": 0.75 * self.line_width}
        dashes = dict(zip(MEMORIES, ("-.", ":"), strict=True)).get(model, "-")
        if model not in self.colours:
            dashes = _SPARE_DASHES[zlib.crc32(model.encode()) // len(_SPARE_COLOURS) % len(_SPARE_DASHES)]
        return {"color": self.colour(model), "linestyle": dashes, "linewidth": self.line_width}

    def target_line(self) -> dict:
        return {"color": self.target_colour, "linestyle": "--", "linewidth": 0.75 * self.line_width}

    def paper_marker(self) -> dict:
        return {"linestyle": "none", "marker": "o", "markersize": 4.0, "markerfacecolor": "none",
                "markeredgecolor": self.paper_colour, "markeredgewidth": 0.9}  # fmt: skip

    def rc(self) -> dict:
        return {
            "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
            "font.size": self.font,
            "axes.titlesize": self.font,
            "axes.labelsize": self.font,
            "xtick.labelsize": self.small_font + 0.5,
            "ytick.labelsize": self.small_font + 0.5,
            "legend.fontsize": self.small_font + 0.5,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.7,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            "figure.dpi": 110,
            "savefig.dpi": self.dpi,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "pdf.fonttype": 42,  # embedded TrueType: text in the PDF stays text
            "svg.fonttype": "none",
        }


PAPER = Style()


@contextmanager
def applied(style: Style = PAPER) -> Iterator[None]:
    """Draw inside this block with the style, and leave matplotlib's settings as they were."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change a published figure
        mpl.rcParams.update(style.rc())
        yield


# ---- tables


def require(df: pd.DataFrame, columns: Sequence[str], name: str = "table") -> pd.DataFrame:
    """The same table, or a DefarError that names the first missing column, or says that there are no rows."""
    for column in columns:
        if column not in df.columns:
            raise DefarError(f"{name} has no column {column!r}; it has: {', '.join(map(str, df.columns)) or 'none'}")
    if len(df) == 0:
        raise DefarError(f"{name} has no rows (columns: {', '.join(map(str, df.columns))})")
    return df


def select(df: pd.DataFrame, name: str = "table", **wanted: str) -> pd.DataFrame:
    """Rows where each named column holds the wanted value; an empty cell means "does not apply" and always matches.

    An empty text becomes NaN on its way through a CSV file, so both count as empty. Raises DefarError if none is left.
    """
    require(df, list(wanted), name)
    for column, value in wanted.items():
        text = df[column].astype(object).where(df[column].notna(), "")
        kept = df[(text == value) | (text == "")]
        if len(kept) == 0:
            held = ", ".join(sorted({repr(item) for item in text}))
            raise DefarError(f"{name} has no rows with {column} = {value!r}; column {column} holds: {held}")
        df = kept
    return df


def ordered_models(models: Sequence[str]) -> list[str]:
    """The paper's order: SiT, the other methods as they come, DEFAR after its baselines, exact fields last."""
    rank = {"SiT": 0, "DEFAR": 2, REFERENCE: 3} | dict.fromkeys(MEMORIES, 4)
    return sorted(dict.fromkeys(models), key=lambda model: rank.get(model, 1))


def pick(arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """One array of a dict or an open .npz, or a DefarError that names it."""
    if key not in arrays:
        raise DefarError(f"the figure's arrays have no {key!r}; they have: {', '.join(sorted(arrays))}")
    return np.asarray(arrays[key])


# ---- parts that several figures share


def time_axis(ax: Axes, label: str = "t  (0 noise, 1 data)") -> None:
    ax.set_xlim(0.0, 1.0)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    ax.set_xlabel(label)


def interval_curve(ax: Axes, rows: pd.DataFrame, style: Style, line: dict, label: str) -> None:
    """One curve with its shaded interval: exactly one line and one filled area for one model."""
    rows = rows.sort_values("t")
    if rows["t"].duplicated().any():
        raise DefarError(f"column t repeats for {label!r}: more than one curve is left; select dc and estimator")
    t, value, low, high = (rows[column].to_numpy(float) for column in ("t", "value", "low", "high"))
    ax.fill_between(t, low, high, color=line["color"], alpha=style.interval_opacity, linewidth=0, zorder=2)
    ax.plot(t, value, label=label, zorder=3, **line)


def paper_points(ax: Axes, paper: pd.DataFrame | None, quantity: str, style: Style, figure: str | None = None) -> None:
    """The paper's own values, read off its picture, as hollow markers; nothing where the paper has none."""
    if paper is None:
        return
    require(paper, ["quantity", "t", "value"], "the paper's table")
    rows = paper[paper["quantity"] == quantity]
    if figure is not None and "figure" in paper.columns:
        rows = rows[rows["figure"] == figure]
    if len(rows):
        ax.plot(rows["t"].to_numpy(float), rows["value"].to_numpy(float), label=PAPER_LABEL,
                zorder=4, clip_on=False, **style.paper_marker())  # fmt: skip


LINEAR = 1  # percent: linear up to here, logarithmic beyond, where changes differ by factors of hundreds
PERCENTS = (-100, -10, -1, 0, 1, 10, 100, 1000)


def percent_axis(ax: Axes, side: Literal["x", "y"], low: float, high: float, most: int = len(PERCENTS)) -> None:
    """A side for changes from `low` to `high` percent, with at most so many ticks: beyond that, every second decade."""
    low, high = min(-LINEAR, low), max(LINEAR, high)
    ticks = [tick for tick in PERCENTS if 2 * low <= tick <= 2 * high]
    if len(ticks) > most:
        ticks = [tick for tick in ticks if abs(tick) in (0, 10, 1000)]
    scale, place = (ax.set_xscale, ax.set_xticks) if side == "x" else (ax.set_yscale, ax.set_yticks)
    scale("symlog", linthresh=LINEAR)
    place(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def labelled(axes: Sequence[Axes]) -> tuple[list, list[str]]:
    """Handles and labels of all axes, each label once: what a figure's single legend shows."""
    found = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    others = [name for name in found if name == RAW_LOSS or name.startswith((TARGET, PAPER_LABEL))]
    names = ordered_models([name for name in found if name not in others]) + sorted(others, key=PAPER_LABEL.__eq__)
    return [found[name] for name in names], names


# ---- files


PLACES = 6  # decimals of a figure's side: a thousandth of a pixel


def save(figure: Figure, stem: Path, style: Style = PAPER) -> tuple[Path, Path]:
    """Write stem.png and stem.pdf, byte for byte the same for the same figure; return both paths."""
    stem = Path(stem)
    with applied(style):
        _settle(figure)
    # With no date and no version inside, a rebuilt figure differs in git only where the picture differs.
    metadata = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    paths = []
    for kind, extra in metadata.items():
        path = stem.with_name(f"{stem.name}.{kind}")
        with applied(style), replaced(path) as beside:
            figure.savefig(beside, format=kind, dpi=style.dpi, metadata=extra)
        paths.append(path)
    return paths[0], paths[1]


def _settle(figure: Figure) -> None:
    """Fix the places that a layout engine found, rounded: its solver goes by memory addresses, and its last digits
    differ from run to run."""
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        box = part.bbox_relative
        box.p0, box.p1 = box.p0.round(PLACES), box.p1.round(PLACES)
    for ax in figure.axes:  # a subfigure's have their place in it
        ax.set_position([round(value, PLACES) for value in ax.get_position(original=True).bounds])
