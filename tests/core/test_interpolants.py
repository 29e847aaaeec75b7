"""Paths: derivatives against autograd, conversions against algebra, and all of it against SiT's recorded numbers."""

import pytest
import torch

from defar_analysis.core.interpolants import GVP, INTERPOLANTS, VP, Linear
from defar_analysis.errors import DefarError

PATHS = [Linear(), GVP(), VP(), VP(beta_min=0.0, beta_max=3.0)]
NAMED = {"linear": Linear(), "gvp": GVP(), "vp": VP()}
inner_times = torch.linspace(0.01, 0.99, 15, dtype=torch.float64)

each_path = pytest.mark.parametrize("path", PATHS, ids=repr)
each_name = pytest.mark.parametrize("name", NAMED)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=tolerance, atol=tolerance)


def pair(count=15, shape=(2, 3, 3)):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(count, *shape, dtype=torch.float64, generator=generator) for _ in range(2)]


@each_path
def test_derivatives_equal_autograd(path):
    for value, derivative in (("alpha", "d_alpha"), ("sigma", "d_sigma")):
        t = inner_times.clone().requires_grad_()
        (slope,) = torch.autograd.grad(getattr(path.coefficients(t), value).sum(), t)
        close(getattr(path.coefficients(inner_times), derivative), slope)


@each_path
def test_wronskian_is_positive_inside_the_interval(path):
    assert (path.coefficients(inner_times).wronskian > 0).all()


@each_path
def test_coefficients_keep_the_shape_of_t(path):
    for shape in [(), (3,), (2, 5)]:
        assert all(f.shape == shape for f in vars(path.coefficients(torch.full(shape, 0.4))).values())


@each_path
def test_the_pairs_velocity_gives_back_noise_data_and_score(path):
    noise, data = pair()
    point = path.at(noise, data, inner_times)
    sigma = path.coefficients(inner_times).sigma[:, None, None, None]
    close(path.noise(point.velocity, point.x, inner_times), noise)
    close(path.endpoint(point.velocity, point.x, inner_times), data)
    close(path.score(point.velocity, point.x, inner_times), -noise / sigma)


@each_path
def test_any_velocity_survives_the_way_over_score_and_over_noise_and_data(path):
    x, velocity = pair()
    score = path.score(velocity, x, inner_times)
    close(path.velocity_from_score(score, x, inner_times), velocity)
    noise, data = path.noise(velocity, x, inner_times), path.endpoint(velocity, x, inner_times)
    point = path.at(noise, data, inner_times)
    close(point.x, x)
    close(point.velocity, velocity)


def test_linear_conversions_are_the_textbook_ones():
    x, v = pair()
    t = inner_times
    column = t[:, None, None, None]
    close(Linear().noise(v, x, t), x - column * v, 1e-14)
    close(Linear().endpoint(v, x, t), x + (1 - column) * v, 1e-14)
    close(Linear().score(v, x, t), (column * v - x) / (1 - column), 1e-12)


@each_name
def test_coefficients_equal_the_recorded_ones(name, recorded):
    numbers = recorded("sit_transport.npz")
    c = NAMED[name].coefficients(torch.from_numpy(numbers["t"]))
    for key in ("alpha", "d_alpha", "sigma", "d_sigma"):
        close(getattr(c, key), numbers[f"{name}.{key}"], 1e-9)


@each_name
def test_states_and_velocities_equal_the_recorded_ones(name, recorded):
    numbers = {key: torch.from_numpy(value) for key, value in recorded("sit_transport.npz").items()}
    path, t = NAMED[name], numbers["t"]
    point = path.at(numbers["noise"], numbers["data"], t)
    x = numbers[f"{name}.x_t"]
    close(point.x, x, 1e-9)
    close(point.velocity, numbers[f"{name}.u_t"], 1e-9)
    close(path.noise(point.velocity, point.x, t), numbers["noise"], 1e-9)
    close(path.score(numbers["velocity"], x, t), numbers[f"{name}.score_from_velocity"], 1e-9)
    close(path.noise(numbers["velocity"], x, t), numbers[f"{name}.noise_from_velocity"], 1e-9)
    close(path.velocity_from_score(numbers["score"], x, t), numbers[f"{name}.velocity_from_score"], 1e-9)


@each_name
def test_intervals_equal_the_recorded_ones(name, recorded):
    """Every recorded row of velocity prediction; rows of the SDE without a last step are another setting."""
    rows = recorded("sit_intervals.npz")
    checked = set()
    for i in range(len(rows["path"])):
        mode = str(rows["mode"][i])
        if rows["path"][i].lower() != name or rows["prediction"][i] != "velocity":
            continue
        if mode == "sde" and rows["last_step_size"][i] == 0:
            continue
        assert NAMED[name].interval(mode) == pytest.approx((rows["t0"][i], rows["t1"][i]), abs=1e-12)
        checked.add(mode)
    assert checked == {"train", "ode", "sde"}


@each_name
def test_end_points_equal_the_recorded_ones(name, recorded):
    numbers = recorded("sit_transport.npz")
    for end in (0.0, 1.0):
        c = NAMED[name].coefficients(torch.tensor(end, dtype=torch.float64))
        ours = torch.stack([c.alpha, c.d_alpha, c.sigma, c.d_sigma])
        close(ours, numbers[f"endpoints.{name}.t{int(end)}"], 1e-9)


@pytest.mark.parametrize("path", [Linear(), GVP()], ids=repr)
def test_a_path_starts_at_the_noise_and_ends_at_the_data(path):
    noise, data = pair(3)
    close(path.at(noise, data, torch.zeros(3, dtype=torch.float64)).x, noise, 1e-15)
    close(path.at(noise, data, torch.ones(3, dtype=torch.float64)).x, data, 1e-15)


def test_vp_is_finite_at_the_last_training_time_in_float32():
    t = torch.tensor([VP().interval("train")[1]])
    c = VP().coefficients(t)
    exact = VP().coefficients(t.double())
    for key, value in vars(c).items():
        torch.testing.assert_close(value.double(), getattr(exact, key), rtol=1e-5, atol=0)


def test_coefficients_follow_the_dtype_of_x():
    noise, data = pair(2)
    assert Linear().at(noise, data, torch.tensor([0.25, 0.5])).x.dtype == torch.float64


def test_named_interpolants_are_the_three_paths():
    assert {"linear": Linear, "gvp": GVP, "vp": VP} == INTERPOLANTS


def test_wrong_shapes_and_options_are_refused(refuses):
    noise, data = pair(3)
    refuses(lambda: Linear().at(noise, data[:2], torch.rand(3)), "(3, 2, 3, 3)", "(2, 2, 3, 3)")
    for t in (torch.tensor(0.5), torch.rand(1), torch.rand(3, 1)):
        for call in (Linear().at, Linear().noise, Linear().endpoint, Linear().score, Linear().velocity_from_score):
            refuses(lambda call=call, t=t: call(noise, data, t), "(3,)", tuple(t.shape))
    with pytest.raises(DefarError, match="beta_min"):
        VP(beta_min=2.0, beta_max=1.0)
    for path in NAMED.values():
        refuses(lambda path=path: path.interval("sample"), "'sample'")
