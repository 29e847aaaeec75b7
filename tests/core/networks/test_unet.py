"""The U-Net of OT-CFM against the outputs and parameter counts of the official code."""

import pytest
import torch
from small_networks import largest, parameters, shaken, small

from defar_analysis.core.networks import UNet, build_network, unet
from defar_analysis.core.networks.sit import time_features


@pytest.fixture
def recorded_unet(recorded):
    """The recorded network; a weight is k * scale + offset, exactly, in float32."""
    numbers = {name: torch.from_numpy(value) for name, value in recorded("torchcfm_unet.npz").items()}
    names = [name[2:] for name in numbers if name.startswith("k.")]
    network = UNet(8, 3, None, width=32, multipliers=(2, 2), residual_blocks=1, attention_sizes=(4,), head_width=16)
    weights = {name: numbers[f"k.{name}"] * numbers[f"scale.{name}"] + numbers[f"offset.{name}"] for name in names}
    weights = {name: weight.float() for name, weight in weights.items()}
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in weights.items()}
    network.load_state_dict(weights, strict=True)
    return network.eval().requires_grad_(False), numbers


def test_outputs_equal_the_official_ones(recorded_unet):
    network, io = recorded_unet
    assert parameters(network) == 1_005_251
    assert largest(time_features(io["t"], 32), io["time_features"]) < 1e-6
    assert largest(network(io["x"], io["t"]), io["out"]) < 1e-4
    assert largest(network(io["x"], torch.tensor(0.4)), io["out_at_scalar_time_0p4"]) < 1e-4


def test_an_unconditional_network_ignores_labels_and_can_be_given_some(recorded_unet):
    network, io = recorded_unet
    expected = network(io["x"], io["t"])
    assert torch.equal(network(io["x"], io["t"], torch.tensor([0, 7, -3])), expected)
    weights, config = network.without_labels(5)
    labelled = build_network("unet", None, config)
    labelled.load_state_dict(weights, strict=True)
    with torch.no_grad():
        assert torch.equal(labelled(io["x"], io["t"], torch.tensor([0, 5, 2])), expected)


def test_the_published_network_has_the_official_count():
    with torch.device("meta"):
        network, conditional = unet("cifar10"), unet("cifar10", num_classes=10)
    assert parameters(network) == 35_746_307 and len(network.state_dict()) == 304
    assert parameters(conditional) == 35_746_307 + 11 * 512
    at = {name.rsplit(".", 2)[0] for name in network.state_dict() if ".qkv." in name}
    assert at == {f"input_blocks.{n}.1" for n in (4, 5)} | {"middle_block.1"} | {
        f"output_blocks.{n}.1" for n in (6, 7, 8)
    }


@torch.no_grad()
def test_other_sizes_of_images_work():
    network = shaken(small("unet"), size=0.02)
    x, t = torch.randn(2, 3, 4, 10), torch.tensor([0.2, 0.9])
    assert network(x, t).shape == x.shape


@torch.no_grad()
def test_dropout_is_in_train_mode_only():
    network = shaken(small("unet", dropout=0.5), size=0.02)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.9])
    assert not torch.equal(network.train()(x, t), network(x, t))
    assert torch.equal(network.eval()(x, t), network(x, t))
    with torch.device("meta"):
        assert unet("cifar10").config["dropout"] == 0  # the published training's 0.1 has to be asked for


def test_impossible_shapes_are_refused(refuses):
    refuses(lambda: small("unet", input_size=9), "9", "2")
    refuses(lambda: small("unet", multipliers=[]), "one level")
    refuses(lambda: small("unet", residual_blocks=0), "residual_blocks")
    refuses(lambda: small("unet", width=1, multipliers=[32]), "width 1")
    refuses(lambda: small("unet", dropout=1.0), "dropout 1.0")
    refuses(lambda: small("unet", width=24), "48", "32")
    refuses(lambda: small("unet", head_width=24), "24", "64")
    refuses(lambda: small("unet", attention_sizes=[16]), "16", "8, 4")
    refuses(lambda: unet("XL/2"), "'XL/2'", "cifar10")
