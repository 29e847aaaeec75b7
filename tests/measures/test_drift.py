"""Drift against closed forms: on Gaussian data every sampled state's energy follows the solver's own recursion."""

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.interpolants import GVP, Linear
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.samplers import Euler, sample
from defar_analysis.errors import DefarError
from defar_analysis.measures import drift as measured
from defar_analysis.measures.spectral import band_masks, radial_frequency

SIZE, COUNT = 16, 400


def gaussian(interpolant=None) -> GaussianFlow:
    """A smooth mean and a spectrum that falls as an image's does, another in each of two channels."""
    fall = 1 / (0.05 + radial_frequency(SIZE, SIZE)) ** 2
    side = torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    mean = torch.stack([side[:, None] * side, side[:, None].square() + 0 * side])
    return GaussianFlow(mean, torch.stack([0.02 * fall, 0.005 * fall]), interpolant)


def bands(per_frequency: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) summed to (..., 3): DC, low without it, high."""
    low, high = band_masks(SIZE, SIZE, drop_dc=True)
    total = per_frequency.sum(dim=-3)
    return torch.stack([total[..., 0, 0], (total * low).sum((-2, -1)), (total * high).sum((-2, -1))], dim=-1)


def closed_form(flow: GaussianFlow, times: torch.Tensor) -> np.ndarray:
    """Expected energies of Euler's states over those of true states, (S, 3)."""
    s, mean = flow.variance, torch.fft.fft2(flow.mean, norm="ortho")
    variance, offset, ratios = torch.ones_like(s), torch.zeros_like(mean), []
    for k, t in enumerate(times):
        c = flow.interpolant.coefficients(t)
        true = c.alpha**2 * s + c.sigma**2
        # the sampled mean is alpha m plus what Euler's own error along it has become
        sampled = bands(variance + (c.alpha * mean + offset).abs().square())
        ratios.append(sampled / bands(true + (c.alpha * mean).abs().square()))
        if k + 1 < len(times):
            h = times[k + 1] - t
            gain = 1 + h * (c.alpha * c.d_alpha * s + c.sigma * c.d_sigma) / true
            ahead = flow.interpolant.coefficients(times[k + 1]).alpha
            variance, offset = gain**2 * variance, gain * offset + (c.alpha + h * c.d_alpha - ahead) * mean
    return torch.stack(ratios).numpy()


def pairs(flow: GaussianFlow) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    data = flow.sample(COUNT, generator, torch.float64)
    return torch.randn(data.shape, generator=generator, dtype=torch.float64), data


def by_band(table: pd.DataFrame, column: str) -> np.ndarray:
    return np.stack([table[table["band"] == band][column] for band in measured.BANDS], axis=1)


@pytest.mark.parametrize("interpolant", [Linear(), GVP()], ids=str)
def test_eulers_states_follow_the_closed_form_recursion(interpolant):
    flow, solver = gaussian(interpolant), Euler(8)
    noise, data = pairs(flow)
    times = solver.times(interpolant).double()
    states = sample(flow, noise, solver, interpolant=interpolant, save="all").states
    true = measured.true_energies(noise, data, times, interpolant=interpolant)
    table = measured.drift({"exact": measured.state_energies(states)}, true, times.numpy())
    expected = closed_form(flow, times)
    errors = (by_band(table, "high") - by_band(table, "low")) / (2 * 1.96)
    assert np.abs(expected - 1).max() > 0.05  # eight steps are visibly wrong
    assert (np.abs(by_band(table, "value") - expected) <= 4 * errors + 1e-9).all()
    np.testing.assert_allclose(by_band(table, "value")[0], 1, atol=1e-12)  # the same noise


def test_without_an_error_the_ratio_is_1_and_fine_steps_come_to_it():
    flow = gaussian()
    noise, data = pairs(flow)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    ends = (t.expand(COUNT) for t in times)
    states = torch.stack([flow.flow_map(noise, torch.zeros(COUNT, dtype=torch.float64), end) for end in ends])
    true = measured.true_energies(noise, data, times)
    table = measured.drift({"exact": measured.state_energies(states)}, true, times.numpy())
    assert (table["low"] - 1e-12 <= 1).all() and (table["high"] + 1e-12 >= 1).all()
    gaps = [np.abs(closed_form(flow, torch.linspace(0, 1, n + 1, dtype=torch.float64))[-1] - 1) for n in (200, 400)]
    assert (gaps[1] < 0.01).all()
    coarse, fine = (gap[1:] for gap in gaps)  # of DC, the mean's share is exact
    np.testing.assert_allclose(coarse / fine, 2, rtol=0.1)
    finest = sample(flow, noise, Euler(400), save=100).states
    table = measured.drift({"Euler": measured.state_energies(finest)}, true, times.numpy())
    errors = (by_band(table, "high") - by_band(table, "low")) / (2 * 1.96)
    assert (np.abs(by_band(table, "value") - 1) <= 4 * errors + 0.01).all()


def test_energies_are_those_of_the_bands():
    rows = torch.arange(SIZE, dtype=torch.float64)[:, None]
    flat = torch.full((1, 3, SIZE, SIZE), 0.5, dtype=torch.float64)
    slow = (2 * torch.pi * rows * 2 / SIZE).cos().expand(1, 3, SIZE, SIZE)
    fast = (2 * torch.pi * rows * 6 / SIZE).cos().expand(1, 3, SIZE, SIZE)
    energies = measured.state_energies(torch.stack([flat, slow, fast, flat + slow - 2 * fast]))
    total = 3 * SIZE**2
    assert energies.shape == (4, 1, 3)
    np.testing.assert_allclose(energies[:3, 0] / total, np.diag([0.25, 0.5, 0.5]), atol=1e-12)
    np.testing.assert_allclose(energies[3, 0] / total, [0.25, 0.5, 2.0])  # Parseval: bands do not mix


@pytest.fixture
def energies():
    rng = np.random.default_rng(0)
    true = rng.gamma(2, size=(3, 40, 3))
    plain = true * 0.8 * rng.uniform(0.9, 1.1, true.shape)
    return {"SiT": plain, "twice": 2 * plain, "noisy": plain * rng.uniform(0.5, 1.5, true.shape)}, true


def test_changes_are_paired_by_image(energies):
    own, true = energies
    table = measured.changes(own, true, np.array([0, 0.5, 1]), "SiT")
    assert list(table.columns) == measured.CHANGES and set(table["t"]) == {1}
    twice = table[table["model"] == "twice"]
    for column in ("percent", "percent_low", "percent_high"):
        np.testing.assert_allclose(twice[column], 100)  # whatever the images, so no interval
    noisy = table[table["model"] == "noisy"]
    assert (noisy["percent_low"] < noisy["percent"]).all() and (noisy["percent"] < noisy["percent_high"]).all()
    np.testing.assert_allclose(table["value"][:3], own["SiT"][-1].sum(0) / true[-1].sum(0))
    curves = measured.drift(own, true, np.array([0, 0.5, 1]))
    last = curves[curves["t"] == 1].merge(table, on=["model", "band"])
    np.testing.assert_allclose(last["value_x"], last["value_y"])


def test_sentences_say_the_tables_numbers_and_no_more(energies):
    own, true = energies
    table = measured.changes(own, true, np.array([0, 0.5, 1]), "SiT")
    said = measured.sentences(table, "SiT")
    assert "twice: low band raised, +100.0 % [+100.0, +100.0]; high band raised" in said
    still = table.assign(percent=0.1, percent_low=-1.0, percent_high=1.0)
    assert "noisy: low band not moved detectably (+0.1 % [-1.0, +1.0])" in measured.sentences(still, "SiT")
    assert "noisy" not in measured.sentences(table, "SiT", "noisy").replace("The noisy, an exact field", "")
    others = measured.sentences(table, "SiT", others=["twice", "noisy"])
    row = table.set_index(["model", "band"]).loc[("twice", "low")]
    ratio = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    assert f"training images: twice {ratio} of the low band's" in others and "raised" not in others
    assert "no quality metric is measured" in said and "over 40 images" in said
    with pytest.raises(DefarError, match="one more model"):
        measured.sentences(table[table["model"] == "SiT"], "SiT")


def test_what_does_not_fit_together_is_one_line(energies):
    own, true = energies
    with pytest.raises(DefarError, match="shapes must agree"):
        measured.drift({"SiT": own["SiT"][:, :-1]}, true, np.array([0, 0.5, 1]))
    with pytest.raises(DefarError, match="2 times"):
        measured.drift(own, true, np.array([0, 1]))
    with pytest.raises(DefarError, match="'DEFAR'"):
        measured.changes(own, true, np.array([0, 0.5, 1]), "DEFAR")
