"""Counted costs are exact, on every device; measured ones have their columns. No test looks at how long a step took."""

from functools import cache, partial

import pytest
import torch
from torch import nn

from defar_analysis.core.datasets import Batch
from defar_analysis.core.networks import SiT, sit
from defar_analysis.core.objectives import MDSS, SDSS, Defar, FlowMatching, InputPerturbation, MixFlow
from defar_analysis.measures.cost import PARTS, count_step, measure_steps

# name: (objective, network calls, forward passes, of them with autograd, backward passes)
COSTS = {
    "flow matching": (FlowMatching(), 1, 1, 1, 1),
    "input perturbation": (InputPerturbation(), 1, 1, 1, 1),
    "MixFlow": (MixFlow(), 1, 1, 1, 1),
    "SDSS": (SDSS(), 2, 2, 2, 2),
    "SDSS, detached step": (SDSS(detach_step=True), 2, 2, 1, 1),
    "SDSS, detached step, with FM": (SDSS(detach_step=True, add_fm=True), 2, 2, 2, 2),
    "MDSS, amplified": (MDSS(), 2, 2, 2, 2),
    "MDSS, exact": (MDSS(form="exact"), 5, 5, 1, 1),
    "MDSS, exact, 2 steps": (MDSS(form="exact", steps=2), 3, 3, 1, 1),
    "ADR": (Defar(fc=False), 2, 2, 2, 2),
    "ADR, detached step": (Defar(fc=False, detach_step=True), 2, 2, 2, 2),
    "ADR, rescaled": (Defar(normalize="rescale"), 2, 2, 2, 2),
    "FC": (Defar(adr=False), 3, 3, 1, 1),
    "FC from the image": (Defar(adr=False, weight_source="image"), 1, 1, 1, 1),
    "DEFAR": (Defar(), 3, 3, 2, 2),
    "DEFAR, detached step": (Defar(detach_step=True), 3, 3, 2, 2),
    "DEFAR, 3 steps": (Defar(steps=3), 5, 5, 4, 4),
    "DEFAR, weight with gradients": (Defar(weight_grad="both"), 3, 3, 3, 3),
    "DEFAR on half": (Defar(bias_fraction=0.5), 4, 2, 1.5, 1.5),
    "FC on half": (Defar(adr=False, bias_fraction=0.5), 4, 2, 1, 1),
    "DEFAR on a quarter of half": (Defar(sampled_fraction=0.5, bias_fraction=0.25), 4, 1.25, 1.125, 1.125),
}
each_cost = pytest.mark.parametrize("objective, calls, forward, grad, backward", COSTS.values(), ids=COSTS)


class Spied(nn.Module):
    """A network of one layer that notes each call's images, its own way of telling which were differentiated."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 1)
        self.images, self.recorded, self.differentiated = [], 0, 0

    def forward(self, x, t, labels=None):
        self.images.append(len(x))
        weight = self.mix.weight * 1.0  # a node of this call's own
        if weight.requires_grad:
            self.recorded += len(x)
            weight.register_hook(partial(self._note, len(x)))
        return nn.functional.conv2d(x, weight) * (1 + t[:, None, None, None])

    def _note(self, images, gradient):
        self.differentiated += images


def batch(count=8, channels=2, size=8, device="cpu"):
    data = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return Batch(data, torch.zeros(count, dtype=torch.long, device=device))


def small(device="cpu"):
    torch.manual_seed(0)
    with torch.device(device):
        return SiT(input_size=8, patch_size=4, in_channels=2, hidden_size=16, depth=2, num_heads=2, num_classes=3)


@each_cost
def test_calls_and_passes_are_those_of_the_objective(objective, calls, forward, grad, backward):
    model = Spied()
    cost = count_step(objective, model, batch(8))
    assert (cost.forwards, cost.forward_passes) == (calls, forward)
    assert (cost.grad_forward_passes, cost.backward_passes) == (grad, backward)
    assert cost.passes == forward + 2 * backward
    assert len(model.images) == calls and sum(model.images) == 8 * forward
    assert (model.recorded, model.differentiated) == (8 * grad, 8 * backward)


def test_the_units_of_the_records():
    objectives = [FlowMatching(), Defar(fc=False), SDSS(), Defar(adr=False), Defar()]
    assert [count_step(o, small("meta"), batch(device="meta")).passes for o in objectives] == [3, 6, 6, 5, 7]


def test_a_forward_costs_its_matrix_products():
    model, images, width, tokens, patch = small(), 8, 16, 4, 4
    rows = images * tokens
    expected = 2 * rows * width * 2 * patch**2  # patches in
    expected += 2 * images * (256 * width + width * width)  # time
    block = 2 * images * width * 6 * width + 2 * rows * width * (3 * width + width + 2 * 4 * width)
    block += 4 * images * tokens**2 * width  # QK^T and AV
    expected += 2 * block
    expected += 2 * images * width * 2 * width + 2 * rows * width * 2 * patch**2  # out
    cost = count_step(FlowMatching(), model, batch(images))
    assert cost.forward_flops == expected
    # each product has two in the backward, but nothing asks for the gradients of the images and of the time features
    assert cost.backward_flops == 2 * expected - 2 * rows * width * 2 * patch**2 - 2 * images * 256 * width
    assert cost.flops == cost.forward_flops + cost.backward_flops


@each_cost
def test_flops_are_equal_on_the_meta_device_and_linear_in_the_batch(objective, calls, forward, grad, backward):
    there = count_step(objective, small("meta"), batch(device="meta"))
    assert there == count_step(objective, small(), batch())
    twice = count_step(objective, small("meta"), batch(16, device="meta"))
    assert twice.forward_flops == 2 * there.forward_flops and twice.backward_flops == 2 * there.backward_flops


@cache
def network_in_use():
    with torch.device("meta"):
        model = sit("Ti/4")
    return model, count_step(FlowMatching(), model, batch(8, 3, 32, device="meta"))


@each_cost
def test_passes_are_the_flops_of_a_network_in_use(objective, calls, forward, grad, backward):
    model, unit = network_in_use()
    cost = count_step(objective, model, batch(8, 3, 32, device="meta"))
    assert cost.forward_flops == forward * unit.forward_flops
    assert cost.flops / unit.flops == pytest.approx(cost.passes / unit.passes, rel=0.02)


def test_a_network_of_the_papers_size_is_counted_without_memory():
    with torch.device("meta"):
        model = sit("XL/2", in_channels=4, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(675e6, rel=0.001)
    cost = count_step(FlowMatching(), model, batch(2, 4, 32, device="meta"))
    assert cost.forward_flops / 2 == pytest.approx(2 * 118.64e9, rel=0.002)  # DiT's paper: 118.64 G multiply-adds


def test_counting_changes_no_weight_and_no_gradient():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.final_layer.linear.weight.grad = torch.ones_like(model.final_layer.linear.weight)
    with torch.no_grad():
        count_step(Defar(), model, batch())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    given = [name for name, p in model.named_parameters() if p.grad is not None]
    assert given == ["final_layer.linear.weight"] and model.final_layer.linear.weight.grad.eq(1).all()


def test_a_network_without_trained_weights_is_refused(refuses):
    refuses(lambda: count_step(FlowMatching(), small().requires_grad_(False), batch()), "no parameter")
    frozen = lambda: small().requires_grad_(False)  # noqa: E731
    refuses(lambda: measure_steps({"flow_matching": FlowMatching()}, frozen, batch()), "no parameter")


def test_measured_steps_have_a_row_each_and_units_in_their_names():
    objectives = {"flow_matching": FlowMatching(), "half": Defar(bias_fraction=0.5), "defar": Defar()}
    table = measure_steps(objectives, small, batch(), repeats=2)
    assert list(table.columns) == [
        "method", "forwards", "forward_passes", "grad_forward_passes", "backward_passes", "passes", "gflops",
        "seconds", "seconds_low", "seconds_high", "ratio_to_flow_matching", "ratio_low", "ratio_high",
        "peak_memory_mib", "parameters", "batch_size",
    ]  # fmt: skip
    assert list(table["method"]) == list(objectives) and table["passes"].tolist() == [3, 5, 7]
    assert (table["seconds"] > 0).all() and (table["seconds_low"] <= table["seconds_high"]).all()
    assert table["ratio_to_flow_matching"][0] == table["ratio_low"][0] == table["ratio_high"][0] == 1
    assert (table["ratio_low"] <= table["ratio_high"]).all() and (table["batch_size"] == 8).all()
    expected = count_step(objectives["defar"], small(), batch())
    assert table["gflops"][2] == expected.flops / 1e9
    assert (table["parameters"] == sum(p.numel() for p in small().parameters() if p.requires_grad)).all()


def test_the_parts_of_a_step_add_up():
    objectives = {"flow_matching": FlowMatching(), "fc": Defar(adr=False)}
    table = measure_steps(objectives, small, batch(), repeats=1, split=True)
    parts = table[[f"{part}_seconds" for part in PARTS]]
    assert parts.sum(axis=1).tolist() == pytest.approx(table["seconds"].tolist())
    assert (parts.drop(columns="plain_forward_seconds") > 0).all(axis=None)
    assert table["plain_forward_seconds"][0] == 0 < table["plain_forward_seconds"][1]


def test_peak_memory_is_what_the_graph_keeps_and_repeats_exactly():
    objectives = {"flow_matching": FlowMatching(), "fc": Defar(adr=False), "defar": Defar()}

    def peaks(count):
        return measure_steps(objectives, small, batch(count), repeats=1).set_index("method")["peak_memory_mib"]

    first, again, many = peaks(64), peaks(64), peaks(640)
    assert first.equals(again)
    # on a large batch weights and gradients no longer matter: DEFAR keeps two forwards, FC one
    assert 1.9 < many["defar"] / many["flow_matching"] < 2.2 and many["fc"] / many["flow_matching"] < 1.3
    activations = (many["flow_matching"] - first["flow_matching"]) / 576
    assert many["flow_matching"] == pytest.approx(640 * activations, rel=0.1)


def test_a_peak_counts_what_lives_at_once():
    class Wasteful(Spied):
        def forward(self, x, t, labels=None):
            with torch.no_grad():
                for _ in range(5):
                    torch.zeros(2**20)  # 4 MiB each, freed before the next
            return super().forward(x, t, labels)

    table = measure_steps({"flow_matching": FlowMatching()}, Wasteful, batch(2), repeats=1)
    assert 4 < table["peak_memory_mib"][0] < 4.1


def test_measuring_refuses_what_it_cannot_answer(refuses):
    refuses(lambda: measure_steps({"defar": Defar()}, small, batch()), "flow_matching", "defar")
    refuses(lambda: measure_steps({"flow_matching": FlowMatching()}, small, batch(), repeats=0), "repeats", 0)
    refuses(lambda: measure_steps({"flow_matching": FlowMatching()}, small, batch(), device="meta"), "count_step")
