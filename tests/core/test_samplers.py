"""Orders of convergence against the exact flow map, counted evaluations, precision, saved states, mistakes."""

import itertools
import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.networks import SiT
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.samplers import Dopri5, Euler, EulerMaruyama, Heun, sample
from defar_analysis.core.seeding import image_noise, sde_generators
from defar_analysis.errors import DefarError
from defar_analysis.measures.spectral import radial_frequency


class Counting:
    """A velocity field that remembers the shapes it was asked for."""

    def __init__(self, field):
        self.field, self.calls = field, []

    def __call__(self, x, t, labels=None):
        self.calls.append((tuple(x.shape), float(t[0]), labels))
        return self.field(x, t, labels)


def gaussian(interpolant) -> GaussianFlow:
    return GaussianFlow(torch.ones(1, 8, 8, dtype=torch.float64), 1 / (0.05 + radial_frequency(8, 8) ** 2), interpolant)


@pytest.mark.parametrize(("solver", "order"), [(Euler, 1), (Heun, 2)])
@pytest.mark.parametrize("path", [Linear(), GVP()], ids=repr)
def test_order_of_convergence_on_a_gaussian(solver, order, path):
    oracle = gaussian(path)
    noise = image_noise(0, range(4), (1, 8, 8)).double()
    exact = oracle.flow_map(noise, torch.zeros(4), torch.ones(4))
    errors = [
        float((sample(oracle, noise, solver(n), interpolant=path, chunk=4).x - exact).square().mean().sqrt())
        for n in (200, 400, 800)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.12)


def test_evaluations_are_counted_not_declared():
    for solver, nfe in ((Euler(5), 5), (Heun(5), 10), (Euler(50, grid="sit"), 49), (Heun(6, grid="sit"), 10)):
        model = Counting(gaussian(Linear()))
        drawn = sample(model, torch.zeros(5, 1, 8, 8), solver, chunk=2)
        assert drawn.nfe == nfe
        assert drawn.forwards == len(model.calls) == 3 * nfe


def test_times_run_over_the_interval_of_the_path():
    assert sample(gaussian(Linear()), torch.zeros(1, 1, 8, 8), Euler(4)).times.tolist() == [0, 0.25, 0.5, 0.75, 1]
    drawn = sample(gaussian(VP()), torch.zeros(1, 1, 8, 8), Euler(4), interpolant=VP())
    assert drawn.times[-1] == pytest.approx(0.999)
    sit_grid = sample(gaussian(Linear()), torch.zeros(1, 1, 8, 8), Euler(5, grid="sit")).times
    torch.testing.assert_close(sit_grid, torch.linspace(0, 1, 5, dtype=torch.float64))


def test_the_network_sees_full_chunks_with_their_labels():
    model = Counting(gaussian(Linear()))
    sample(model, torch.zeros(5, 1, 8, 8), Euler(1), labels=torch.arange(5), chunk=3)
    assert [shape[0] for shape, _, _ in model.calls] == [3, 3]
    assert [labels.tolist() for _, _, labels in model.calls] == [[0, 1, 2], [3, 4, 4]]


def test_dopri5_is_of_order_five():
    """Its error falls as the fifth power of the evaluations it takes, and stays near the tolerance."""
    oracle = gaussian(GVP())
    noise = image_noise(0, range(4), (1, 8, 8)).double()
    exact = oracle.flow_map(noise, torch.zeros(4), torch.ones(4))
    points = []
    for tolerance in (1e-9, 1e-11, 1e-13):
        solver = Dopri5(tolerance, tolerance, overshoot=False)
        drawn = sample(oracle, noise, solver, interpolant=GVP(), chunk=4)
        error = float((drawn.x - exact).square().mean().sqrt())
        assert error < 10 * tolerance
        points.append((math.log(drawn.nfe), math.log(error)))
    assert np.polyfit(*zip(*points, strict=True), 1)[0] == pytest.approx(-5, abs=0.3)


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
def test_all_solvers_agree_on_the_flow_map_as_steps_grow(path):
    oracle = gaussian(path)
    noise = image_noise(0, range(2), (1, 8, 8)).double()
    ends = (torch.full((2,), time, dtype=torch.float64) for time in path.interval("ode"))
    exact = oracle.flow_map(noise, *ends)
    silent = {"diffusion": "sigma", "norm": 0.0, "last_step": None}  # without noise the SDE is the ODE
    limits = {
        Euler(800): 3e-2, Heun(400): 1e-4, Heun(401, euler_last=True): 1e-3, EulerMaruyama(800, **silent): 3e-2,
        Dopri5(1e-8, 1e-8): 1e-7,
    }  # fmt: skip
    for solver, limit in limits.items():
        drawn = sample(oracle, noise, solver, interpolant=path, generators=sde_generators(0, range(2)), chunk=2)
        assert drawn.x.dtype == torch.float64
        assert float((drawn.x - exact).abs().max()) < limit, solver


def test_dopri5_stays_inside_a_singular_path_and_on_request_inside_any():
    for path, overshoot, beyond in (
        (Linear(), None, True), (Linear(), False, False), (VP(), None, False), (VP(), False, False),
    ):  # fmt: skip
        model, end = Counting(gaussian(path)), path.interval("ode")[1]
        solver = Dopri5(overshoot=overshoot)
        drawn = sample(model, image_noise(0, range(3), (1, 8, 8)).double(), solver, interpolant=path, chunk=3)
        asked = [t for _, t, _ in model.calls]
        assert (max(asked) > end) == beyond and min(asked) == 0
        assert drawn.nfe == drawn.forwards == len(asked)
    # a field that hardly moves makes the first probe jump far ahead
    still = Counting(lambda x, t, labels=None: 1e-4 * x)
    sample(still, torch.ones(1, 1, 8, 8), Dopri5(overshoot=False))
    assert max(t for _, t, _ in still.calls) == 1


def test_dopri5_counts_each_chunk_and_interpolates_what_is_saved():
    noise = torch.cat([0.1 * image_noise(0, range(2), (1, 8, 8)), 20 * image_noise(1, range(2), (1, 8, 8))]).double()
    drawn = sample(gaussian(Linear()), noise, Dopri5(points=11), chunk=2, save=[0, 5])
    single = [sample(gaussian(Linear()), noise[i : i + 2], Dopri5(), chunk=2) for i in (0, 2)]
    assert drawn.nfe == max(part.nfe for part in single)
    assert drawn.forwards == sum(part.nfe for part in single)
    assert torch.equal(drawn.x, torch.cat([part.x for part in single]))  # the output times change nothing else
    assert drawn.saved == (0, 5) and torch.equal(drawn.states[0], noise)
    middle = torch.full((4,), 0.5, dtype=torch.float64)
    exact = gaussian(Linear()).flow_map(noise, 0 * middle, middle)
    assert float((drawn.states[1] - exact).abs().max()) < 4e-2  # states of 20: within the tolerance


def test_states_are_kept_on_request():
    noise = image_noise(0, range(3), (1, 8, 8)).double()
    drawn = sample(gaussian(Linear()), noise, Heun(4), chunk=2, save="all")
    assert drawn.states.shape == (5, 3, 1, 8, 8)
    assert torch.equal(drawn.states[0], noise) and torch.equal(drawn.states[-1], drawn.x)
    assert sample(gaussian(Linear()), noise, Heun(4)).states is None


def test_chosen_states_are_those_of_all_states(tmp_path):
    noise = image_noise(0, range(5), (1, 8, 8))
    field = gaussian(Linear())
    whole = sample(field, noise, Euler(7), chunk=2, save="all").states
    for save, indices in ((3, (0, 3, 6, 7)), ([-1, 0], (0, 7)), ((2, 2), (2,)), (100, (0, 7))):
        drawn = sample(field, noise, Euler(7), chunk=2, save=save)
        assert drawn.saved == indices and drawn.states.device.type == "cpu"
        assert torch.equal(drawn.states, whole[list(indices)])
    file = tmp_path / "states.npy"
    drawn = sample(field, noise, Euler(7), chunk=2, save=2, save_to=file)
    assert np.array_equal(np.load(file, mmap_mode="r"), whole[[0, 2, 4, 6, 7]].numpy())
    assert np.array_equal(drawn.states.numpy(), np.load(file))
    assert [path.name for path in tmp_path.iterdir()] == ["states.npy"]
    with pytest.raises(DefarError):
        sample(lambda x, t, labels=None: x / 0, noise, Euler(2), save="all", save_to=tmp_path / "none.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["states.npy"]


def test_a_correction_sees_every_step_and_decides_where_it_ends():
    noise, seen = image_noise(0, range(3), (1, 8, 8)).double(), []
    field = gaussian(Linear())

    def nudge(x, velocity, now, then, after):
        seen.append((now, then, x.shape[0]))
        assert torch.equal(velocity, field(x, torch.full((len(x),), now, dtype=x.dtype)))
        return after + 0.01 * velocity

    expected = noise
    for k in range(4):
        v = field(expected, torch.full((3,), k / 4, dtype=torch.float64))
        ahead = field(expected + v / 4, torch.full((3,), (k + 1) / 4, dtype=torch.float64))
        expected = expected + (v + ahead) / 8 + 0.01 * v
    drawn = sample(field, noise, Heun(4), chunk=2, correction=nudge, save="all")
    torch.testing.assert_close(drawn.x, expected, rtol=0, atol=1e-12)
    assert torch.equal(drawn.states[-1], drawn.x)
    assert seen == [(k / 4, (k + 1) / 4, 2) for k in range(4)] * 2
    same = sample(field, noise, Euler(4), correction=lambda x, velocity, now, then, after: after)
    assert torch.equal(same.x, sample(field, noise, Euler(4)).x)
    streams = sde_generators(0, range(3))
    sample(field, noise, EulerMaruyama(4), generators=streams, chunk=3, correction=nudge)
    assert seen[-1][1] == 1 and len(seen) == 12


def small_sit() -> SiT:
    torch.manual_seed(0)
    model = SiT(8, 2, 3, 32, 2, 2).eval()
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.05)  # a fresh SiT returns 0
    return model


def test_the_state_keeps_its_precision_whatever_the_network_runs_in():
    model, noise = small_sit(), image_noise(0, range(4), (3, 8, 8))
    plain = sample(model, noise, Euler(10), chunk=4).x
    double = sample(model, noise.double(), Euler(10), chunk=4).x  # a float32 network
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), plain, rtol=0, atol=1e-5)
    auto = sample(model, noise, Euler(10), chunk=4, network_dtype=torch.bfloat16).x  # autocast
    lowered = sample(small_sit().bfloat16(), noise.double(), Heun(5), chunk=4).x  # a bfloat16 network
    assert auto.dtype == torch.float32 and lowered.dtype == torch.float64
    for low in (auto, lowered.float()):
        assert 0 < float((low - plain).abs().max()) < 0.3
    times = []

    def field(x, t, labels=None):
        times.append((t.dtype, float(t[0])))
        return x

    sample(field, noise, Euler(1000), network_dtype=torch.bfloat16)
    assert times[1] == (torch.float32, float(np.float32(0.001)))


@dataclass(frozen=True)
class Twice:
    """A wrapper with two networks, as autoguidance is."""

    field: Any
    weaker: Any

    def __call__(self, x, t, labels=None):
        return 2 * self.field(x, t, labels) - (self.weaker(x, t, labels) if float(t[0]) > 0.4 else 0)


def test_forwards_are_those_of_the_networks_behind_a_guided_field(refuses):
    guided, noise = Twice(small_sit(), small_sit()), image_noise(0, range(3), (3, 8, 8)).double()
    drawn = sample(guided, noise, Euler(4), chunk=2)  # the networks' dtype is found behind the wrapper
    assert (drawn.nfe, drawn.forwards) == (4, 2 * (4 + 2))
    assert not guided.field._forward_pre_hooks
    refuses(lambda: sample(guided, noise, Euler(4), labels=torch.tensor([0, 1, 11])), "0 to 10", "11")


def test_mistakes_are_named():
    field, noise = gaussian(Linear()), torch.zeros(2, 1, 8, 8)
    with pytest.raises(DefarError, match="one for each image"):
        sample(field, noise, Euler(2), labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(DefarError, match="no step"):
        sample(field, noise, Euler(0))
    with pytest.raises(DefarError, match="'uniform' or 'sit'"):
        sample(field, noise, Euler(2, grid="cosine"))
    with pytest.raises(DefarError, match="a velocity has the shape of x"):
        sample(lambda x, t, labels=None: x[:, :, :4], noise, Euler(2))


def test_mistakes_are_one_line(refuses):
    field, noise = gaussian(Linear()), torch.zeros(2, 1, 8, 8)
    refuses(lambda: Euler(-3), "steps = -3")
    refuses(lambda: Heun(2.5), "whole number", 2.5)
    refuses(lambda: Heun(1, grid="sit"), "no step")
    refuses(lambda: Dopri5(rtol=0.0), "positive")
    refuses(lambda: Dopri5(points=1), "no step")
    refuses(lambda: sample(field, noise[:0], Euler(2)), "0 images")
    refuses(lambda: sample(field, noise, Euler(2), chunk=0), "chunks of 0")
    refuses(lambda: sample(field, noise.bfloat16(), Euler(2)), "float32 or float64", "network_dtype")
    refuses(lambda: sample(field, noise, Euler(2), labels=torch.tensor([0, -1])), "from 0 up", "-1")
    refuses(lambda: sample(field, noise, Euler(2), labels=torch.zeros(2)), "whole numbers", "float32")
    refuses(lambda: sample(field, noise, Euler(2), save="some"), "'some'")
    refuses(lambda: sample(field, noise, Euler(2), save=0), "save = 0")
    refuses(lambda: sample(field, noise, Euler(2), save=[3]), "0 to 2")
    refuses(lambda: sample(field, noise, Euler(2), save=[]), "save = []")
    refuses(lambda: sample(field, noise, Euler(2), save_to="x.npy"), "nothing to keep")
    refuses(lambda: sample(field, noise, Dopri5(), correction=lambda *step: step[-1]), "Dopri5", "correction")
    image = torch.zeros(1, 3, 8, 8)
    refuses(lambda: sample(small_sit().double(), image, Euler(2), network_dtype=torch.float32), "convert the network")


def test_dopri5_without_torchdiffeq_says_what_to_install(monkeypatch, refuses):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    refuses(lambda: sample(gaussian(Linear()), torch.zeros(1, 1, 8, 8), Dopri5()), "torchdiffeq", "pip install")


def test_values_that_are_not_finite_name_the_step_and_t(refuses):
    noise = image_noise(0, range(5), (1, 8, 8))

    def breaks(x, t, labels=None):  # from t = 0.6 on, for the image that starts as the fourth
        return torch.where((t[:, None, None, None] > 0.55) & (x[:, :1, :1, :1] == noise[3, 0, 0, 0]), math.nan, 0 * x)

    refuses(lambda: sample(breaks, noise, Euler(10), chunk=2), "Euler", "step 7 of 10, t = 0.6", "velocity of image 3")
    refuses(lambda: sample(breaks, noise, Heun(10), chunk=2), "step 6 of 10, t = 0.6", "velocity of image 3")
    refuses(lambda: sample(breaks, noise, Dopri5(), chunk=2), "evaluation", "t = 0.", "velocity of image 3")
    huge = 3e38 * torch.ones(1, 1, 2, 2)
    refuses(lambda: sample(lambda x, t, labels=None: 1.1 * x, huge, Euler(4)), "step 1 of 4, t = 0:", "is not finite")
    bad = noise.clone()
    bad[1, 0, 0, 0] = math.inf
    refuses(lambda: sample(breaks, bad, Euler(10), chunk=2), "noise of image 1")
    broken = {"correction": lambda x, v, now, then, after: after / 0 if now > 0.2 else after}
    refuses(lambda: sample(gaussian(Linear()), noise, Euler(10), **broken), "step 4 of 10, t = 0.3: the state after it")
    once = iter([math.nan])
    refuses(lambda: sample(lambda x, t, labels=None: x * next(once, 1.0), noise, Euler(3)), "not when run again")
    steep = Dopri5(1e-12, 1e-12)
    refuses(lambda: sample(lambda x, t, labels=None: torch.sign(torch.sin(1e9 * x)) * 1e9, noise, steep), "Dopri5")
