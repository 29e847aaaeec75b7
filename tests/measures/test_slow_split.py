"""Slow Flow's split: what the exact field reads is inherent, what a model adds is its own."""

import numpy as np
import pytest
import torch

from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.samplers import Euler, Heun
from defar_analysis.measures import slow_split as measured
from defar_analysis.measures.slow_flow import PAIRINGS, both_pairings
from defar_analysis.measures.spectral import radial_frequency
from defar_analysis.measures.split import COLUMNS

SIZE, COUNT, TIMES = 8, 24, np.linspace(0, 1, 6)


def law() -> GaussianFlow:
    fall = 1 / (0.05 + radial_frequency(SIZE, SIZE).double()) ** 2
    return GaussianFlow(torch.zeros(1, SIZE, SIZE, dtype=torch.float64), 0.02 * fall)


def slowed(model):
    data = law().sample(COUNT, torch.Generator().manual_seed(0), torch.float64)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return both_pairings(model, noise, data, Euler(5), Heun(5), chunk=COUNT)[0]


@pytest.fixture(scope="module")
def exact():
    return slowed(law())


def test_the_exact_field_has_no_part_of_a_model_and_a_slower_one_has(exact):
    flow = law()
    models = {"itself": exact, "slow": slowed(lambda x, t, labels=None: 0.8 * flow(x, t))}
    table = measured.slow_split(models, exact, TIMES)
    assert list(table.columns) == COLUMNS and set(table["quantity"]) == set(measured.QUANTITIES)
    np.testing.assert_allclose(table["measured"], table["inherent"] + table["of_model"], atol=1e-12)
    own = table[table["model"] == "itself"]
    assert (own[["of_model", "of_model_low", "of_model_high"]] == 0).all(axis=None)
    end = table[(table["model"] == "slow") & (table["t"] == 1)].set_index("quantity")
    assert end.loc["slowed_class", "of_model_high"] < 0  # shorter steps stay nearer to the noise
    assert (table[table["t"] == 0][["measured", "inherent"]].abs() < 1e-12).all(axis=None)


def test_a_shift_of_all_images_is_the_models_part_of_the_whole_band(exact):
    shifted = {pairing: own - 0.05 for pairing, own in exact.items()}
    table = measured.slow_split({"shifted": shifted}, exact, TIMES)
    for column in ("of_model", "of_model_low", "of_model_high"):  # paired: what images differ in cancels
        np.testing.assert_allclose(table[column], -0.05, atol=1e-12)
    rows = table.set_index(["quantity", "t"])
    for pairing in PAIRINGS:
        for end, value in (("", exact[pairing].mean(1)), ("_p5", np.percentile(exact[pairing], 5, axis=1))):
            np.testing.assert_allclose(rows.loc[f"slowed_{pairing}{end}", "inherent"], value)
        own = rows.loc[f"slowed_{pairing}"].iloc[-1]
        assert own["measured_low"] < own["measured"] < own["measured_high"]


def test_sentences_follow_the_table(exact, refuses):
    table = measured.slow_split({"FM": {p: own - 0.05 for p, own in exact.items()}}, exact, TIMES)
    said = measured.sentences(table)
    assert said.count("FM -0.0500 [-0.0500, -0.0500]") == 2 and f"over {COUNT} images" in said
    assert f"end at m = {exact['class'][-1].mean():.3f} on average" in said
    more = table.assign(of_model=0.01, of_model_low=0.005, of_model_high=0.015)
    assert "FM +0.0100 [+0.0050, +0.0150]" in measured.sentences(more)
    refuses(lambda: measured.sentences(table[table["quantity"] == "loss"]), "no slowed times")


def test_other_images_or_times_are_refused(exact, refuses):
    fewer = {pairing: own[:, 1:] for pairing, own in exact.items()}
    refuses(lambda: measured.slow_split({"FM": fewer}, exact, TIMES), "FM", "same images")
    refuses(lambda: measured.slow_split({"FM": exact}, exact, TIMES[1:]), "5 times")
