"""Draws of times: order, distribution, interval, and that the generator alone decides."""

from itertools import pairwise

import pytest
import torch
from scipy import stats

from defar_analysis.core import times
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.times import increasing_times, slowed_times, uniform_times

COUNT = 40_000
each_spacing = pytest.mark.parametrize("spacing", ["random", "equal"])
each_steps = pytest.mark.parametrize("steps", [1, 2, 4])
each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_uniform(u):
    """Mean, variance and deciles of U(0, 1), each within five standard errors."""
    u = u.double()
    count = u.numel()
    assert abs(u.mean() - 1 / 2) < 5 * (1 / 12 / count) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / count) ** 0.5
    for share in torch.linspace(0.1, 0.9, 9, dtype=torch.float64):
        assert abs((u < share).double().mean() - share) < 5 * (share * (1 - share) / count) ** 0.5


@each_path
def test_a_single_time_is_uniform_over_the_training_interval(path):
    drawn = uniform_times(COUNT, path, generator())
    assert drawn.shape == (1, COUNT)
    assert_uniform(drawn / path.interval("train")[1])


@each_spacing
@each_steps
@each_path
def test_times_increase_inside_the_training_interval(path, steps, spacing):
    drawn = increasing_times(COUNT, path, generator(), steps, spacing)
    start, end = path.interval("train")
    assert drawn.shape == (steps + 1, COUNT)
    assert (drawn[1:] >= drawn[:-1]).all()
    assert (drawn[1:] > drawn[:-1]).double().mean() > 0.99  # ties: float32 next to 1
    assert drawn.min() >= start and drawn.double().max() <= end + 1e-7


@each_spacing
@each_path
def test_times_never_fall_even_at_the_extreme_draws(path, spacing, monkeypatch):
    """Every combination of the largest and the smallest numbers that torch.rand gives in float32."""
    extremes = [0.0, 2**-24, 0.5, 1 - 2**-24]
    rows = torch.cartesian_prod(*[torch.tensor(extremes)] * 3).T.contiguous()
    monkeypatch.setattr(times.torch, "rand", lambda *shape, dtype=None, **_: rows.to(dtype or torch.float32))
    drawn = increasing_times(rows.shape[1], path, generator(), 2, spacing)
    assert (drawn[1:] >= drawn[:-1]).all()


def test_t1_is_uniform_between_t0_and_the_end_whatever_t0_is():
    t0, t1 = increasing_times(COUNT, Linear(), generator()).double()
    assert_uniform(t0)
    share = (t1 - t0) / (1 - t0)
    for low in (0.0, 0.25, 0.5, 0.75):
        assert_uniform(share[(t0 >= low) & (t0 < low + 0.25)])


def test_random_steps_draw_each_time_between_the_one_before_and_the_end():
    drawn = increasing_times(COUNT, Linear(), generator(), 3, "random").double()
    for now, then in pairwise(drawn):
        early = now < 0.9  # later ones lose digits of float32
        assert_uniform(((then - now) / (1 - now))[early])


def test_equal_spacing_draws_one_time_in_each_equal_part_of_the_rest():
    steps = 4
    drawn = increasing_times(COUNT, Linear(), generator(), steps, "equal").double()
    t0 = drawn[0]
    early = t0 < 0.9
    for i, t in enumerate(drawn[1:]):
        place = (t - t0) / (1 - t0) * steps - i
        assert (place[early] > -1e-4).all() and (place[early] < 1 + 1e-4).all()
        assert_uniform(place[early])


def test_vp_rescales_the_draws_of_the_linear_path():
    end = VP().interval("train")[1]
    for path in (uniform_times, increasing_times):
        torch.testing.assert_close(path(100, VP(), generator()), end * path(100, Linear(), generator()))


@each_spacing
def test_the_generator_alone_decides(spacing):
    torch.manual_seed(1)
    first = increasing_times(50, Linear(), generator(3), 2, spacing)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, increasing_times(50, Linear(), generator(3), 2, spacing))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, increasing_times(50, Linear(), generator(4), 2, spacing))


def test_bad_options_are_refused(refuses):
    refuses(lambda: increasing_times(2, Linear(), generator(), steps=0), "steps", "0")
    refuses(lambda: increasing_times(2, Linear(), generator(), spacing="even"), "'even'", "random", "equal")


# --- MixFlow's two times ---

each_gamma = pytest.mark.parametrize("gamma", [0.4, 0.8, 1.0])


def assert_follows(sample, law):
    """Kolmogorov-Smirnov against a distribution function; the seeds are fixed, so this is no lottery."""
    assert stats.kstest(sample.double().numpy(), law).pvalue > 1e-3


def uniform(low, high):
    return stats.uniform(low, high - low).cdf


@each_path
@each_gamma
def test_a_slowed_time_is_never_after_its_nominal_time(path, gamma):
    m, t = slowed_times(COUNT, path, generator(), gamma)
    assert (m <= t).all() and (m < t).double().mean() > 0.99
    assert m.min() >= path.interval("train")[0] and t.double().max() <= path.interval("train")[1] + 1e-7


@pytest.mark.parametrize("seed", range(3))
def test_the_nominal_time_is_beta_2_1(seed):
    t = slowed_times(COUNT, Linear(), generator(seed), 0.8)[1]
    assert_follows(t, lambda t: t**2)
    assert stats.kstest(t.double().numpy(), "uniform").pvalue < 1e-9


@each_gamma
@pytest.mark.parametrize("law", ["beta", "uniform"])
def test_a_slowed_time_is_a_uniform_share_of_its_nominal_time_whatever_that_is(gamma, law):
    m, t = slowed_times(COUNT, Linear(), generator(1), gamma, nominal_law=law)
    share = (m / t)[t > 1e-3]
    assert share.min() >= 1 - gamma - 1e-4  # float32 next to t = 0
    assert_follows(share, uniform(1 - gamma, 1))
    for low in (0.0, 0.25, 0.5, 0.75):
        assert_follows((m / t)[(t >= low + 1e-3) & (t < low + 0.25)], uniform(1 - gamma, 1))


def test_at_gamma_one_the_two_times_fill_their_triangle_evenly():
    m, t = slowed_times(COUNT, Linear(), generator(2), 1.0)
    for low in (0.1, 0.5, 0.9):  # m given t
        near = (t > low) & (t < low + 0.02)
        assert_follows(m[near] / t[near], uniform(0, 1))
        near = (m > low) & (m < low + 0.02)  # t given m
        assert_follows((t[near] - m[near]) / (1 - m[near]), uniform(0, 1))
    cells = torch.stack([(m * 10).long(), (t * 10).long()]).T.unique(dim=0, return_counts=True)
    whole = {tuple(cell): count for cell, count in zip(cells[0].tolist(), cells[1].tolist(), strict=True)}
    inside = [whole[i, j] for i in range(10) for j in range(i + 1, 10)]
    assert stats.chisquare(inside).pvalue > 1e-3


def test_the_ablations_laws():
    m, t = slowed_times(COUNT, Linear(), generator(3), 0.8, nominal_law="uniform")
    assert_follows(t, "uniform")
    for nominal_law, before in (("beta", 1 / 3), ("uniform", 1 / 2)):  # P(m > t)
        m, t = slowed_times(COUNT, Linear(), generator(3), 0.8, nominal_law, "anywhere")
        assert_follows(m, "uniform")
        for low in (0.25, 0.5, 0.75):
            assert_follows(m[(t >= low) & (t < low + 0.25)], "uniform")
        assert abs((m > t).double().mean() - before) < 5 * (before * (1 - before) / COUNT) ** 0.5
        assert torch.equal(m, slowed_times(COUNT, Linear(), generator(3), 0.1, nominal_law, "anywhere")[0])


@each_path
def test_without_slowing_the_two_times_are_equal(path):
    m, t = slowed_times(COUNT, path, generator(), 0.0)
    assert torch.equal(m, t)


def test_slowed_times_stay_in_the_vp_paths_interval():
    end = VP().interval("train")[1]
    for law in ("below", "anywhere"):
        vp, linear = (slowed_times(1000, path, generator(), 0.8, slowed_law=law) for path in (VP(), Linear()))
        torch.testing.assert_close(vp, end * linear)


def test_slowed_times_never_rise_above_the_nominal_at_the_extreme_draws(monkeypatch):
    extremes = torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24])
    rows = torch.cartesian_prod(extremes, extremes).T.contiguous()
    monkeypatch.setattr(times.torch, "rand", lambda *shape, dtype=None, **_: rows.to(dtype or torch.float32))
    for path in (Linear(), VP()):
        for gamma in (0.0, 0.8, 1.0):
            m, t = slowed_times(rows.shape[1], path, generator(), gamma)
            assert (m <= t).all() and m.min() >= 0 and m.isfinite().all()


def test_the_generator_alone_decides_slowed_times():
    torch.manual_seed(1)
    first = slowed_times(50, Linear(), generator(3), 0.8)
    before = torch.get_rng_state()
    assert torch.equal(first, slowed_times(50, Linear(), generator(3), 0.8))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, slowed_times(50, Linear(), generator(4), 0.8))
