"""Input perturbation: what is perturbed, by how much, and what stays."""

from dataclasses import replace

import pytest
import torch
from tiny import SHAPE, Spy, Tiny, close, column, generator, gradient, make_draw, normal

from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.objectives import FlowMatching, InputPerturbation

each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
each_space = pytest.mark.parametrize("space", ["noise", "state"])


@each_path
@each_space
def test_without_perturbation_it_is_flow_matching_exactly(path, space):
    draw, model = make_draw(rows=1), Tiny()
    plain = FlowMatching(interpolant=path)(model, draw).total
    loss = InputPerturbation(interpolant=path, space=space, scale=0.0)(model, draw).total
    assert torch.equal(loss, plain)
    assert torch.equal(gradient(loss, model), gradient(plain, model))
    assert not torch.equal(InputPerturbation(interpolant=path, space=space)(model, draw).total, plain)


@each_space
def test_only_the_networks_input_moves(space):
    draw, spy = make_draw(rows=1), Spy()
    x = Linear().at(draw.noise, draw.data, draw.t0).x
    loss = InputPerturbation(scale=0.3, space=space)(spy, draw)
    moved = 0.3 * draw.perturbation * (column(1 - draw.t0) if space == "noise" else 1)
    close(spy.xs[0], x + moved)
    assert torch.equal(spy.times[0], draw.t0)
    close(loss.total, (x + moved - (draw.data - draw.noise)).square().mean())  # towards the unperturbed pair


def test_a_perturbed_noise_vanishes_where_the_noise_does():
    draw = replace(make_draw(rows=1), times=torch.ones(1, SHAPE[0], dtype=torch.float64))
    noise, state = Spy(), Spy()
    InputPerturbation(space="noise")(noise, draw)
    InputPerturbation(space="state")(state, draw)
    close(noise.xs[0], draw.data)
    close(state.xs[0], draw.data + 0.1 * draw.perturbation)


def test_the_perturbation_is_a_second_standard_normal_noise():
    draw = InputPerturbation().draw(Batch(torch.zeros(2000, 1, 4, 4)), generator())
    a, b = draw.noise.flatten().double(), draw.perturbation.flatten().double()
    bound = 5 / len(a) ** 0.5
    assert abs(b.mean()) < bound and abs(b.var() - 1) < 2**0.5 * bound and abs((a * b).mean()) < bound


def test_the_perturbation_has_the_precision_of_the_data():
    assert InputPerturbation().draw(Batch(normal(*SHAPE)), generator()).perturbation.dtype == torch.float64


@each_space
def test_a_draw_of_another_objective_is_refused(space, refuses):
    draw = FlowMatching().draw(Batch(normal(*SHAPE)), generator())
    refuses(lambda: InputPerturbation(space=space)(Tiny(), draw), "no perturbation", "InputPerturbation")
    assert InputPerturbation(space=space, scale=0.0)(Tiny(), draw).total.isfinite()  # which needs none


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": -0.1}, "scale must be a number of at least 0; got -0.1"),
        ({"scale": float("nan")}, "got nan"),
        ({"space": "input"}, "space = 'input'; choose from 'noise', 'state'"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, words, refuses):
    refuses(lambda: InputPerturbation(**options), words)
