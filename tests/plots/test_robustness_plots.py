"""The picture of step robustness shows what its tables hold, each metric on axes of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from defar_analysis.plots import robustness, style

sys.path.insert(0, str(Path(__file__).parent))
from reading import check_readable

NFE = [5, 20, 25, 100]
MODELS = ["SiT", "IP", "SDSS", "MDSS", "DEFAR", "ADR only"]
CHANGES = ["model", "baseline", "metric", "nfe", "difference", "low", "high", "percent", "percent_low", "percent_high",
           "verdict", "n"]  # fmt: skip
FD = "FD-EffNet-128"


@pytest.fixture
def table():
    rows = [(m, f"cifar10-{m}", "Euler", "Linear", np.nan, n, metric, value, 0.97 * value, 1.03 * value, 2048, "p")
            for k, m in enumerate(MODELS) for n in NFE
            for metric, value in ((FD, (200 + 900 / n) * (1 + 0.01 * k)), ("precision", 0.5 + 0.01 * k - 1 / n),
                                  ("recall", 0.3 + 0.02 * k - 1 / n))]  # fmt: skip
    floor = ("test images", "", "", "", np.nan, np.nan, FD, 76.0, 72.0, 81.0, 2048, "p")
    return pd.DataFrame([*rows, floor], columns=robustness.COLUMNS)


@pytest.fixture
def differences():
    rows = [(m, "SiT", FD, n, 0, 0, 0, 3.0 * k - 6, 3.0 * k - 7, 3.0 * k - 5, "", 2048)
            for k, m in enumerate(MODELS[1:]) for n in NFE]  # fmt: skip
    return pd.DataFrame(rows, columns=CHANGES)


@pytest.fixture
def paper():
    rows = [(row, iters, column, x, value - 0.01 * x, "value")
            for row, iters, value in (("SiT", 5e5, 62.0), ("DEFAR", 2.5e5, 60.0), ("DEFAR", 5e5, 57.0))
            for x in (30, 500) for column in ("FID", "IS")]  # fmt: skip
    return pd.DataFrame(rows, columns=["row", "iters", "column", "x", "value", "kind"])


def line_of(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def test_lines_and_bars_are_each_models_own(table, differences, paper):
    figure = robustness.plot(table.sample(frac=1, random_state=0), differences, paper)
    drawn = [(figure.axes[0], FD), (figure.axes[3], "precision"), (figure.axes[4], "recall")]
    for ax, metric in drawn:
        bars = {tuple(np.round(s, 9)[:, 1]) for bars in ax.collections for s in bars.get_segments() if len(s) == 2}
        for name in MODELS:
            rows = table[(table["model"] == name) & (table["metric"] == metric)]
            np.testing.assert_allclose(line_of(ax, name).get_xdata(), rows["nfe"], rtol=0.08)
            np.testing.assert_array_equal(line_of(ax, name).get_ydata(), rows["value"])
            assert set(zip(rows["low"].round(9), rows["high"].round(9), strict=True)) <= bars
        starts = [line_of(ax, name).get_xdata()[0] for name in MODELS]
        assert len(set(np.round(starts, 6))) == len(MODELS)  # no bar hides another


def test_test_images_are_a_dashed_level_only_where_the_table_has_them(table, differences, paper):
    def level(df):
        ax = robustness.plot(df, differences, paper).axes[0]
        grey = to_hex(style.PAPER.target_colour)
        return [line.get_ydata()[0] for line in ax.get_lines() if to_hex(line.get_color()) == grey]

    assert level(table) == [76.0]
    assert level(table[table["model"] != "test images"]) == []


def test_a_change_whose_interval_holds_zero_is_hollow(table, differences, paper):
    ax = robustness.plot(table, differences, paper).axes[1]
    hollow = {float(y) for line in ax.get_lines() if line.get_markerfacecolor() == "white" for y in line.get_ydata()}
    assert hollow == {0.0}  # of the changes -6, -3, 0, 3, 6, each +- 1
    assert "SiT (%)" in ax.get_ylabel()
    np.testing.assert_array_equal(line_of(ax, "DEFAR").get_ydata(), [3.0] * len(NFE))


def test_the_papers_metric_has_axes_of_its_own_and_only_fid(table, differences, paper):
    figure = robustness.plot(table, differences, paper)
    ours, theirs = figure.axes[0], figure.axes[2]
    assert ours.get_ylabel() == FD and theirs.get_ylabel().startswith("FID, ImageNet-256")
    labels = {line.get_label() for line in theirs.get_lines()}
    assert labels == {"SiT", "DEFAR (250k)", "DEFAR (500k)"}
    np.testing.assert_array_equal(line_of(theirs, "DEFAR (500k)").get_ydata(), [57 - 0.3, 57 - 5])
    assert ours.get_ylim() != theirs.get_ylim()


def test_methods_differ_without_colour(table, differences, paper):
    figure = robustness.plot(table, differences, paper)
    looks = [(line_of(figure.axes[0], name).get_marker(), line_of(figure.axes[0], name).get_color()) for name in MODELS]
    assert len({mark for mark, _ in looks}) == len(MODELS) and len({colour for _, colour in looks}) == len(MODELS)
    one, two = (line_of(figure.axes[2], f"DEFAR ({k}k)") for k in (250, 500))
    assert one.get_linestyle() != two.get_linestyle() and one.get_markerfacecolor() == "white"


def test_no_text_lies_over_another_or_outside_the_picture(table, differences, paper):
    figure = robustness.plot(table, differences, paper, note="2,048 images, Euler; profile quick")
    assert {"DEFAR (250k)", "ADR only", "test images"} <= set(check_readable(figure, same=False))


def test_places_keep_apart_and_as_near_as_can_be():
    np.testing.assert_allclose(robustness.apart([0.1, 0.5, 0.9], 0.2), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(robustness.apart([0.5, 0.5, 0.5], 0.1), [0.4, 0.5, 0.6])
    np.testing.assert_allclose(robustness.apart([0.1, 0.12, 0.9], 0.1), [0.06, 0.16, 0.9])


def test_a_short_table_is_enough(table, differences, paper):
    only = table[(table["metric"] == FD) & (table["nfe"] == 20) & (table["model"] != "test images")]
    figure = robustness.plot(only, differences[differences["nfe"] == 20], paper)
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == 3


def test_wrong_tables_are_named(table, differences, paper, refuses):
    plot = robustness.plot
    refuses(lambda: plot(table.drop(columns="nfe"), differences, paper), "'nfe'")
    refuses(lambda: plot(table, differences.drop(columns="percent"), paper), "'percent'")
    refuses(lambda: plot(table, differences, paper[paper["column"] == "IS"]), "the paper's FID")
    refuses(lambda: plot(table, differences, paper, metric="FID"), "'FID'", FD)
    both = pd.concat([table, table.assign(solver="EulerMaruyama")])
    refuses(lambda: plot(both, differences, paper), "solver = Euler, EulerMaruyama", "select one")
    refuses(lambda: plot(table, pd.concat([differences, differences.assign(baseline="IP")]), paper), "SiT, IP")
    refuses(lambda: plot(table, differences, pd.concat([paper, paper.assign(value=1.0)])), "'SiT'", "30")
