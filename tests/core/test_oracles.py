"""GaussianFlow against its own definition: conditional expectations, exact flow map, spectra."""

import math

import pytest
import torch

from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.oracles import EmpiricalFlow, GaussianFlow
from defar_analysis.errors import DefarError
from defar_analysis.measures.spectral import radial_frequency

PATHS = [Linear(), GVP(), VP()]


def falling_spectrum(size: int = 8) -> torch.Tensor:
    return 1 / (0.02 + radial_frequency(size, size) ** 2)


def coloured_spectrum(size: int = 8, channels: int = 3) -> torch.Tensor:
    """A Hermitian positive covariance between channels at each frequency, with the symmetry of a real field."""
    g = torch.Generator().manual_seed(3)
    fields = torch.randn(40, channels, size, size, generator=g, dtype=torch.float64)
    f = torch.fft.fft2(fields, norm="ortho")
    s = torch.einsum("nihw,njhw->ijhw", f, f.conj()) / len(f)
    return (s + s.flip(-2, -1).roll((1, 1), (-2, -1)).conj()) / 2


def flow(interpolant=None, coloured: bool = False) -> GaussianFlow:
    g = torch.Generator().manual_seed(4)
    mean = torch.randn(3, 8, 8, generator=g, dtype=torch.float64)
    return GaussianFlow(mean, coloured_spectrum() if coloured else falling_spectrum(), interpolant)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("coloured", [False, True])
def test_velocity_is_the_regression_of_the_pairs_velocity_on_the_state(path, coloured):
    """E[v | x] of jointly Gaussian vectors, built as dense matrices without any Fourier transform."""
    oracle = flow(path, coloured)
    count = 3 * 8 * 8
    basis = torch.eye(count, dtype=torch.float64).reshape(count, 3, 8, 8)
    spectrum = coloured_spectrum() if coloured else torch.diag_embed(falling_spectrum()[..., None].expand(8, 8, 3))
    matrices = spectrum.to(torch.complex128) if coloured else spectrum.permute(2, 3, 0, 1).to(torch.complex128)
    transformed = torch.fft.fft2(basis, norm="ortho")
    filtered = torch.einsum("ijhw,njhw->nihw", matrices, transformed)
    covariance = torch.fft.ifft2(filtered, norm="ortho").real.reshape(count, count).T
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.0, 0.3, 0.8):
        times = torch.full((2,), t, dtype=torch.float64)
        c = path.coefficients(times[0])
        eye = torch.eye(count, dtype=torch.float64)
        joint = c.alpha * c.d_alpha * covariance + c.sigma * c.d_sigma * eye
        marginal = c.alpha**2 * covariance + c.sigma**2 * eye
        centred = (x - c.alpha * oracle.mean).flatten(1)
        expected = (c.d_alpha * oracle.mean).flatten() + centred @ torch.linalg.solve(marginal, joint.T)
        torch.testing.assert_close(oracle(x, times).flatten(1), expected, atol=1e-9, rtol=1e-9)


def test_linear_velocity_is_the_printed_formula():
    oracle, s, t = flow(), falling_spectrum(), 0.4
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gain = (t * s - (1 - t)) / (t**2 * s + (1 - t) ** 2)
    expected = oracle.mean + torch.fft.ifft2(gain * torch.fft.fft2(x - t * oracle.mean)).real
    torch.testing.assert_close(oracle(x, torch.full((2,), t)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("coloured", [False, True])
def test_velocity_is_the_time_derivative_of_the_flow_map(path, coloured):
    oracle = flow(path, coloured)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start, now, step = (torch.full((2,), v, dtype=torch.float64) for v in (0.2, 0.6, 1e-5))
    ahead, behind = oracle.flow_map(x, start, now + step), oracle.flow_map(x, start, now - step)
    derivative = (ahead - behind) / (2 * step[0])
    torch.testing.assert_close(derivative, oracle(oracle.flow_map(x, start, now), now), atol=1e-7, rtol=1e-6)


def test_flow_map_composes_and_scales_each_frequency():
    oracle, s = flow(), falling_spectrum()
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    t = [torch.tensor([v], dtype=torch.float64) for v in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(
        oracle.flow_map(oracle.flow_map(x, t[0], t[1]), t[1], t[2]), oracle.flow_map(x, t[0], t[2])
    )
    moved = torch.fft.fft2(oracle.flow_map(x, t[0], t[1]) - 0.5 * oracle.mean)
    torch.testing.assert_close(moved, torch.sqrt(0.25 * s + 0.25) * torch.fft.fft2(x), atol=1e-10, rtol=1e-10)


def test_samples_have_the_mean_and_the_spectrum():
    oracle, count = flow(coloured=True), 4000
    fields = oracle.sample(count, torch.Generator().manual_seed(0), torch.float64)
    f = torch.fft.fft2(fields - oracle.mean, norm="ortho")
    measured = torch.einsum("nihw,njhw->ijhw", f, f.conj()) / count
    scale = coloured_spectrum().diagonal().real.mean()
    assert (measured - coloured_spectrum()).abs().max() < 6 * scale * math.sqrt(2 / count) * 2
    assert (fields.mean(0) - oracle.mean).abs().max() < 6 * math.sqrt(float(scale) / count) * 2


@pytest.mark.parametrize("cross", [True, False])
def test_fit_recovers_the_law_and_takes_batches(cross):
    images = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(-1)
    whole = GaussianFlow.fit(images, cross_channel=cross)
    parts = GaussianFlow.fit(images.split(77), cross_channel=cross)
    torch.testing.assert_close(whole.mean, images.mean(0))
    f = torch.fft.fft2(images - images.mean(0), norm="ortho")
    power = f.abs().square().mean(0)
    expected = (power + power.flip(-2, -1).roll((1, 1), (-2, -1))) / 2
    fitted = torch.einsum("iihw->ihw", whole.spectrum).real if cross else whole.spectrum
    torch.testing.assert_close(fitted, expected)
    x, t = images[:2], torch.tensor([0.3, 0.7])
    torch.testing.assert_close(whole(x, t), parts(x, t), atol=1e-8, rtol=1e-8)


def test_keeps_the_dtype_of_the_input():
    assert flow()(torch.zeros(1, 3, 8, 8), torch.zeros(1)).dtype == torch.float32


def test_refuses_spectra_of_no_real_field():
    lopsided = falling_spectrum()
    lopsided[0, 1] += 1
    with pytest.raises(DefarError, match="not real"):
        GaussianFlow(torch.zeros(1, 8, 8), lopsided)
    with pytest.raises(DefarError, match="negative variance"):
        GaussianFlow(torch.zeros(1, 8, 8), -falling_spectrum())
    with pytest.raises(DefarError, match=r"\(H, W\)"):
        GaussianFlow(torch.zeros(1, 8, 8), torch.ones(8))


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
@pytest.mark.parametrize("labelled", [False, True])
def test_empirical_velocity_is_the_brute_force_mean_over_the_images(path, labelled):
    """Every image's own velocity, weighed by its density at the state: E[v_gt | x_t = x], one image after another."""
    g = torch.Generator().manual_seed(0)
    data, x = (torch.randn(n, 2, 3, 3, generator=g, dtype=torch.float64) for n in (11, 5))
    own, labels = torch.arange(11) % 3, torch.tensor([0, 1, 2, 1, 0])
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 0.97], dtype=torch.float64)
    flow = EmpiricalFlow(data, path, own if labelled else None, block=4)
    for i, found in enumerate(flow(x, t, labels)):
        c = path.coefficients(t[i])
        allowed = [y for y, label in zip(data, own, strict=True) if not labelled or label == labels[i]]
        distances = [float((x[i] - c.alpha * y).square().sum() / (2 * c.sigma**2)) for y in allowed]
        total, weight = torch.zeros_like(x[i]), 0.0
        for y, distance in zip(allowed, distances, strict=True):
            density, noise = math.exp(min(distances) - distance), (x[i] - c.alpha * y) / c.sigma
            total, weight = total + density * (c.d_alpha * y + c.d_sigma * noise), weight + density
        assert torch.allclose(found, total / weight, rtol=1e-8, atol=1e-8)


def test_empirical_velocity_does_not_depend_on_blocks_and_stays_finite_far_from_all_images():
    data = torch.randn(9, 1, 4, 4, dtype=torch.float64)
    x, t = 50 * torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.tensor([0.1, 0.9, 1.0], dtype=torch.float64)
    whole = EmpiricalFlow(data, block=100)(x, t)
    assert whole.isfinite().all() and torch.allclose(whole, EmpiricalFlow(data, block=2)(x, t), rtol=1e-12)


def test_one_images_empirical_flow_leads_to_it_in_one_step_from_anywhere():
    data = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    x, t = torch.randn(6, 3, 4, 4, dtype=torch.float64), torch.linspace(0, 0.9, 6, dtype=torch.float64)
    landed = x + (1 - t)[:, None, None, None] * EmpiricalFlow(data)(x, t)
    assert torch.allclose(landed, data.expand_as(landed))


def test_many_draws_of_a_gaussian_have_nearly_its_velocity():
    """The two ends of the bracket meet: the more images, the nearer the memorizing field is to the law's own."""
    law, t = flow(), torch.full((4,), 0.05, dtype=torch.float64)
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = Linear().at(noise, law.sample(4, torch.Generator().manual_seed(1), torch.float64), t).x
    draws, exact = law.sample(60_000, torch.Generator().manual_seed(0), torch.float64), law(x, t)
    few, many = ((EmpiricalFlow(draws[:n])(x, t) - exact).square().mean() for n in (2_000, 60_000))
    assert many < 0.02 * exact.square().mean() and many < few / 5


def test_empirical_flow_refuses_labels_that_do_not_fit(refuses):
    data = torch.randn(4, 1, 2, 2)
    refuses(lambda: EmpiricalFlow(data, labels=torch.zeros(3)), "one label for each", 4, 3)
    labelled = EmpiricalFlow(data, labels=torch.tensor([0, 0, 2, 2]))
    refuses(lambda: labelled(data, torch.zeros(4), torch.tensor([0, 1, 2, 2])), "no image has label 1", "[0, 2]")
