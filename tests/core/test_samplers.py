"""Orders of convergence against the exact flow map, counted evaluations, chunks that change nothing."""

import itertools
import math

import pytest
import torch

from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.networks import SiT
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.samplers import Euler, Heun, sample
from defar_analysis.core.seeding import image_noise
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


def test_an_image_is_the_same_bit_for_bit_whatever_is_asked_for_beside_it():
    torch.manual_seed(0)
    model = SiT(8, 2, 3, 32, 2, 2).eval()
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.05)  # a fresh SiT returns 0
    noise, labels = image_noise(1, range(7), (3, 8, 8)), torch.arange(7)
    whole = sample(model, noise, Euler(3), labels=labels, chunk=4).x
    assert not torch.equal(whole, noise)
    for count in (1, 4, 5):
        assert torch.equal(sample(model, noise[:count], Euler(3), labels=labels[:count], chunk=4).x, whole[:count])


def test_the_network_sees_full_chunks_with_their_labels():
    model = Counting(gaussian(Linear()))
    sample(model, torch.zeros(5, 1, 8, 8), Euler(1), labels=torch.arange(5), chunk=3)
    assert [shape[0] for shape, _, _ in model.calls] == [3, 3]
    assert [labels.tolist() for _, _, labels in model.calls] == [[0, 1, 2], [3, 4, 4]]


def test_states_are_kept_on_request():
    noise = image_noise(0, range(3), (1, 8, 8)).double()
    drawn = sample(gaussian(Linear()), noise, Heun(4), chunk=2, save="all")
    assert drawn.states.shape == (5, 3, 1, 8, 8)
    assert torch.equal(drawn.states[0], noise) and torch.equal(drawn.states[-1], drawn.x)
    assert sample(gaussian(Linear()), noise, Heun(4)).states is None


def test_mistakes_are_named():
    field, noise = gaussian(Linear()), torch.zeros(2, 1, 8, 8)
    with pytest.raises(DefarError, match="one for each image"):
        sample(field, noise, Euler(2), labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(DefarError, match="no step"):
        sample(field, noise, Euler(0))
    with pytest.raises(DefarError, match="'uniform' or 'sit'"):
        sample(field, noise, Euler(2, grid="cosine"))
    with pytest.raises(DefarError, match="not finite"):
        sample(lambda x, t, labels=None: x / 0, torch.ones(1, 1, 8, 8), Euler(2))
