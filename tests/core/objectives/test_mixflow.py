"""MixFlow: a state of one time under the label of a later one. The laws of the two times are tested in test_times."""

from dataclasses import replace

import pytest
import torch
from tiny import Spy, Tiny, close, generator, gradient, make_draw, normal

from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.objectives import MIXFLOW_GAMMA, FlowMatching, MixFlow

each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)


@each_path
@pytest.mark.parametrize("target_time", ["slowed", "nominal"])
def test_the_state_is_slowed_and_the_label_nominal(path, target_time):
    draw, spy = make_draw(), Spy()
    loss = MixFlow(interpolant=path, target_time=target_time)(spy, draw)
    slowed, nominal = (path.at(draw.noise, draw.data, t) for t in draw.times)
    assert len(spy.xs) == loss.forwards == 1
    assert torch.equal(spy.times[0], draw.t1) and torch.equal(spy.xs[0], slowed.x)
    target = slowed.velocity if target_time == "slowed" else nominal.velocity
    close(loss.total, (slowed.x - target).square().mean())


def test_the_two_targets_are_one_on_the_linear_path_only():
    draw, model = make_draw(), Tiny()
    for path in (Linear(), GVP(), VP()):
        slowed, nominal = (MixFlow(interpolant=path, target_time=t)(model, draw).total for t in ("slowed", "nominal"))
        assert (abs(slowed / nominal - 1) < 1e-14) == (path == Linear())


@each_path
@pytest.mark.parametrize("target_time", ["slowed", "nominal"])
def test_equal_times_are_flow_matching_exactly(path, target_time):
    model = Tiny()
    objective = MixFlow(interpolant=path, gamma=0.0, target_time=target_time)
    draw = objective.draw(Batch(normal(6, 2, 4, 4)), generator())
    assert torch.equal(draw.t0, draw.t1)
    loss, plain = objective(model, draw).total, FlowMatching(interpolant=path)(model, draw).total
    assert torch.equal(loss, plain) and torch.equal(gradient(loss, model), gradient(plain, model))
    slower = replace(draw, times=torch.stack([0.9 * draw.t0, draw.t1]))
    assert not torch.equal(objective(model, slower).total, plain)


@each_path
def test_its_draws_lie_inside_the_paths_interval(path):
    last = path.interval("train")[1]
    for law in ("below", "anywhere"):
        times = MixFlow(interpolant=path, slowed_law=law).draw(Batch(torch.zeros(5000, 1, 1, 1)), generator()).times
        assert times.shape == (2, 5000) and times.min() >= 0 and times.double().max() <= last + 1e-7


def test_its_options_reach_the_draw():
    def times(**options):
        return MixFlow(**options).draw_times(1000, generator())

    default = times()
    assert torch.equal(default, times(gamma=0.8, nominal_law="beta", slowed_law="below"))
    for options in ({"gamma": 0.4}, {"nominal_law": "uniform"}, {"slowed_law": "anywhere"}):
        assert not torch.equal(times(**options), default)


def test_gamma_by_backbone():
    assert MIXFLOW_GAMMA == {"sit": 0.8, "repa": 0.8, "rae": 0.4} and MixFlow().gamma == 0.8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": -0.1}, "gamma must lie in [0, 1]; got -0.1"),
        ({"gamma": 1.1}, "got 1.1"),
        ({"gamma": float("nan")}, "got nan"),
        ({"target_time": "t"}, "target_time = 't'; choose from 'slowed', 'nominal'"),
        ({"nominal_law": "normal"}, "nominal_law = 'normal'; choose from 'beta', 'uniform'"),
        ({"slowed_law": "above"}, "slowed_law = 'above'; choose from 'below', 'anywhere'"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, words, refuses):
    refuses(lambda: MixFlow(**options), words)
