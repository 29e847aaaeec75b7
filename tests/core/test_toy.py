"""The toy network takes points of the plane, and the mixture's field is the exact one."""

import math

import pytest
import torch

from defar_analysis.core.interpolants import GVP, Linear
from defar_analysis.core.networks.toy import PlaneMLP
from defar_analysis.core.oracles import GaussianFlow, MixtureFlow
from defar_analysis.core.samplers import Heun, sample
from defar_analysis.core.seeding import generator_for

TIMES = (0.0, 0.2, 0.5, 0.8, 1.0)


def mixture(interpolant=None):
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -2.0]], dtype=torch.float64)[:, None, None]
    return MixtureFlow(means, 0.3, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), interpolant)


def points(count=200, seed=0):
    return 1.5 * torch.randn(count, 1, 1, 2, generator=generator_for(seed), dtype=torch.float64)


def at(t, x):
    return torch.full((len(x),), t, dtype=x.dtype)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("path", [Linear(), GVP()], ids=lambda path: type(path).__name__)
def test_velocity_is_the_one_that_the_score_of_the_density_implies(t, path):
    law, x = mixture(path), points().requires_grad_()
    (score,) = torch.autograd.grad(law.log_density(x, at(t, x)).sum(), x)
    torch.testing.assert_close(law(x, at(t, x)), path.velocity_from_score(score, x, at(t, x)), rtol=1e-9, atol=1e-9)


def test_velocity_is_the_mean_over_the_pairs_that_pass_by():
    """E[x_* - eps | x_t = x] by brute force: true data, each weighed by the density of the noise that it would need."""
    law, x, t = mixture(), points(20), 0.6
    data = law.sample(100_000, generator_for(1)).flatten(1)
    noise = (x.flatten(1)[:, None] - t * data) / (1 - t)
    weight = (-0.5 * noise.square().sum(dim=2)).softmax(dim=1)[..., None]
    brute = (weight * (data - noise)).sum(dim=1)
    torch.testing.assert_close(law(x, at(t, x)).flatten(1), brute, rtol=0.05, atol=0.05)


def test_at_the_ends_the_velocity_knows_only_the_mean_or_only_the_point():
    law, x = mixture(), points()
    mean = (law.weights[:, None] * law.means.flatten(1)).sum(dim=0)
    torch.testing.assert_close(law(x, at(0.0, x)).flatten(1), mean - x.flatten(1))
    torch.testing.assert_close(law(x, at(1.0, x)), x)  # the mean of the noise is 0


def test_one_component_is_the_gaussian_flow():
    means, x = torch.tensor([[[[0.7, -0.4]]]], dtype=torch.float64), points()
    gaussian = GaussianFlow(means[0], torch.full((1, 2), 0.3**2, dtype=torch.float64))
    for t in TIMES:
        torch.testing.assert_close(MixtureFlow(means, 0.3)(x, at(t, x)), gaussian(x, at(t, x)))


def test_density_integrates_to_one_and_samples_follow_it():
    law, side = mixture(), torch.linspace(-6, 6, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side).reshape(-1, 1, 1, 2)
    for t in TIMES:
        mass = law.log_density(grid, at(t, grid)).exp().sum() * (side[1] - side[0]) ** 2
        assert float(mass) == pytest.approx(1, abs=1e-3)
    drawn = law.sample(50_000, generator_for(2))
    nearest = torch.cdist(drawn.flatten(1), law.means.flatten(1)).argmin(dim=1)
    torch.testing.assert_close(nearest.bincount() / 50_000, law.weights, rtol=0, atol=0.01, check_dtype=False)


def test_following_the_exact_field_makes_the_data():
    law = mixture()
    made = sample(
        law, torch.randn(4000, 1, 1, 2, generator=generator_for(3), dtype=torch.float64), Heun(50), chunk=4000
    )
    distances, nearest = torch.cdist(made.x.flatten(1), law.means.flatten(1)).min(dim=1)
    torch.testing.assert_close(nearest.bincount() / 4000, law.weights, rtol=0, atol=0.03, check_dtype=False)
    assert float(distances.square().mean() / 2) == pytest.approx(law.std**2, rel=0.15)


def test_a_mixture_that_is_none_is_refused(refuses):
    means = torch.zeros(2, 1, 1, 2)
    refuses(lambda: MixtureFlow(means, 0.0), "std")
    refuses(lambda: MixtureFlow(means, 1.0, torch.ones(3)), "2 weights")
    refuses(lambda: MixtureFlow(means, 1.0, torch.tensor([1.0, 0.0])), "[1.0, 0.0]")


def test_the_network_is_a_smooth_field_of_points():
    torch.manual_seed(0)
    model = PlaneMLP(width=16, depth=2, frequencies=2).double()
    x, t = points(8), torch.rand(8, dtype=torch.float64)
    assert model(x, t).shape == x.shape
    assert torch.equal(model(x, t, torch.arange(8)), model(x, t))  # labels are ignored
    assert torch.equal(model(x, t)[3:4], model(x[3:4], t[3:4]))
    assert torch.autograd.gradgradcheck(lambda x, t: model(x, t), (x[:2].requires_grad_(), t[:2].requires_grad_()))
    assert len([p for p in model.parameters() if p.ndim == 2]) == 3
    assert not math.isclose(float(model(x, t).detach().square().mean()), 0)
