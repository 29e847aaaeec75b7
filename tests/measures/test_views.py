"""Energies by radius and the inspector's views: against the spectral functions, the rollout and closed forms."""

import math

import numpy as np
import pytest
import torch

from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, Linear
from defar_analysis.core.rollout import exposure_bias
from defar_analysis.core.seeding import image_noise
from defar_analysis.core.tensors import l2_norm
from defar_analysis.measures.base import Context, TimeGrid
from defar_analysis.measures.radial import frequency_ratio, radial_energies, radii
from defar_analysis.measures.spectral import predicted_frequency_ratio
from defar_analysis.measures.views import BiasViews

CUTOFFS = (0.02, 0.125, 0.2, 0.25, 0.4, 0.5, 0.7)


def field(x, t, labels=None):
    """Not linear in x, so that its bias differs from pixel to pixel."""
    return torch.tanh(x.roll(1, -1)) + t[:, None, None, None] * x.mean((2, 3), keepdim=True)


def context(grid, interpolant=None, count=3):
    data = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    indices = (4, 0, 7)[:count]
    return Context(field, Batch(data), grid, "mine", interpolant or Linear(), indices=indices, seed=5, chunk=2)


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (7, 7), (6, 10), (40, 40)])
def test_radii_cover_the_grid_once_and_increase(shape):
    distances, counts = radii(*shape)
    assert counts.sum() == math.prod(shape) and distances[0] == 0 and counts[0] == 1
    assert (np.diff(distances) > 1e-6).all()


@pytest.mark.parametrize("drop_dc", [False, True])
@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (40, 24)])
def test_the_ratio_of_sums_by_radius_is_pfr_at_any_cutoff(shape, cutoff, drop_dc):
    v = torch.randn(4, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.3
    wanted = predicted_frequency_ratio(v, cutoff, drop_dc).numpy()
    found = frequency_ratio(radii(*shape)[0], radial_energies(v), cutoff, drop_dc)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_energies_add_up_and_a_wave_has_its_own_at_its_radius():
    v = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(radial_energies(v).sum(axis=1), v.square().sum((1, 2, 3)).numpy(), rtol=1e-12)
    wave = torch.cos(2 * math.pi * 3 / 16 * torch.arange(16, dtype=torch.float64)).expand(1, 1, 16, 16)
    energies, (distances, _) = radial_energies(wave)[0], radii(16, 16)
    assert distances[energies.argmax()] == 3 / 16 and energies.max() == pytest.approx(16 * 16 / 2)
    assert np.delete(energies, energies.argmax()).max() < 1e-20


def test_ratios_without_a_band_are_nan_and_inf():
    distances, _ = radii(8, 8)
    flat, nothing = radial_energies(torch.ones(1, 1, 8, 8))[0], np.zeros(len(distances))
    assert frequency_ratio(distances, flat, 0.2) == np.inf and np.isnan(frequency_ratio(distances, nothing, 0.2))


@pytest.mark.parametrize("interpolant", [Linear(), GVP()], ids=["linear", "gvp"])
def test_a_view_is_the_rollouts_bias(interpolant):
    grid = TimeGrid.all_pairs("some", 4)
    ctx = context(grid, interpolant)
    table = BiasViews().run(ctx)
    arrays = table.attrs["arrays"]
    assert arrays["map"].shape == (6, 3, 8, 8) and arrays["prediction"].shape[:2] == (3, 3)
    noise = image_noise(5, (4, 0, 7), (3, 8, 8))
    begin, end = interpolant.interval("train")
    pairs = [(t0, t1) for t0, ends in zip(grid.t0, grid.t1, strict=True) for t1 in ends]
    for place, pair in enumerate(pairs):
        t0, t1 = (torch.full((3,), begin + (end - begin) * t) for t in pair)
        bias = exposure_bias(field, noise, ctx.batch.data, t0, t1, interpolant=interpolant)
        np.testing.assert_allclose(arrays["map"][place], l2_norm(bias, 1), atol=1e-5)
        np.testing.assert_allclose(arrays["bias"][place], radial_energies(bias), rtol=1e-3, atol=1e-5)
        rows = table[3 * place : 3 * place + 3]
        assert rows["image"].tolist() == [4, 0, 7] and set(zip(rows["t0"], rows["t1"], strict=True)) == {pair}
        np.testing.assert_allclose(rows["bias_rms"], bias.square().mean((1, 2, 3)).sqrt(), rtol=1e-4)
    start = interpolant.at(noise, ctx.batch.data, torch.full((3,), begin))
    np.testing.assert_allclose(arrays["target"][0], radial_energies(start.velocity), rtol=1e-5)
    prediction = field(start.x, torch.full((3,), begin))
    np.testing.assert_allclose(arrays["prediction"][0], radial_energies(prediction), rtol=1e-4)


def test_the_map_and_the_spectrum_hold_the_same_energy():
    arrays = BiasViews().run(context(TimeGrid.all_pairs("some", 3))).attrs["arrays"]
    np.testing.assert_allclose((arrays["map"].astype(float) ** 2).sum((2, 3)), arrays["bias"].sum(2), rtol=1e-5)


def test_a_bias_that_is_not_finite_is_refused(refuses):
    def broken(x, t, labels=None):
        return torch.where(x.abs() > 3, torch.inf, 100 * x)  # at true states all is well

    data = torch.zeros(1, 1, 4, 4)
    ctx = Context(broken, Batch(data), TimeGrid.all_pairs("some", 3), "broken")
    refuses(lambda: BiasViews().run(ctx), "broken", "not finite")
