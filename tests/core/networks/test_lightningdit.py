"""LightningDiT against the outputs, tables and parameter counts of the official code."""

import pytest
import torch
from safetensors.torch import load_file
from small_networks import largest, parameters

from defar_analysis.core.guidance import CFG
from defar_analysis.core.networks import LightningDiT, lightningdit
from defar_analysis.core.samplers import sample
from defar_analysis.core.solvers import Euler

OFFICIAL = {
    "input_size": 4, "patch_size": 1, "in_channels": 6, "hidden_size": 32, "depth": 2, "num_heads": 4,
    "num_classes": 10,
}  # fmt: skip


@pytest.fixture
def recorded_lightningdit(official):
    return official(LightningDiT(**OFFICIAL), "lightningdit")


def test_outputs_equal_the_official_ones(recorded_lightningdit):
    network, io = recorded_lightningdit
    assert largest(network(io["x"], io["t"], io["y"]), io["out"]) < 5e-5


def test_tables_are_the_official_ones_from_the_start(fixture_path):
    weights, ours = load_file(fixture_path("lightningdit.safetensors")), LightningDiT(**OFFICIAL).state_dict()
    for name in ("pos_embed", "feat_rope.freqs_cos", "feat_rope.freqs_sin"):
        assert largest(ours[name], weights[name]) < 1e-6, name


@pytest.mark.parametrize("t", [0.05, 0.5])
def test_guidance_equals_the_official_one(recorded_lightningdit, t):
    """The first half of their doubled batch: three channels of six guided, from t = 0.125 on."""
    network, io = recorded_lightningdit
    guided = CFG(network, 6.7, null_label=10, interval=(0.125, 1.0), channels="first3")
    out = guided(io["cfg_x"][:2], torch.full((2,), t), io["cfg_y"][:2])
    assert largest(out, io[f"cfg_out_scale6.7_start0.125_t{t}"][:2]) < 5e-5


@pytest.mark.parametrize("shift", [0.0, 0.3])  # their 0 is none
def test_its_sampler_is_euler_on_sits_grid(recorded, shift):
    io = {key: torch.from_numpy(value) for key, value in recorded("lightningdit_io.npz").items()}

    def field(x, t, labels):
        return torch.tanh(x) * (1 + t.reshape(-1, 1, 1, 1))

    ours = sample(field, io["ode_init"], Euler(10, grid="sit", shift=shift or 1.0))
    assert largest(ours.times[:-1], io[f"ode_euler10_shift{shift}_call_times"]) < 1e-6
    assert largest(ours.x, io[f"ode_euler10_shift{shift}_final"]) < 1e-6


@pytest.mark.parametrize(("name", "count", "tensors"), [("XL/1", 675_256_736, 351), ("B/1", 130_556_192, 159)])
def test_parameter_counts_are_the_official_ones(name, count, tensors):
    with torch.device("meta"):
        network = lightningdit(name)
    assert parameters(network) == count and len(network.state_dict()) == tensors
