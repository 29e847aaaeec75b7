"""What bias and drift are in one simulated step of a point in the plane, and what ADR, FC and MixFlow make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from .style import PAPER, REFERENCE, Style, pick

EXACT, FRESH, BASELINE, STOPPED = "exact field", "fresh data", "FM", "DEFAR stopped"
# Flow matching keeps SiT's colour, which is the same objective; the parts of DEFAR have colours that no method has.
PLANE = replace(
    PAPER,
    colours={**PAPER.colours, BASELINE: PAPER.colours["SiT"], "ADR": "#882255", "FC": "#117733",
             STOPPED: PAPER.colours["DEFAR"], EXACT: PAPER.colours[REFERENCE]},
)  # fmt: skip
# The parts of the method, coloured as in the paper's Fig. 2.
TRUE, PREDICTED, BIASED, HOME, BIAS = "#7F7F7F", "#2F6FD0", "#7030A0", "#E8710A", "#C00000"
VELOCITY_SCALE = 0.3  # arrows of velocities are drawn at this share of their length


def draw_idea(figure: Figure | SubFigure, arrays: Mapping[str, np.ndarray], style: Style = PLANE) -> None:
    """Four panels on the pairs of measures.plane.one_step: (a) all of them, (b-d) the first."""
    step = {
        key.removeprefix("step_"): np.asarray(value, float) for key, value in arrays.items() if key.startswith("step_")
    }
    t0, t1, slow = pick(step, "times")
    one = {key: value[0] for key, value in step.items() if key != "times"}
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 0.9, 1))

    ax = axes[0]
    background(ax, arrays)
    for k in range(len(step["noise"])):
        _pair(ax, {key: value[k] for key, value in step.items() if key != "times"})
    ax.set_xlim(-2.75, 2.75)
    ax.set_ylim(-2.75, 2.75)
    ax.set_title(f"(a) Drift of a step {t0:g} to {t1:g}", loc="left")

    ax = axes[1]
    _pair(ax, one, labels=True)
    arrow(ax, one["x1"], one["v_ideal"], PREDICTED)
    arrow(ax, one["x_hat"], one["v_ideal"], PREDICTED, opacity=0.35)  # the same velocity again, to subtract
    arrow(ax, one["x_hat"], one["v_hat"], BIASED)
    home = one["data"] - one["x_hat"]
    ax.plot(*zip(one["x_hat"], one["data"], strict=True), color=HOME, linestyle=(0, (4, 3)), linewidth=0.9, zorder=2)
    arrow(ax, one["x_hat"], home * np.linalg.norm(one["v_hat"]) / np.linalg.norm(home), HOME)
    tips = one["x_hat"] + VELOCITY_SCALE * one["v_ideal"], one["x_hat"] + VELOCITY_SCALE * one["v_hat"]
    between(ax, *tips, BIAS, style="-|>", width=1.0)
    ax.set_title("(b) Bias, and ADR's way home", loc="left")

    ax = axes[2]
    _draw_weights(ax, one, style)
    ax.set_title("(c) FC: errors weighed by bias", loc="left")

    ax = axes[3]
    _draw_slowed(ax, one, t1, slow, style)
    ax.set_title("(d) MixFlow: slowed states", loc="left")
    for ax in (axes[1], axes[3]):
        _square(ax)
        bare(ax)
    text = (
        "flow-matching model of seed 0; of the pairs that end nearest a component, the one of median drift; velocities"
    )
    small_print(figure, f"{text} drawn at {VELOCITY_SCALE:g} of their length", style)
    figure.legend(handles=_keys(), loc="outside lower center", ncols=4, columnspacing=1.6, handlelength=1.8)


def _pair(ax: Axes, pair: Mapping[str, np.ndarray], labels: bool = False) -> None:
    """A pair's straight path, the model's step along it, and the drift that the step ends with."""
    ax.plot(*zip(pair["noise"], pair["data"], strict=True), color=TRUE, linewidth=0.9, zorder=2)
    between(ax, pair["x0"], pair["x_hat"], PREDICTED, style="-", width=1.1, dashes=(0, (4, 2)))
    between(ax, pair["x1"], pair["x_hat"], BIAS, style="-|>", width=1.3)
    ax.plot(*pair["noise"], marker="o", color="white", markeredgecolor=TRUE, markersize=4, zorder=4)
    ax.plot(*pair["data"], marker="*", color=TRUE, markersize=7, zorder=4, markeredgewidth=0)
    for key, colour in (("x0", "black"), ("x1", "black"), ("x_hat", BIAS)):
        ax.plot(*pair[key], marker="o", color=colour, markersize=4.2, zorder=5, markeredgewidth=0)
    if labels:
        _names(ax, pair, {"noise": r"$\epsilon$", "data": r"$x_*$", "x0": r"$x_{t_0}$", "x1": r"$x_{t_1}$",
                          "x_hat": r"$\hat{x}$"})  # fmt: skip


def _draw_weights(ax: Axes, one: Mapping[str, np.ndarray], style: Style) -> None:
    """Bars: FC's weight of each coordinate, flow matching's 1 and on top of it the coordinate's share of the bias."""
    at, share = np.arange(2), one["weight"] - 1
    ax.bar(at, 1, 0.55, color=TRUE, alpha=0.45, label="flow matching: 1")
    ax.bar(at, share, 0.55, bottom=1, color=style.colour("FC"), label=r"FC: + $|\delta_k|\,/\,\Vert\delta\Vert$")
    for k in range(2):
        ax.text(k, one["weight"][k] + 0.03, f"$w$ = {one['weight'][k]:.2f}", ha="center", fontsize=style.small_font)
    names = [rf"coordinate {k + 1}" + "\n" + rf"$|\delta_{k + 1}|$ = {abs(one['bias'][k]):.2f}" for k in range(2)]
    ax.set_xticks(at, names, fontsize=style.small_font)
    ax.set_yticks([0, 1, 2])
    ax.set_xlim(-0.5, 1.5)
    ax.set_ylim(0, 2.75)
    ax.set_ylabel(r"weight of the error at $t_0$")
    ax.legend(loc="upper center", fontsize=style.small_font, handlelength=1.0, borderaxespad=0.1)


def _draw_slowed(ax: Axes, one: Mapping[str, np.ndarray], t1: float, slow: float, style: Style) -> None:
    """The pair's path with the states that MixFlow shows to the network under the name of t1."""
    way = one["data"] - one["noise"]
    low = one["noise"] + (2 * slow / t1 - 1) * t1 * way  # m ~ U[(1 - gamma) t, t]: as far below its mean as t is above
    ax.plot(*zip(one["noise"], one["data"], strict=True), color=TRUE, linewidth=0.9, zorder=2)
    ax.plot(*zip(low, one["x1"], strict=True), color=style.colour("MixFlow"), linewidth=6, alpha=0.45, zorder=1,
            solid_capstyle="butt")  # fmt: skip
    ax.plot(*one["noise"], marker="o", color="white", markeredgecolor=TRUE, markersize=4, zorder=4)
    ax.plot(*one["data"], marker="*", color=TRUE, markersize=7, zorder=4, markeredgewidth=0)
    ax.plot(*one["x1"], marker="o", color="black", markersize=4.2, zorder=5, markeredgewidth=0)
    ax.plot(*one["slowed"], marker="o", color=style.colour("MixFlow"), markersize=5.5, zorder=5, markeredgewidth=0)
    ax.plot(*one["x_hat"], marker="o", color=BIAS, markersize=4.2, zorder=5, markeredgewidth=0)
    share = np.dot(one["x_hat"] - one["noise"], way) / np.dot(way, way)
    foot = one["noise"] + share * way
    ax.plot(*zip(one["x_hat"], foot, strict=True), color=BIAS, linestyle=(0, (1, 1.5)), linewidth=1.1, zorder=2)
    arrow(ax, one["slowed"], way, style.colour("MixFlow"))
    _names(ax, one, {"noise": r"$\epsilon$", "data": r"$x_*$", "x1": r"$x_t$", "slowed": r"$x_m$",
                     "x_hat": r"$\hat{x}$"})  # fmt: skip
    ax.text(0.5, -0.02, f"$x_m$, {slow:g} of the way, is shown as t = {t1:g};\n"
            f"$\\hat{{x}}$ lies {share:.2f} of the way", transform=ax.transAxes, ha="center", va="top",
            fontsize=style.small_font)  # fmt: skip


def _keys() -> list:
    line = {"linewidth": 1.6}
    dot = {"marker": "o", "markersize": 4, "linewidth": 1.3}
    return [
        Line2D([], [], color=TRUE, label=r"a pair's path from noise to data ($\star$)", **line),
        Line2D([], [], color=PREDICTED, linestyle=(0, (4, 2)), label="the model's step", **line),
        Line2D([], [], color=BIAS, label=r"drift $\hat{x} - x_{t_1}$; in (b) also bias $\delta$", **dot),
        Line2D([], [], color=PREDICTED, label=r"(b) velocity at the ideal $x_{t_1}$", **line),
        Line2D([], [], color=BIASED, label=r"(b) velocity at the simulated $\hat{x}$", **line),
        Line2D([], [], color=HOME, label="(b) ADR's direction, home", **line),
        Line2D([], [], color=PAPER.colours["MixFlow"], label=r"(d) slowed states $x_m$, velocity there", **line),
    ]


# ---- parts


def small_print(figure: Figure | SubFigure, text: str, style: Style) -> None:
    figure.suptitle(text, fontsize=style.small_font, color="#555555")


def background(ax: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    side, density = pick(arrays, "side"), np.asarray(pick(arrays, "density"), float)
    levels = density.max() * np.array([0.03, 0.25, 0.6, 1.01])
    ax.contourf(side, side, density, levels, colors=["#ECECEC", "#D9D9D9", "#C4C4C4"], zorder=0)
    ax.set_xlim(side[0], side[-1])
    ax.set_ylim(side[0], side[-1])
    ax.set_aspect("equal")
    bare(ax)


def _square(ax: Axes) -> None:
    """Equal scales and room for names on all sides of what is drawn."""
    box = ax.dataLim
    half = 0.6 * max(box.width, box.height)
    for middle, limit in (((box.x0 + box.x1) / 2, ax.set_xlim), ((box.y0 + box.y1) / 2, ax.set_ylim)):
        limit(middle - half, middle + half)
    ax.set_aspect("equal")


def bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color("#BBBBBB")


def arrow(ax: Axes, start: np.ndarray, velocity: np.ndarray, colour: str, opacity: float = 1.0,
          scale: float = VELOCITY_SCALE) -> None:  # fmt: skip
    """A velocity from its point, at `scale` of its length."""
    end = start + scale * velocity
    ax.plot(*zip(start, end, strict=True), linewidth=0)  # arrows alone do not stretch the axes
    between(ax, start, end, colour, style="-|>", width=1.8, opacity=opacity)


def between(ax: Axes, start, end, colour: str, *, style: str, width: float, dashes="-", opacity=1.0) -> None:
    """A line or an arrow, as matplotlib names its style, from one point to the other."""
    arrow = {"arrowstyle": style, "color": colour, "linewidth": width, "linestyle": dashes, "shrinkA": 0, "shrinkB": 0,
             "mutation_scale": 8, "alpha": opacity}  # fmt: skip
    ax.annotate("", end, start, arrowprops=arrow, zorder=3)


def _names(ax: Axes, pair: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
    """Names beside points, on the side of the path away from the simulated state."""
    way = pair["data"] - pair["noise"]
    normal = np.array([-way[1], way[0]]) / np.linalg.norm(way)
    side = np.sign(np.dot(pair["x_hat"] - pair["noise"], normal)) or 1.0
    for key, name in names.items():
        out = normal * side * (1 if key == "x_hat" else -1)
        ax.annotate(name, pair[key], 9 * out, textcoords="offset points", ha="center", va="center", zorder=6)
