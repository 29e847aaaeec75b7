"""Bins, weights and tables of DEFAR's terms, and that the sentences are the tables'."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.interpolants import VP, Linear
from defar_analysis.core.objectives import FlowMatching
from defar_analysis.core.rollout import Draw, exposure_bias
from defar_analysis.measures import terms
from defar_analysis.measures.gradients import inner_products
from defar_analysis.measures.gradients import terms as objectives
from defar_analysis.measures.terms_words import sentences

NAMES = tuple(objectives(Linear()))
SHAPE = (5, 3, 8, 8)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_bins_partition_the_times(count):
    edges = terms.bins(count)
    assert edges[0] == 0 and edges[-1] == 1 and len(edges) == count + 1
    np.testing.assert_allclose(np.diff(edges), 1 / count)
    times = np.random.default_rng(0).random(1000)
    inside = [(times >= low) & (times < high) for low, high in pairwise(edges)]
    assert (np.sum(inside, axis=0) == 1).all()
    uniform = torch.rand(2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for low, high in pairwise(edges):
        t0, t1 = terms.times_in(low, high, uniform)
        assert bool((t0 >= low).all()) and bool((t0 < high).all())
        assert bool((t1 >= t0).all()) and bool((t1 <= 1).all())
        share = (t1 - t0) / (1 - t0)
        torch.testing.assert_close(share, uniform[1], atol=1e-9, rtol=0)
    start, end = VP().interval("train")
    assert float(terms.times_in(0, 1, uniform, VP()).max()) <= end and start >= 0


def test_the_statistics_of_a_draw_are_those_of_the_objectives():
    def model(x, t, labels=None):
        return 0.4 * x + 0.1 * x.square()

    t0, t1 = torch.full((5,), 0.2).double(), torch.full((5,), 0.7).double()
    draw = Draw(normal(0, *SHAPE), normal(1, *SHAPE), None, torch.stack([t0, t1]))
    found = terms.forward_statistics(model, Linear(), draw)
    assert found["fm_loss"].mean() == pytest.approx(float(FlowMatching()(model, draw).total), rel=1e-12)
    bias = exposure_bias(model, draw.noise, draw.data, t0, t1)
    np.testing.assert_allclose(found["bias_rms"], bias.flatten(1).square().mean(1).sqrt())
    assert found["weight_l2"].shape == (5, 1, 8, 8) and found["weight_simpletuner"].shape == SHAPE
    np.testing.assert_allclose(found["weight_mean"].mean(axis=(1, 2, 3)), 2, rtol=1e-6)
    np.testing.assert_allclose((found["weight_l1"] - 1).sum(axis=(1, 2, 3)), 1, rtol=1e-6)
    np.testing.assert_allclose(np.square(found["weight_l2"] - 1).sum(axis=(1, 2, 3)), 1, rtol=1e-6)

    still = terms.forward_statistics(lambda x, t, labels=None: 0 * x + 0.3, Linear(), draw)  # no bias, so w = 1
    assert (still["bias_rms"] == 0).all()
    assert all((still[f"weight_{reading}"] == 1).all() for reading in terms.READINGS)
    assert np.isnan(terms.low_share(still["weight_l2"])).all()


def test_low_share_of_known_maps():
    x = np.arange(8)
    waves = [np.broadcast_to(np.cos(2 * np.pi * k * x / 8), (8, 8)) for k in (1, 3)]  # 0.125 and 0.375 cycles a pixel
    maps = 1 + np.stack([0.1 * waves[0], 0.1 * waves[1], 0.2 * waves[0] + 0.1 * waves[1]])[:, None]
    np.testing.assert_allclose(terms.low_share(maps), [1, 0, 0.8], atol=1e-12)
    np.testing.assert_allclose(terms.low_share(maps + 0.7), [1, 0, 0.8], atol=1e-12)  # the mean is left out
    white = 1 + normal(0, 4000, 1, 8, 8).numpy()
    rows = terms.weight_rows("SiT", weight_arrays(), terms.bins(1))
    assert terms.low_share(white).mean() == pytest.approx(rows["white_share"].iloc[0], abs=0.003)


def weight_arrays() -> dict:
    k = len(terms.READINGS)
    one = np.ones((1, k))
    return {"w_mean": 2 * one, "w_p5": 1.2 * one, "w_p95": 3 * one, "maps": np.ones((1, 8, 8)),
            "low_share": np.full((1, k, 6), 0.4)}  # fmt: skip


@pytest.fixture
def table():
    """Two networks on one bin: at SiT's, ADR is along FM; at DEFAR's against it. Little noise."""
    parts = []
    for model, sign in (("SiT", 1.0), ("DEFAR", -1.0)):
        way = {"fm": 1.0, "fc": 1.1, "fc_strong": 2.0, "adr": sign * 3.0, "adr_stopped": 0.5}
        vectors = torch.zeros(len(NAMES), 6, 300, dtype=torch.float64)
        for k, name in enumerate(NAMES):
            vectors[k] = 0.003 * normal(k, 6, 300)
            vectors[k, :, 0] += way[name]
        parts.append(terms.gradient_rows(model, inner_products(vectors)[None], NAMES, terms.bins(1)))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def measured():
    rng = np.random.default_rng(0)
    loss, bias = rng.uniform(0.1, 0.3, (2, 50)), rng.uniform(0.2, 0.6, (2, 50))
    return {"SiT": {"fm_loss": loss, "bias_rms": bias}, "DEFAR": {"fm_loss": 1.05 * loss, "bias_rms": 0.8 * bias}}


def value(table, model, quantity, first, second, estimator):
    keys = {"model": model, "quantity": quantity, "first": first, "second": second, "estimator": estimator}
    (row,) = table.loc[(table[list(keys)] == pd.Series(keys)).all(axis=1)].itertuples()
    return row


def test_rows_of_gradients(table):
    assert list(table.columns) == terms.COLUMNS and (table["n"] == 6).all()
    assert not table.duplicated(["model", "quantity", "first", "second", "estimator", "t"]).any()
    for estimator in ("same batch", "other batch", "expected"):
        along = value(table, "SiT", "cosine", "fm", "adr", estimator)
        against = value(table, "DEFAR", "cosine", "fm", "adr", estimator)
        assert along.value > 0.98 and against.value < -0.98 and along.low > 0.9 and against.high < -0.9
    ratio = value(table, "SiT", "norm_over_fm", "adr", "fm", "same batch")
    assert ratio.value == pytest.approx(30, rel=0.03)  # beta1 = 10 times 3 against 1
    whole = value(table, "DEFAR", "cosine", "fm", "defar", "expected")
    assert whole.value == pytest.approx(-1, abs=1e-3)  # 10 x -3 + 1.1
    assert value(table, "SiT", "cosine", "fm", "fm", "other batch").value == pytest.approx(1 / 1.0027, abs=2e-3)
    cosines = table[table["quantity"] == "cosine"]
    assert cosines[["low", "high"]].abs().max(axis=None) <= 1


def test_an_expectation_that_is_lost_in_noise_has_no_cosine():
    vectors = normal(0, len(NAMES), 6, 300)
    vectors[0, :, 0] += 100
    rows = terms.gradient_rows("SiT", inner_products(vectors)[None], NAMES, terms.bins(1))
    expected = rows[rows["estimator"] == "expected"]
    assert expected[["value", "low", "high"]].isna().all(axis=None)
    assert rows.loc[rows["estimator"] != "expected", "value"].notna().all()


def test_curves_and_changes(measured):
    edges = terms.bins(2)
    table = terms.curves(measured, edges)
    assert list(table.columns) == terms.CURVES and table["t"].tolist() == [0.25, 0.75] * 4
    first = table.iloc[0]
    assert first["value"] == pytest.approx(measured["SiT"]["fm_loss"][0].mean())
    assert first["low"] < first["value"] < first["high"]
    changes = terms.changes(measured, edges, "SiT")
    assert list(changes.columns) == terms.CHANGES and set(changes["model"]) == {"DEFAR"}
    for column in ("value", "low", "high"):  # paired: what images differ in cancels
        np.testing.assert_allclose(changes[column], [5, 5, -20, -20], atol=1e-9)


def test_sentences_change_with_the_tables(table, measured):
    weights = pd.concat([terms.weight_rows(name, weight_arrays(), terms.bins(1)) for name in measured])
    changes = terms.changes(measured, terms.bins(2), "SiT")
    said = sentences(table, weights, changes, "SiT", "DEFAR")
    adr, fc, loss = said.splitlines()
    assert "through x_hat points along it in 1 and against it in 0 of 1 bins of t0 (+1.00) at SiT's weights" in adr
    assert "along it in 0 and against it in 1 of 1 bins of t0 (-1.00) at DEFAR's weights; stopped" in adr
    assert "ADR's is 30 times as long as FM's, stopped 5 times" in adr
    assert "hardly at all" in fc and "w from 1.200 to 3.000" in fc and "40 % is in the low band" in fc
    assert "FM loss is above SiT's in 2 and below it in 0 of 2 bins (+5.0 %)" in loss
    assert "bias is above SiT's in 0 and below it in 2 of 2 bins (-20.0 %)" in loss
    wide = table.assign(low=-1.0, high=1.0)
    assert "points along it in 0 and against it in 0" in sentences(wide, weights, changes, "SiT", "DEFAR")
    turned = table.assign(value=table["value"].where(table["second"] != "fc", 0.5))
    assert "hardly at all" not in sentences(turned, weights, changes, "SiT", "DEFAR")
    more = [pd.concat([t, t[t["model"] == "DEFAR"].assign(model="MixFlow")]) for t in (table, weights, changes)]
    *_, first, second = sentences(*more, "SiT", "DEFAR", "MixFlow").splitlines()
    assert first == loss and second == loss.replace("DEFAR", "MixFlow")
    less = changes.assign(low=-3.0, high=-1.0)
    assert "FM loss is above SiT's in 0 and below it in 2" in sentences(table, weights, less, "SiT", "DEFAR")


def test_what_does_not_fit_is_one_line(table, measured, refuses):
    refuses(lambda: terms.bins(0), "at least one bin", "0")
    refuses(lambda: terms.times_in(0.5, 0.5, torch.rand(2, 3)), "[0.5, 0.5)")
    refuses(lambda: terms.changes(measured, terms.bins(2), "IP"), "'IP'", "SiT, DEFAR")
    refuses(lambda: sentences(table, pd.DataFrame(), pd.DataFrame(), "IP", "DEFAR"), "'IP'")
