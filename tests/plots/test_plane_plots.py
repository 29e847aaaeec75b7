"""The plane's pictures show what the study's table, verdicts and arrays hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from defar_analysis.errors import DefarError
from defar_analysis.plots import plane, style

METHODS = ["FM", "ADR", "FC", "DEFAR", "DEFAR stopped", "MixFlow"]
MODELS = [*METHODS, plane.EXACT]
T = np.linspace(0, 0.9, 4)


@pytest.fixture(scope="module")
def table():
    rows = []
    for k, model in enumerate([*MODELS, plane.FRESH]):
        for seed in (0, 1):
            value = 0.1 * (k + 1) + 0.02 * seed
            if model != plane.FRESH:
                rows += [(model, seed, q, t, np.nan, value + t) for q in ("bias_rms", "speed") for t in T]
                loss = 0.0 if model == plane.EXACT else value
                rows += [(model, seed, "excess_loss", t, np.nan, loss) for t in T]
            rows += [(model, seed, "drift", t, 20, value + t) for t in T]
            rows += [(model, seed, "quality", 1.0, nfe, value + 1 / nfe) for nfe in (5, 10, 20, 50)]
    return pd.DataFrame(rows, columns=plane.COLUMNS)


@pytest.fixture(scope="module")
def verdicts():
    rows = [(m, "quality", nfe, 0.1, 10.0 * k, 0.01 * k, 0.01 * k - 0.005, 0.01 * k + 0.005, "harms", 2)
            for k, m in enumerate(MODELS[1:], start=1) for nfe in (5.0, 50.0)]  # fmt: skip
    names = ["model", "quantity", "nfe", "baseline", "percent", "difference", "low", "high", "verdict", "seeds"]
    return pd.DataFrame(rows, columns=names)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    names = ("noise", "data", "x0", "x1", "x_hat", "v0", "target", "v_hat", "v_ideal", "bias", "weight", "slowed")
    step = {f"step_{name}": rng.normal(size=(2, 2)) for name in names}
    return {**step, "step_times": np.array([0.4, 0.8, 0.5]), "samples": rng.normal(size=(7, 30, 2)),
            "walks": rng.normal(size=(7, 5, 3, 2)), "side": np.linspace(-3, 3, 9),
            "density": rng.random((9, 9))}  # fmt: skip


def line_of(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def test_curves_are_means_and_bands_are_the_extreme_seeds(table, verdicts):
    axes = plane.plot_curves(table, verdicts).axes
    for ax, quantity in zip(axes, ("excess_loss", "bias_rms", "speed", "drift"), strict=False):
        rows = table[(table["quantity"] == quantity) & (table["model"] == "DEFAR")].groupby("t")["value"]
        np.testing.assert_allclose(line_of(ax, "DEFAR").get_ydata(), rows.mean())
        band = ax.collections[METHODS.index("DEFAR")].get_paths()[0].vertices
        assert {*rows.min().round(9), *rows.max().round(9)} <= {*band[:, 1].round(9)}
    assert plane.EXACT not in axes[0].get_legend_handles_labels()[1]  # 0 has no place on a logarithmic axis
    assert [line_of(axes[4], name).get_linestyle() for name in (plane.EXACT, plane.FRESH)] == ["--", "--"]
    assert line_of(axes[4], "FM").get_linestyle() == "-"


def test_verdicts_are_drawn_with_their_words(table, verdicts):
    ax = plane.plot_curves(table, verdicts).axes[5]
    assert [label.get_text() for label in ax.get_yticklabels()] == MODELS[:0:-1]
    assert [text.get_text() for text in ax.texts][::-1] == [
        f"+{10 * k} %{'' if name == plane.EXACT else ' harms'}" for k, name in enumerate(MODELS[1:], start=1)
    ]
    spans = [line.get_xdata() for line in ax.get_lines() if len(line.get_xdata()) == 2][:6]
    np.testing.assert_allclose(spans[-1], [5, 15])  # ADR, last drawn, in percent of 0.1
    (zero,) = [line for line in ax.get_lines() if set(line.get_xdata()) == {0}]
    assert to_hex(zero.get_color()) == to_hex(style.PAPER.colour("SiT"))


def test_methods_keep_the_papers_colours():
    assert plane.PLANE.colour("FM") == style.PAPER.colour("SiT")
    assert plane.PLANE.colour("DEFAR") == plane.PLANE.colour(plane.STOPPED) == style.PAPER.colour("DEFAR")
    assert plane.PLANE.colour("MixFlow") == style.PAPER.colour("MixFlow")
    own = [plane.PLANE.colour(name) for name in ("ADR", "FC")]
    assert not set(own) & set(style.PAPER.colours.values())


def test_each_panel_shows_its_own_models_samples(table, arrays):
    axes = plane.plot_samples(table, arrays).axes
    assert [ax.get_title() for ax in axes[1:]] == [plane.EXACT, *METHODS]
    for ax in axes[1:]:
        np.testing.assert_array_equal(ax.get_lines()[-1].get_xydata(), arrays["samples"][MODELS.index(ax.get_title())])
        assert len(ax.get_lines()) == arrays["walks"].shape[2] + 1
        assert ax.get_xlim() == axes[0].get_xlim()


def test_the_idea_draws_the_points_and_the_weights_of_its_pair(arrays):
    overview, adr, fc, mixflow = plane.plot_idea(arrays).axes
    for ax, pairs in ((overview, 2), (adr, 1)):
        marks = {tuple(line.get_xydata()[0]) for line in ax.get_lines() if line.get_marker() == "o"}
        assert {tuple(arrays[f"step_{key}"][k]) for key in ("x1", "x_hat") for k in range(pairs)} <= marks
    tops = [bar.get_y() + bar.get_height() for bar in fc.patches]
    np.testing.assert_allclose(tops, [1, 1, *arrays["step_weight"][0]])
    assert "0.5 of the way, is shown as t = 0.8" in mixflow.texts[-1].get_text()


def test_the_whole_is_its_parts_with_every_letter_once(table, arrays, verdicts):
    figure = plane.plot(table, arrays, verdicts, note="2 seeds; profile tiny")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert [title[:3] for title in titles if title] == [f"({letter})" for letter in "abcdefghij"]
    said = [text.get_text() for text in figure.findobj(Text)]
    assert any(text.startswith("2 seeds; profile tiny\n") for text in said)


def test_wrong_tables_and_arrays_are_named(table, arrays, verdicts):
    with pytest.raises(DefarError, match="'nfe'"):
        plane.plot_curves(table.drop(columns="nfe"), verdicts)
    with pytest.raises(DefarError, match="'percent'"):
        plane.plot_curves(table, verdicts.drop(columns="percent"))
    with pytest.raises(DefarError, match="bias_rms"):
        plane.plot_curves(table[table["quantity"] != "bias_rms"], verdicts)
    for key in ("samples", "side"):
        with pytest.raises(DefarError, match=key):
            plane.plot_samples(table, {name: value for name, value in arrays.items() if name != key})
