"""RAE's DiT^DH against the outputs, tables and parameter counts of the official code, in its own clock: t = 1 noise."""

import pytest
import torch
from safetensors.torch import load_file
from small_networks import largest, parameters, shaken, small

from defar_analysis.core.checkpoints import Card, save_checkpoint
from defar_analysis.core.guidance import CFG
from defar_analysis.core.networks import DiTDH, ditdh

OFFICIAL = {
    "input_size": 4, "patch_size": 1, "in_channels": 6, "hidden_size": 32, "decoder_hidden_size": 48, "depth": 3,
    "encoder_depth": 2, "num_heads": 4, "decoder_num_heads": 4, "num_classes": 10,
}  # fmt: skip


def test_random_frequencies_are_saved_unrounded(tmp_path):
    network = DiTDH(**OFFICIAL)
    folder = save_checkpoint(tmp_path / "rae", network, Card("rae", "ema", "", {}))
    saved = load_file(folder / "weights.safetensors")
    assert torch.equal(saved["t_embedder.W"], network.t_embedder.W)
    assert saved["pos_embed"].dtype == torch.float16


@pytest.fixture
def recorded_rae(official):
    return official(DiTDH(**OFFICIAL), "rae_ditdh")


def test_outputs_equal_the_official_ones(recorded_rae):
    network, io = recorded_rae
    assert largest(network(io["x"], io["t"], io["y"]), io["out"]) < 5e-5
    assert largest(network.t_embedder(io["t"]), io["time_embedding"]) < 1e-5


def test_tables_are_the_official_ones_from_the_start(fixture_path):
    weights, ours = load_file(fixture_path("rae_ditdh.safetensors")), DiTDH(**OFFICIAL).state_dict()
    tables = [name for name in weights if name == "pos_embed" or "freqs" in name]
    assert len(tables) == 5
    for name in tables:
        assert largest(ours[name], weights[name]) < 1e-6, name


@pytest.mark.parametrize(("interval", "name"), [((0, 1), "0_1"), ((0.5, 1), "0.5_1"), ((0, 0.3), "0_0.3")])
def test_guidance_equals_the_official_one(recorded_rae, interval, name):
    """The first half of their doubled batch; at t = 0.3, the included end of the last interval."""
    network, io = recorded_rae
    guided = CFG(network, 1.5, null_label=10, interval=interval)
    out = guided(io["cfg_x"][:2], io["cfg_t"][:2], io["cfg_y"][:2])
    assert largest(out, io[f"cfg_out_scale1.5_interval_{name}"][:2]) < 5e-5


def test_guidance_in_our_clock_is_the_official_one_turned_over(recorded_rae):
    network, io = recorded_rae

    def ours(x, t, labels):
        return -network(x, 1 - t, labels)

    guided = CFG(ours, 1.5, null_label=10, interval=(0.7, 1.0))
    out = guided(io["cfg_x"][:2], 1 - io["cfg_t"][:2], io["cfg_y"][:2])
    assert largest(out, -io["cfg_out_scale1.5_interval_0_0.3"][:2]) < 5e-5


def test_the_frequencies_of_the_time_keep_their_precision():
    network = small("rae")
    frequencies = network.t_embedder.W.detach().clone()
    assert torch.equal(network.to(torch.bfloat16).t_embedder.W, frequencies)
    assert network.s_embedder.proj.weight.dtype == torch.bfloat16
    assert not network.t_embedder.W.requires_grad and torch.equal(network.double().t_embedder.W, frequencies)


@torch.no_grad()
def test_equal_widths_need_no_projector():
    network = shaken(small("rae", decoder_hidden_size=16, decoder_num_heads=2))
    assert not any(name.startswith("s_projector") for name in network.state_dict())
    assert network(torch.randn(2, 3, 8, 8), torch.rand(2)).abs().min() > 0


@pytest.mark.parametrize(
    ("name", "at_256", "at_512", "tensors"),
    [("XL/1", 838_675_796, 839_560_532, 382), ("S/1", 196_455_764, 196_750_676, 190)],
)
def test_parameter_counts_are_the_official_ones(name, at_256, at_512, tensors):
    with torch.device("meta"):
        network, bigger = ditdh(name), ditdh(name, input_size=32)
    assert (parameters(network), parameters(bigger)) == (at_256, at_512)
    assert len(network.state_dict()) == len(bigger.state_dict()) == tensors


def test_hidden_widths_of_the_gated_mlps_are_the_official_ones():
    with torch.device("meta"):
        network = ditdh("XL/1")
    assert [network.blocks[i].mlp.w3.weight.shape for i in (0, 27, 28, 29)] == [(1152, 3072)] * 2 + [(2048, 5461)] * 2
    assert network.dec_feat_rope.freqs_cos.shape == (256, 128) and network.enc_feat_rope.freqs_cos.shape == (256, 72)


def test_impossible_decoders_are_refused(refuses):
    refuses(lambda: small("rae", decoder_hidden_size=20, decoder_num_heads=3), "20", "3")
