"""The FC weight: its identities, and the loss that it weighs."""

import pytest
import torch
from tiny import FLOAT32, SHAPE, Tiny, close, column, make_draw, normal

from defar_analysis.core.interpolants import Linear
from defar_analysis.core.objectives import Defar, compensation_weight
from defar_analysis.core.objectives.weights import compensated_loss
from defar_analysis.core.rollout import rollout

NORMS, MAPS = ["l2", "l1", "max", "mean"], ["pixel", "element", "signed"]
each_norm = pytest.mark.parametrize("norm", NORMS)
each_map = pytest.mark.parametrize("map", MAPS)


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


@pytest.mark.parametrize("inside_square", [True, False])
@each_norm
@each_map
def test_no_gradient_through_the_weight_makes_a_bias_smaller_or_larger(norm, map, inside_square):
    """Euler's theorem: w does not depend on the size of a sample's bias, so the loss's gradient with respect to it is
    orthogonal to it. A gradient through the weight can only move the bias from pixel to pixel."""
    bias = normal(*SHAPE).requires_grad_()
    loss = compensated_loss(normal(*SHAPE, seed=8), compensation_weight(bias, 2.0, norm, map), inside_square).sum()
    (gradient,) = torch.autograd.grad(loss, bias)
    along, sizes = (gradient * bias).flatten(1).sum(1), [z.flatten(1).norm(dim=1) for z in (gradient, bias)]
    assert (along.abs() < 1e-5 * sizes[0] * sizes[1]).all()
    assert (sizes[0] > 0).all(), "there is a gradient to speak of"


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


def test_unknown_norms_and_maps_are_refused(refuses):
    refuses(lambda: compensation_weight(normal(*SHAPE), norm="l3"), "bias_norm", "'l3'", "'l2', 'l1', 'max' or 'mean'")
    refuses(lambda: compensation_weight(normal(*SHAPE), map="channel"), "bias_map", "'channel'", "'signed'")
