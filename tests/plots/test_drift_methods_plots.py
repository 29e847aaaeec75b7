"""The figure on every method's drift shows its tables: curves, changes against SiT, a map for each method and NFE."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from defar_analysis.measures.drift_changes import COLUMNS
from defar_analysis.measures.drift_maps import CURVES, KINDS, MAPS, RINGS
from defar_analysis.plots import drift_methods
from defar_analysis.plots.style import MEMORIES, REFERENCE

sys.path.insert(0, str(Path(__file__).parent))
from reading import check_readable

NAMES = ("SiT", "IP", "SDSS", "MDSS", "ADR", "FC", "DEFAR", "MixFlow")
MODELS, NFES, TIMES = (*NAMES, REFERENCE, MEMORIES[0]), (10, 20, 50, 100), (0.5, 1.0)


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    maps, curves, paired = [], [], []
    for model, kind, nfe in itertools.product(MODELS, KINDS, NFES):
        for t in TIMES:
            size, cosine = rng.uniform(0.01, 1), rng.uniform(-0.9, 0.9)
            curves.append((model, kind, nfe, t, size, 0.9 * size, 1.1 * size, cosine, cosine - 0.05, cosine + 0.05, 32))
            for frequency in np.linspace(0, 0.67, RINGS):
                value = rng.uniform(0.1, 4)
                maps.append((model, kind, nfe, t, frequency, value, 0.9 * value, 1.1 * value, 32))
        if model != "SiT":
            percent = rng.uniform(-60, 300)
            paired.append((model, kind, nfe, 1.0, percent, percent - 5, percent + 5, 32))
    frames = (maps, MAPS), (curves, CURVES), (paired, COLUMNS)
    return [pd.DataFrame(rows, columns=columns) for rows, columns in frames]


@pytest.fixture(scope="module")
def figure(tables):
    note = (
        "Euler by 10, 20, 50, 100 steps beside Heun by 100, 32 test images of CIFAR-10 with their labels, seed 0; "
        "post-trained at equal compute, one training seed; profile full"
    )
    return drift_methods.plot(*tables, note=note)  # 130 panels: once


def test_curves_are_of_fifty_steps_and_changes_of_all(tables, figure):
    _, curves, paired = tables
    axes = np.array(figure.axes[:9]).reshape(3, 3)
    for column, kind in enumerate(KINDS):
        own = curves[(curves["kind"] == kind) & (curves["nfe"] == 50)]
        for ax, name in ((axes[0, column], "magnitude"), (axes[1, column], "cosine")):
            drawn = {tuple(line.get_ydata()) for line in ax.get_lines() if line.get_marker() not in ("None", None)}
            assert drawn == {tuple(rows[name]) for _, rows in own.groupby("model")}
        lines = {line.get_label(): line for line in axes[2, column].get_lines()}
        for name in MODELS[1:]:
            rows = paired[(paired["model"] == name) & (paired["kind"] == kind)]
            np.testing.assert_array_equal(lines[name].get_ydata(), rows["percent"])
            assert to_hex(lines[name].get_color()) == to_hex(drift_methods.METHODS.colour(name))
        assert [label.get_text() for label in axes[2, column].get_xticklabels()] == [str(nfe) for nfe in NFES]


def test_there_is_a_map_for_every_kind_method_and_number_of_steps(tables, figure):
    for part, kind in zip(figure.subfigs, KINDS, strict=True):
        panels = part.axes[: len(MODELS) * len(NFES)]
        titles = [ax.get_title().replace("\n", " ") for ax in panels[: len(MODELS)]]
        assert titles == drift_methods.ordered_models(MODELS)
        assert [ax.get_ylabel() for ax in panels[:: len(MODELS)]] == [f"{nfe} steps" for nfe in NFES]
        last = tables[0].query("model == @MEMORIES[0] and nfe == 100 and kind == @kind")
        grid = last.pivot(index="frequency", columns="t", values="value").to_numpy()
        np.testing.assert_allclose(panels[-1].collections[0].get_array(), np.log2(grid) if kind == "marginal" else grid)


def test_no_text_lies_over_another(figure):
    check_readable(figure, least=100)


def test_wrong_tables_are_named(tables, refuses):
    maps, curves, paired = tables
    refuses(lambda: drift_methods.plot(maps.drop(columns="t"), curves, paired), "'t'")
    refuses(lambda: drift_methods.plot(maps, curves.drop(columns="cosine"), paired), "'cosine'")
    refuses(lambda: drift_methods.plot(maps, curves, paired.drop(columns="percent")), "'percent'", "changes")
    refuses(lambda: drift_methods.plot(maps, curves, paired[paired["kind"] != "solver"]), "'solver'")
