"""The method (as the paper's Fig. 2), drawn from one measured step of one pair: its vectors, and the way from them to
the loss."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import DefarError
from .plane_idea import BIAS, BIASED, HOME, PLANE, PREDICTED, TRUE, arrow, between, small_print
from .style import Style, applied, pick, require

COLUMNS = ("quantity", "component", "value")
SCALE = 0.2  # velocities are drawn at this share of their length
SMALL_PRINT = (
    "shown: flow-matching model of seed 0; of the pairs that end nearest a component, the one of median drift\n"
    f"(a): the plane turned so that the pair's path lies flat, to scale; velocities at {SCALE:g} of their length; "
    "(b): components before turning"
)


def plot(table: pd.DataFrame, arrays: Mapping[str, np.ndarray], note: str = "", style: Style = PLANE) -> Figure:
    """Above: the states and vectors of the first pair. Below: how they make L = beta1 L_ADR + beta2 L_FC, in numbers.

    table: rows (quantity, component, value); component 1 or 2 for v_gt, v_t0, v_ideal, v_hat, v_adr, bias and weight,
    none for alpha, beta1, beta2, loss_fc, loss_adr and loss. arrays: `step_*` (P, 2) of measures.plane.one_step, and
    `step_times`. Raises DefarError naming a column, quantity or array that is missing.
    """
    require(table, COLUMNS, "the method's table")
    with applied(style):
        figure = Figure(figsize=(9.6, 6.3), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(3.6, 1.75))
        draw_vectors(above, arrays)
        draw_flow(below, table, style)
        small_print(figure, "\n".join(filter(None, (note, SMALL_PRINT))), style)
    return figure


# ---- vectors


def draw_vectors(ax: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """The first pair's step, turned by an isometry: noise at the origin, data to the right, x_hat above the path."""
    noise, data = (np.asarray(pick(arrays, f"step_{key}"), float)[0] for key in ("noise", "data"))
    turn = _flat(data - noise, np.asarray(pick(arrays, "step_x_hat"), float)[0] - noise)
    at = {key: turn @ (np.asarray(pick(arrays, f"step_{key}"), float)[0] - noise)
          for key in ("noise", "data", "x0", "x1", "x_hat")}  # fmt: skip
    v = {key: turn @ np.asarray(pick(arrays, f"step_{key}"), float)[0]
         for key in ("target", "v0", "v_ideal", "v_hat")}  # fmt: skip
    t0, t1 = np.asarray(pick(arrays, "step_times"), float)[:2]
    home = at["data"] - at["x_hat"]
    adr = home * np.linalg.norm(v["v_hat"]) / np.linalg.norm(home)

    ax.plot(*zip(at["noise"], at["data"], strict=True), color="black", linewidth=1.3, zorder=2)
    between(ax, at["x0"], at["x_hat"], PREDICTED, style="-", width=1.2, dashes=(0, (4, 2)))
    between(ax, at["x_hat"], at["data"], HOME, style="-", width=1.0, dashes=(0, (4, 2)))
    between(ax, at["x1"], at["x_hat"], BIAS, style="-", width=1.0, dashes=(0, (1, 1.5)))
    for start, velocity, colour, opacity in (
        ("x0", v["target"], TRUE, 1.0), ("x0", v["v0"], PREDICTED, 1.0), ("x1", v["v_ideal"], PREDICTED, 1.0),
        ("x_hat", v["v_ideal"], PREDICTED, 0.35), ("x_hat", v["v_hat"], BIASED, 1.0), ("x_hat", adr, HOME, 1.0),
    ):  # fmt: skip
        arrow(ax, at[start], velocity, colour, opacity, SCALE)
    tip = {key: at["x_hat"] + SCALE * vector for key, vector in (*v.items(), ("adr", adr))}
    between(ax, tip["v_ideal"], tip["v_hat"], BIAS, style="-|>", width=1.3)
    between(ax, at["x0"] + SCALE * v["target"], at["x0"] + SCALE * v["v0"], TRUE, style="-|>", width=1.0)

    for key, marker, colour, size in (("noise", "o", "white", 6), ("data", "*", TRUE, 12), ("x0", "o", "black", 6),
                                      ("x1", "o", "black", 6), ("x_hat", "o", BIAS, 7)):  # fmt: skip
        ax.plot(*at[key], marker=marker, color=colour, markersize=size, markeredgecolor=TRUE, zorder=5,
                markeredgewidth=1.0 if key == "noise" else 0)  # fmt: skip
    _say(ax, at["noise"], r"noise $\epsilon$ (t = 0)", (0, -13))
    _say(ax, at["data"], r"data $x_*$ (t = 1)", (0, -14))
    _say(ax, at["x0"], rf"$x_{{t_0}}$ ($t_0$ = {t0:g})", (0, -13))
    _say(ax, at["x1"], rf"$x_{{t_1}}$ ($t_1$ = {t1:g})", (0, -13))
    _say(ax, at["x_hat"], r"$\hat{x} = x_{t_0} + (t_1 - t_0)\,v_{t_0}$ (Eq. 6)", (-7, 9), BIAS, "right")
    _beside(ax, at["x0"], v["target"], r"$v_{gt}$", TRUE, -1, 0.8)
    _beside(ax, at["x0"], v["v0"], r"$v_{t_0}$", PREDICTED, 1, 0.55)
    _beside(ax, at["x0"] + SCALE * v["target"], v["v0"] - v["target"], "error at $t_0$", TRUE, -1, 0.45)
    ahead = 10 * v["v_ideal"] / np.linalg.norm(v["v_ideal"])  # past the tip: other arrows may cross this one
    _say(ax, at["x1"] + SCALE * v["v_ideal"], r"$v_{t_1}$", ahead, PREDICTED)
    _beside(ax, at["x_hat"], v["v_hat"], r"$\hat{v}$", BIASED, 1, 0.6)
    _beside(ax, at["x_hat"], adr, r"way home $v_{ADR} = x_* - \hat{x}$", HOME, 1, 1.0)
    _beside(ax, tip["v_ideal"], v["v_hat"] - v["v_ideal"], r"bias $\delta = \hat{v} - v_{t_1}$ (Eq. 7)", BIAS, -1, 0.5)
    _beside(ax, at["x1"], (at["x_hat"] - at["x1"]) / SCALE, "drift", BIAS, -1, 0.38)
    ax.set_title("(a) One simulated step of a true pair, and what it measures", loc="left")
    ax.set_aspect("equal")
    ax.margins(0.06, 0.09)
    ax.set_axis_off()


def _flat(way: np.ndarray, off: np.ndarray) -> np.ndarray:
    """The isometry (2, 2) that lays `way` along the first axis and `off` above it."""
    along = way / np.linalg.norm(way)
    across = np.array([-along[1], along[0]])
    return np.stack([along, across if across @ off >= 0 else -across])


def _say(ax: Axes, point, text: str, offset, colour="black", ha="center", va="center") -> None:
    ax.annotate(text, point, offset, textcoords="offset points", ha=ha, va=va, color=colour, zorder=6)


def _beside(ax: Axes, start, velocity, text: str, colour: str, side: int, share: float) -> None:
    """A name beside an arrow, at `share` of it, on its left (1) or right (-1); it grows away from the arrow."""
    normal = side * np.array([-velocity[1], velocity[0]]) / np.linalg.norm(velocity)
    ha = "center" if abs(normal[0]) < 0.2 else "left" if normal[0] > 0 else "right"
    _say(ax, start + share * SCALE * velocity, text, 8 * normal, colour, ha)


# ---- flow


def draw_flow(ax: Axes, table: pd.DataFrame, style: Style = PLANE) -> None:
    """From left to right: error and bias to FC's loss, velocity and way home to ADR's, both to the loss (Eq. 8)."""
    fc, adr = style.colour("FC"), style.colour("ADR")
    one = {key: _number(table, key) for key in ("alpha", "beta1", "beta2", "loss_fc", "loss_adr", "loss")}
    two = {key: _vector(table, key) for key in ("v_gt", "v_t0", "v_hat", "v_adr", "bias", "weight")}
    angle = np.degrees(np.arccos(_unit(two["v_hat"]) @ _unit(two["v_adr"])))
    boxes = {
        "bias": (0.0, 0.89, rf"$\delta$ = {_pair(two['bias'])}", "bias, Eq. 7", BIAS),
        "error": (0.0, 0.58, rf"$v_{{t_0}} - v_{{gt}}$ = {_pair(two['v_t0'] - two['v_gt'])}",
                  "flow matching's error at $t_0$", TRUE),
        "velocity": (0.0, 0.27, rf"$\hat{{v}}$ = {_pair(two['v_hat'])}", "velocity at the drifted state", BIASED),
        "home": (0.0, -0.04, rf"$v_{{ADR}}$ = {_pair(two['v_adr'])}", "way home", HOME),
        "weight": (0.28, 0.89, rf"$w = 1 + \alpha\,|\delta|\,/\,\Vert\delta\Vert$ = {_pair(two['weight'])}",
                   rf"FC's weight, Eq. 15, $\alpha$ = {one['alpha']:g}", fc),
        "fc": (0.28, 0.58, rf"$L_{{FC}}$ = mean $(w \otimes (v_{{t_0}} - v_{{gt}}))^2$ = {one['loss_fc']:.2f}",
               "weighted error, Eq. 16", fc),
        "adr": (0.28, 0.115, rf"$L_{{ADR}} = \Vert\,\hat{{v}}/\Vert\hat{{v}}\Vert - v_{{ADR}}/\Vert v_{{ADR}}\Vert\,"
                rf"\Vert^2$ = {one['loss_adr']:.2f}", f"directions alone, Eqs. 9, 20; angle {angle:.0f}°", adr),
        "loss": (0.69, 0.35, rf"$L = \beta_1 L_{{ADR}} + \beta_2 L_{{FC}}$ = {one['loss']:.1f}",
                 rf"Eq. 8, $\beta_1$ = {one['beta1']:g}, $\beta_2$ = {one['beta2']:g}", "black"),
    }  # fmt: skip
    ax.set_title("(b) From these vectors to the loss", loc="left")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.18, 1.1)
    ax.set_axis_off()
    drawn = {}
    for key, (x, y, text, name, colour) in boxes.items():
        frame = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": colour, "linewidth": 1.2}
        drawn[key] = ax.text(x + 0.01, y, text, va="center", ha="left", bbox=frame, zorder=4)
        ax.annotate(name, (x + 0.01, y), (-2, 10), textcoords="offset points", va="bottom", ha="left", color=colour,
                    fontsize=style.small_font, zorder=4)  # fmt: skip
    for start, end, colour in (("bias", "weight", fc), ("weight", "fc", fc), ("error", "fc", fc),
                               ("velocity", "adr", adr), ("home", "adr", adr), ("fc", "loss", fc),
                               ("adr", "loss", adr)):  # fmt: skip
        _join(ax, drawn[start], drawn[end], colour, down=start == "weight")


def _join(ax: Axes, start, end, colour: str, down: bool) -> None:
    """An arrow from one box's right (or lower) side to the other's left (or upper) side, wherever the text ends."""
    at, to = ((0.93, 0), (0.93, 1)) if down else ((1, 0.5), (0, 0.5))
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "mutation_scale": 9, "shrinkA": 5, "shrinkB": 5}
    ax.annotate("", to, at, xycoords=end, textcoords=start, arrowprops=look, zorder=3)


def _number(table: pd.DataFrame, quantity: str) -> float:
    (value,) = _values(table, quantity, 1)
    return float(value)


def _vector(table: pd.DataFrame, quantity: str) -> np.ndarray:
    return _values(table, quantity, 2)


def _values(table: pd.DataFrame, quantity: str, count: int) -> np.ndarray:
    rows = table[table["quantity"] == quantity].sort_values("component")
    if len(rows) != count:
        raise DefarError(f"the method's table has {len(rows)} rows of quantity {quantity!r}; it needs {count}")
    return rows["value"].to_numpy(float)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _pair(vector: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.2f}".replace("-", "\u2212") for value in vector) + ")"
