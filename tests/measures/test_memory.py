"""Bytes kept for the backward pass: counted by hand, without memory as with it, and beside what a step really holds."""

import pytest
import torch
from torch import nn

from defar_analysis.core.datasets import Batch
from defar_analysis.core.networks import SiT
from defar_analysis.core.objectives import SDSS, Defar, FlowMatching
from defar_analysis.measures.cost import measure_steps
from defar_analysis.measures.memory import kept_bytes, planned_bytes

OBJECTIVES = {"flow_matching": FlowMatching(), "sdss": SDSS(), "defar": Defar(), "fc": Defar(adr=False)}


def network() -> nn.Module:
    return SiT(8, 2, 3, 32, 2, 2, num_classes=3)


def draw(objective, count=4):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(count, 3, 8, 8, generator=generator)
    return objective.draw(Batch(data, torch.arange(count) % 3), generator)


class Scaled(nn.Module):
    """v = w x: its multiplication keeps x, and the square of the loss its argument."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, labels=None):
        return self.weight * x


def test_a_product_and_a_square_keep_one_tensor_each():
    kept = kept_bytes(FlowMatching(), Scaled(), draw(FlowMatching()))
    assert kept == 2 * 4 * (4 * 3 * 8 * 8)  # float32; the weight is the model's own


@pytest.mark.parametrize("name", OBJECTIVES)
def test_planning_without_memory_counts_what_a_real_step_keeps(name):
    objective = OBJECTIVES[name]
    real = kept_bytes(objective, network(), draw(objective))
    assert planned_bytes(objective, network, draw(objective)) == pytest.approx(real, rel=1e-3)


def test_it_is_linear_in_the_batch_and_in_the_forwards_with_autograd():
    once, twice = (kept_bytes(FlowMatching(), network(), draw(FlowMatching(), n)) for n in (4, 8))
    assert twice == pytest.approx(2 * once, rel=1e-3)
    for name, forwards in (("sdss", 2), ("defar", 2), ("fc", 1)):
        kept = kept_bytes(OBJECTIVES[name], network(), draw(OBJECTIVES[name]))
        assert kept == pytest.approx(forwards * once, rel=0.03), name


def test_a_step_holds_no_less_and_with_gradients_little_more():
    """Its peak lies between what is kept and 1.1 times that and the gradients."""
    data = Batch(torch.randn(16, 3, 8, 8), torch.arange(16) % 3)
    chosen = {name: OBJECTIVES[name] for name in ("flow_matching", "defar")}
    peaks = measure_steps(chosen, network, data, repeats=1).set_index("method")["peak_memory_mib"] * 2**20
    gradients = 4 * sum(p.numel() for p in network().parameters())
    for name, objective in chosen.items():
        kept = kept_bytes(objective, network(), draw(objective, 16))
        assert kept <= peaks[name] <= 1.1 * (kept + gradients), name
