"""Euler-Maruyama on Gaussian data, where everything is known for each frequency.

With the exact velocity, v = alpha' m + g (x - alpha m) and s = -(x - alpha m) / V, V = alpha^2 S + sigma^2. One step
multiplies the deviation by 1 + h a, a = g - D/V, so its variance goes U <- (1 + h a)^2 U + 2 D h, and the mean error
e = E[x] - alpha m, with alpha' m taken at the step's start, goes e <- (1 + h a) e + (alpha + h alpha' - alpha_next) m.
"""

import itertools
import math
from typing import get_args

import pytest
import torch

from defar_analysis.core import fields
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.samplers import Euler, EulerMaruyama, sample
from defar_analysis.core.sde import Diffusion, diffusion
from defar_analysis.core.seeding import image_noise, sde_generators
from defar_analysis.errors import DefarError
from defar_analysis.measures.spectral import radial_frequency

FORMS = get_args(Diffusion)
PATHS = [Linear(), GVP(), VP()]
SPECTRUM = 0.1 / (0.05 + radial_frequency(8, 8).double() ** 2)  # 0.2 to 2
MEAN = 0.7
every_case = pytest.mark.parametrize(("path", "form"), list(itertools.product(PATHS, FORMS)), ids=repr)


def at(path, t):
    return path.coefficients(torch.tensor(t, dtype=torch.float64))


def slopes(solver, path, t, spectrum):
    """g, D and a = g - D/V for each frequency; D = 0 where it is singular."""
    c = at(path, t)
    variance = c.alpha**2 * spectrum + c.sigma**2
    g = (c.alpha * c.d_alpha * spectrum + c.sigma * c.d_sigma) / variance
    amount = float(diffusion(solver.diffusion, path, torch.tensor(t, dtype=torch.float64), solver.norm))
    return g, amount, g - amount / variance


def recursion(solver, path, spectrum=SPECTRUM, mean=MEAN, exact=False):
    """A pixel's mean and the variance of each Fourier coefficient where the scheme ends.

    exact: from the exact law at the start, which differs from N(0, 1) on VP, up to the last step without noise.
    """
    times = solver.times(path).tolist()
    u, m = torch.ones_like(spectrum, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    if exact:
        times = times[:-1]
        c = at(path, times[0])
        u, m = c.alpha**2 * spectrum + c.sigma**2, c.alpha * mean
    for i, (now, then) in enumerate(itertools.pairwise(times)):
        h, c = then - now, at(path, now)
        g, amount, a = slopes(solver, path, now, spectrum)
        noise = 2 * amount * h
        if i == len(times) - 2 and solver.last_step and not exact:
            noise = 0.0
            if solver.last_step == "euler":
                a = g
            if solver.last_step == "tweedie":  # E[x_* | x] = m + alpha S / V (x - alpha m)
                gain = c.alpha * spectrum / (c.alpha**2 * spectrum + c.sigma**2)
                u, m = gain**2 * u, mean + gain[0, 0] * (m - c.alpha * mean)
                continue
        u = (1 + h * a) ** 2 * u + noise
        m = m + h * (c.d_alpha * mean + a[0, 0] * (m - c.alpha * mean))
    return m, u


@every_case
def test_mean_and_variance_are_the_recursions_within_monte_carlo_error(path, form):
    count, channels, solver = 300, 4, EulerMaruyama(8, form, last_step=None)
    oracle = GaussianFlow(torch.full((channels, 8, 8), MEAN, dtype=torch.float64), SPECTRUM, path)
    noise = image_noise(0, range(count), (channels, 8, 8)).double()
    drawn = sample(
        oracle, noise, solver, interpolant=path, generators=sde_generators(0, range(count)), chunk=count
    ).x.reshape(-1, 8, 8)  # fmt: skip
    mean, variance = recursion(solver, path)
    n = len(drawn)
    error = drawn.mean(dim=0).mean() - mean
    assert abs(error) < 5 * (variance[0, 0] / 64 / n).sqrt()
    power = torch.fft.fft2(drawn - mean, norm="ortho").abs().square().mean(dim=0)
    relative = power / variance - 1
    # |F|^2 has relative variance 2 at the four real frequencies and 1 at the others, which come in equal pairs
    spread = torch.ones(8, 8, dtype=torch.float64)
    spread[::4, ::4] = 2**0.5
    assert (relative / (spread / n**0.5)).abs().max() < 4.5
    assert abs(relative.mean()) < 4 * (2 / (64 * n)) ** 0.5
    end = at(path, float(solver.times(path)[-1]))
    exact = end.alpha**2 * SPECTRUM + end.sigma**2
    assert (power / exact - 1).abs().mean() > 1.2 * relative.abs().mean()  # 8 steps are coarse: the law is another one


@pytest.mark.parametrize("last_step", ["mean", "euler", "tweedie", None])
@every_case
def test_the_recursion_holds_to_rounding(path, form, last_step, monkeypatch):
    """The scheme is linear in the first state and in each step's noise, so one image for each gives its variance."""
    solver = EulerMaruyama(6, form, last_step)
    noisy = 6 if last_step is None else 5
    oracle = GaussianFlow(torch.full((1, 8, 8), MEAN, dtype=torch.float64), SPECTRUM, path)
    delta = torch.zeros(1, 8, 8, dtype=torch.float64)
    delta[0, 0, 0] = 8  # its Fourier coefficients are all 1
    silence = torch.zeros(noisy + 2, 1, 8, 8, dtype=torch.float64)
    draws = silence.repeat(noisy, 1, 1, 1, 1)
    for k in range(noisy):
        draws[k, k + 2] = delta
    draws = iter(draws)
    monkeypatch.setattr(fields, "step_noise", lambda generators, shape: next(draws))
    noise = silence.clone()
    noise[1] = delta
    ends = sample(
        oracle, noise, solver, interpolant=path, generators=sde_generators(0, range(len(noise))), chunk=len(noise)
    ).x  # fmt: skip
    mean, variance = recursion(solver, path)
    torch.testing.assert_close(ends[0], mean.expand(1, 8, 8), rtol=0, atol=1e-11)
    gains = torch.fft.fft2(ends[1:] - ends[:1], norm="ortho").real[:, 0]
    torch.testing.assert_close(gains.square().sum(dim=0), variance, rtol=1e-10, atol=1e-12)
    assert next(draws, None) is None  # one draw a noisy step, also where D = 0


@every_case
def test_the_recursion_converges_at_order_one_to_the_exact_marginal(path, form):
    errors = []
    for steps in (200, 400, 800):
        solver = EulerMaruyama(steps, form)
        end = at(path, float(solver.times(path)[-2]))  # at 1 itself SBDM on Linear has order 2
        mean, variance = recursion(solver, path, exact=True)
        exact = end.alpha**2 * SPECTRUM + end.sigma**2
        errors.append([float((variance / exact - 1).abs().max()), float((mean - end.alpha * MEAN).abs())])
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse[0] / fine[0]) == pytest.approx(1, abs=0.15)
        assert fine[1] < 1e-12 or math.log2(coarse[1] / fine[1]) == pytest.approx(1, abs=0.15)
    assert errors[-1][0] < 0.03


def test_without_diffusion_it_is_euler():
    oracle = GaussianFlow(torch.ones(1, 8, 8, dtype=torch.float64), SPECTRUM)
    noise = image_noise(0, range(3), (1, 8, 8)).double()
    solver = EulerMaruyama(9, norm=0.0, last_step=None)
    drawn = sample(oracle, noise, solver, generators=sde_generators(0, range(3)))
    assert torch.equal(drawn.x, sample(oracle, noise, Euler(9)).x)
    assert drawn.nfe == 9


def test_singular_sbdm_starts_without_diffusion():
    zero = torch.zeros((), dtype=torch.float64)
    assert float(diffusion("SBDM", Linear(), zero)) == float(diffusion("SBDM", GVP(), zero)) == 0
    assert float(diffusion("SBDM", VP(), zero)) == pytest.approx(10)  # beta_max / 2
    assert float(diffusion("SBDM", Linear(), zero + 0.25, norm=2.0)) == pytest.approx(6)


def test_grids_and_evaluations():
    times = EulerMaruyama(4).times(Linear()).tolist()
    assert times == pytest.approx([0, 0.32, 0.64, 0.96, 1])
    assert EulerMaruyama(4, grid="sit").times(VP()).tolist() == pytest.approx(times)
    assert EulerMaruyama(3, last_step_size=0.1).times(Linear()).tolist() == pytest.approx([0, 0.45, 0.9, 1])
    assert EulerMaruyama(4, last_step=None).times(Linear()).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert EulerMaruyama(3, last_step=None, grid="sit").times(VP()).tolist() == pytest.approx([0, 0.4995, 0.999])
    for solver, nfe in ((EulerMaruyama(4), 4), (EulerMaruyama(4, last_step=None), 4)):
        field = GaussianFlow(torch.zeros(1, 8, 8), SPECTRUM)
        drawn = sample(field, torch.zeros(3, 1, 8, 8), solver, generators=sde_generators(0, range(3)), chunk=2)
        assert (drawn.nfe, drawn.forwards) == (nfe, 2 * nfe)
        assert drawn.x.dtype == torch.float32


def test_mistakes_are_named(refuses):
    field, noise = GaussianFlow(torch.zeros(1, 8, 8), SPECTRUM), torch.zeros(2, 1, 8, 8)
    refuses(lambda: EulerMaruyama(-5), "steps = -5")
    refuses(lambda: EulerMaruyama(1), "steps = 1", "no step")
    refuses(lambda: EulerMaruyama(5, "increasing"), "increasing-decreasing", "'increasing'")
    refuses(lambda: diffusion("sbdm", Linear(), torch.ones(1)), "SBDM", "'sbdm'")
    refuses(lambda: EulerMaruyama(5, last_step="Mean"), "'Mean'")
    refuses(lambda: EulerMaruyama(5, norm=-1.0), "norm", -1.0)
    refuses(lambda: EulerMaruyama(5, last_step_size=1.5), "last_step_size", 1.5)
    refuses(lambda: EulerMaruyama(5, last_step=None, last_step_size=0.1), "last_step_size")
    refuses(lambda: EulerMaruyama(5, grid="cosine"), "'uniform' or 'sit'")
    refuses(lambda: sample(field, noise, EulerMaruyama(5)), "2 generators", "sde_generators", "got none")
    refuses(lambda: sample(field, noise, EulerMaruyama(5), generators=sde_generators(0, [0])), "got 1")
    shared = sde_generators(0, [0]) * 2
    refuses(lambda: sample(field, noise, EulerMaruyama(5), generators=shared), "share a generator")


def test_nan_is_located_with_the_same_noise():
    """The state leaves the finite numbers at one step of one image; the second walk must meet the same noise."""
    seen = []

    def fragile(x, t, labels=None):
        seen.append(x.clone())
        return torch.where((t[:, None, None, None] > 0.5) & (x > 1.5), math.nan, 0 * x)

    noise = image_noise(0, range(3), (1, 8, 8))
    message = r"step \d+ of 10, t = 0\.\d+: the velocity of image \d is not finite"
    with pytest.raises(DefarError, match=message) as error:
        sample(fragile, noise, EulerMaruyama(10, "constant", norm=2.0), generators=sde_generators(0, range(3)), chunk=3)
    assert "\n" not in str(error.value)
    again = len(seen) - 10
    assert again < 10 and all(torch.equal(first, second) for first, second in zip(seen, seen[10:], strict=False))
