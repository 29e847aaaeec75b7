"""Drift over time and frequency against closed forms: on a Gaussian a step multiplies each frequency by a number."""

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.interpolants import GVP, Linear
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.measures import drift_maps as measured
from defar_analysis.measures.spectral import radial_frequency

SIZE, COUNT, STEPS, FINE = 16, 12, 5, 20


def gaussian(path=None) -> GaussianFlow:
    fall = 1 / (0.05 + radial_frequency(SIZE, SIZE).double()) ** 2
    return GaussianFlow(torch.zeros(2, SIZE, SIZE, dtype=torch.float64), torch.stack([0.02 * fall, 0.005 * fall]), path)


def pairs(flow):
    noise = torch.randn(COUNT, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise, flow.sample(COUNT, torch.Generator().manual_seed(0), torch.float64)


def gain(flow, t):
    """The number by which the field multiplies each frequency of a state at time t."""
    c = flow.interpolant.coefficients(torch.tensor(t, dtype=torch.float64))
    s = flow.variance
    return (c.alpha * c.d_alpha * s + c.sigma * c.d_sigma) / (c.alpha**2 * s + c.sigma**2)


def filtered(factor, x):
    return torch.fft.ifft2(factor * torch.fft.fft2(x)).real


@pytest.fixture(params=[Linear(), GVP()], ids=repr)
def walked(request):
    flow = gaussian(request.param)
    noise, data = pairs(flow)
    fine = measured.fine_states(flow, noise, FINE, interpolant=request.param, chunk=8)
    found = measured.trajectory(flow, noise, data, STEPS, fine, interpolant=request.param, chunk=8)
    return flow, noise, data, found


def test_the_error_of_few_steps_is_the_difference_of_two_products(walked):
    flow, noise, _, found = walked
    grid, fine = np.linspace(0, 1, STEPS + 1), np.linspace(0, 1, FINE + 1)
    coarse, exact, previous = torch.ones_like(flow.variance), torch.ones_like(flow.variance), None
    for k in range(STEPS):
        coarse = coarse * (1 + gain(flow, grid[k]) / STEPS)
        for i in range(k * FINE // STEPS, (k + 1) * FINE // STEPS):
            first, second = gain(flow, fine[i]), gain(flow, fine[i + 1])
            previous, exact = exact, exact * (1 + (first + second * (1 + first / FINE)) / (2 * FINE))
        error, beside = filtered(coarse - exact, noise), filtered(exact, noise)
        np.testing.assert_allclose(found.error["solver"][k], measured.ring_energies(error), rtol=1e-6)
        np.testing.assert_allclose(found.scale["solver"][k], measured.ring_energies(beside), rtol=1e-6)
        np.testing.assert_allclose(
            found.error["marginal"][k], measured.ring_energies(filtered(coarse, noise)), rtol=1e-6
        )
        way = filtered(exact - previous, noise)
        cosine = torch.nn.functional.cosine_similarity(error.flatten(1), way.flatten(1)).mean()
        assert found.cosine["solver"][k, 0] == pytest.approx(float(cosine), abs=1e-6)


def test_the_one_step_bias_is_the_fields_gain_times_where_the_step_missed(walked):
    flow, noise, data, found = walked
    path = flow.interpolant
    for k in range(STEPS):
        t0, t1 = (torch.full((COUNT,), i / STEPS, dtype=torch.float64) for i in (k, k + 1))
        start, end = path.at(noise, data, t0).x, path.at(noise, data, t1).x
        missed = filtered(1 + gain(flow, k / STEPS) / STEPS, start) - end
        bias, ideal = (filtered(gain(flow, (k + 1) / STEPS), x) for x in (missed, end))
        np.testing.assert_allclose(found.error["one_step"][k], measured.ring_energies(bias), rtol=1e-5)
        np.testing.assert_allclose(found.scale["one_step"][k], measured.ring_energies(ideal), rtol=1e-5)
        np.testing.assert_allclose(found.scale["marginal"][k], measured.ring_energies(end), rtol=1e-6)


def test_rings_hold_all_energy_and_the_zero_frequency_stands_alone():
    x = torch.randn(3, 2, SIZE, SIZE, dtype=torch.float64)
    rings = measured.ring_energies(x)
    np.testing.assert_allclose(rings.sum(axis=1), x.square().sum((1, 2, 3)))
    np.testing.assert_allclose(rings[:, 0], SIZE**2 * x.mean((2, 3)).square().sum(1))
    flat = measured.ring_energies(torch.ones(1, 1, SIZE, SIZE))
    np.testing.assert_allclose(flat, [[SIZE**2, *[0] * (measured.RINGS - 1)]], atol=1e-12)
    middle = measured.ring_frequencies(SIZE, SIZE)
    assert middle[0] == 0 and (np.diff(middle) > 0).all() and middle[-1] < np.sqrt(0.5)


def test_a_field_that_follows_its_pairs_has_no_drift_of_any_kind():
    """The straight line of each pair: every step is exact, and so are states and velocities."""
    noise, data = pairs(gaussian())
    lines = {True: data - noise}

    def field(x, t, labels=None):
        return lines[True][: len(x)]

    fine = measured.fine_states(field, noise, FINE, chunk=COUNT)
    found = measured.trajectory(field, noise, data, STEPS, fine, chunk=COUNT)
    _, curves = measured.tables({("line", STEPS): found}, (SIZE, SIZE))
    assert (curves["magnitude"] < 1e-6).all()
    maps, _ = measured.tables({("line", STEPS): found}, (SIZE, SIZE))
    np.testing.assert_allclose(maps[maps["kind"] == "marginal"]["value"], 1, atol=1e-6)


def test_states_that_lag_behind_have_cosine_minus_one_and_their_amplitude():
    """Sampled at 0.8 of the true speed: the mean of the states is behind along the flow, by a fifth of the way."""
    data = torch.randn(COUNT, 1, SIZE, SIZE, dtype=torch.float64) + 3
    noise = torch.zeros_like(data)
    fine = measured.fine_states(lambda x, t, labels=None: data[: len(x)], noise, FINE, chunk=COUNT)
    slow = measured.trajectory(lambda x, t, labels=None: 0.8 * data[: len(x)], noise, data, STEPS, fine, chunk=COUNT)
    maps, curves = measured.tables({("slow", STEPS): slow}, (SIZE, SIZE))
    end = curves[curves["t"] == 1].set_index("kind")
    assert end.loc["marginal", "cosine"] == pytest.approx(-1) and end.loc["solver", "cosine"] == pytest.approx(-1)
    assert end.loc["solver", "magnitude"] == pytest.approx(0.2)
    assert end.loc["marginal", "magnitude"] == pytest.approx(0.2)
    rings = maps[(maps["t"] == 1) & (maps["kind"] == "marginal")]["value"]
    np.testing.assert_allclose(rings, 0.64)


def test_arrays_and_back(walked):
    found = walked[-1]
    again = measured.Trajectory.of(found.arrays)
    assert again.arrays.keys() == found.arrays.keys()
    assert all(np.array_equal(again.arrays[key], value) for key, value in found.arrays.items())


def test_steps_that_the_fine_grid_does_not_hold_are_refused(refuses):
    flow = gaussian()
    noise, data = pairs(flow)
    refuses(lambda: measured.trajectory(flow, noise, data, 3, noise.expand(FINE + 1, *noise.shape)), "3 steps", FINE)


@pytest.fixture
def curves():
    rows = [
        (model, kind, nfe, t, 0.1 * nfe_factor, 0.09 * nfe_factor, 0.11 * nfe_factor, -0.2, -0.3, -0.1, 8)
        for model in ("SiT", "DEFAR", "Gaussian reference")
        for kind in measured.KINDS
        for nfe, nfe_factor in ((10, 5), (50, 1))
        for t in (0.5, 1.0)
    ]
    return pd.DataFrame(rows, columns=measured.CURVES)


def test_sentences_follow_the_table(curves):
    said = measured.sentences(curves, "SiT", "Gaussian reference")
    assert "0.100 [0.090, 0.110]" in said and "behind" in said
    more = curves.assign(cosine=0.2, cosine_low=0.1, cosine_high=0.3)
    assert "ahead" in measured.sentences(more, "SiT", "Gaussian reference")
    larger = curves["magnitude"].where(curves["model"] != "SiT", 2 * curves["magnitude"])
    assert "0.200 [0.090, 0.110]" in measured.sentences(curves.assign(magnitude=larger), "SiT", "Gaussian reference")


def test_sentences_take_times_that_all_numbers_of_steps_have(curves):
    odd = curves.assign(t=curves["t"].where((curves["nfe"] != 50) | (curves["t"] == 1), 0.75))
    assert "ends at t = 1," in measured.sentences(odd, "SiT", "Gaussian reference")
    assert "ends at t = 0.5," in measured.sentences(curves, "SiT", "Gaussian reference")


def test_sentences_need_the_baseline(curves, refuses):
    refuses(lambda: measured.sentences(curves, "none", "Gaussian reference"), "'none'")
