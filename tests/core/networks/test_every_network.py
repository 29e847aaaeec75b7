"""What every velocity network keeps to, whatever its family."""

import pytest
import torch
from small_networks import SMALL, shaken, small

from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.networks import NAMED, NETWORKS, build_network

NAMES = {"sit": "Ti/4", "ddt": "B/2", "rae": "S/1", "lightningdit": "B/1", "unet": "cifar10"}
TRANSFORMERS = [family for family in NETWORKS if family != "unet"]

every_family = pytest.mark.parametrize("family", NETWORKS)
every_transformer = pytest.mark.parametrize("family", TRANSFORMERS)


def batch(count=3, seed=2):
    generator = torch.Generator().manual_seed(seed)
    x, t = torch.randn(count, 3, 8, 8, generator=generator), torch.rand(count, generator=generator)
    return x, t, torch.arange(count) % 4


def test_all_families_are_here():
    assert list(NETWORKS) == list(NAMED) == list(SMALL) == list(NAMES)


@every_family
@torch.no_grad()
def test_a_fresh_network_returns_exactly_zero(family):
    out = small(family)(*batch())
    assert torch.equal(out, torch.zeros(3, 3, 8, 8))


@every_family
@torch.no_grad()
def test_no_labels_means_the_null_label_and_every_label_counts(family):
    network = shaken(small(family))
    x, t, labels = batch()
    assert torch.equal(network(x, t), network(x, t, torch.full((3,), 4)))
    assert all((network(x, t) != network(x, t, labels)).flatten(1).any(dim=1))


@every_family
@torch.no_grad()
def test_nothing_is_random_in_train_mode(family):
    network = shaken(small(family)).train()
    inputs = batch(64)
    before = torch.get_rng_state()
    first = network(*inputs)
    assert torch.equal(first, network(*inputs)) and torch.equal(first, network.eval()(*inputs))
    assert torch.equal(before, torch.get_rng_state())


@every_family
def test_the_gradient_reaches_every_trained_parameter(family):
    network = shaken(small(family))
    network(*batch()).square().sum().backward()
    untouched = [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert not untouched and frozen <= {"pos_embed", "t_embedder.W"}


@every_family
def test_a_network_is_built_again_from_its_config(family, tmp_path):
    network = shaken(small(family))
    again = build_network(family, None, network.config)
    again.load_state_dict(network.state_dict(), strict=True)
    assert again.config == network.config and {"input_size", "in_channels", "num_classes"} <= again.config.keys()
    folder = save_checkpoint(tmp_path, network, Card("x", "ema", "", {}), dtype=torch.float32)
    loaded = load_checkpoint(folder).model
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    with torch.no_grad():  # not to the bit: where a file's tensors lie in memory picks the kernel
        torch.testing.assert_close(loaded(*batch()), network(*batch()), rtol=0, atol=1e-5)


@every_family
def test_a_named_size_takes_the_shape_of_the_data(family):
    with torch.device("meta"):
        network = build_network(family, NAMES[family], {"input_size": 32, "in_channels": 5, "num_classes": 7})
    assert type(network) is NETWORKS[family]
    assert [network.config[key] for key in ("input_size", "in_channels", "num_classes")] == [32, 5, 7]


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_every_dtype_gives_nearly_the_same(family, dtype):
    """bfloat16 has three digits; the times are close together, which a time in bfloat16 could not tell apart."""
    network, (x, _, labels) = shaken(small(family)), batch()
    t = torch.tensor([0.5000, 0.5004, 0.9996])
    expected = network(x, t, labels)
    out = network.to(dtype)(x.to(dtype), t.double() if dtype == torch.float64 else t, labels)
    assert out.dtype == dtype
    bound = {torch.bfloat16: 0.04, torch.float16: 0.006, torch.float64: 1e-5}[dtype]
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=bound * float(expected.abs().max()))


@every_family
@torch.no_grad()
def test_autocast_gives_nearly_the_same(family):
    network, inputs = shaken(small(family)), batch()
    expected = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*inputs)
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.04 * float(expected.abs().max()))


@every_family
@torch.no_grad()
def test_one_graph_holds_a_whole_forward(family):
    network, inputs = shaken(small(family)), batch()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), network(*inputs), rtol=0, atol=1e-6)
    torch.compiler.reset()


@every_family
@torch.no_grad()
def test_without_labels_every_label_is_none(family):
    network = shaken(small(family))
    weights, config = network.without_labels(2)
    unlabelled = build_network(family, None, config)
    unlabelled.load_state_dict(weights, strict=True)
    x, t, _ = batch()
    assert torch.equal(unlabelled(x, t, torch.tensor([0, 1, 2])), network(x, t))


@every_family
@pytest.mark.parametrize("wrong", [-1, 5, 400])
def test_a_label_that_no_class_has_is_refused(family, wrong, refuses):
    network, (x, t, _) = small(family), batch()
    refuses(lambda: network(x, t, torch.tensor([0, wrong, 1])), f"label {wrong} is unknown", "from 0 to 4")
    assert network(x, t, torch.tensor([0, 4, 1])).shape == x.shape


@every_family
def test_another_size_of_x_unknown_names_and_options_are_refused(family, refuses):
    network = small(family)
    refuses(lambda: network(torch.zeros(1, 3, 9, 8), torch.zeros(1)), "9 x 8")
    refuses(lambda: NAMED[family]("H/3"), "'H/3'", NAMES[family].split("/")[0])
    refuses(lambda: build_network(family, None, {"dept": 3}), family, "dept")
    refuses(lambda: build_network(family, NAMES[family], {"dept": 3}), family, "dept")


@every_transformer
def test_impossible_shapes_are_refused(family, refuses):
    refuses(lambda: small(family, input_size=9), "9", "4")
    refuses(lambda: small(family, patch_size=0), "patch_size 0")
    refuses(lambda: small(family, hidden_size=16, num_heads=3), "16", "3")
    refuses(lambda: small(family, num_heads=0), "num_heads")


@every_transformer
@torch.no_grad()
def test_every_block_returns_tokens(family):
    """(B, T, width), from any block, for whoever compares them with features of an encoder."""
    network, shapes = small(family), []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    network(*batch())
    width = network.config["hidden_size"]
    assert shapes[0] == (3, 4, width) and len(shapes) == network.config["depth"]
    assert all(shape[:2] == (3, 4) for shape in shapes)


@every_transformer
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
@torch.no_grad()
def test_a_patch_lands_where_it_came_from(family, patch):
    """With the blocks gated off and nothing else passed on, a change in one patch changes that patch alone."""
    network = small(family, patch_size=patch)
    network.final_layer.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
    x, t = torch.zeros(1, 3, 8, 8), torch.tensor([0.5])
    moved = x.clone()
    moved[..., :patch, 8 - patch :] = torch.randn(1, 3, patch, patch)
    changed = (network(moved, t) != network(x, t))[0]
    assert changed[:, :patch, 8 - patch :].all() and changed.sum() == 3 * patch * patch


@pytest.mark.parametrize("family", ["ddt", "rae"])
def test_a_split_without_encoder_or_decoder_is_refused(family, refuses):
    for encoder_depth in (0, 3, 4, -1):
        refuses(lambda depth=encoder_depth: small(family, encoder_depth=depth), f"encoder_depth {encoder_depth}", "3")
