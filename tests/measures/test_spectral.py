"""Bands, PFR, masks and FEL on fields whose spectrum is prescribed."""

import pytest
import torch

from defar_analysis.core.interpolants import Linear
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.errors import DefarError
from defar_analysis.measures.spectral import (
    band_energies,
    band_masks,
    frequency_emphasis,
    high_pass,
    low_pass,
    predicted_frequency_ratio,
    radial_frequency,
    saliency_masks,
)


def random_phase_field(amplitude: torch.Tensor, count: int, channels: int) -> torch.Tensor:
    """Real fields whose ortho FFT has exactly |F| = amplitude (H, W, symmetric), with random phases."""
    g = torch.Generator().manual_seed(0)
    white = torch.fft.fft2(torch.randn(count, channels, *amplitude.shape, generator=g, dtype=torch.float64))
    return torch.fft.ifft2(amplitude * white / white.abs(), norm="ortho").real


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 24), (9, 15)])
def test_pfr_is_exact_on_prescribed_spectra(height, width):
    rho = radial_frequency(height, width)
    amplitude = 1 / (0.1 + rho)
    v = random_phase_field(amplitude, 3, 2)
    for cutoff in (0.1, 0.2, 0.3):
        low = rho <= cutoff
        energy = amplitude**2
        with_dc = energy[low].sum() / energy[~low].sum()
        without_dc = (energy[low].sum() - energy[0, 0]) / energy[~low].sum()
        torch.testing.assert_close(predicted_frequency_ratio(v, cutoff), with_dc.expand(3), atol=0, rtol=1e-10)
        dropped = predicted_frequency_ratio(v, cutoff, drop_dc=True)
        torch.testing.assert_close(dropped, without_dc.expand(3), atol=0, rtol=1e-10)


def test_pfr_of_a_gaussian_flow_by_ratio_of_sums_within_monte_carlo_error():
    spectrum, t, count = 1 / (0.02 + radial_frequency(16, 16) ** 2), 0.3, 3000
    oracle = GaussianFlow(torch.zeros(1, 16, 16, dtype=torch.float64), spectrum)
    g = torch.Generator().manual_seed(0)
    data = oracle.sample(count, g, torch.float64)
    noise = torch.randn(data.shape, generator=g, dtype=torch.float64)
    times = torch.full((count,), t, dtype=torch.float64)
    velocity = oracle(Linear().at(noise, data, times).x, times)
    gain = (t * spectrum - (1 - t)) ** 2 / (t**2 * spectrum + (1 - t) ** 2)  # variance of each velocity coefficient
    low, high = band_masks(16, 16)
    expected = gain[low].sum() / gain[high].sum()
    dc, low_energy, high_energy = band_energies(velocity)
    numerator, denominator = dc + low_energy, high_energy
    measured = numerator.sum() / denominator.sum()
    residual = numerator - measured * denominator  # delta method for a ratio of means
    error = residual.std() / (count**0.5 * denominator.mean())
    assert abs(measured - expected) < 4 * error
    assert error < 0.02 * expected


def test_white_noise_has_the_ratio_of_the_bands_sizes():
    low, high = band_masks(32, 32)
    assert low.sum() / high.sum() == pytest.approx(0.144, abs=5e-4)  # equations.md section 2
    noise = torch.randn(2000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    dc, low_energy, high_energy = band_energies(noise)
    assert float((dc + low_energy).sum() / high_energy.sum()) == pytest.approx(float(low.sum() / high.sum()), rel=5e-3)


def test_bands_partition_the_plane_and_parseval_holds():
    x = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(low_pass(x) + high_pass(x), x)
    torch.testing.assert_close(low_pass(low_pass(x)), low_pass(x))
    torch.testing.assert_close(sum(band_energies(x)), x.square().sum((1, 2, 3)))
    torch.testing.assert_close(low_pass(x).mean((2, 3)), x.mean((2, 3)))


def test_pfr_ignores_scale_and_shifts():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(predicted_frequency_ratio(-7 * x), predicted_frequency_ratio(x))
    torch.testing.assert_close(predicted_frequency_ratio(x.roll((3, 5), (2, 3))), predicted_frequency_ratio(x))
    torch.testing.assert_close(
        predicted_frequency_ratio(x + 100, drop_dc=True), predicted_frequency_ratio(x, drop_dc=True)
    )


def test_half_precision_is_measured_in_float32():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert predicted_frequency_ratio(x).dtype == torch.float32
    torch.testing.assert_close(predicted_frequency_ratio(x), predicted_frequency_ratio(x.float()))


def test_masks_keep_the_top_shares_where_the_bands_are_strong():
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[..., :16, :16] = 3.0  # a smooth square
    x[..., 20:28, 20:28] = torch.tensor([1.0, -1.0]).repeat(4) * torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    x += 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))  # no ties
    low, high = saliency_masks(x)
    assert low.shape == high.shape == (1, 32, 32)
    assert int(low.sum()) == pytest.approx(0.20 * 1024, abs=1)
    assert int(high.sum()) == pytest.approx(0.25 * 1024, abs=1)
    assert low[0, 4:12, 4:12].all() and not low[0, 20:28, 20:28].any()
    assert high[0, 21:27, 21:27].all() and not high[0, 7:10, 7:10].any()


def test_fel_counts_the_loss_under_each_mask_and_ignores_its_scale():
    loss = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    low, high = torch.tensor([[[True, True], [False, False]]]), torch.tensor([[[False, True], [True, False]]])
    torch.testing.assert_close(frequency_emphasis(loss, low, high), torch.tensor([3.0 / 5.0]))
    torch.testing.assert_close(frequency_emphasis(loss / loss.sum(), low, high), torch.tensor([3.0 / 5.0]))


@pytest.mark.parametrize("cutoff", [0.0, -0.1, 0.71, 2])
def test_impossible_cutoffs_are_refused(cutoff):
    with pytest.raises(DefarError, match="cutoff"):
        band_masks(8, 8, cutoff)


def test_mismatched_masks_and_shares_are_refused():
    with pytest.raises(DefarError, match="share one shape"):
        frequency_emphasis(torch.ones(1, 4, 4), torch.ones(1, 4, 4), torch.ones(1, 2, 2))
    with pytest.raises(DefarError, match="low must be a share"):
        saliency_masks(torch.ones(1, 1, 8, 8), low=20)
