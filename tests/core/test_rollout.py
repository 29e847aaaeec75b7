"""The simulated step and the bias (Eqs. 6-7), against closed forms."""

import pytest
import torch
from torch import nn

from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.rollout import Draw, exposure_bias, rollout, same_dropout, velocity_at

SHAPE = (5, 2, 3, 3)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def make_draw(rows=2, labels=None, seed=None):
    generator = torch.Generator().manual_seed(11)
    data, noise = (torch.randn(SHAPE, dtype=torch.float64, generator=generator) for _ in range(2))
    times = torch.rand(rows, SHAPE[0], dtype=torch.float64, generator=generator).sort(dim=0).values * 0.9
    return Draw(data, noise, labels, times, seed)


def column(t):
    return t[:, None, None, None]


class Spy:
    """v = x (1 + t), and a list of the calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, labels=None):
        self.calls.append((x, t, labels))
        return x * (1 + column(t))


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
def test_one_euler_step_and_the_bias_on_every_path(path):
    draw, model = make_draw(), Spy()
    r = rollout(model, path, draw)
    start, end = path.at(draw.noise, draw.data, draw.t0), path.at(draw.noise, draw.data, draw.t1)
    v0 = start.x * (1 + column(draw.t0))
    x_hat = start.x + column(draw.t1 - draw.t0) * v0
    close(r.v0, v0)
    close(r.target0, start.velocity)
    close(r.x_hat, x_hat)
    close(r.v_hat, x_hat * (1 + column(draw.t1)))
    close(r.v_ideal, end.x * (1 + column(draw.t1)))
    close(r.bias, (x_hat - end.x) * (1 + column(draw.t1)))


def test_the_pairs_own_velocity_has_no_bias_and_arrives_at_the_ideal_state():
    draw = make_draw()
    ideal = Linear().at(draw.noise, draw.data, draw.t1).x
    ignores_x = rollout(lambda x, t, labels=None: draw.data - draw.noise, Linear(), draw)
    looks_at_x = rollout(lambda x, t, labels=None: (draw.data - x) / (1 - column(t)), Linear(), draw)
    for r in (ignores_x, looks_at_x):
        close(r.v_hat, draw.data - draw.noise)
        close(r.x_hat, ideal)
        close(r.bias, torch.zeros(SHAPE, dtype=torch.float64))


def test_bias_of_a_linear_model_is_its_closed_form():
    """v = a x + b: bias = a (t1 - t0) (v(x_t0) - (data - noise))."""
    draw = make_draw()
    a, b = -1.7, 0.3
    x0 = (1 - column(draw.t0)) * draw.noise + column(draw.t0) * draw.data
    expected = a * column(draw.t1 - draw.t0) * (a * x0 + b - (draw.data - draw.noise))
    close(rollout(lambda x, t, labels=None: a * x + b, Linear(), draw).bias, expected)
    assert expected.abs().min() > 1e-4


def test_several_steps_multiply_their_factors():
    """v = a x: each Euler step of length h multiplies the state by 1 + a h."""
    a, draw = 0.8, make_draw(rows=4)
    r = rollout(lambda x, t, labels=None: a * x, Linear(), draw)
    x0 = Linear().at(draw.noise, draw.data, draw.t0).x
    x_hat = x0 * column((1 + a * draw.times.diff(dim=0)).prod(dim=0))
    close(r.x_hat, x_hat)
    close(r.v0, a * x0)
    close(r.v_hat, a * x_hat)
    close(r.bias, a * (x_hat - Linear().at(draw.noise, draw.data, draw.times[-1]).x))


def test_every_forward_gets_its_own_time_and_the_same_labels():
    labels = torch.arange(SHAPE[0])
    draw, model = make_draw(rows=4, labels=labels), Spy()
    rollout(model, Linear(), draw)
    times = torch.stack([t for _, t, _ in model.calls])
    close(times, draw.times[[0, 1, 2, 3, 3]])
    assert all(seen is labels for _, _, seen in model.calls)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("ideal", [True, False])
@pytest.mark.parametrize("known", [(), ("v0",), ("v_ideal",), ("v0", "v_ideal")])
def test_forwards_are_counted_and_known_velocities_save_them(steps, ideal, known):
    draw = make_draw(rows=steps + 1)
    full = rollout(Spy(), Linear(), draw)
    model = Spy()
    r = rollout(model, Linear(), draw, ideal=ideal, **{name: getattr(full, name) for name in known})
    expected = steps + ("v0" not in known) + (ideal and "v_ideal" not in known)
    assert r.forwards == len(model.calls) == expected
    assert torch.equal(r.v_hat, full.v_hat)
    if ideal or "v_ideal" in known:
        assert torch.equal(r.bias, full.bias)
    else:
        assert r.v_ideal is None and r.bias is None


@pytest.mark.parametrize("grad_ideal", [False, True])
@pytest.mark.parametrize("detach_step", [False, True])
def test_gradients_of_the_bias_stop_where_the_flags_say(grad_ideal, detach_step):
    """v = a x on one step h: v_hat = a x0 (1 + a h), v_ideal = a x1."""
    draw = make_draw()
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    r = rollout(lambda x, t, labels=None: a * x, Linear(), draw, grad_ideal=grad_ideal, detach_step=detach_step)
    assert r.v_ideal.requires_grad == grad_ideal
    assert r.x_hat.requires_grad != detach_step
    (slope,) = torch.autograd.grad(r.bias.sum(), a)
    x0, x1 = (Linear().at(draw.noise, draw.data, t).x for t in draw.times)
    h, value = column(draw.t1 - draw.t0), a.item()
    expected = x0 * (1 + value * h) if detach_step else x0 * (1 + 2 * value * h)
    close(slope, (expected - x1 if grad_ideal else expected).sum())


def test_detach_step_stops_gradients_at_every_state_of_a_walk():
    draw = make_draw(rows=4)
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    r = rollout(lambda x, t, labels=None: a * x, Linear(), draw, detach_step=True)
    (slope,) = torch.autograd.grad(r.v_hat.sum(), a)
    close(slope, r.x_hat.sum())


def test_grad_ideal_does_not_switch_autograd_on_under_no_grad():
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        r = rollout(lambda x, t, labels=None: a * x, Linear(), make_draw(), grad_ideal=True)
    assert not r.v_ideal.requires_grad and not r.bias.requires_grad


class Dropping(nn.Module):
    """Keeps the mask that each forward's dropout used."""

    def __init__(self):
        super().__init__()
        self.dropout, self.masks = nn.Dropout(0.5), []

    def forward(self, x, t, labels=None):
        mask = self.dropout(torch.ones_like(x))
        self.masks.append(mask)
        return x * mask


def masks_of(seed, rows=3):
    model = Dropping().train()
    rollout(model, Linear(), make_draw(rows=rows, seed=seed))
    return model.masks


def test_all_forwards_of_one_draw_drop_the_same_units():
    masks = masks_of(seed=5)
    assert len(masks) == 4 and all(torch.equal(mask, masks[0]) for mask in masks)
    assert set(masks[0].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(masks_of(seed=5)[0], masks[0])
    assert not torch.equal(masks_of(seed=6)[0], masks[0])


def test_without_a_seed_the_forwards_draw_from_the_global_generator():
    torch.manual_seed(0)
    masks = masks_of(seed=None)
    assert not torch.equal(masks[0], masks[1])


def test_a_seeded_draw_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    masks_of(seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError), same_dropout(3, torch.device("cpu")):
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_exposure_bias_is_the_bias_of_a_rollout_without_gradients():
    labels = torch.arange(SHAPE[0])
    draw = make_draw(labels=labels)
    layer = nn.Conv2d(2, 2, 1).double()
    model = Spy()

    def both(x, t, labels):
        return layer(model(x, t, labels))

    for path in (None, Linear(), GVP()):
        bias = exposure_bias(both, draw.noise, draw.data, *draw.times, interpolant=path, labels=labels)
        assert not bias.requires_grad
        assert torch.equal(bias, rollout(both, path or Linear(), draw).bias.detach())
    assert all(seen is labels for _, _, seen in model.calls)
    assert torch.is_grad_enabled()


def test_exposure_bias_refuses_times_that_do_not_increase(refuses):
    draw = make_draw()
    t0, t1 = draw.times
    refuses(lambda: exposure_bias(Spy(), draw.noise, draw.data, t1, t0), "t0 < t1")
    equal_at_one_place = torch.where(torch.arange(len(t1)) == 2, t0, t1)
    refuses(lambda: exposure_bias(Spy(), draw.noise, draw.data, t0, equal_at_one_place), "t0 < t1")


def test_a_rollout_refuses_a_single_time(refuses):
    refuses(lambda: rollout(Spy(), Linear(), make_draw(rows=1)), "at least two times", "(1, 5)")


# --- which forwards carry gradients, and further drift ---


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
def test_the_end_is_the_pairs_own_point_at_the_last_time(path):
    draw = make_draw(rows=3)
    r = rollout(Spy(), path, draw, ideal=False)
    end = path.at(draw.noise, draw.data, draw.times[2])
    assert torch.equal(r.end.x, end.x) and torch.equal(r.end.velocity, end.velocity)


@pytest.mark.parametrize("grad_v0", [True, False])
@pytest.mark.parametrize("grad_hat", [True, False])
def test_gradients_reach_the_velocities_that_the_flags_name(grad_v0, grad_hat):
    """v = a x on one step h: v_hat = a x0 (1 + a h), in which the inner a is that of v0."""
    draw = make_draw()
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    r = rollout(lambda x, t, labels=None: a * x, Linear(), draw, grad_v0=grad_v0, grad_hat=grad_hat)
    full = rollout(lambda x, t, labels=None: a * x, Linear(), draw)
    for name in ("v0", "x_hat", "v_hat", "v_ideal", "bias"):
        assert torch.equal(getattr(r, name), getattr(full, name))
    assert r.v0.requires_grad == grad_v0 and r.v_hat.requires_grad == grad_hat
    assert r.x_hat.requires_grad == (grad_v0 and grad_hat)
    if grad_hat:
        (slope,) = torch.autograd.grad(r.v_hat.sum(), a)
        x0, h = Linear().at(draw.noise, draw.data, draw.t0).x, column(draw.t1 - draw.t0)
        close(slope, (x0 * (1 + (2 if grad_v0 else 1) * a.detach() * h)).sum())


def test_a_walk_without_grad_hat_records_nothing_after_v0():
    draw, recorded = make_draw(rows=4), []

    def model(x, t, labels=None):
        recorded.append(torch.is_grad_enabled())
        return a * x

    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    r = rollout(model, Linear(), draw, grad_hat=False)
    assert recorded == [True, False, False, False, False] and not r.x_hat.requires_grad
    recorded.clear()
    rollout(model, Linear(), draw, detach_step=True, ideal=False)
    assert recorded == [True, False, False, True]  # between, only the state is needed


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_drift_scale_moves_the_last_state_away_from_the_ideal_one(rows, scale):
    draw, plain, scaled = make_draw(rows=rows), Spy(), Spy()
    r = rollout(plain, Linear(), draw)
    far = rollout(scaled, Linear(), draw, drift_scale=scale)
    close(far.x_hat, r.end.x + scale * (r.x_hat - r.end.x))
    for (x, t, _), (y, s, _) in zip(plain.calls[: rows - 1], scaled.calls[: rows - 1], strict=True):
        assert torch.equal(x, y) and torch.equal(t, s)  # the states before are those of the model's own walk
    assert scaled.calls[rows - 1][0] is far.x_hat
    if scale == 0:
        close(far.bias, torch.zeros(SHAPE, dtype=torch.float64))


# --- one forward ---


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (lambda x: (x, None), "tuple"),
        (lambda x: None, "NoneType"),
        (lambda x: x[:, :1], "(5, 1, 3, 3)"),
        (lambda x: x.flatten(1), "(5, 18)"),
        (lambda x: x[0], "(2, 3, 3)"),
    ],
    ids=["tuple", "nothing", "fewer channels", "flat", "one sample"],
)
def test_a_model_that_returns_no_velocity_is_refused(wrong, part, refuses):
    draw = make_draw()
    for call in (
        lambda: velocity_at(lambda x, t, labels: wrong(x), draw.data, draw.t0, draw),
        lambda: rollout(lambda x, t, labels: wrong(x), Linear(), draw),
        lambda: exposure_bias(lambda x, t, labels: wrong(x), draw.noise, draw.data, *draw.times),
    ):
        refuses(call, "the model returned", part, "(5, 2, 3, 3)")


def test_velocity_at_gives_the_draws_labels_and_dropout():
    labels = torch.arange(SHAPE[0])
    draw, model = make_draw(labels=labels, seed=5), Spy()
    velocity_at(model, draw.data, draw.t0, draw)
    assert model.calls[0][2] is labels and model.calls[0][0] is draw.data
    dropping = Dropping().train()
    for _ in range(2):
        velocity_at(dropping, draw.data, draw.t0, draw)
    assert torch.equal(*dropping.masks)


def test_noise_and_data_of_different_shapes_are_refused(refuses):
    draw = make_draw()
    refuses(lambda: exposure_bias(Spy(), draw.noise[:, :1], draw.data, *draw.times), "(5, 1, 3, 3)", "(5, 2, 3, 3)")


# --- a part of a draw ---


def full_draw():
    draw = make_draw(rows=3, labels=torch.arange(5), seed=7)
    return Draw(
        draw.data, draw.noise, draw.labels, draw.times, draw.seed, 2 * draw.noise, subset=torch.tensor([3, 0])
    )  # fmt: skip


def test_split_gives_the_named_samples_in_their_order_and_all_others_in_theirs():
    draw = full_draw()
    for part, indices in zip(draw.split(torch.tensor([3, 0])), ([3, 0], [1, 2, 4]), strict=True):
        for name in ("data", "noise", "labels", "perturbation"):
            assert torch.equal(getattr(part, name), getattr(draw, name)[indices])
        assert torch.equal(part.times, draw.times[:, indices])
        assert part.seed == draw.seed and part.subset is None


def test_split_leaves_what_is_not_there_away():
    part, rest = make_draw().split(torch.tensor([1]))
    assert part.labels is rest.labels is part.perturbation is rest.perturbation is None


def test_split_into_all_and_nothing():
    part, rest = full_draw().split(torch.arange(5))
    assert torch.equal(part.data, full_draw().data)
    assert len(rest.data) == len(rest.noise) == len(rest.labels) == 0 and rest.times.shape == (3, 0)
