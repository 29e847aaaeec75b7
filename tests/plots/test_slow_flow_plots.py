"""The picture of Slow Flow shows what its tables hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from defar_analysis.plots import slow_flow, style

sys.path.insert(0, str(Path(__file__).parent))
from reading import check_readable

MODELS = ["SiT", "MixFlow", "DEFAR", style.REFERENCE]
T = np.linspace(0, 1, 6)


@pytest.fixture(scope="module")
def table():
    rows = []
    for k, model in enumerate(MODELS):
        for pairing, pace in (("class", 0.7 - 0.02 * k), ("inversion", 1 - 0.01 * k)):
            rows += [(model, pairing, t, pace * t, (pace - 0.02) * t, (pace + 0.02) * t, (pace - 0.15) * t,
                      (pace + 0.15) * t, (pace - 0.25) * t, (pace + 0.25) * t) for t in T]  # fmt: skip
    return pd.DataFrame(rows, columns=slow_flow.COLUMNS)


@pytest.fixture(scope="module")
def changes():
    rows = [(model, pairing, t, -0.02 * k * t, -0.02 * k * t - 0.01, -0.02 * k * t + 0.01)
            for k, model in enumerate(MODELS[1:], 1) for pairing in ("class", "inversion") for t in T[1:]]  # fmt: skip
    return pd.DataFrame(rows, columns=slow_flow.CHANGES)


@pytest.fixture(scope="module")
def paper():
    bands = [("SiT", 0.2, 0.09, 0.19), ("SiT", 1.0, 0.19, 0.9), ("MixFlow", 1.0, 0.43, 0.94)]
    rows = [
        (row, end, t, value) for row, t, *values in bands for end, value in zip(slow_flow.ENDS, values, strict=True)
    ]
    return pd.DataFrame(rows, columns=slow_flow.PUBLISHED)


def line_of(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def of(table, model, pairing="class"):
    return table[(table["model"] == model) & (table["pairing"] == pairing)]


def test_each_models_panel_has_its_bands_its_mean_and_the_published_ends(table, changes, paper):
    axes = slow_flow.plot(table.sample(frac=1, random_state=0), changes, paper).axes
    assert [ax.get_title(loc="left") for ax in axes[:4]] == [f"({c}) {m}" for c, m in zip("abcd", MODELS, strict=True)]
    for ax, name in zip(axes, MODELS, strict=False):
        rows = of(table, name)
        np.testing.assert_array_equal(line_of(ax, name).get_xydata(), rows[["t", "value"]])
        assert to_hex(line_of(ax, name).get_color()) == to_hex(style.PAPER.colour(name))
        for shade, (low, high) in zip(ax.collections, (("minimum", "maximum"), ("p5", "p95")), strict=True):
            corners = {tuple(corner) for corner in shade.get_paths()[0].vertices.round(9)}
            assert {(t, y) for end in (low, high) for t, y in rows[["t", end]].round(9).to_numpy()} <= corners
        marks = {tuple(point) for line in ax.get_lines() if line.get_marker() == "o" for point in line.get_xydata()}
        assert marks == set(zip(*paper.loc[paper["row"] == name, ["t", "value"]].to_numpy().T, strict=True))
        assert [[0, 0], [1, 1]] in [line.get_xydata().tolist() for line in ax.get_lines()]


def test_means_are_drawn_minus_t_and_differences_with_their_intervals(table, changes):
    axes = slow_flow.plot(table, changes).axes[4:]
    for ax, pairing in zip(axes, ("class", "inversion"), strict=False):
        for name in MODELS:
            rows = of(table, name, pairing)
            np.testing.assert_allclose(line_of(ax, name).get_ydata(), rows["value"] - rows["t"], atol=1e-12)
        assert len(ax.collections) == len(MODELS)
    for name, bars in zip(MODELS[1:], axes[2].collections, strict=True):
        rows = of(changes, name)
        np.testing.assert_array_equal(line_of(axes[2], name).get_ydata(), rows["value"])
        assert np.abs(line_of(axes[2], name).get_xdata() - rows["t"]).max() <= 0.03
        np.testing.assert_array_equal([segment[:, 1] for segment in bars.get_segments()], rows[["low", "high"]])


@pytest.mark.parametrize("models", [MODELS, [m for m in MODELS if m != "MixFlow"]])
def test_no_text_lies_over_another(models, table, changes, paper):
    note = "Euler, 50 steps, 128 test images of CIFAR-10 with their labels, seed 0; profile quick"
    some, differ = (frame[frame["model"].isin(models)] for frame in (table, changes))
    figure = slow_flow.plot(some, differ, paper, note=note)
    assert figure.get_size_inches()[0] == 7 and len(figure.axes) == len(models) + 3
    check_readable(figure, least=41)


def test_wrong_tables_are_named(table, changes, paper, refuses):
    refuses(lambda: slow_flow.plot(table.drop(columns="p95"), changes), "'p95'")
    refuses(lambda: slow_flow.plot(table, changes.drop(columns="low")), "'low'", "the differences")
    refuses(lambda: slow_flow.plot(table, changes, paper.drop(columns="row")), "'row'", "published")
    refuses(lambda: slow_flow.plot(table[table["pairing"] == "class"], changes), "'inversion'")
    refuses(lambda: slow_flow.plot(pd.concat([table, table]), changes), "repeats for 'SiT'")
