"""The evaluators' picture shows what its table holds, each distance over its own floor."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from defar_analysis.plots import evaluator, style

STRENGTHS = {"noise": (4, 8, 16, 32), "blur": (0.5, 0.75, 1, 2), "removal": (2, 4, 6, 8)}
NETS = {"one": ("FD-EffNet-128", 100.0), "two": ("FD-EffNet-Lite2-224", 40.0)}


@pytest.fixture
def table():
    rows = []
    for protocol, (distance, floor) in NETS.items():
        for metric, start, step in ((distance, floor, 0.5 * floor), ("precision", 0.7, 0.02), ("recall", 0.68, -0.1)):
            sets = [("test images", "floor", 0.0, start), ("other training images", "control", 0.0, 1.01 * start)]
            sets += [(f"{kind} {s}", kind, s, start + step * (n + 1))
                     for kind, strengths in STRENGTHS.items() for n, s in enumerate(strengths)]  # fmt: skip
            rows += [(name, kind, s, metric, v, 0.97 * v, 1.04 * v, 2000, protocol) for name, kind, s, v in sets]
    return pd.DataFrame(rows, columns=evaluator.COLUMNS)


@pytest.fixture
def arrays():
    kinds = ["floor"] + ["noise"] * 4 + ["blur"] * 4
    strengths = [0.0, *STRENGTHS["noise"], *STRENGTHS["blur"]]
    images = np.stack([np.full((32, 32, 3), 20 * k, np.uint8) for k in range(9)])
    return {"images": images, "kind": np.array(kinds), "strength": np.array(strengths)}


def panels(figure):
    """Axes with curves, by column and row label."""
    return [ax for ax in figure.axes if not ax.images]


def curves(ax):
    """The marked lines, not the dashed levels."""
    return [line for line in ax.lines if line.get_marker() not in ("None", "", None)]


def test_every_value_is_drawn_where_the_table_has_it(table):
    axes = panels(evaluator.plot(table))
    assert len(axes) == 9
    for ax, (kind, metric) in zip(
        axes, [(kind, metric) for kind in STRENGTHS for metric in ("FD-", "precision", "recall")], strict=True
    ):
        assert len(curves(ax)) == 2
        for line, (protocol, (_, floor)) in zip(curves(ax), NETS.items(), strict=True):
            rows = table[(table["protocol"] == protocol) & table["metric"].str.startswith(metric)]
            rows = rows[rows["kind"].isin([kind, "floor"])].sort_values("strength")
            unit = floor if metric == "FD-" else 1.0
            np.testing.assert_allclose(line.get_xdata(), rows["strength"])
            np.testing.assert_allclose(line.get_ydata(), rows["value"] / unit)
            assert line.get_ydata()[0] == pytest.approx(1.0 if metric == "FD-" else rows["value"].iloc[0])


def test_bars_are_the_intervals_and_the_level_is_the_floors(table):
    ax = panels(evaluator.plot(table))[0]
    bars = [np.array(path.vertices) for collection in ax.collections for path in collection.get_paths()]
    rows = table.query("protocol == 'two' and metric == 'FD-EffNet-Lite2-224' and strength == 8 and kind == 'noise'")
    found = [bar for bar in bars if len(bar) == 2 and bar[0, 0] == 8]
    ends = sorted(found[1][:, 1] * 40.0)
    np.testing.assert_allclose(ends, [rows["low"].iloc[0], rows["high"].iloc[0]])
    levels = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in levels] == [1.0, 1.0]
    assert {to_hex(line.get_color()) for line in levels} == {to_hex(line.get_color()) for line in curves(ax)}


def test_rows_share_a_scale_and_networks_are_told_apart_without_colour(table):
    axes = panels(evaluator.plot(table))
    for row in range(3):
        assert len({ax.get_ylim() for ax in axes[row::3]}) == 1
    assert axes[0].get_yscale() == "log" and axes[1].get_yscale() == "linear"
    assert len({line.get_marker() for line in curves(axes[0])}) == 2
    assert axes[0].get_ylabel() == "Fréchet distance\n(times its floor)" and axes[3].get_ylabel() == ""
    assert [ax.get_xlabel() for ax in axes[2::3]] == [label for _, label in evaluator.KINDS.values()]


def test_the_legend_names_each_distance_once_with_its_floor(table):
    figure = evaluator.plot(table)
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [
        "FD-EffNet-128 (floor 100)", "FD-EffNet-Lite2-224 (floor 40)",
    ]  # fmt: skip


def test_pictures_stand_above_noise_and_blur_in_the_order_of_strength(table, arrays):
    shuffled = np.random.default_rng(0).permutation(9)
    figure = evaluator.plot(table, {key: values[shuffled] for key, values in arrays.items()})
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == ["0", "4", "8", "16", "32", "0", "0.5", "0.75", "1", "2"]
    grey = [int(ax.images[0].get_array()[0, 0, 0]) // 20 for ax in shown]
    assert grey == [0, 1, 2, 3, 4, 0, 5, 6, 7, 8]


def test_nothing_overlaps_and_nothing_leaves_the_page(table, arrays):
    figure = evaluator.plot(table, arrays, note="n = 2,000 in every set and in the reference, CIFAR-10, and so on")
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    drawn = [(name, box) for name, box in boxes if box.width > 0]
    for name, box in drawn:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, name
    heads = [(t.get_text(), t.get_window_extent()) for t in figure.texts]
    heads += [(f"picture {ax.get_title()}", ax.get_tightbbox()) for ax in figure.axes if ax.images]
    heads += [("legend", figure.legends[0].get_window_extent())]
    for k, (name, box) in enumerate(heads):
        for other, second in heads[:k]:
            assert not box.overlaps(second), f"{name} and {other}"


def test_it_is_drawn_again_byte_for_byte(table, arrays, tmp_path):
    first, second = (style.save(evaluator.plot(table, arrays), tmp_path / name) for name in ("one", "two"))
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_what_cannot_be_drawn_is_said_in_one_line(table, refuses):
    refuses(lambda: evaluator.plot(table.drop(columns="kind")), "no column 'kind'")
    refuses(lambda: evaluator.plot(table[table["kind"] == "floor"]), "noise, blur, removal", "floor")
    refuses(lambda: evaluator.plot(table[table["kind"] != "floor"]), "one, FD-", "'floor'")
    refuses(lambda: evaluator.plot(pd.concat([table, table[table["kind"] == "blur"]])), "blur", "one of each strength")
    refuses(lambda: evaluator.plot(table[table["metric"] != "recall"]), "recall", "no rows")
