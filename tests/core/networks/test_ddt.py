"""DDT against the outputs, stages and parameter counts of the official code."""

import math

import pytest
import torch
from small_networks import largest, parameters, shaken, small

from defar_analysis.core.networks import DDT, ddt
from defar_analysis.core.networks.ddt import rotary_angles
from defar_analysis.core.networks.sit import time_features


@pytest.fixture
def recorded_ddt(official):
    return official(DDT(8, 2, 4, hidden_size=32, depth=3, encoder_depth=2, num_heads=4, num_classes=10), "ddt_square")


def test_outputs_equal_the_official_ones(recorded_ddt):
    network, io = recorded_ddt
    assert largest(network(io["x"], io["t"], io["y"]), io["out"]) < 5e-5


def test_stages_equal_the_official_ones(recorded_ddt):
    network, io = recorded_ddt
    assert largest(time_features(io["t"], 256, max_period=10.0), io["time_features"]) < 1e-6
    assert largest(network.t_embedder(io["t"]), io["time_embedding"]) < 1e-5
    assert largest(network.state(io["x"], io["t"], io["y"]), io["state"]) < 2e-5


def test_a_state_is_all_that_the_decoder_needs_to_know(recorded_ddt):
    network, io = recorded_ddt
    out = network(io["x_for_reuse"], io["t"], io["y"], state=io["state"])
    assert largest(out, io["out_with_reused_state"]) < 5e-5
    assert torch.equal(out, network(io["x_for_reuse"], 1 - io["t"], None, io["state"]))
    assert torch.equal(network(io["x"], io["t"], state=network.state(io["x"], io["t"])), network(io["x"], io["t"]))


def test_another_split_of_the_same_weights_is_another_network(recorded_ddt):
    network, io = recorded_ddt
    other = DDT(**{**network.config, "encoder_depth": 1})
    other.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        assert largest(other(io["x"], io["t"], io["y"]), io["out"]) > 0.1


def test_rotary_angles_equal_the_official_ones(recorded_ddt):
    """The recorded angles are those of complex numbers: whole turns are lost."""
    _, io = recorded_ddt
    ours = rotary_angles(4, 4, 8)
    assert largest(ours.cos(), io["rotary_real"]) < 1e-6 and largest(ours.sin(), io["rotary_imag"]) < 1e-6
    turns = (ours - io["rotary_angles"]) / (2 * math.pi)
    assert largest(turns, turns.round()) < 1e-6


def test_coordinates_span_the_same_range_on_every_grid():
    """Of a head of 8 channels: (column, row) at frequency 1, then at 1/100."""
    angles = rotary_angles(3, 5, 8).reshape(3, 5, 2, 2)
    assert largest(angles[..., 0, 0], torch.tensor([0.0, 4, 8, 12, 16]).expand(3, 5)) < 1e-5
    assert largest(angles[..., 0, 1], torch.tensor([0.0, 8, 16])[:, None].expand(3, 5)) < 1e-5
    assert largest(angles[..., 1, :], angles[..., 0, :] / 100) < 1e-6
    assert torch.equal(rotary_angles(1, 1, 8), torch.zeros(1, 4))


@torch.no_grad()
def test_a_grid_that_is_not_square_works():
    """Turning the image and swapping a head's row and column channels in q and k is the same as turning the answer."""
    network = shaken(small("ddt", patch_size=1), size=0.3).double()
    x, t = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(3)).double(), torch.tensor([0.2, 0.7])
    out = network(x, t)
    assert out.shape == x.shape
    width, heads = network.head_width, network.config["num_heads"]
    swapped = torch.arange(width).reshape(-1, 2, 2).flip(1).flatten()  # pairs alternate: column, row, column, ...
    for block in network.blocks:
        attention = block.attn
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.copy_(norm.weight[swapped])
        qkv = attention.qkv.weight.reshape(3, heads, width, -1).clone()
        qkv[:2] = qkv[:2, :, swapped]
        attention.qkv.weight.copy_(qkv.reshape(attention.qkv.weight.shape))
    assert largest(network(x.mT, t).mT, out) < 1e-10
    assert largest(network(x, t), out) > 1e-3  # positions count


@pytest.mark.parametrize(("name", "count"), [("XL/2", 674_646_352), ("L/2", 457_648_144), ("B/2", 130_262_800)])
def test_parameter_counts_are_the_official_ones(name, count):
    with torch.device("meta"):
        network = ddt(name, input_size=32 if name == "XL/2" else 64)
    assert parameters(network) == count
    assert name != "XL/2" or (len(network.state_dict()) == 349 and network.encoder_depth == 22)
