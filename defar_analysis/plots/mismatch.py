"""Training against inference (as the paper's Fig. 1), drawn from the study in the plane: what the network sees in each,
and how far sampling leaves what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import DefarError
from .plane_idea import BASELINE, BIAS, EXACT, FRESH, PLANE, TRUE, background, between, small_print
from .style import REFERENCE, Style, applied, pick, require, select, time_axis

COLUMNS = ("model", "seed", "quantity", "t", "nfe", "value")
INPUTS = 5  # interpolants drawn on each pair's path
SHORT = 0.25  # arrows of velocities are drawn at this share of their length
SMALL_PRINT = "(a, b): seed 0; (c): lines are means over seeds, band: lowest to highest seed"


def plot(table: pd.DataFrame, arrays: Mapping[str, np.ndarray], note: str = "", style: Style = PLANE) -> Figure:
    """Three panels: (a) training's inputs, (b) inference's, (c) the drift that was measured over t.

    table: the plane's rows of quantity "drift". arrays: `step_noise`, `step_data` (P, 2); `walks` (M, T+1, N, 2), by
    the models of the table without the fresh data, in its order; `side` (S,), `density` (S, S). Raises DefarError
    naming a column, a model or an array that is missing.
    """
    require(table, COLUMNS, "the plane's table")
    exact, ours = (_walks(table, arrays, name) for name in (EXACT, BASELINE))
    with applied(style):
        figure = Figure(figsize=(9.6, 3.9), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
        _draw_training(axes[0], arrays)
        _draw_inference(axes[1], arrays, ours, exact, style)
        draw_drift(axes[2], table, style)
        small_print(figure, "\n".join(filter(None, (note, SMALL_PRINT))), style)
        figure.legend(handles=_keys(style), loc="outside lower center", ncols=3, columnspacing=1.6, handlelength=2.0)
    return figure


def _draw_training(ax: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Each pair's path with the interpolants on it: the only states that training ever shows, and their target."""
    background(ax, arrays)
    noise, data = (np.asarray(pick(arrays, key), float) for key in ("step_noise", "step_data"))
    for start, end in zip(noise, data, strict=True):
        ax.plot(*zip(start, end, strict=True), color=TRUE, linewidth=0.9, zorder=2)
        inputs = start + np.linspace(0, 1, INPUTS + 2)[1:-1, None] * (end - start)
        ax.plot(*inputs.T, linestyle="none", marker="o", markersize=3.2, color="black", markeredgewidth=0, zorder=4)
        target = inputs[INPUTS // 2], inputs[INPUTS // 2] + SHORT * (end - start)
        between(ax, *target, TRUE, style="-|>", width=2.6)
        ax.plot(*start, marker="o", color="white", markeredgecolor=TRUE, markersize=4, zorder=4)
        ax.plot(*end, marker="*", color=TRUE, markersize=7, zorder=4, markeredgewidth=0)
    _nearer(ax, np.stack([noise, data]))
    ax.set_title("(a) Training: states of true pairs", loc="left")
    _below(ax, r"$x_t = t\,x_* + (1-t)\,\epsilon$, whatever the model does")


def _draw_inference(ax: Axes, arrays: Mapping[str, np.ndarray], ours: np.ndarray, exact: np.ndarray,
                    style: Style) -> None:  # fmt: skip
    """All walks (T+1, N, 2) thinly, and the one that ends farthest from the exact field's in full."""
    background(ax, arrays)
    gaps = np.linalg.norm(ours[-1] - exact[-1], axis=-1)
    widest = int(gaps.argmax())
    for walk in ours.transpose(1, 0, 2):
        ax.plot(*walk.T, color=style.colour(BASELINE), linewidth=0.5, alpha=0.45, zorder=2)
    ax.plot(*exact[:, widest].T, zorder=4, **_line(EXACT, style))
    ax.plot(*ours[:, widest].T, color=style.colour(BASELINE), linewidth=1.3, marker="o", markersize=2.8,
            markeredgewidth=0, zorder=5)  # fmt: skip
    between(ax, exact[-1, widest], ours[-1, widest], BIAS, style="-|>", width=1.4)
    ax.plot(*ours[0, widest], marker="o", color="white", markeredgecolor=TRUE, markersize=4, zorder=6)
    _nearer(ax, np.stack([ours[:, widest], exact[:, widest]]))
    ax.set_title("(b) Inference: the model's own states", loc="left")
    _below(ax, rf"$\hat{{x}}_{{t+h}} = \hat{{x}}_t + h\,v(\hat{{x}}_t, t)$, {len(ours) - 1} steps; of {len(gaps)} "
           f"walks the one\nthat ends farthest off: {gaps.max():.2f} (median {np.median(gaps):.2f})")  # fmt: skip


def draw_drift(ax: Axes, table: pd.DataFrame, style: Style = PLANE) -> None:
    """Quantity "drift" over t, one curve for each model and number of evaluations; a band over the seeds for FM."""
    rows = select(table, "the plane's table", quantity="drift")
    for name in (BASELINE, EXACT, FRESH):
        own = rows[rows["model"] == name]
        if len(own) == 0 and name == FRESH:
            continue  # a yardstick that a table may lack
        counts = sorted(require(own, COLUMNS, f"the drift of {name}")["nfe"].unique())
        for k, nfe in enumerate(counts):
            by = own[own["nfe"] == nfe].groupby("t")["value"]
            t, mean = by.mean().index.to_numpy(float), by.mean().to_numpy(float)
            opacity = (k + 1) / len(counts)  # fewer evaluations are paler
            label = name if name == FRESH else f"{name}, {nfe:g} evaluations"
            ax.plot(t, mean, label=label, alpha=opacity, zorder=3, **_line(name, style))
            if name == BASELINE:
                ax.fill_between(t, by.min(), by.max(), color=style.colour(name), linewidth=0, zorder=2,
                                alpha=style.interval_opacity * opacity)  # fmt: skip
    ax.set_ylim(bottom=0)
    time_axis(ax)
    ax.set_ylabel(r"sliced $W_2$ from true $x_t$ (units of the plane)")
    ax.set_title("(c) Drift along sampling, measured", loc="left")
    ax.legend(loc="lower right", handlelength=2.2)


# ---- parts


def _walks(table: pd.DataFrame, arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A model's walks, (T+1, N, 2)."""
    models = [model for model in dict.fromkeys(table["model"]) if model != FRESH]
    walks = np.asarray(pick(arrays, "walks"), float)
    if name not in models or len(walks) != len(models):
        raise DefarError(
            f"'walks' holds {len(walks)} models, the table {', '.join(models)}; {name!r} must be among them"
        )
    return walks[models.index(name)]


def _line(name: str, style: Style) -> dict:
    if name == FRESH:
        return {"color": style.target_colour, "linestyle": (0, (1, 1.5)), "linewidth": 0.75 * style.line_width}
    return style.line(REFERENCE if name == EXACT else name)


def _nearer(ax: Axes, points: np.ndarray) -> None:
    """Less of the empty plane around the data than the background leaves, but all of the points (..., 2)."""
    half = max(0.85 * ax.get_xlim()[1], 1.05 * np.abs(points).max())
    ax.set_xlim(-half, half)
    ax.set_ylim(-half, half)


def _below(ax: Axes, text: str) -> None:
    ax.set_xlabel(text, labelpad=5)


def _keys(style: Style) -> list:
    dot = {"linestyle": "none", "markeredgewidth": 0}
    return [
        Line2D([], [], color=TRUE, linewidth=1.2, label=r"(a) a pair's path from noise ($\circ$) to data ($\star$)"),
        Line2D([], [], color="black", marker="o", markersize=3.2, label=r"(a) what the network sees: $x_t$", **dot),
        Line2D([], [], color=TRUE, linewidth=2.6, label=f"(a) target $x_* - \\epsilon$, at {SHORT:g} of its length"),
        Line2D([], [], color=style.colour(BASELINE), marker="o", markersize=2.8, linewidth=1.3, markeredgewidth=0,
               label="(b) what it sees: the model's walk"),
        Line2D([], [], label="(b) the exact field's walk, same noise", **_line(EXACT, style)),
        Line2D([], [], color=BIAS, linewidth=1.4, label="(b) how far off the model's walk ends"),
    ]  # fmt: skip
