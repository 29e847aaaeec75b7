"""Why everything random is drawn once a step: dropout drawn anew in each forward is measured as exposure bias."""

from dataclasses import replace

import pytest
import torch
from tiny import column, generator
from torch import nn

from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import Linear
from defar_analysis.core.objectives import Defar
from defar_analysis.core.rollout import rollout

COUNT, SPREAD = 256, 0.1
MEANS = torch.stack([torch.full((1, 4, 4), value) for value in (-0.75, -0.25, 0.25, 0.75, 0.0)])  # the last: no label
STDS = torch.tensor([SPREAD] * 4 + [(SPREAD**2 + 0.3125) ** 0.5])


class Trained(nn.Module):
    """As good as a field can be: E[data - noise | x_t] for data N(mean of the class, SPREAD^2), in closed form.

    Without a label it is that of one wide Gaussian. Dropout acts on the prediction, as on a last hidden layer.
    """

    def __init__(self, share=0.0):
        super().__init__()
        self.dropout = nn.Dropout(share)

    def forward(self, x, t, labels):
        mean, variance = MEANS[labels], column(STDS[labels] ** 2)
        t = column(t)
        slope = (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2)
        return self.dropout(mean + slope * (x - t * mean))


class Redropping(nn.Module):
    """What the official SiT does in train mode: drop labels again in every forward."""

    def __init__(self, network, null, share=0.1):
        super().__init__()
        self.network, self.null, self.share = network, null, share

    def forward(self, x, t, labels):
        return self.network(x, t, torch.where(torch.rand(len(labels)) < self.share, self.null, labels))


class Deaf(nn.Module):
    """A field that ignores its labels."""

    def forward(self, x, t, labels=None):
        return torch.tanh(x) * (1 + column(t))


@torch.no_grad()
def squared_bias(model, draw):
    return rollout(model, Linear(), draw).bias.square().mean().item()


def step(**options):
    labels = torch.arange(COUNT) % 4
    data = MEANS[labels] + SPREAD * torch.randn(COUNT, 1, 4, 4, generator=generator(8))
    draw = Defar(null_label=4, **options).draw(Batch(data, labels), generator(9))
    t0 = 0.9 * draw.t0
    return replace(draw, times=torch.stack([t0, t0 + 0.05]))  # the step of a sampler with 20 steps


def test_network_dropout_drawn_anew_in_each_forward_multiplies_the_measured_bias():
    draw, model = step(), Trained(0.1)
    torch.manual_seed(0)
    shared, anew = squared_bias(model, draw), squared_bias(model, replace(draw, seed=None))
    assert anew > 10 * shared
    model.eval()  # the dropout was it, and not the field
    assert squared_bias(model, replace(draw, seed=None)) == squared_bias(model, draw) < shared


def test_label_dropout_drawn_anew_in_each_forward_multiplies_the_measured_bias():
    draw = step(label_dropout=0.1)
    assert 0 < (draw.labels == 4).sum() < COUNT / 5
    torch.manual_seed(0)
    anew = squared_bias(Redropping(Trained(), null=4), replace(step(), seed=None))
    assert anew > 10 * squared_bias(Trained(), draw)
    assert anew > 10 * squared_bias(Trained(), step())


def test_the_steps_seed_also_holds_for_labels_that_a_network_drops_by_itself():
    network, draw = Redropping(Trained(), null=4), step()
    torch.manual_seed(0)
    first = squared_bias(network, draw)
    assert first == squared_bias(network, draw) < 2 * squared_bias(Trained(), draw)


@pytest.mark.parametrize("seed", [None, 5])
def test_a_field_that_drops_nothing_measures_the_same_bias_either_way(seed):
    draw = step()
    assert squared_bias(Trained(), replace(draw, seed=seed)) == squared_bias(Trained(), draw) > 0
    torch.manual_seed(0)
    assert squared_bias(Redropping(Deaf(), null=4), replace(draw, seed=seed)) == squared_bias(Deaf(), draw) > 0


def test_the_loss_of_a_step_with_dropout_is_one_number():
    """Evaluated twice, whatever the global generator did in between."""
    draw, model, objective = step(), Trained(0.5), Defar()
    first = objective(model, draw).total
    torch.manual_seed(123)
    assert torch.equal(objective(model, draw).total, first)
    assert not torch.equal(objective(model, replace(draw, seed=draw.seed + 1)).total, first)
