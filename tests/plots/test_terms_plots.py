"""The picture of the terms shows what its tables hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from defar_analysis.plots import style, terms

MODELS = ("SiT", "DEFAR", "MixFlow")
T = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


@pytest.fixture
def tables():
    gradients, weights, changes = [], [], []
    for k, model in enumerate(MODELS):
        for j, second in enumerate(("fm", *terms.CURVES)):
            for i, estimator in enumerate(("same batch", "other batch", "expected")):
                for t in T:
                    value = 0.8 * np.cos(3 * t + j) * (1 - 0.2 * i) * (1 - 0.4 * k)
                    gradients.append((model, "cosine", "fm", second, estimator, t, value, value - 0.1, value + 0.1))
    for k, model in enumerate((*MODELS, style.REFERENCE)):
        for reading, size in zip(terms.READINGS, (0.03, 0.001, 1), strict=True):
            for t in T:
                share = 0.7 - 0.4 * t + 0.05 * k
                weights.append(
                    (model, reading, t, 1 + 0.2 * size, 1 + 2 * size, share, share - 0.05, share + 0.05, 0.13)
                )
    for quantity in terms.QUANTITIES:
        changes += [("DEFAR", quantity, t, 10 * t, 10 * t - 2, 10 * t + 2) for t in T]
    frames = (gradients, terms.COLUMNS), (weights, terms.WEIGHTS), (changes, terms.CHANGES)
    return [pd.DataFrame(rows, columns=columns) for rows, columns in frames]


@pytest.fixture
def arrays():
    return {"images": np.random.default_rng(0).uniform(0.8, 1.2, (len(MODELS), 5, 8, 8, 1)).astype(np.float16)}


def line_of(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def test_cosines_are_drawn_on_the_same_and_on_other_batches(tables, arrays):
    gradients = tables[0].sample(frac=1, random_state=0)
    figure = terms.plot(gradients, *tables[1:], arrays, MODELS)
    for ax, model in zip(figure.axes, MODELS, strict=False):
        own = gradients[gradients["model"] == model].sort_values("t")
        floor = own[(own["second"] == "fm") & (own["estimator"] == "other batch")]
        np.testing.assert_array_equal(line_of(ax, terms.FLOOR).get_ydata(), floor["value"])
        for second, (label, name, _) in terms.CURVES.items():
            line, rows = line_of(ax, label), own[own["second"] == second]
            np.testing.assert_array_equal(line.get_ydata(), rows.loc[rows["estimator"] == "same batch", "value"])
            assert to_hex(line.get_color()) == to_hex(terms.PLANE.colour(name))
            if name == "ADR":
                other = rows.loc[rows["estimator"] == "other batch", "value"]
                np.testing.assert_array_equal(line_of(ax, f"{label}, other images").get_ydata(), other)
        bars = [c for c in ax.collections if hasattr(c, "get_segments")]
        assert len(bars) == len(terms.CURVES) and len(bars[0].get_segments()) == len(T)


def test_weights_changes_and_maps_are_the_tables(tables, arrays):
    figure = terms.plot(*tables, arrays, MODELS, [(k / 5, (k + 1) / 5) for k in range(5)])
    weights, changes = figure.axes[len(MODELS) : len(MODELS) + 2]
    for model in (*MODELS, style.REFERENCE):
        rows = tables[1][(tables[1]["model"] == model) & (tables[1]["reading"] == "l2")]
        np.testing.assert_array_equal(line_of(weights, model).get_ydata(), rows["low_share"])
    assert set(line_of(weights, terms.WHITE).get_ydata()) == {0.13}
    (text,) = [t.get_text() for t in weights.texts]
    assert "norm: L2 (default): 1.006 to 1.060" in text and "norm: mean: 1.20 to 3.00" in text
    for quantity in terms.QUANTITIES:
        rows = tables[2][tables[2]["quantity"] == quantity]
        np.testing.assert_array_equal(line_of(changes, f"DEFAR, {quantity}").get_ydata(), rows["value"])
    pictures = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    np.testing.assert_array_equal(np.stack(pictures), arrays["images"].reshape(5 * len(MODELS), 8, 8))
    assert "0.2 to 0.4" in [ax.get_title() for ax in figure.axes]


def test_nothing_lies_outside_the_figure(tables, arrays):
    figure = terms.plot(
        *tables, arrays, MODELS, [(k / 5, (k + 1) / 5) for k in range(5)], note="64 images; profile quick"
    )
    FigureCanvasAgg(figure).draw()
    whole = figure.get_tightbbox()
    assert (
        whole.x0 >= -0.02 and whole.x1 <= 7.02 and whole.y0 >= -0.02 and whole.y1 <= figure.get_size_inches()[1] + 0.02
    )


def test_the_legend_is_in_the_order_given_whatever_the_hash_seed(tables, arrays):
    gradients, weights, changes = tables
    names = ["MixFlow", "IP", "SDSS", "MDSS", "FC", "ADR"]  # of equal rank: a set would shuffle them
    one = weights[weights["model"] == "SiT"]
    weights = pd.concat([one.assign(model=name) for name in ["SiT", "DEFAR", *names]])
    figure = terms.plot(gradients, weights, changes, arrays, MODELS)
    shown = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert [name for name in shown if name in ("SiT", "DEFAR", *names)] == ["SiT", *names, "DEFAR"]


def test_wrong_tables_are_named(tables, arrays, refuses):
    gradients, weights, changes = tables
    refuses(lambda: terms.plot(gradients.drop(columns="second"), weights, changes, arrays), "'second'", "gradients")
    refuses(lambda: terms.plot(gradients, weights.drop(columns="p95"), changes, arrays), "'p95'", "weights")
    refuses(lambda: terms.plot(gradients, weights, changes.drop(columns="low"), arrays), "'low'", "differences")
    refuses(lambda: terms.plot(gradients, weights, changes, {}), "'images'")
    refuses(lambda: terms.plot(gradients[gradients["model"] == "SiT"], weights, changes, arrays), "cosines of DEFAR")
