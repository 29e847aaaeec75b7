"""The split's figure: what was measured and what is inherent above, the model's part below."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from defar_analysis.measures.slow_split import QUANTITIES as SLOWED
from defar_analysis.measures.split import COLUMNS, QUANTITIES
from defar_analysis.plots import split

sys.path.insert(0, str(Path(__file__).parent))
from reading import check_readable

MODELS = ("FM", "ADR", "FC", "DEFAR", "MixFlow")


@pytest.fixture(scope="module")
def table():
    rng, rows = np.random.default_rng(0), []
    for model, quantity, t in itertools.product(MODELS, (*QUANTITIES, *SLOWED), (0.0, 0.5, 1.0)):
        part, inherent = rng.uniform(-0.1, 0.1), 0.5 + t
        low, high = part - 0.02, part + 0.02
        rows.append(
            (model, quantity, t, inherent + part, inherent + low, inherent + high, inherent, part, low, high, 64)
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def test_both_rows_are_the_tables(table):
    axes = np.array(split.plot(table).axes[: 4 * split.ROW]).reshape(2, 2, split.ROW).swapaxes(0, 1).reshape(2, -1)
    for ax, column in ((axes[0], "measured"), (axes[1], "of_model")):
        for panel, quantity in zip(ax, split.PANELS, strict=False):
            lines = {line.get_label(): line for line in panel.get_lines()}
            for name in MODELS:
                rows = table[(table["model"] == name) & (table["quantity"] == quantity)]
                np.testing.assert_allclose(lines[name].get_ydata(), rows[column])
    inherent = next(line for line in axes[0, 0].get_lines() if line.get_label() == "inherent")
    np.testing.assert_allclose(inherent.get_ydata(), [0.5, 1.0, 1.5])
    slow = axes[0, list(split.PANELS).index("slowed_class")]
    drawn = {tuple(np.round(line.get_ydata(), 9)) for line in slow.get_lines()}
    for end in split.BAND:  # the band's ends of every model, and of the exact field
        rows = table[table["quantity"] == f"slowed_class{end}"]
        assert {tuple(own.round(9)) for _, own in rows.groupby("model")["measured"]} <= drawn


def test_no_text_lies_over_another(table):
    note = "512 draws of the Gaussian with CIFAR-10's mean and spectrum, 10 t0 and 60 pairs (t0, t1); profile full"
    check_readable(split.plot(table, note=note), least=30)


def test_wrong_tables_are_named(table, refuses):
    refuses(lambda: split.plot(table.drop(columns="inherent")), "'inherent'")
    refuses(lambda: split.plot(table[table["quantity"] != "pfr_bias"]), "'pfr_bias'")
