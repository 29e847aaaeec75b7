"""Measured = inherent + model, on fields whose parts are known."""

import numpy as np
import pytest
import torch

from defar_analysis.core.datasets import Batch
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.rollout import exposure_bias
from defar_analysis.core.seeding import image_noise
from defar_analysis.measures import split as measured
from defar_analysis.measures.base import Context, TimeGrid, measure
from defar_analysis.measures.emphasis import FEL
from defar_analysis.measures.frequency import PFR
from defar_analysis.measures.spectral import radial_frequency

SIZE, COUNT = 8, 300
GRID = TimeGrid.spaced("test", 3, 2)


def law() -> GaussianFlow:
    fall = 1 / (0.05 + radial_frequency(SIZE, SIZE).double()) ** 2
    return GaussianFlow(torch.zeros(1, SIZE, SIZE, dtype=torch.float64), 0.02 * fall)


class Shifted:
    """The exact field and a constant beside it: its excess loss is the constant's square, at every time."""

    def __init__(self, flow, shift):
        self.flow, self.shift = flow, shift

    def __call__(self, x, t, labels=None):
        return self.flow(x, t) + self.shift


def swept(model, exact=None):
    data = law().sample(COUNT, torch.Generator().manual_seed(0), torch.float64)
    measurements = [PFR(), FEL(), *([measured.Loss(exact)] if exact else [])]
    return measure(measurements, Context(model, Batch(data), GRID))


@pytest.fixture(scope="module")
def tables():
    exact = law()
    return swept(Shifted(exact, 0.3), exact), swept(exact)


def test_the_loss_is_the_inherent_part_and_the_excess(tables):
    own, _ = tables
    rows = own["loss"].set_index(["quantity", "t"])
    for t in GRID.times:
        assert rows.loc[("excess", t), "value"] == pytest.approx(0.09)
        rest = rows.loc[("rest", t)]
        assert abs(rest["value"]) < rest["high"] - rest["low"]  # within four standard errors of 0


def test_inherent_and_model_add_up_and_a_constants_part_is_its_own(tables):
    own, exact = tables
    table = measured.split({"shifted": own}, exact, GRID, SIZE**2)
    np.testing.assert_allclose(table["measured"], table["inherent"] + table["of_model"], rtol=1e-9, atol=1e-12)
    tiny = 1e-9  # a constant's interval is a point
    assert (table["of_model_low"] <= table["of_model"] + tiny).all()
    assert (table["of_model"] <= table["of_model_high"] + tiny).all()
    assert set(table["quantity"]) == set(measured.QUANTITIES)
    excess = table[table["quantity"] == "excess"]
    np.testing.assert_allclose(excess["of_model"], 0.09)
    # PFR without the zero frequency: a constant has no part in it
    pfr = table[table["quantity"] == "pfr_prediction"]
    np.testing.assert_allclose(pfr["of_model"], 0, atol=1e-9)


def biases(model, t0, t1):
    """The exposure bias of each image at (t0, t1), by its definition."""
    data = law().sample(COUNT, torch.Generator().manual_seed(0), torch.float64)
    noise = image_noise(0, range(COUNT), data.shape[1:]).to(data)
    start, end = (torch.full((COUNT,), t, dtype=torch.float64) for t in (t0, t1))
    return exposure_bias(model, noise, data, start, end)


def test_bias_energy_is_a_mean_over_images_pixels_and_ends(tables):
    own, exact = tables
    table = measured.split({"shifted": own}, exact, GRID, SIZE**2).set_index(["quantity", "t"])
    for t0, ends in zip(GRID.t0, GRID.t1, strict=True):
        energies = [np.mean([float(biases(model, t0, t1).square().mean()) for t1 in ends])
                    for model in (Shifted(law(), 0.3), law())]  # fmt: skip
        row = table.loc[("bias_energy", t0)]
        assert [row["measured"], row["inherent"]] == pytest.approx(energies, rel=1e-5)


def test_the_exact_field_itself_has_no_part_of_a_model():
    exact = law()
    table = measured.split({"itself": swept(exact, exact)}, swept(exact), GRID, SIZE**2)
    np.testing.assert_allclose(table["of_model"], 0, atol=1e-12)


def test_sweeps_of_other_images_are_refused(tables, refuses):
    own, _ = tables
    data = law().sample(COUNT, torch.Generator().manual_seed(1), torch.float64)
    other = measure([PFR(), FEL()], Context(law(), Batch(data), GRID))
    refuses(lambda: measured.split({"shifted": own}, other, GRID, SIZE**2), "shifted", "other images")


def test_sentences_follow_the_table(tables, refuses):
    own, exact = tables
    table = measured.split({"FM": own}, exact, GRID, SIZE**2)
    said = measured.sentences(table, "FM")
    inherent = table[(table["quantity"] == "loss")]
    share = 100 * inherent["inherent"].mean() / inherent["measured"].mean()
    assert f"{share:.0f} % of FM's" in said
    twice = table["measured"].where(table["quantity"] != "loss", 2 * table["measured"])
    assert f"{share / 2:.0f} % of FM's" in measured.sentences(table.assign(measured=twice), "FM")
    refuses(lambda: measured.sentences(table, "other"), "'other'")
