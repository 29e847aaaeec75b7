"""Draws of times: order, distribution, interval, and that the generator alone decides."""

from itertools import pairwise

import pytest
import torch

from defar_analysis.core import times
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.times import increasing_times, uniform_times

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
