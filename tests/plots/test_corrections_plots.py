"""The picture of the corrections shows what its tables and arrays hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from defar_analysis.errors import DefarError
from defar_analysis.plots import corrections, style

sys.path.insert(0, str(Path(__file__).parent))
from reading import check_readable

MODELS = ["SiT", "DEFAR", "CFG 1.5", "ES 1.005", "TS label 0.02", "TS target 0.005", "DCW 0.005", "DCW Haar 0.01",
          "DG 1"]  # fmt: skip
EXACT = [style.REFERENCE, *style.MEMORIES]
CURVES = [*MODELS, *EXACT]
OWN = [f"{name} on DEFAR" for name in MODELS[2:]]
T = np.linspace(0, 1, 5)


@pytest.fixture(scope="module")
def table():
    models = enumerate([*CURVES, *OWN])
    rows = [(m, band, t, 1 + 0.1 * k * t + 0.05 * b, 0.9, 1.5, 8)
            for k, m in models for b, band in enumerate(("dc", "low", "high")) for t in T]  # fmt: skip
    return pd.DataFrame(rows, columns=corrections.COLUMNS)


@pytest.fixture(scope="module")
def changes():
    rows = [(m, band, 10.0 * k + b, 10.0 * k + b - 2, 10.0 * k + b + 2, 25, 25.0)
            for k, m in enumerate(CURVES) for b, band in enumerate(("dc", "low", "high"))]  # fmt: skip
    return pd.DataFrame(rows, columns=corrections.CHANGES)


@pytest.fixture(scope="module")
def arrays():
    pictures = np.random.default_rng(0).integers(0, 256, (len(MODELS + OWN), 2, 8, 8, 3), dtype=np.uint8)
    return {"samples": pictures, "labels": np.array([1, 0])}


def line_of(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def test_curves_are_each_models_own_band_and_the_baselines_interval_is_shaded(table, changes, on_defar):
    axes = corrections.plot_curves(table.sample(frac=1, random_state=0), changes, on_defar=on_defar).axes
    drawn = [("SiT", CURVES, axes[:2]), ("DEFAR", ["DEFAR", *OWN, *EXACT], axes[3:5])]
    for baseline, names, pair in drawn:
        for ax, band in zip(pair, ("low", "high"), strict=True):
            for name in names:
                rows = table[(table["model"] == name) & (table["band"] == band)]
                np.testing.assert_array_equal(line_of(ax, name).get_xdata(), rows["t"])
                np.testing.assert_array_equal(line_of(ax, name).get_ydata(), rows["value"])
            assert len(ax.get_lines()) == len(names) + 1  # and the line of no drift
            (shade,) = ax.collections
            assert to_hex(shade.get_facecolor()) == to_hex(style.PAPER.colour(baseline))


def test_every_change_stands_on_its_models_line_with_its_interval(table, changes):
    ax = corrections.plot_curves(table, changes).axes[2]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == MODELS[:0:-1]
    points = [line for line in ax.get_lines() if line.get_marker() == "o"]
    spans = [line for line in ax.get_lines() if line.get_marker() != "o" and set(line.get_xdata()) != {0}]
    drawn = {(names[round(float(p.get_ydata()[0]))], float(p.get_xdata()[0])) for p in points}
    kept = changes[~changes["model"].isin(["SiT", *EXACT]) & (changes["band"] != "dc")]
    assert drawn == set(zip(kept["model"], kept["percent"], strict=True))
    assert len(spans) == len(kept) and all(np.ptp(span.get_xdata()) == 4 for span in spans)


def test_changes_on_defar_are_against_defar(table, changes, on_defar):
    axes = corrections.plot_curves(table, changes, on_defar=on_defar).axes
    names = [label.get_text() for label in axes[5].get_yticklabels()]
    assert names == MODELS[:1:-1] and "against DEFAR" in axes[5].get_xlabel()
    assert "against SiT" in axes[2].get_xlabel() and len(axes[2].get_yticklabels()) == len(MODELS) - 1
    points = [line for line in axes[5].get_lines() if line.get_marker() == "o"]
    drawn = {(f"{names[round(float(p.get_ydata()[0]))]} on DEFAR", float(p.get_xdata()[0])) for p in points}
    kept = on_defar[(on_defar["model"] != "DEFAR") & (on_defar["band"] != "dc")]
    assert drawn == set(zip(kept["model"], kept["percent"], strict=True))
    for name in MODELS[2:]:  # a correction has one colour, whatever it corrects
        assert line_of(axes[3], f"{name} on DEFAR").get_color() == line_of(axes[0], name).get_color()


@pytest.fixture(scope="module")
def on_defar(changes):
    rows = changes[changes["model"].isin(MODELS[1:])].copy()
    rows["model"] = rows["model"].replace(dict(zip(MODELS[2:], OWN, strict=True)))
    return rows.assign(percent=rows["percent"] + 3)


def test_methods_are_told_apart_and_the_papers_keep_their_colours(table, changes):
    ax = corrections.plot_curves(table, changes).axes[0]
    colours = {name: to_hex(line_of(ax, name).get_color()) for name in MODELS}
    assert len(set(colours.values())) == len(MODELS)
    assert colours["DEFAR"] == to_hex(style.PAPER.colour("DEFAR"))
    assert not {colours[name] for name in MODELS[2:]} & {to_hex(c) for c in style.PAPER.colours.values()}


def shown(ax):
    return ax.images[0].get_array()


def test_a_column_is_a_correction_and_a_row_a_checkpoint_and_a_label(table, arrays):
    figure = corrections.plot_samples(table, arrays, names=("airplane", "cat"))
    grid = np.array(figure.axes).reshape(4, 8)
    assert [ax.get_title() for ax in grid[0]] == ["no correction", *MODELS[2:]]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["SiT: cat", "SiT: airplane", "DEFAR: cat", "DEFAR: airplane"]
    order = [*MODELS, *OWN]
    for row in range(2):
        for ax, name in zip(grid[row], ["SiT", *MODELS[2:]], strict=True):
            np.testing.assert_array_equal(shown(ax), arrays["samples"][order.index(name), row])
        for ax, name in zip(grid[2 + row], ["DEFAR", *OWN], strict=True):
            np.testing.assert_array_equal(shown(ax), arrays["samples"][order.index(name), row])


@pytest.mark.parametrize("missing", ["DG 1", "DG 1 on DEFAR"])
def test_a_correction_of_one_checkpoint_alone_leaves_a_gap(missing, table, arrays):
    order = [*MODELS, *OWN]
    some = {**arrays, "samples": np.delete(arrays["samples"], order.index(missing), axis=0)}
    figure = corrections.plot_samples(table[table["model"] != missing], some)
    grid = np.array(figure.axes).reshape(4, 8)
    gap = [0, 1] if missing == "DG 1" else [2, 3]
    assert [row for row in range(4) if not grid[row, 7].images] == gap and grid[0, 7].get_title() == "DG 1"
    assert all(ax.images for ax in grid[:, :7].flat)


@pytest.mark.parametrize("whole", [True, False])
def test_no_text_lies_over_another(whole, table, arrays, changes, on_defar):
    note = "64 images; profile quick"
    if whole:
        figure = corrections.plot(table, arrays, changes, names=("airplane", "cat"), note=note)
    else:
        figure = corrections.plot_curves(table, changes, note=note, on_defar=on_defar)
    check_readable(figure)


def test_wrong_tables_and_arrays_are_named(table, arrays, changes):
    with pytest.raises(DefarError, match="'band'"):
        corrections.plot_curves(table.drop(columns="band"), changes)
    with pytest.raises(DefarError, match="'percent'"):
        corrections.plot_curves(table, changes.drop(columns="percent"))
    with pytest.raises(DefarError, match="no model beside"):
        corrections.plot_curves(table, changes[changes["model"] == "SiT"])
    with pytest.raises(DefarError, match="no model beside 'DEFAR'"):
        corrections.plot_curves(table, changes, on_defar=changes[changes["model"] == "DEFAR"])
    with pytest.raises(DefarError, match="labels"):
        corrections.plot_samples(table, {**arrays, "labels": np.array([1])})
    with pytest.raises(DefarError, match="samples"):
        corrections.plot(table, {"labels": arrays["labels"]}, changes)
