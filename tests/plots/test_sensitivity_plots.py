"""The picture of robust statements shows what its tables hold."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from defar_analysis.plots import sensitivity, style

MODELS = ("SiT", "DEFAR", style.REFERENCE)
CUTOFFS = (0.1, 0.2, 0.3)


@pytest.fixture
def table():
    rows = []
    for k, model in enumerate(MODELS):
        for cutoff, dc in itertools.product(CUTOFFS, sensitivity.DC):
            cells = {"model": model, "cutoff": cutoff, "dc": dc, "channels": "joint", "estimator": "mean_of_ratios"}
            value = 0.5 - cutoff + 0.1 * k
            ends = {"value": value, "low": value - 0.05, "high": value + 0.05}
            where = {"where": 0.3 + cutoff, "where_low": 0.25 + cutoff, "where_high": 0.4 + cutoff}
            rows += [{"statement": "prediction below target", **cells, **ends}]
            rows += [{"statement": "bias crosses target", **cells, **ends, **where}]
            rows += [{"statement": "bias crosses target", **cells, **ends, **where, "channels": "each"}]
        for shares, norm, bias in itertools.product(((0.2, 0.25), (0.4, 0.5)), sensitivity.MARKERS, ("l2", "mean")):
            cells = {"model": model, "cutoff": 0.2, "low_share": shares[0], "high_share": shares[1]}
            cells |= {"mask_norm": norm, "bias_norm": bias, "value": 1.0 + k, "low": 0.5 + k, "high": 1.5 + k}
            rows.append({"statement": "gain positive", **cells})
    return pd.DataFrame(rows).reindex(columns=list(sensitivity.COLUMNS))


@pytest.fixture
def verdicts():
    said = ("holds", "undecided", "does not hold")
    rows = [
        (name, model, 10, held := 10 - 3 * k, 10 - held - k, k, said[k])
        for name in list(sensitivity.TITLES)[:-1]
        for k, model in enumerate(MODELS)
    ]
    rows.append(("DEFAR above SiT", "DEFAR against SiT", 10, 2, 8, 0, "does not hold"))
    return pd.DataFrame(rows, columns=sensitivity.VERDICTS)


def test_bars_are_the_shares_of_settings(table, verdicts):
    ax = sensitivity.plot(table, verdicts).axes[0]
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(-1, 3)  # holds, undecided, frame
    np.testing.assert_allclose(widths[:, 0], verdicts["holds"] / 10)
    np.testing.assert_allclose(widths[:, 1], verdicts["undecided"] / 10)
    assert (widths[:, 2] == 1).all()
    colours = [to_hex(bar.get_facecolor()) for bar in ax.patches[::3]]
    named = verdicts["model"].replace("DEFAR against SiT", "DEFAR")
    assert colours == [to_hex(style.PAPER.colour(model)) for model in named]
    assert [text.get_text() for text in ax.texts] == [f"{held} of 10" for held in verdicts["holds"]]
    fills = [line.get_fillstyle() for line in ax.get_lines()]
    assert fills == [sensitivity.DEFAULT[said] for said in verdicts["by_default"]]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(sensitivity.TITLES.values())


def test_curves_are_those_of_the_settings_that_they_name(table, verdicts):
    _, crossings, margins, gains = sensitivity.plot(table.sample(frac=1, random_state=0), verdicts).axes
    for model, dc in itertools.product(MODELS, sensitivity.DC):
        rows = table[(table["model"] == model) & (table["dc"] == dc) & (table["channels"] == "joint")]
        for ax, statement, column, scale in (
            (crossings, "bias crosses target", "where", 1),
            (margins, "prediction below target", "value", 100),
        ):
            (line,) = [line for line in ax.get_lines() if line.get_label() == f"{model}, {dc} DC"]
            own = rows[rows["statement"] == statement].sort_values("cutoff")
            np.testing.assert_allclose(line.get_ydata(), scale * own[column])
            np.testing.assert_allclose(line.get_xdata(), own["cutoff"], atol=0.003)
            assert to_hex(line.get_color()) == to_hex(style.PAPER.colour(model))
    for k, model in enumerate(MODELS):
        for norm in sensitivity.MARKERS:
            (line,) = [line for line in gains.get_lines() if line.get_label() == f"{model}, {norm}"]
            assert line.get_ydata().tolist() == [1.0 + k] * 2  # the default normalizer of the bias alone


def test_nothing_lies_outside_the_figure(table, verdicts):
    figure = sensitivity.plot(table, verdicts, note="64 test images of CIFAR-10, 10 t0 and 60 pairs; profile quick")
    FigureCanvasAgg(figure).draw()
    whole, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert whole.x0 >= -0.02 and whole.x1 <= width + 0.02 and whole.y0 >= -0.02 and whole.y1 <= height + 0.02


def test_wrong_tables_are_named(table, verdicts, refuses):
    refuses(lambda: sensitivity.plot(table.drop(columns="dc"), verdicts), "'dc'", "statements")
    refuses(lambda: sensitivity.plot(table, verdicts.drop(columns="holds")), "'holds'", "verdicts")
    refuses(lambda: sensitivity.plot(table[table["statement"] != "gain positive"], verdicts), "FEL gains")
    other = table[table["statement"] != "bias crosses target"]
    refuses(lambda: sensitivity.plot(other, verdicts), "'bias crosses target'")
