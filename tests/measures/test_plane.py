"""The study in the plane: equal compute that is counted, distances that are right, verdicts that follow their table."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from defar_analysis.core.interpolants import Linear
from defar_analysis.core.networks.toy import PlaneMLP
from defar_analysis.core.samplers import Euler, sample
from defar_analysis.core.seeding import generator_for
from defar_analysis.measures import plane
from defar_analysis.measures.plane import EVEN_PASSES, EXACT, FRESH, METHODS, PlaneStudy
from defar_analysis.measures.verdicts import paired_verdicts, sentences, t_interval
from defar_analysis.studies.plane import verdicts

TINY = PlaneStudy(seeds=2, passes=2 * EVEN_PASSES, start=EVEN_PASSES, batch=16, points=200, walk=4, nfe=(2, 8))
STEP_PASSES = {"FM": 3, "ADR": 6, "FC": 5, "DEFAR": 7, "DEFAR stopped": 7, "MixFlow": 3}


@pytest.fixture(scope="module")
def table():
    return plane.run(TINY)


def true_pairs(count, seed):
    generator = generator_for(seed, "test")
    data = plane.ring().sample(count, generator)
    return torch.randn(data.shape, generator=generator), data


# ---- training


@pytest.mark.parametrize("name", METHODS)
def test_a_step_costs_the_passes_that_it_makes(name):
    model, study = PlaneMLP(), replace(TINY, passes=EVEN_PASSES, start=0)
    assert plane.train(model, METHODS[name], plane.ring(), study, 0, until=1) == STEP_PASSES[name]
    assert EVEN_PASSES % STEP_PASSES[name] == 0
    assert plane.train(model, METHODS[name], plane.ring(), study, 0) == study.passes


def test_unequal_compute_is_refused(refuses, monkeypatch):
    refuses(lambda: replace(TINY, passes=EVEN_PASSES + 3), str(EVEN_PASSES))
    refuses(lambda: replace(TINY, start=TINY.passes), "start < passes")
    refuses(lambda: replace(TINY, seeds=1), "2 seeds")
    monkeypatch.setattr(plane, "EVEN_PASSES", 3)  # then DEFAR's sevens overshoot
    refuses(lambda: plane.train_methods(replace(TINY, start=3, passes=9), 0, plane.ring()), "not equal")


def test_methods_share_their_start_and_the_seed_decides_everything(table):
    models = plane.train_methods(replace(TINY, passes=2 * EVEN_PASSES), 0, plane.ring())
    assert list(models) == list(METHODS)
    weights = [model.layers[0].weight for model in models.values()]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])
    torch.manual_seed(123)  # nothing depends on the global generator
    again = plane.run(TINY)
    pd.testing.assert_frame_equal(again, table)
    for key, array in table.attrs["arrays"].items():
        np.testing.assert_array_equal(again.attrs["arrays"][key], array)


# ---- measurements


def test_the_table_has_every_model_seed_and_quantity(table):
    assert list(table.columns) == ["model", "seed", "quantity", "t", "nfe", "value"]
    assert set(table["model"]) == {*METHODS, EXACT, FRESH} and np.isfinite(table["value"]).all()
    counts = table.groupby(["model", "seed"])["quantity"].value_counts().unstack(fill_value=0)
    times = len(plane.GRID.t0)
    for model, row in counts.groupby("model").first().iterrows():
        field = 0 if model == FRESH else times
        assert row.to_dict() == {"excess_loss": field, "bias_rms": field, "speed": field, "drift": TINY.walk + 1,
                                 "quality": len(TINY.nfe), "energy": 1}  # fmt: skip
    arrays = table.attrs["arrays"]
    assert arrays["samples"].shape[0] == arrays["walks"].shape[0] == len(METHODS) + 1
    assert sum(array.nbytes for array in arrays.values()) < 300_000


def test_the_exact_field_has_no_excess_loss_but_a_bias():
    law = plane.ring()
    rows = plane.measure_field(law, law, true_pairs(500, 0)).pivot(index="t", columns="quantity", values="value")
    assert (rows["excess_loss"] == 0).all()
    assert (rows["bias_rms"] > 0.05).all()

    def still(x, t, labels=None):  # a field that ignores x has no bias, and a loss
        return torch.ones_like(x)

    rows = plane.measure_field(still, law, true_pairs(500, 0)).pivot(index="t", columns="quantity", values="value")
    assert (rows["bias_rms"] == 0).all() and (rows["excess_loss"] > 0.1).all()
    np.testing.assert_allclose(rows["speed"], 2**0.5, rtol=1e-6)


def test_samples_of_the_exact_field_are_as_good_as_data():
    law, count = plane.ring(), 4000
    (noise, _), truth, (_, other) = (true_pairs(count, seed) for seed in (1, 2, 3))
    made = sample(law, noise, Euler(100), chunk=count, save="all").states
    rows = plane.measure_samples(made[::10], {100: made[-1]}, truth)
    floor = plane.sliced_wasserstein(other, truth[1])
    drift = rows[rows["quantity"] == "drift"]
    np.testing.assert_allclose(drift["t"], np.arange(11) / 10)
    assert (drift["value"] < 0.1).all() and floor < 0.1
    assert float(rows.loc[rows["quantity"] == "energy", "value"].iloc[0]) == pytest.approx(0, abs=0.005)
    last = Linear().at(*truth, torch.ones(count)).x
    assert plane.sliced_wasserstein(made[-1], last) == drift["value"].iloc[-1]


def test_distances_are_what_they_are_called():
    points = true_pairs(300, 0)[1]
    assert plane.sliced_wasserstein(points, points.flip(0)) == 0
    moved = points + torch.tensor([3.0, 4.0])  # every projection moves by 5 cos: 5 / sqrt(2) in root mean square
    assert plane.sliced_wasserstein(points, moved) == pytest.approx(5 / 2**0.5, rel=1e-5)
    a, b = torch.randn(2, 50, 2, generator=generator_for(0)).double()
    a, b = a.reshape(50, 1, 1, 2), b.reshape(50, 1, 1, 2) + 1
    flat = [z.flatten(1) for z in (a, b)]
    across = float((flat[0][:, None] - flat[1]).norm(dim=2).mean())
    within = sum(float((z[:, None] - z).norm(dim=2).sum()) / (50 * 49) for z in flat)
    assert plane.energy_distance(a, b) == pytest.approx(2 * across - within, rel=1e-9)


def test_the_step_that_is_drawn_is_the_equations():
    law, model = plane.ring(), PlaneMLP()
    step = plane.one_step(model, law, true_pairs(400, 0))
    t0, t1, slow = step["times"].tolist()
    assert slow == pytest.approx((1 - 0.8 / 2) * t1)
    torch.testing.assert_close(step["x_hat"], step["x0"] + (t1 - t0) * step["v0"])
    torch.testing.assert_close(step["bias"], step["v_hat"] - step["v_ideal"])
    torch.testing.assert_close(step["x1"], t1 * step["data"] + (1 - t1) * step["noise"])
    torch.testing.assert_close(step["slowed"], slow * step["data"] + (1 - slow) * step["noise"])
    share = step["bias"].abs() / step["bias"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(step["weight"], 1 + share, rtol=0, atol=1e-3)  # one weight for each coordinate
    assert len(torch.cdist(step["data"], law.means.flatten(1)).argmin(dim=1).unique()) == len(step["data"])


def test_the_callers_threads_are_left_alone():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), plane.one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before


# ---- verdicts


def values(**by_model):
    rows = [(m, seed, "quality", 50.0, v) for m, vs in by_model.items() for seed, v in enumerate(vs)]
    return pd.DataFrame(rows, columns=["model", "seed", "quantity", "nfe", "value"])


BASE = [1.0, 1.2, 0.9, 1.1, 1.0]


def test_a_verdict_is_the_paired_t_interval():
    better, worse, same = ([v + d + 0.01 * k for k, v in enumerate(BASE)] for d in (-0.3, 0.2, -0.02))
    table = paired_verdicts(values(FM=BASE, A=better, B=worse, C=same), "FM").set_index("model")
    assert table["verdict"].to_dict() == {"A": "helps", "B": "harms", "C": "undecided"}
    expected = stats.ttest_rel(better, BASE).confidence_interval(0.95)
    np.testing.assert_allclose(table.loc["A", ["low", "high"]].astype(float), expected, rtol=1e-9)
    assert table.loc["A", "percent"] == pytest.approx(100 * table.loc["A", "difference"] / np.mean(BASE))
    assert table.loc["A", "seeds"] == 5


def test_missing_seeds_are_refused(refuses):
    refuses(lambda: paired_verdicts(values(FM=BASE, A=BASE[:3]), "FM"), "quality", "each seed")
    refuses(lambda: paired_verdicts(values(A=BASE), "FM"), "FM")
    refuses(lambda: t_interval(np.array([1.0])), "two")


def test_the_sentences_are_the_tables():
    table = paired_verdicts(values(FM=BASE, A=[v - 0.3 for v in BASE], Best=[v * 0.6 for v in BASE]), "FM")

    def said(table):
        return sentences(table, "quality", 50, "FM", "Best", "the distance")

    assert "helps: A -29 % [-29, -29]; harms: none; undecided: none." in said(table)
    assert "to gain: Best -40 %" in said(table) and "over 5 seeds" in said(table)
    harmed = paired_verdicts(values(FM=BASE, A=[v + 0.3 for v in BASE], Best=[v * 0.6 for v in BASE]), "FM")
    assert "helps: none; harms: A +29 % [+29, +29]; undecided: none." in said(harmed)
    assert said(table.assign(verdict="undecided")) != said(table)
    with pytest.raises(Exception, match="nfe = 7"):
        sentences(table, "quality", 7, "FM", "Best", "the distance")


def test_the_studys_verdicts_cover_every_method_and_the_exact_field(table):
    found = verdicts(table)
    assert set(found["model"]) == {*METHODS, EXACT} - {"FM"}
    assert set(found["quantity"]) == {"excess_loss", "drift", "quality", "energy"}  # a bias has no verdict
    assert (found["seeds"] == TINY.seeds).all()
    assert ((found["verdict"] == "reference") == (found["model"] == EXACT)).all()
    assert (found["percent"].isna() == (found["quantity"] == "energy")).all()
    one = found[(found["model"] == "ADR") & (found["quantity"] == "drift")].iloc[0]
    rows = table[(table["quantity"] == "drift")].groupby("model")["value"].mean()
    assert one["difference"] == pytest.approx(rows["ADR"] - rows["FM"])
