"""Losses against closed forms and hand-written computations; where gradients stop; that randomness is drawn once."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.networks import SiT
from defar_analysis.core.objectives import Defar, FlowMatching, compensation_weight
from defar_analysis.core.objectives.defar import anti_drift_loss, compensated_loss
from defar_analysis.core.rollout import Draw, rollout

NORMS, MAPS, GRADS = ["l2", "l1", "max", "mean"], ["pixel", "element", "signed"], ["none", "v_hat", "both"]
SHAPE = (6, 2, 4, 4)
FLOAT32 = 2e-6  # objectives reduce in float32

each_norm = pytest.mark.parametrize("norm", NORMS)
each_map = pytest.mark.parametrize("map", MAPS)
each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_draw(rows=2, seed=0):
    times = torch.rand(rows, SHAPE[0], dtype=torch.float64, generator=generator(seed)).sort(dim=0).values * 0.9
    return Draw(normal(*SHAPE, seed=1), normal(*SHAPE, seed=2), None, times, None)


def column(t):
    return t[:, None, None, None]


class Tiny(nn.Module):
    """v(x, t) = tanh(mix(x)) (1 + t): not linear in x, float64, four weights; odd in x."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.tensor([[0.9, -0.4], [0.3, 0.7]], dtype=torch.float64))

    def forward(self, x, t, labels=None):
        return torch.einsum("oc,bchw->bohw", self.mix, x).tanh() * (1 + column(t))


class Spy:
    """v = x, and the labels of every call."""

    def __init__(self):
        self.labels = []

    def __call__(self, x, t, labels=None):
        self.labels.append(labels)
        return x


# --- flow matching, and what is drawn ---


@each_path
def test_flow_matching_loss_is_the_mean_squared_error_to_the_pairs_velocity(path):
    draw = make_draw(rows=1)
    point = path.at(draw.noise, draw.data, draw.t0)
    loss = FlowMatching(interpolant=path)(lambda x, t, labels: 0.3 * x + column(t), draw)
    expected = (0.3 * point.x + column(draw.t0) - point.velocity).square().mean()
    close(loss.total, expected, FLOAT32)
    close(loss.terms["fm"], expected, FLOAT32)
    assert loss.forwards == 1 and list(loss.terms) == ["fm"] and not loss.terms["fm"].requires_grad


def test_flow_matching_of_the_pairs_own_velocity_is_zero():
    draw = make_draw(rows=1)
    assert FlowMatching()(lambda x, t, labels: draw.data - draw.noise, draw).total == 0


@pytest.mark.parametrize("objective", [FlowMatching, Defar])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_label_dropout_replaces_its_share_of_the_labels_by_the_null_label(objective, share):
    count = 20_000
    batch = Batch(torch.zeros(count, 1, 1, 1), torch.arange(count) % 10)
    labels = objective(label_dropout=share, null_label=10).draw(batch, generator()).labels
    dropped = labels == 10
    assert abs(dropped.double().mean() - share) <= 5 * (share * (1 - share) / count) ** 0.5
    assert torch.equal(labels[~dropped], batch.labels[~dropped])
    assert labels.dtype == torch.long


def test_dropped_labels_are_the_same_in_every_forward_of_a_step():
    batch = Batch(torch.zeros(64, 1, 2, 2), torch.arange(64) % 4)
    objective = Defar(label_dropout=0.5, null_label=4, steps=3)
    draw, spy = objective.draw(batch, generator()), Spy()
    objective(spy, draw)
    assert len(spy.labels) == 5
    assert all(torch.equal(labels, draw.labels) for labels in spy.labels)
    assert 0 < (draw.labels == 4).sum() < 64


def test_a_batch_without_labels_stays_without():
    draw = Defar(label_dropout=0.5, null_label=4).draw(Batch(torch.zeros(3, 1, 2, 2)), generator())
    assert draw.labels is None


@pytest.mark.parametrize("objective", [FlowMatching(label_dropout=0.3, null_label=4), Defar(steps=2)])
def test_a_draw_is_a_function_of_the_generators_state_alone(objective):
    batch = Batch(torch.zeros(*SHAPE), torch.arange(6) % 4)
    torch.manual_seed(1)
    first = objective.draw(batch, generator(5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = objective.draw(Batch(torch.ones(*SHAPE), batch.labels), generator(5))
    assert torch.equal(before, torch.get_rng_state())
    other = objective.draw(batch, generator(6))
    for name in ("noise", "labels", "times"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert first.seed == again.seed != other.seed
    assert not torch.equal(first.noise, other.noise) and not torch.equal(first.times, other.times)


def test_two_draws_from_one_generator_differ():
    batch, source = Batch(torch.zeros(*SHAPE)), generator()
    assert not torch.equal(Defar().draw(batch, source).noise, Defar().draw(batch, source).noise)


def test_a_draw_has_the_shapes_that_the_objective_needs():
    batch = Batch(torch.zeros(*SHAPE, dtype=torch.float64))
    assert FlowMatching().draw(batch, generator()).times.shape == (1, 6)
    draw = Defar(steps=3).draw(batch, generator())
    assert draw.times.shape == (4, 6) and draw.noise.shape == SHAPE and draw.noise.dtype == torch.float64
    assert draw.data is batch.data


# --- anti-drift rectification ---


def test_anti_drift_loss_is_twice_one_minus_the_cosine():
    v, target = normal(*SHAPE, seed=3), normal(*SHAPE, seed=4)
    cosine = torch.cosine_similarity(v.flatten(1), target.flatten(1), dim=1)
    close(anti_drift_loss(v, target), 2 * (1 - cosine), 1e-9)
    close(anti_drift_loss(v, 7 * v), torch.zeros(6), 1e-9)
    close(anti_drift_loss(v, -0.1 * v), torch.full((6,), 4.0), 1e-9)


def test_the_way_home_is_parallel_to_the_velocity_where_the_step_was_ideal():
    draw = make_draw()
    r = rollout(lambda x, t, labels: (draw.data - x) / (1 - column(t)), Linear(), draw)
    home = draw.data - r.x_hat
    close(home, column(1 - draw.t1) * r.target0)
    close(anti_drift_loss(r.target0, home), torch.zeros(6), 1e-9)
    loss = Defar()(lambda x, t, labels: (draw.data - x) / (1 - column(t)), draw)
    assert loss.total < 1e-10


@each_path
def test_adr_compares_the_velocity_at_the_drifted_state_with_the_way_home(path):
    draw, model = make_draw(), Tiny()
    start = path.at(draw.noise, draw.data, draw.t0).x
    x_hat = start + column(draw.t1 - draw.t0) * model(start, draw.t0)
    v_hat = model(x_hat, draw.t1)
    cosine = torch.cosine_similarity(v_hat.flatten(1), (draw.data - x_hat).flatten(1), dim=1)
    close(Defar(interpolant=path)(model, draw).terms["adr"], (2 * (1 - cosine)).mean(), FLOAT32)


# --- frequency compensation ---


@each_norm
@each_map
def test_no_bias_means_weight_one(norm, map):
    assert torch.equal(compensation_weight(torch.zeros(SHAPE), 3.0, norm, map), torch.ones(6, *weight_shape(map)))


def weight_shape(map):
    return (1, 4, 4) if map == "pixel" else SHAPE[1:]


@each_norm
@each_map
def test_the_weight_is_one_plus_alpha_times_the_normalized_map(norm, map):
    bias = normal(*SHAPE)
    m = {"pixel": bias.square().sum(1, keepdim=True).sqrt(), "element": bias.abs(), "signed": bias}[map]
    flat = m.flatten(1).abs()
    size = {"l2": flat.square().sum(1).sqrt(), "l1": flat.sum(1), "max": flat.max(1).values, "mean": flat.mean(1)}[norm]
    close(compensation_weight(bias, 0.7, norm, map), 1 + 0.7 * m / column(size), 1e-5)


@each_norm
@pytest.mark.parametrize("map", ["pixel", "element"])
def test_weights_from_magnitudes_are_at_least_one(norm, map):
    weight = compensation_weight(normal(*SHAPE), 1.0, norm, map)
    assert weight.min() >= 1 and weight.max() > 1.01


@each_norm
@each_map
def test_the_weight_does_not_depend_on_the_size_of_the_bias(norm, map):
    """From a norm of 0.1 on; also where the bias sits in one entry, or is the same everywhere."""
    spike = torch.zeros(1, *SHAPE[1:], dtype=torch.float64)
    spike[0, 0, 1, 2] = 1
    for bias in (normal(*SHAPE), spike, torch.ones_like(spike)):
        bias = 0.1 * bias / column(torch.linalg.vector_norm(bias, dim=(1, 2, 3)))
        weight = compensation_weight(bias, 1.0, norm, map)
        for factor in (3, 1000):
            other = compensation_weight(factor * bias, 1.0, norm, map)
            torch.testing.assert_close(other, weight, rtol=1e-5, atol=1e-5)


@each_norm
@each_map
def test_a_signed_weight_turns_with_the_bias_and_a_magnitude_does_not(norm, map):
    bias = normal(*SHAPE)
    weight, turned = (compensation_weight(b, 1.0, norm, map) for b in (bias, -bias))
    close(turned, 2 - weight if map == "signed" else weight)


@each_norm
@each_map
def test_inside_the_square_alpha_acts_like_two_alpha_outside_to_first_order(norm, map):
    error, alpha = normal(*SHAPE, seed=8), 0.01
    w, twice = (compensation_weight(normal(*SHAPE), a, norm, map) for a in (alpha, 2 * alpha))
    inside, outside = compensated_loss(error, w), compensated_loss(error, twice, inside_square=False)
    close(inside - outside, (w - 1).square() * error.square())  # the second order is all that is left
    close(inside, (w * error) ** 2)
    close(outside, twice * error**2)


@pytest.mark.parametrize("inside_square", [True, False])
@each_norm
@each_map
def test_fc_is_the_weighted_error_at_t0(norm, map, inside_square):
    draw, model = make_draw(), Tiny()
    r = rollout(model, Linear(), draw)
    w = compensation_weight(r.bias, 0.5, norm, map)
    e = r.v0 - r.target0
    expected = ((w * e).square() if inside_square else w * e.square()).mean()
    loss = Defar(alpha=0.5, bias_norm=norm, bias_map=map, inside_square=inside_square)(model, draw)
    close(loss.terms["fc"], expected.detach(), FLOAT32)
    close(loss.terms["fm"], e.square().mean().detach(), FLOAT32)
    assert abs(loss.terms["fc"] / loss.terms["fm"] - 1) > 1e-5


# --- the whole ---


def test_total_and_forwards_of_the_three_forms():
    draw, model = make_draw(), Tiny()
    both = Defar(beta1=3.0, beta2=0.25)(model, draw)
    close(both.total, 3 * both.terms["adr"] + 0.25 * both.terms["fc"], FLOAT32)
    no_fc = Defar(beta1=3.0, beta2=0.25, fc=False)(model, draw)
    close(no_fc.total, no_fc.terms["fm"] + 3 * no_fc.terms["adr"], FLOAT32)
    no_adr = Defar(beta1=3.0, beta2=0.25, adr=False)(model, draw)
    close(no_adr.total, 0.25 * no_adr.terms["fc"], FLOAT32)
    assert (both.forwards, no_fc.forwards, no_adr.forwards) == (3, 2, 3)
    assert {*both.terms} == {"fm", "adr", "fc"} and {*no_fc.terms} == {"fm", "adr"} and {*no_adr.terms} == {"fm", "fc"}
    assert not any(term.requires_grad for term in both.terms.values())
    for name in no_fc.terms:
        assert torch.equal(no_fc.terms[name], both.terms[name])


def test_forwards_are_the_calls_that_the_model_gets():
    draw = make_draw(rows=4)
    for options, count in ({"steps": 3}, 5), ({"steps": 3, "fc": False}, 4):
        spy = Spy()
        assert Defar(**options)(spy, draw).forwards == len(spy.labels) == count


def test_defaults_are_the_papers():
    objective = Defar()
    assert (objective.alpha, objective.beta1, objective.beta2) == (1.0, 10.0, 1.0)
    assert (objective.bias_norm, objective.bias_map, objective.inside_square) == ("l2", "pixel", True)
    assert (objective.weight_grad, objective.detach_target, objective.detach_step) == ("none", False, False)
    assert (objective.steps, objective.spacing) == (1, "random")


@pytest.mark.parametrize("map", ["pixel", "element"])
def test_turning_data_and_noise_around_leaves_the_loss_of_an_odd_model_unchanged(map):
    draw, model = make_draw(), Tiny()
    turned = replace(draw, data=-draw.data, noise=-draw.noise)
    for objective in (FlowMatching(), Defar(bias_map=map)):
        close(objective(model, turned).total, objective(model, draw).total, FLOAT32)


def test_turning_data_and_noise_around_changes_a_signed_weight():
    draw, model = make_draw(), Tiny()
    turned = replace(draw, data=-draw.data, noise=-draw.noise)
    signed = Defar(bias_map="signed", adr=False)
    assert abs(signed(model, turned).total / signed(model, draw).total - 1) > 1e-4


# --- where gradients stop ---


def gradient(loss, model):
    return torch.autograd.grad(loss, model.mix)[0]


def by_hand(model, draw, weight_grad, detach_target, detach_step):
    """The loss of Defar(beta1=2, beta2=0.5, alpha=1, mean) written out, in float64."""

    def stopped_if(stop, z):
        return z.detach() if stop else z

    t0, t1 = draw.t0, draw.t1
    x0 = column(1 - t0) * draw.noise + column(t0) * draw.data
    x1 = column(1 - t1) * draw.noise + column(t1) * draw.data
    v0 = model(x0, t0)
    x_hat = stopped_if(detach_step, x0 + column(t1 - t0) * v0)
    v_hat = model(x_hat, t1)
    home = draw.data - stopped_if(detach_target, x_hat)
    bias = stopped_if(weight_grad == "none", v_hat) - stopped_if(weight_grad != "both", model(x1, t1))
    m = bias.square().sum(dim=1, keepdim=True).sqrt()
    w = 1 + m / m.mean(dim=(1, 2, 3), keepdim=True)
    adr = 2 * (1 - torch.cosine_similarity(v_hat.flatten(1), home.flatten(1), dim=1)).mean()
    return 2 * adr + 0.5 * (w * (v0 - draw.data + draw.noise)).square().mean()


FLAGS = [(grad, *flags) for grad in GRADS for flags in [(False, False), (True, False), (False, True)]]


@pytest.mark.parametrize(("weight_grad", "detach_target", "detach_step"), FLAGS)
def test_gradients_stop_exactly_where_the_options_say(weight_grad, detach_target, detach_step):
    draw, model = make_draw(), Tiny()
    objective = Defar(
        beta1=2.0, beta2=0.5, bias_norm="mean",
        weight_grad=weight_grad, detach_target=detach_target, detach_step=detach_step,
    )  # fmt: skip
    loss = objective(model, draw)
    close(loss.total, by_hand(model, draw, weight_grad, detach_target, detach_step), 1e-5)
    expected = gradient(by_hand(model, draw, weight_grad, detach_target, detach_step), model)
    close(gradient(loss.total, model) / expected.norm(), expected / expected.norm(), 2e-5)


def test_every_combination_of_stops_gives_another_gradient():
    """Without this the test above could not tell them apart."""
    draw, model = make_draw(), Tiny()
    gradients = [gradient(by_hand(model, draw, *flags), model) for flags in FLAGS]
    for a, b in itertools.combinations(gradients, 2):
        assert (a - b).norm() > 1e-3 * a.norm()


def test_a_detached_weight_carries_no_gradient():
    draw, model = make_draw(), Tiny()
    r = rollout(model, Linear(), draw)
    w = compensation_weight(r.bias, 1.0, "mean").detach()
    expected = gradient((w * (r.v0 - r.target0)).square().mean(), model)
    close(gradient(Defar(adr=False, bias_norm="mean")(model, draw).total, model), expected, 1e-5)


def test_without_autograd_nothing_is_differentiated():
    with torch.no_grad():
        assert not Defar(weight_grad="both")(Tiny(), make_draw()).total.requires_grad


# --- corners ---


CORNERS = [{}, {"weight_grad": "both"}, {"weight_grad": "both", "bias_map": "element", "bias_norm": "mean"},
           {"fc": False}, {"adr": False, "weight_grad": "v_hat", "bias_norm": "max"}]  # fmt: skip


@pytest.mark.parametrize("options", CORNERS, ids=str)
@each_path
def test_the_first_steps_from_zero_and_the_end_of_the_path_are_finite(path, options):
    """A fresh SiT returns 0 and has no bias; at t1 = 1 a perfect model has no way left to go."""
    torch.manual_seed(0)
    network = SiT(input_size=8, patch_size=4, in_channels=2, hidden_size=16, depth=1, num_heads=2, num_classes=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    objective = Defar(interpolant=path, null_label=3, **options)
    batch = Batch(normal(4, 2, 8, 8).float(), torch.tensor([0, 1, 2, 3]))
    drawn = objective.draw(batch, generator())
    times = [drawn.times, torch.tensor([[0.3], [1.0]]).expand(2, 4), torch.ones(2, 4), torch.zeros(2, 4)]
    for _ in ("fresh", "after steps"):
        for t in times:
            loss = objective(network, replace(drawn, times=t))
            gradients = torch.autograd.grad(loss.total, [p for p in network.parameters() if p.requires_grad])
            assert loss.total.isfinite() and all(term.isfinite() for term in loss.terms.values())
            assert all(g.isfinite().all() for g in gradients)
        for _ in range(2):
            optimizer.zero_grad()
            objective(network, drawn).total.backward()
            optimizer.step()
        assert all(p.isfinite().all() for p in network.parameters())
    assert network(batch.data, torch.zeros(4)).abs().max() > 0


BAD = [
    ({"label_dropout": 1.5, "null_label": 3}, "label_dropout"),
    ({"label_dropout": -0.1, "null_label": 3}, "label_dropout"),
    ({"label_dropout": 0.1}, "null_label"),
    ({"adr": False, "fc": False}, "flow_matching"),
    ({"weight_grad": "all"}, "weight_grad"),
    ({"bias_norm": "l3"}, "bias_norm"),
    ({"bias_map": "channel"}, "bias_map"),
    ({"steps": 0}, "steps"),
    ({"spacing": "even"}, "spacing"),
]


@pytest.mark.parametrize(("options", "word"), BAD, ids=lambda value: str(value))
def test_bad_options_are_refused_by_name_when_the_objective_is_made(options, word, refuses):
    refuses(lambda: Defar(**options), word)
