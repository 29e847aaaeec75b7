"""Slowed times against brute force, linear algebra and the Gaussian's exact flow."""

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.samplers import Euler, Heun, sample
from defar_analysis.measures import slow_flow
from defar_analysis.measures.slow_flow import invert, slowed_time, slowed_times
from defar_analysis.measures.spectral import radial_frequency

SIZE, COUNT = 8, 12
SHAPE = (COUNT, 2, SIZE, SIZE)
TIMES = torch.linspace(0, 1, 6, dtype=torch.float64)
PATHS = [Linear(), GVP(), VP()]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(interpolant=None) -> GaussianFlow:
    fall = 1 / (0.05 + radial_frequency(SIZE, SIZE)) ** 2
    side = torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    mean = torch.stack([side[:, None] * side, side[:, None].square() + 0 * side])
    return GaussianFlow(mean, torch.stack([0.02 * fall, 0.005 * fall]), interpolant)


def exact_states(flow: GaussianFlow, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    start = torch.zeros(len(noise), dtype=torch.float64)
    return torch.stack([flow.flow_map(noise, start, t.expand(len(noise))) for t in times])


def columns(times: torch.Tensor) -> np.ndarray:
    """The same time for every image, (S, COUNT)."""
    return np.repeat(times.numpy()[:, None], COUNT, axis=1)


def distances(x, noise, data, path, grid) -> torch.Tensor:
    """||x - (alpha_m x_* + sigma_m eps)|| for every m of the grid, (N, M), as the definition says it."""
    states = torch.stack([path.at(noise, data, m.expand(len(noise))).x for m in grid], dim=1)
    return (states - x[:, None]).flatten(2).norm(dim=2)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_it_is_the_nearest_time_by_brute_force(path):
    noise, data, other = normal(0), 2 * normal(1) + 0.3, normal(2)
    fine = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for t in (0.0, 0.3, 0.9):
        x = path.at(noise, data, torch.full((COUNT,), t, dtype=torch.float64)).x + 0.7 * other
        nearest = fine[distances(x, noise, data, path, fine).argmin(dim=1)]
        found = slowed_time(x, noise, data, path)
        assert found.dtype == torch.float64 and found.shape == (COUNT,)
        spacing = 1.26e-4 if path == Linear() else 1e-3  # half the brute force's, or half of both grids'
        assert float((found - nearest).abs().max()) <= spacing
    assert float(nearest.std()) > 0.01  # pairs differ


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_state_of_its_own_pair_reads_t(path):
    noise, data = normal(0), normal(1) + 0.5
    grid = torch.linspace(0, 1, 11, dtype=torch.float64)
    states = torch.stack([path.at(noise, data, t.expand(COUNT)).x for t in grid])
    found = slowed_times(states, noise, data, path)
    assert found.shape == (11, COUNT)
    np.testing.assert_allclose(found, columns(grid), atol=1e-12)  # on the grid, so exact
    between = torch.full((COUNT,), 0.51234567, dtype=torch.float64)
    gap = slowed_time(path.at(noise, data, between).x, noise, data, path) - between
    assert float(gap.abs().max()) <= (1e-12 if path == Linear() else 0.5e-3)
    if path == Linear():
        single = slowed_time(path.at(noise, data, between).x.float(), noise.float(), data.float())
        torch.testing.assert_close(single, between, atol=1e-6, rtol=0)  # all that float32 states lose is their own


def test_the_grid_agrees_with_the_closed_form_to_half_its_spacing():
    class Straight(Linear):  # the same path, of which slowed_time may not know it: then it takes the grid
        pass

    class Unknown(type(GVP())):
        coefficients = Straight.coefficients

    noise, data = normal(0), normal(1)
    x = 0.4 * data + 0.6 * noise + 0.5 * normal(2)
    for points in (101, 1001):
        found = slowed_time(x, noise, data, Unknown(), points=points)
        assert float((found - slowed_time(x, noise, data)).abs().max()) <= 0.5 / (points - 1) + 1e-12


def test_it_stays_between_0_and_1():
    noise, data = normal(0), normal(1)
    way = data - noise
    assert (slowed_time(noise - way, noise, data) == 0).all() and (slowed_time(data + way, noise, data) == 1).all()
    past = slowed_time(
        torch.cat([noise - way, data + way]), noise.repeat(2, 1, 1, 1), data.repeat(2, 1, 1, 1), beyond=True
    )
    torch.testing.assert_close(past, torch.tensor([-1.0, 2.0]).double().repeat_interleave(COUNT))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_rotations_and_scales_of_the_space_change_nothing(path):
    flat = [normal(seed, COUNT, 20) for seed in (0, 1, 2)]
    rotation = torch.linalg.qr(normal(3, 20, 20)).Q
    x = 0.3 * flat[2] + 0.7 * flat[0]
    before = slowed_time(x, flat[0], flat[1], path)
    turned = [3.5 * part @ rotation for part in (x, flat[0], flat[1])]
    torch.testing.assert_close(slowed_time(*turned, path), before, atol=1e-12, rtol=0)
    if path == Linear():  # the straight line moves with its ends; a curved path does not
        moved = [part + normal(4, 1, 20) for part in (x, flat[0], flat[1])]
        torch.testing.assert_close(slowed_time(*moved), before, atol=1e-12, rtol=0)


def test_the_class_pairing_of_an_exact_flow_is_linear_algebra():
    """x_t = t mu + A_t eps with a dense A_t, built from the circulant covariance without any Fourier transform of x."""
    flow, noise = gaussian(), normal(0)
    data = flow.sample(COUNT, torch.Generator().manual_seed(1), torch.float64)
    eye = torch.eye(SIZE * SIZE, dtype=torch.float64)
    found = slowed_times(exact_states(flow, noise, TIMES), noise, data)
    spread = [torch.fft.fft2(eye.reshape(-1, SIZE, SIZE), norm="ortho") * s.sqrt() for s in flow.variance]
    roots = [torch.fft.ifft2(f, norm="ortho").real.reshape(SIZE**2, SIZE**2) for f in spread]  # covariance^(1/2)
    mean = flow.mean.flatten()
    for t, row in zip(TIMES, found, strict=True):
        blocks = []
        for root in roots:
            values, vectors = torch.linalg.eigh(t**2 * root @ root + (1 - t) ** 2 * eye)
            blocks.append(vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T)
        x = t * mean + noise.flatten(1) @ torch.block_diag(*blocks)
        way = (data - noise).flatten(1)
        expected = torch.einsum("nd,nd->n", x - noise.flatten(1), way) / torch.einsum("nd,nd->n", way, way)
        np.testing.assert_allclose(row, expected.clamp(0, 1), atol=1e-9)


def test_the_class_pairing_of_an_exact_flow_reads_less_than_t():
    """E<x_t - eps, x_* - eps> / E||x_* - eps||^2 = (t |mu|^2 + sum(1 - g_t)) / (|mu|^2 + sum(1 + S)), g_1 = sqrt(S)."""
    flow, count = gaussian(), 4000
    noise = normal(0, count, *SHAPE[1:])
    data = flow.sample(count, torch.Generator().manual_seed(1), torch.float64)
    found = slowed_times(exact_states(flow, noise, TIMES), noise, data)
    power = flow.mean.square().sum()
    gains = (TIMES[:, None, None, None] ** 2 * flow.variance + (1 - TIMES[:, None, None, None]) ** 2).sqrt()
    expected = (TIMES * power + (1 - gains).sum((1, 2, 3))) / (power + (1 + flow.variance).sum())
    np.testing.assert_allclose(found.mean(axis=1), expected, atol=0.02)
    assert (found.mean(axis=1)[1:] < TIMES.numpy()[1:] - 0.02).all()  # of a field without any defect


@pytest.mark.parametrize("spread", [0.25, 1.75])
def test_the_inversion_of_an_exact_flow_comes_back_to_its_image(spread):
    """At t = 1 exactly 1. Before, white data of this spread and no mean have m_t = (g_t - 1) / (spread - 1), each."""
    flow = GaussianFlow(torch.zeros(2, SIZE, SIZE, dtype=torch.float64), torch.full((SIZE, SIZE), spread**2).double())
    data = flow.sample(COUNT, torch.Generator().manual_seed(1), torch.float64)
    ones = torch.ones(COUNT, dtype=torch.float64)
    noise = flow.flow_map(data, ones, 0 * ones)
    found = slowed_times(exact_states(flow, noise, TIMES), noise, data)
    bend = ((TIMES**2 * spread**2 + (1 - TIMES) ** 2).sqrt() - 1) / (spread - 1)
    np.testing.assert_allclose(found, columns(bend.clamp(0, 1)), atol=1e-12)
    np.testing.assert_allclose(found[-1], 1, atol=1e-12)


def test_where_the_exact_paths_are_straight_the_inversion_reads_t():
    """All data one image: every path is the line from its noise to it."""
    image = normal(5, *SHAPE[1:])
    flow, noise = GaussianFlow(image, torch.zeros(SIZE, SIZE, dtype=torch.float64)), normal(0)
    data = flow.flow_map(noise, torch.zeros(COUNT).double(), torch.ones(COUNT).double())
    found = slowed_times(exact_states(flow, noise, TIMES), noise, data)
    np.testing.assert_allclose(found, columns(TIMES), atol=1e-12)
    stepped = sample(flow, noise, Euler(5), save="all").states  # straight, so Euler makes no error either
    np.testing.assert_allclose(slowed_times(stepped, noise, data), found, atol=1e-12)


def test_inverting_is_of_second_order_and_a_round_trip_of_first():
    flow = gaussian()
    data = flow.sample(COUNT, torch.Generator().manual_seed(1), torch.float64)
    ones = torch.ones(COUNT, dtype=torch.float64)
    exact = flow.flow_map(data, ones, 0 * ones)
    missed, left = [], []
    for steps in (80, 160):
        noise = invert(flow, data, Heun(steps), chunk=COUNT).x
        missed.append(float((noise - exact).norm()))
        back = sample(flow, noise, Euler(steps), chunk=COUNT).x
        left.append(float((slowed_time(back, noise, data, beyond=True) - 1).mean()))
    assert missed[0] / missed[1] == pytest.approx(4, rel=0.15) and missed[1] < 0.02 * float(exact.norm())
    assert left[0] / left[1] == pytest.approx(2, rel=0.15) and 0 < left[1] < 0.02


@pytest.mark.parametrize("path", [GVP(), VP()], ids=repr)
def test_other_paths_are_walked_back_over_their_own_interval(path):
    flow, noise = gaussian(path), normal(0)
    solver = Heun(300)
    there = sample(flow, noise, solver, interpolant=path, chunk=COUNT).x
    again = invert(flow, there, solver, interpolant=path, chunk=COUNT).x
    assert float((again - noise).norm() / noise.norm()) < 0.01


def test_labels_reach_the_model_on_the_way_back():
    seen = []

    def model(x, t, labels):
        seen.append((float(t[0]), labels.tolist()))
        return torch.zeros_like(x)

    invert(model, normal(0), Euler(4), labels=torch.arange(COUNT), chunk=COUNT)
    assert [t for t, _ in seen] == [1.0, 0.75, 0.5, 0.25] and all(y == list(range(COUNT)) for _, y in seen)


@pytest.fixture
def slowed():
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 6)
    plain = grid[:, None] * rng.uniform(0.3, 0.7, 40)
    return {
        ("SiT", "class"): plain, ("DEFAR", "class"): plain - 0.01 * grid[:, None], ("exact", "class"): 0.9 * plain,
        ("SiT", "inversion"): 0.97 * grid[:, None] + 0 * plain,
    }, grid  # fmt: skip


def test_bands_are_those_of_the_images(slowed):
    own, grid = slowed
    table = slow_flow.bands(own, grid)
    assert list(table.columns) == slow_flow.COLUMNS and len(table) == 4 * 6 and (table["n"] == 40).all()
    last = table.iloc[5]
    values = own["SiT", "class"][-1]
    assert (last["model"], last["pairing"], last["t"]) == ("SiT", "class", 1)
    wanted = [values.mean(), np.median(values), *np.percentile(values, [5, 95]), values.min(), values.max()]
    np.testing.assert_allclose(last[["value", "median", "p5", "p95", "minimum", "maximum"]].astype(float), wanted)
    error = values.std() / np.sqrt(40)
    np.testing.assert_allclose([last["value"] - last["low"], last["high"] - last["value"]], 1.96 * error, rtol=0.2)


def test_changes_are_paired_by_image(slowed):
    own, grid = slowed
    table = slow_flow.changes(own, grid, "SiT")
    assert list(table.columns) == slow_flow.CHANGES and set(table["model"]) == {"DEFAR", "exact"}
    defar = table[table["model"] == "DEFAR"]
    np.testing.assert_allclose(defar["t"], slow_flow.MARKS)
    for column in ("value", "low", "high"):  # the same for every image, so no interval
        np.testing.assert_allclose(defar[column], -0.01 * defar["t"], atol=1e-12)
    exact = table[table["model"] == "exact"]
    assert (exact["low"] < exact["value"]).all() and (exact["value"] < exact["high"]).all()
    three = slow_flow.changes({key: part[::5] for key, part in own.items()}, grid[::5], "SiT")
    assert sorted(set(three["t"])) == [0, 1]  # each time of a coarse grid once


def test_sentences_say_the_tables_numbers(slowed):
    own, grid = slowed
    table, changes = slow_flow.bands(own, grid), slow_flow.changes(own, grid, "SiT")
    said = slow_flow.sentences(table, changes, "SiT", "exact")
    end = table[(table["model"] == "SiT") & (table["t"] == 1)].iloc[0]
    assert f"{end['value']:.3f} [{end['low']:.3f}, {end['high']:.3f}]" in said
    assert "below t at 5 of 5 times" in said and "holds for a perfect model in this pairing too" in said
    assert "DEFAR is behind SiT (-0.0100 [-0.0100, -0.0100])" in said and "exact is" not in said
    assert "SiT 0.970 [0.970, 0.970]" in said and "no quality metric is measured" in said and "over 40 images" in said
    undecided = changes.assign(low=-1.0, high=1.0)
    assert "DEFAR cannot be told from SiT" in slow_flow.sentences(table, undecided, "SiT", "exact")
    fast = table.assign(low=table["t"] + 0.1, high=table["t"] + 0.2)
    assert "below t at 0 of 5 times" in slow_flow.sentences(fast, changes, "SiT")


def test_what_does_not_fit_together_is_one_line(slowed, refuses):
    own, grid = slowed
    noise, data = normal(0), normal(1)
    refuses(lambda: slowed_time(noise[:3], noise, data), "one shape", "(3, 2, 8, 8)")
    refuses(lambda: slowed_time(noise[:, 0, 0, 0], noise[:, 0, 0, 0], data[:, 0, 0, 0]), "one shape")
    refuses(lambda: slowed_times(noise[None, :, :1], noise, data), "one shape")
    same = data.clone()
    same[7] = noise[7]
    refuses(lambda: slowed_time(noise, noise, same), "pair 7", "other data")
    refuses(lambda: slowed_time(noise, noise, data, GVP(), beyond=True), "GVP()", "leave out beyond")
    refuses(lambda: slowed_time(noise, noise, data, GVP(), points=1), "grid of 1", "at least 2")
    refuses(lambda: slow_flow.bands({}, grid), "no slowed times")
    refuses(lambda: slow_flow.bands(own, grid[:-1]), "SiT, class", "(6, 40)", "(5, 40)")
    refuses(lambda: slow_flow.bands({**own, ("DEFAR", "class"): own["SiT", "class"][:, :-1]}, grid), "DEFAR", "(6, 39)")
    refuses(lambda: slow_flow.changes(own, grid, "IP"), "'IP'", "'class'")
    refuses(lambda: slow_flow.changes({("SiT", "class"): own["SiT", "class"]}, grid, "SiT"), "only model")
    table = slow_flow.bands(own, grid)
    refuses(lambda: slow_flow.sentences(table, pd.DataFrame(), "IP"), "'IP'")
