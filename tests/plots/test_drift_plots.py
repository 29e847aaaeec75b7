"""The drift figure shows its tables: every curve and map, one scale of colours for a kind, nothing over another."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from defar_analysis.measures.drift_maps import CURVES, KINDS, MAPS, RINGS
from defar_analysis.plots import drift
from defar_analysis.plots.style import MEMORIES, REFERENCE

sys.path.insert(0, str(Path(__file__).parent))
from reading import check_readable

MODELS, NFES, TIMES = ("SiT", "DEFAR", "MixFlow", REFERENCE, MEMORIES[0]), (10, 50), (0.2, 0.6, 1.0)


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    maps, curves = [], []
    for model, kind, nfe, t in itertools.product(MODELS, KINDS, NFES, TIMES):
        size, cosine = rng.uniform(0.01, 1), rng.uniform(-0.9, 0.9)
        curves.append((model, kind, nfe, t, size, 0.9 * size, 1.1 * size, cosine, cosine - 0.05, cosine + 0.05, 32))
        for frequency in np.linspace(0, 0.67, RINGS):
            value = rng.uniform(0.1, 4)
            maps.append((model, kind, nfe, t, frequency, value, 0.9 * value, 1.1 * value, 32))
    return pd.DataFrame(maps, columns=MAPS), pd.DataFrame(curves, columns=CURVES)


def test_every_curve_is_the_tables(tables):
    figure = drift.plot(*tables)
    for column, kind in enumerate(KINDS):
        for ax, name in ((figure.axes[column], "magnitude"), (figure.axes[3 + column], "cosine")):
            drawn = [line.get_ydata() for line in ax.get_lines() if len(line.get_xdata()) == len(TIMES)]
            wanted = [rows[name] for _, rows in tables[1][tables[1]["kind"] == kind].groupby(["model", "nfe"])]
            assert len(drawn) == len(wanted) == len(MODELS) * len(NFES)
            assert {tuple(map(float, y)) for y in drawn} == {tuple(rows) for rows in wanted}


def test_a_map_holds_its_values_and_maps_of_a_kind_share_one_scale(tables):
    figure = drift.plot(*tables)
    panels = [ax for part in figure.subfigs for ax in part.axes if ax.collections and not ax.get_label()]
    assert len(figure.subfigs) == len(KINDS) and len(panels) >= len(MODELS) * len(NFES) * len(KINDS)
    for part, kind in zip(figure.subfigs, KINDS, strict=True):
        meshes = [ax.collections[0] for ax in part.axes[: len(MODELS) * len(NFES)]]
        assert len({mesh.norm for mesh in meshes}) == 1
        first = tables[0].query("model == 'SiT' and nfe == 10 and kind == @kind")
        grid = first.pivot(index="frequency", columns="t", values="value").to_numpy()
        np.testing.assert_allclose(meshes[0].get_array(), np.log2(grid) if kind == "marginal" else grid)
    limit = figure.subfigs[1].axes[0].collections[0].norm
    assert limit.vmin == -limit.vmax  # no drift is the middle of the colours


def test_no_text_lies_over_another(tables):
    note = (
        "Euler by 10, 50 steps beside Heun by 100, 32 test images of CIFAR-10 with their labels, seed 0; profile quick"
    )
    check_readable(drift.plot(*tables, note=note), least=60)


def test_wrong_tables_are_named(tables, refuses):
    maps, curves = tables
    refuses(lambda: drift.plot(maps.drop(columns="frequency"), curves), "'frequency'")
    refuses(lambda: drift.plot(maps, curves.drop(columns="cosine")), "'cosine'")
    refuses(lambda: drift.plot(maps, curves[curves["kind"] != "solver"]), "'solver'")
