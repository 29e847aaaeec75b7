"""SiT against the outputs, tables and parameter counts of the official code."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from defar_analysis.core.networks import SiT, build_network, sit
from defar_analysis.core.networks.sit import sincos_position_embedding, time_features

TINY = {"in_channels": 4, "hidden_size": 32, "num_classes": 10}
OFFICIAL = {
    "sit_learn_sigma": {"input_size": 8, "patch_size": 2, "depth": 2, "num_heads": 4, "learn_sigma": True},
    "sit_plain": {"input_size": 4, "patch_size": 1, "depth": 3, "num_heads": 2},
}

each_official = pytest.mark.parametrize("name", OFFICIAL)


@pytest.fixture
def official(fixture_path, recorded):
    """The network with the official weights, and what the official code gave, as tensors."""

    def load(name, dtype=torch.float32):
        network = SiT(**TINY, **OFFICIAL[name])
        network.load_state_dict(load_file(fixture_path(f"{name}.safetensors")), strict=True)
        numbers = {key: torch.from_numpy(value) for key, value in recorded(f"{name}_io.npz").items()}
        return network.to(dtype).eval(), numbers

    return load


def small(**options):
    torch.manual_seed(0)
    return SiT(**{"input_size": 8, "patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2, **options})


def shaken(network):
    """Every trained weight moved off its initial value, so that nothing is gated to zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=generator)
    return network


@each_official
@torch.no_grad()
def test_outputs_equal_the_official_ones(name, official):
    network, io = official(name)
    torch.testing.assert_close(network(io["x"], io["t"], io["y"]), io["out"], rtol=0, atol=2e-5)


@each_official
@torch.no_grad()
def test_float64_outputs_equal_the_official_ones(name, official, monkeypatch):
    """To 1e-7, since float32 cosines differ between machines in the last bit; to 1e-12 from the same cosines."""
    network, io = official(name, torch.float64)
    inputs = io["x"].double(), io["t"], io["y"]
    torch.testing.assert_close(network(*inputs), io["out_f64"], rtol=0, atol=1e-7)
    monkeypatch.setattr(sys.modules[SiT.__module__], "time_features", lambda t, count: io["time_features"])
    torch.testing.assert_close(network(*inputs), io["out_f64"], rtol=0, atol=1e-12)


@each_official
@torch.no_grad()
def test_stages_equal_the_official_ones(name, official):
    network, io = official(name)
    c = network.t_embedder(io["t"])
    torch.testing.assert_close(time_features(io["t"], 256), io["time_features"], rtol=0, atol=1e-6)
    torch.testing.assert_close(c, io["time_embedding"], rtol=0, atol=1e-5)
    c = c + network.y_embedder(io["y"])
    torch.testing.assert_close(c, io["conditioning"], rtol=0, atol=1e-5)
    tokens = network.x_embedder(io["x"]) + network.pos_embed
    torch.testing.assert_close(tokens, io["tokens_in"], rtol=0, atol=1e-5)
    torch.testing.assert_close(network.blocks[0](tokens, c), io["after_block0"], rtol=0, atol=1e-5)


@each_official
@torch.no_grad()
def test_a_train_mode_forward_equals_the_official_one_with_its_dropped_labels(name, official):
    network, io = official(name)
    out = network.train()(io["x"], io["t"], io["train_labels_after_drop"])
    torch.testing.assert_close(out, io["train_out"], rtol=0, atol=2e-5)


@each_official
def test_parameter_names_and_shapes_are_exactly_the_official_ones(name, fixture_path):
    ours = {key: value.shape for key, value in SiT(**TINY, **OFFICIAL[name]).state_dict().items()}
    assert ours == {key: value.shape for key, value in load_file(fixture_path(f"{name}.safetensors")).items()}


def test_position_tables_equal_the_official_ones(recorded):
    numbers = {key: torch.from_numpy(value) for key, value in recorded("sincos_pos_embed.npz").items()}
    for width, grid in ((16, 4), (32, 2), (32, 4), (64, 8)):
        ours = sincos_position_embedding(width, grid)
        torch.testing.assert_close(ours, numbers[f"d{width}_grid{grid}"], rtol=0, atol=1e-12)
    for grid in (16, 32):
        ours = sincos_position_embedding(1152, grid)[numbers[f"d1152_grid{grid}_rows"]]
        torch.testing.assert_close(ours, numbers[f"d1152_grid{grid}_values"], rtol=0, atol=1e-12)


def count(name, trained=False, **options):
    with torch.device("meta"):
        network = sit(name, **{"in_channels": 4, "num_classes": 1000, **options})
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trained)


@pytest.mark.parametrize(
    ("name", "with_sigma", "trained", "without"),
    [
        ("S/2", 32_963_360, 32_865_056, 32_957_200),
        ("B/2", 130_512_416, 130_315_808, 130_500_112),
        ("L/2", 458_102_816, 457_840_672, 458_086_416),
        ("XL/2", 675_129_632, 674_834_720, 675_111_184),
        ("S/4", 32_945_024, None, 32_920_384),
        ("B/4", 130_475_648, None, 130_426_432),
        ("XL/4", 675_074_432, None, 675_000_640),
    ],
)
def test_parameter_counts_at_256_are_the_official_ones(name, with_sigma, trained, without):
    assert count(name, learn_sigma=True) == with_sigma
    assert trained is None or count(name, trained=True, learn_sigma=True) == trained
    assert count(name) == without


@pytest.mark.parametrize(
    ("name", "with_sigma", "without"),
    [
        ("S/2", 33_258_272, 33_252_112),
        ("B/2", 131_102_240, 131_089_936),
        ("L/2", 458_889_248, 458_872_848),
        ("XL/2", 676_014_368, 675_995_920),
    ],
)
def test_parameter_counts_at_512_are_the_official_ones(name, with_sigma, without):
    assert count(name, input_size=64, learn_sigma=True) == with_sigma
    assert count(name, input_size=64) == without


@pytest.mark.parametrize(("name", "millions"), [("B/4", 131), ("M/2", 308), ("XL/2", 675)])
def test_parameter_counts_are_near_the_papers(name, millions):
    """Tab. 11, which rounds."""
    assert abs(count(name) / (millions * 1e6) - 1) < 0.012


def test_the_shipped_size_has_about_two_million_parameters():
    assert 1.5e6 < count("Ti/4", in_channels=3, num_classes=10) < 2.5e6


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_every_patch_size_returns_the_shape_of_x(patch, learn_sigma):
    network = small(input_size=8, patch_size=patch, learn_sigma=learn_sigma)
    x = torch.randn(2, 3, 8, 8)
    assert network(x, torch.rand(2), torch.tensor([0, 10])).shape == x.shape


def test_a_patch_lands_where_it_came_from():
    """With the blocks gated off, a change inside one patch changes the output of that patch alone."""
    network = small(patch_size=2, depth=1)
    with torch.no_grad():
        network.final_layer.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
    x, t = torch.zeros(1, 3, 8, 8), torch.tensor([0.5])
    moved = x.clone()
    moved[..., 2:4, 6:8] = torch.randn(1, 3, 2, 2)
    changed = (network(moved, t) != network(x, t))[0]
    assert changed[:, 2:4, 6:8].all() and changed.sum() == 12


@torch.no_grad()
def test_a_fresh_network_returns_exactly_zero():
    out = small()(torch.randn(3, 3, 8, 8), torch.rand(3), torch.arange(3))
    assert torch.equal(out, torch.zeros_like(out))


@torch.no_grad()
def test_no_labels_means_the_null_label():
    network = shaken(small(num_classes=4))
    x, t = torch.randn(3, 3, 8, 8), torch.rand(3)
    assert torch.equal(network(x, t), network(x, t, torch.full((3,), 4)))
    assert not torch.equal(network(x, t), network(x, t, torch.full((3,), 0)))


@torch.no_grad()
def test_nothing_is_random_in_train_mode():
    network = shaken(small(num_classes=4)).train()
    x, t, labels = torch.randn(64, 3, 8, 8), torch.rand(64), torch.arange(64) % 4
    before = torch.get_rng_state()
    first = network(x, t, labels)
    assert torch.equal(first, network(x, t, labels)) and torch.equal(first, network.eval()(x, t, labels))
    assert torch.equal(before, torch.get_rng_state())


def test_config_builds_the_same_network_again():
    network = shaken(small(num_classes=4, learn_sigma=True, mlp_ratio=2.0))
    again = build_network("sit", None, network.config)
    again.load_state_dict(network.state_dict(), strict=True)
    assert again.config == network.config


def test_unknown_sizes_and_impossible_shapes_are_refused(refuses):
    for name in ("H/2", "B", "B/3", "b/4", ""):
        refuses(lambda name=name: sit(name), repr(name), "Ti, S, B, M, L, XL")
    refuses(lambda: small(input_size=9), "9", "4")
    refuses(lambda: small(hidden_size=16, num_heads=3), "16", "3")
    refuses(lambda: small(num_heads=0), "num_heads")
    refuses(lambda: build_network("dit", None, {}), "'dit'", "sit")
    refuses(lambda: build_network("sit", "Ti/4", {"dept": 3}), "dept")


@pytest.mark.parametrize("wrong", [-1, 5, 400])
def test_a_label_that_no_class_has_is_refused(wrong, refuses):
    """An embedding answers -1 with an error of several lines, and on a GPU with one that ends the process."""
    network = small(num_classes=4)
    x, t = torch.zeros(3, 3, 8, 8), torch.zeros(3)
    refuses(lambda: network(x, t, torch.tensor([0, wrong, 1])), f"label {wrong} is unknown", "from 0 to 4")
    assert network(x, t, torch.tensor([0, 4, 1])).shape == x.shape


def test_repas_network_is_a_sit(fixture_path, recorded):
    """In its own clock and sign, and without its projectors."""
    network = SiT(**TINY, input_size=8, patch_size=2, depth=3, num_heads=4).eval()
    weights = load_file(fixture_path("repa_sit_plain.safetensors"))
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("projectors.")}, strict=True)
    io = {key: torch.from_numpy(value) for key, value in recorded("repa_sit_plain_io.npz").items()}
    with torch.no_grad():
        torch.testing.assert_close(network(io["x"], io["t"], io["y"]), io["out"], rtol=0, atol=2e-5)
        out = network.double()(io["x"].double(), io["t"], io["y"])
        torch.testing.assert_close(out, io["out_f64"], rtol=0, atol=1e-7)


@torch.no_grad()
def test_norms_of_queries_and_keys_are_an_option():
    """REPA's names. With them, the scale of q and k says nothing."""
    plain, normed = small(num_classes=4), small(num_classes=4, qk_norm=True)
    added = {f"blocks.0.attn.{which}_norm.{kind}" for which in "qk" for kind in ("weight", "bias")}
    assert normed.state_dict().keys() - plain.state_dict().keys() == added
    assert all(normed.state_dict()[name].shape == (8,) for name in added)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    for network, moves in ((shaken(plain), True), (shaken(normed), False)):
        before = network(x, t)
        network.blocks[0].attn.qkv.weight[:32] *= 3
        network.blocks[0].attn.qkv.bias[:32] *= 3
        assert bool((network(x, t) - before).abs().max() > 1e-4) == moves


def test_a_card_from_before_an_option_still_builds():
    config = {key: value for key, value in small().config.items() if key != "qk_norm"}
    assert build_network("sit", None, config).config == small().config
