"""What holds of every objective: finite corners, float32 losses, tiny batches, and the count of forwards anywhere."""

from dataclasses import replace

import pytest
import torch
from tiny import EVERY, Spy, Tiny, close, column, generator, make, normal

from defar_analysis.core.couplings import Independent, MinibatchOT
from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.networks import SiT
from defar_analysis.core.objectives import OBJECTIVES, Defar

each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
each_objective = pytest.mark.parametrize("name", EVERY)


def small_sit():
    torch.manual_seed(0)
    return SiT(input_size=8, patch_size=4, in_channels=2, hidden_size=16, depth=1, num_heads=2, num_classes=3)


def test_these_tests_know_every_objective():
    assert {cls for cls, _ in EVERY.values()} >= {*OBJECTIVES.values()}


def last_time(objective):
    """Defar keeps away from the end by itself; the others take what their path's interval allows."""
    return 1.0 if isinstance(objective, Defar) else objective.interpolant.interval("train")[1]


@each_objective
@each_path
def test_the_first_steps_from_zero_and_the_end_of_the_path_are_finite(path, name):
    """A fresh SiT returns 0 and has no bias; at t1 = 1 a perfect model has no way left to go.

    Each sample of the batch sits in another corner: one that is not finite spoils the mean.
    """
    network = small_sit()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    objective = make(name, interpolant=path, null_label=3)
    batch = Batch(normal(4, 2, 8, 8).float(), torch.tensor([0, 1, 2, 3]))
    drawn = objective.draw(batch, generator())
    rows, last = len(drawn.times), last_time(objective)
    ends = torch.tensor([0.3] * (rows - 1) + [last])
    corners = torch.stack([drawn.times[:, 0], ends, torch.full((rows,), last), torch.zeros(rows)], dim=1)
    subsets = [None] if drawn.subset is None else [torch.tensor([0, 1]), torch.tensor([2, 3])]
    for _ in ("fresh", "after steps"):
        for subset in subsets:
            loss = objective(network, replace(drawn, times=corners, subset=subset))
            gradients = torch.autograd.grad(loss.total, [p for p in network.parameters() if p.requires_grad])
            assert loss.total.isfinite() and all(term.isfinite() for term in loss.terms.values())
            assert all(g.isfinite().all() for g in gradients)
        for _ in range(2):
            optimizer.zero_grad()
            objective(network, drawn).total.backward()
            optimizer.step()
        assert all(p.isfinite().all() for p in network.parameters())
    assert network(batch.data, torch.zeros(4)).abs().max() > 0


@each_objective
def test_losses_of_a_half_precision_model_are_float32_and_near_the_float64_ones(name):
    """The network's output alone is rounded; an average taken in bfloat16 would be off by 1e-2 of itself."""
    model, objective = Tiny(), make(name)
    draw = objective.draw(Batch(normal(64, 2, 4, 4)), generator())
    single = replace(
        draw, data=draw.data.float(), noise=draw.noise.float(), times=draw.times.float(),
        perturbation=None if draw.perturbation is None else draw.perturbation.float(),
    )  # fmt: skip

    def rounded(x, t, labels=None):
        return model(x.double(), t.double()).bfloat16()

    loss, exact = objective(rounded, single), objective(model, draw)
    assert loss.total.dtype == torch.float32 and {term.dtype for term in loss.terms.values()} == {torch.float32}
    torch.testing.assert_close(loss.total.double(), exact.total, rtol=4e-3, atol=0)
    (slope,) = torch.autograd.grad(loss.total, model.mix)
    assert slope.isfinite().all() and slope.abs().max() > 0


@each_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_has_the_precision_of_the_data(name, dtype):
    objective, network = make(name), Tiny().to(dtype)
    batch = Batch(normal(2, 2, 4, 4).to(dtype))
    draw = objective.draw(batch, generator())
    assert draw.noise.dtype == dtype and draw.data is batch.data
    assert draw.times.dtype == dtype
    loss = objective(network, draw)
    assert loss.total.dtype == dtype and loss.total.shape == () and loss.total.isfinite()
    assert {(term.dtype, term.shape, term.requires_grad) for term in loss.terms.values()} == {(dtype, (), False)}


@each_objective
@pytest.mark.parametrize("count", [1, 2])
def test_tiny_batches_train(name, count):
    objective, network = make(name, null_label=3, label_dropout=0.5), small_sit()
    batch = Batch(normal(count, 2, 8, 8).float(), torch.arange(count))
    loss = objective(network, objective.draw(batch, generator()))
    loss.total.backward()
    assert loss.total.isfinite() and network.final_layer.linear.weight.grad.abs().max() > 0


@each_objective
def test_forwards_are_counted_and_all_of_them_have_the_steps_labels(name):
    objective = make(name, label_dropout=0.5, null_label=4)
    draw = objective.draw(Batch(normal(32, 2, 4, 4), torch.arange(32) % 4), generator())
    spy = Spy(Tiny())
    assert objective(spy, draw).forwards == len(spy.labels)
    if draw.subset is None:
        assert all(torch.equal(labels, draw.labels) for labels in spy.labels)
        return
    *part, rest = spy.labels  # the rest of the batch has a forward of its own
    assert all(torch.equal(labels, draw.labels[draw.subset]) for labels in part)
    assert sorted([*part[0].tolist(), *rest.tolist()]) == sorted(draw.labels.tolist())


@each_objective
def test_the_loss_is_a_mean_over_samples(name):
    """A batch twice over has the same loss; so the batch size does not change the rate."""
    model, objective = Tiny(), make(name)
    draw = objective.draw(Batch(normal(6, 2, 4, 4)), generator())
    twice = replace(
        draw, data=draw.data.repeat(2, 1, 1, 1), noise=draw.noise.repeat(2, 1, 1, 1), times=draw.times.repeat(1, 2),
        perturbation=None if draw.perturbation is None else draw.perturbation.repeat(2, 1, 1, 1),
        subset=None if draw.subset is None else torch.cat([draw.subset, draw.subset + 6]),
    )  # fmt: skip
    close(objective(model, twice).total, objective(model, draw).total)


@each_objective
def test_the_coupling_reorders_the_noise_and_nothing_else(name):
    batch = Batch(normal(8, 2, 4, 4), torch.zeros(8, dtype=torch.long))
    plain, coupled = (make(name, **o).draw(batch, generator()) for o in ({}, {"coupling": MinibatchOT()}))
    assert coupled.data is batch.data
    assert torch.equal(coupled.times, plain.times) and torch.equal(coupled.labels, plain.labels)
    rows = [row.tolist() for row in coupled.noise.flatten(1)]
    assert sorted(rows) == sorted(row.tolist() for row in plain.noise.flatten(1))
    assert not torch.equal(coupled.noise, plain.noise)


@each_objective
def test_a_step_without_numbers_has_the_same_forwards(name):
    """On the meta device only shapes are computed, which is how a large model's step is planned."""
    objective = make(name, label_dropout=0.5, null_label=3)
    forwards = {}
    for device in ("cpu", "meta"):
        network = small_sit().to(device)
        batch = Batch(torch.zeros(4, 2, 8, 8, device=device), torch.zeros(4, dtype=torch.long, device=device))
        calls = []
        network.register_forward_hook(lambda *args, calls=calls: calls.append(args[2].device.type))
        loss = objective(network, objective.draw(batch, generator()))
        loss.total.backward()
        assert loss.total.device.type == device and set(calls) == {device} and len(calls) == loss.forwards
        assert network.final_layer.linear.weight.grad.device.type == device
        forwards[device] = loss.forwards
    assert forwards["cpu"] == forwards["meta"]


@pytest.mark.parametrize("coupling", [Independent(), MinibatchOT()], ids=repr)
def test_meta_data_without_labels_and_under_any_coupling_works_too(coupling):
    objective = Defar(coupling=coupling)
    draw = objective.draw(Batch(torch.zeros(2, 2, 4, 4, device="meta")), generator())
    loss = objective(lambda x, t, labels: x * (1 + column(t)), draw)
    assert loss.total.is_meta and loss.forwards == 3


@each_objective
def test_low_precision_weights_kept_from_a_forward_without_gradients_are_not_used_again(name):
    """Autocast keeps cast weights; those of a forward without autograd would cut off the gradients of the next."""
    torch.manual_seed(0)
    network = SiT(8, 4, 2, 16, 1, 2, num_classes=3)
    torch.nn.init.normal_(network.final_layer.linear.weight, std=0.1)
    objective = make(name)
    draw = objective.draw(Batch(normal(4, 2, 8, 8).float()), generator())
    trained = [p for p in network.parameters() if p.requires_grad]
    gradients = []
    for cached in (True, False):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            total = objective(network, draw).total
        gradients.append(torch.autograd.grad(total, trained, allow_unused=True))
    kept, plain = (torch.cat([g.flatten() for g in found if g is not None]) for found in gradients)
    assert [g is None for g in gradients[0]] == [g is None for g in gradients[1]]
    assert (kept - plain).norm() < 0.05 * plain.norm()  # both sum over forwards, one in bfloat16
