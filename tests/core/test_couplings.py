"""Mini-batch optimal transport against torchcfm's recorded plan, SciPy's assignment, and what a pairing must keep."""

import itertools
import sys
import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from defar_analysis.core.couplings import COUPLINGS, Independent, MinibatchOT, optimal_order
from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import Linear
from defar_analysis.core.objectives import Defar, FlowMatching


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cost(noise, data):
    """Total squared distance of noise and data, row by row."""
    return (noise.double() - data.double()).square().sum().item()


@pytest.fixture
def torchcfm(recorded):
    return {key: torch.from_numpy(np.asarray(value)) for key, value in recorded("torchcfm.npz").items()}


# --- torchcfm ---


def test_the_costs_are_torchcfms(torchcfm, monkeypatch):
    """Theirs has a row for each noise, ours for each image; theirs is float32."""
    seen, plain = [], ot.emd

    def emd(a, b, matrix, **options):
        seen.append(matrix)
        return plain(a, b, matrix, **options)

    monkeypatch.setattr(ot, "emd", emd)
    optimal_order(torchcfm["noise"], torchcfm["data"])
    (ours,) = seen
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours.T, torchcfm["ot.cost"], rtol=1e-5)


def test_the_permutation_is_torchcfms_plan(torchcfm):
    order = optimal_order(torchcfm["noise"], torchcfm["data"])
    assert order.dtype == torch.long
    data_index_for_noise = torchcfm["ot.data_index_for_noise"]
    assert torch.equal(data_index_for_noise[order], torch.arange(16))
    assert not torch.equal(order, torch.arange(16)) and not torch.equal(order, data_index_for_noise)


def test_the_optimal_cost_is_torchcfms(torchcfm):
    noise, data = torchcfm["noise"], torchcfm["data"]
    paired = noise[optimal_order(noise, data)]
    assert cost(noise, data) == pytest.approx(torchcfm["ot.cost_independent"].item(), rel=1e-5)
    assert cost(paired, data) == pytest.approx(torchcfm["ot.cost_optimal"].item(), rel=1e-5)
    assert cost(paired, data) == pytest.approx(1050.09, abs=0.01)


def test_states_and_velocities_are_those_of_torchcfms_plan(torchcfm):
    """The record lists the pairs in the order of the noise, we in that of the images."""
    noise, data, t = torchcfm["noise"], torchcfm["data"], torchcfm["t"]
    of = torchcfm["ot.data_index_for_noise"]
    paired = MinibatchOT()(noise, data)
    point = Linear().at(paired[of], data[of], t)
    torch.testing.assert_close(point.x, torchcfm["ot.x_t_permutation"], rtol=0, atol=1e-5)
    torch.testing.assert_close(point.velocity, torchcfm["ot.u_t_permutation"], rtol=0, atol=1e-5)
    alone = Linear().at(Independent()(noise, data), data, t)
    torch.testing.assert_close(alone.x, torchcfm["independent.x_t"], rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.velocity, torchcfm["independent.u_t"], rtol=0, atol=1e-5)


# --- what every pairing must be ---


def assert_permutation(order, count):
    assert order.sort().values.tolist() == list(range(count))


coordinates = st.integers(-3, 3)  # few values: many ties and duplicates
batches = st.integers(2, 9).flatmap(
    lambda n: st.tuples(*[st.lists(st.tuples(coordinates, coordinates), min_size=n, max_size=n)] * 2)
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(batches)
def test_every_noise_is_used_once_at_scipys_cost_also_where_many_pairings_tie(batch):
    noise, data = (torch.tensor(rows, dtype=torch.float64) for rows in batch)
    order = optimal_order(noise, data)
    assert_permutation(order, len(data))
    matrix = (data[:, None] - noise).square().sum(-1).numpy()
    best = matrix[linear_sum_assignment(matrix)].sum()
    assert cost(noise[order], data) == pytest.approx(best, abs=1e-9)
    assert best <= cost(noise, data) + 1e-9


@pytest.mark.parametrize("count", [2, 3, 17, 128])
def test_images_are_paired_at_scipys_cost(count):
    noise, data = normal(count, 3, 4, 4, seed=1).float(), normal(count, 3, 4, 4, seed=2).float()
    order = optimal_order(noise, data)
    assert_permutation(order, count)
    matrix = (data.double().flatten(1)[:, None] - noise.double().flatten(1)).square().sum(-1).numpy()
    assert cost(noise[order], data) == pytest.approx(matrix[linear_sum_assignment(matrix)].sum(), rel=1e-9)
    if count > 3:
        assert cost(noise[order], data) < 0.999 * cost(noise, data)


def test_no_other_permutation_is_cheaper():
    noise, data = normal(6, 2, seed=3), normal(6, 2, seed=4)
    costs = [cost(noise[list(p)], data) for p in itertools.permutations(range(6))]
    assert cost(noise[optimal_order(noise, data)], data) == pytest.approx(min(costs), rel=1e-12)


@pytest.mark.parametrize(
    ("noise", "data"),
    [
        (torch.zeros(8, 1, 2, 2), torch.zeros(8, 1, 2, 2)),
        (normal(8, 1, 2, 2), torch.zeros(8, 1, 2, 2)),
        (normal(4, 1, 2, 2).repeat(2, 1, 1, 1), normal(4, 1, 2, 2, seed=1).repeat(2, 1, 1, 1)),
    ],
    ids=["all equal", "one image", "everything twice"],
)
def test_duplicates_are_paired_once_each(noise, data):
    assert_permutation(optimal_order(noise, data), 8)


def test_shuffled_noise_finds_its_own_image_again():
    data = normal(32, 3, 4, 4)
    shuffle = torch.randperm(32, generator=generator())
    noise = data[shuffle] + 0.01 * normal(32, 3, 4, 4, seed=1)
    assert torch.equal(optimal_order(noise, data), shuffle.argsort())


def test_the_pairing_is_a_function_of_the_batch_alone():
    noise, data = normal(40, 3, 4, 4, seed=1), normal(40, 3, 4, 4, seed=2)
    np.random.seed(0)
    torch.manual_seed(0)
    first = optimal_order(noise, data)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert torch.equal(optimal_order(noise, data), first)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_close_pairs_far_from_the_origin_are_told_apart():
    """Distances by |a|^2 + |b|^2 - 2ab lose these digits in float32, and in float64 beyond."""
    data = 1e4 + torch.arange(6.0)[:, None] * torch.ones(1, 48)
    shuffle = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(optimal_order(data[shuffle], data), shuffle.argsort())


# --- inside a step ---


@pytest.mark.parametrize("objective", [FlowMatching, Defar])
def test_images_and_labels_stay_and_the_noise_is_reordered(objective):
    batch = Batch(normal(32, 1, 4, 4).float(), torch.arange(32) % 3)
    plain = objective().draw(batch, generator())
    with pytest.warns(UserWarning, match="labels"):
        coupled = objective(coupling=MinibatchOT()).draw(batch, generator())
    assert coupled.data is batch.data and torch.equal(coupled.labels, batch.labels)
    assert torch.equal(coupled.times, plain.times) and coupled.seed == plain.seed
    order = optimal_order(plain.noise, batch.data)
    assert torch.equal(coupled.noise, plain.noise[order]) and not torch.equal(coupled.noise, plain.noise)
    assert cost(coupled.noise, batch.data) < cost(plain.noise, batch.data)


def test_independent_pairs_are_the_noise_as_it_was_drawn():
    noise = normal(4, 2)
    assert Independent()(noise, normal(4, 2, seed=1)) is noise
    assert FlowMatching().coupling == Independent() == COUPLINGS["independent"]() and COUPLINGS["ot"] is MinibatchOT


def test_labels_that_differ_are_warned_of():
    noise, data = normal(4, 2), normal(4, 2, seed=1)
    with pytest.warns(UserWarning, match="class-conditional") as caught:
        paired = MinibatchOT()(noise, data, torch.tensor([0, 0, 1, 0]))
    assert len(caught) == 1 and "independent" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for labels in (None, torch.tensor([2, 2, 2, 2])):
            assert torch.equal(MinibatchOT()(noise, data, labels), paired)


def test_the_labels_that_count_are_those_before_they_are_dropped():
    """One class with some labels dropped is still one class."""
    batch = Batch(normal(16, 1, 2, 2), torch.full((16,), 2))
    objective = FlowMatching(coupling=MinibatchOT(), label_dropout=0.5, null_label=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = objective.draw(batch, generator()).labels
    assert set(labels.tolist()) == {2, 3}


# --- what is refused ---


def test_a_batch_with_nothing_to_pair_is_refused(refuses):
    for count in (0, 1):
        refuses(lambda n=count: optimal_order(torch.zeros(n, 3), torch.zeros(n, 3)), f"batch of {count}", "2 samples")


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (4, 3, 1), (1, 3)])
def test_other_shapes_are_refused(shape, refuses):
    refuses(lambda: optimal_order(torch.zeros(shape), torch.zeros(4, 3)), shape, "(4, 3)", "one shape")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e200])
@pytest.mark.parametrize("where", ["noise", "data"])
def test_what_has_no_distance_is_refused(value, where, refuses):
    """1e200 is finite, its square is not."""
    batch = {"noise": normal(4, 3), "data": normal(4, 3, seed=1)}
    batch[where][2, 1] = value
    refuses(lambda: optimal_order(**batch), "not finite", "batch")


def test_a_missing_solver_is_named_with_the_mend(monkeypatch, refuses):
    monkeypatch.setitem(sys.modules, "ot", None)
    refuses(lambda: optimal_order(normal(4, 3), normal(4, 3)), "POT", "pip install pot")
    refuses(lambda: FlowMatching(coupling=MinibatchOT()).draw(Batch(normal(4, 3)), generator()), "pip install pot")
    assert FlowMatching().draw(Batch(normal(4, 3)), generator()).noise.shape == (4, 3)


def test_a_solver_that_gave_up_is_refused(monkeypatch, refuses):
    plain = ot.emd
    monkeypatch.setattr(ot, "emd", lambda *args, **options: (plain(*args, **options)[0], {"warning": "no luck"}))
    refuses(lambda: optimal_order(normal(4, 3), normal(4, 3, seed=1)), "no optimal permutation", "batch of 4")
    monkeypatch.setattr(ot, "emd", lambda *args, **options: (np.full((4, 4), 1 / 16), {"warning": None}))
    refuses(lambda: optimal_order(normal(4, 3), normal(4, 3, seed=1)), "no optimal permutation")
