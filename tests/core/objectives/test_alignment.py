"""REPA's alignment: against the recorded losses of the official code, and around every objective."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import EVERY, close, generator, make, normal

from defar_analysis.core.adapters import Adapted, Conventions, described
from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, Linear
from defar_analysis.core.networks import DDT, DiTDH, LightningDiT, SiT, UNet
from defar_analysis.core.networks.aligned import Aligned
from defar_analysis.core.objectives import Aligning, Alignment, FlowMatching, projection_loss
from defar_analysis.core.objectives.alignment import on_grid, stand_in
from defar_analysis.core.rollout import Draw
from defar_analysis.measures.cost import count_step

THEIRS = Conventions(noise_at=1, velocity="noise-data")
SMALL = {"input_size": 8, "patch_size": 2, "in_channels": 2, "num_classes": 3}
BACKBONES = {
    "sit": lambda: SiT(**SMALL, hidden_size=16, depth=2, num_heads=2),
    "ddt": lambda: DDT(**SMALL, hidden_size=16, depth=2, encoder_depth=1, num_heads=2),
    "lightningdit": lambda: LightningDiT(**SMALL, hidden_size=16, depth=2, num_heads=2),
    "rae": lambda: DiTDH(
        **SMALL, hidden_size=16, decoder_hidden_size=24, depth=2, encoder_depth=1, num_heads=2, decoder_num_heads=2
    ),
}
each_backbone = pytest.mark.parametrize("name", BACKBONES)


def small(name="sit", depth=1, dims=(5,), width=7):
    torch.manual_seed(0)
    network = Aligned(BACKBONES[name](), depth, dims, width)
    with torch.no_grad():
        for parameter in network.network.parameters():  # gates that are zero would hide the tokens
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    return network


def batch(count=4):
    return Batch(normal(count, 2, 8, 8).float(), torch.arange(count) % 3)


def encode(images):
    """Features that depend on the image: (B, 4, 5), a grid of 2 x 2."""
    quarters = torch.nn.functional.avg_pool2d(images[:, :1], 4).flatten(1)
    return [torch.stack([quarters * k + k for k in range(1, 6)], dim=-1).sin()]


@pytest.fixture
def official(fixture_path, recorded):
    """REPA's tiny network with both projectors, and what its code gave, as tensors."""

    def load(dtype=torch.float32, conventions=None):
        backbone = SiT(8, 2, 4, 32, 3, 4, num_classes=10)
        network = Aligned(backbone, 2, (24, 12), 40)
        weights = load_file(fixture_path("repa_sit_plain.safetensors"))
        network.load_state_dict({k if k.startswith("proj") else f"network.{k}": w for k, w in weights.items()})
        if conventions is not None:
            network.network = Adapted(backbone, conventions, backbone.config)
        return network.to(dtype).eval(), {k: torch.from_numpy(v) for k, v in recorded("repa_sit_plain_io.npz").items()}

    return load


@pytest.mark.parametrize("dtype, suffix, tolerance", [(torch.float32, "", 2e-5), (torch.float64, "_f64", 1e-7)])
@torch.no_grad()
def test_projections_equal_the_official_ones(dtype, suffix, tolerance, official):
    network, io = official(dtype)
    with network.recording() as taps:
        out = network(io["x"].to(dtype), io["t"].to(dtype), io["y"])
    close(out, io["out" + suffix], tolerance)
    for index, ours in enumerate(network.projected(taps.tokens)):
        close(ours, io[f"projected_{index}{suffix}"], tolerance)


@pytest.mark.parametrize("path, suffix", [(Linear(), ""), (GVP(), "_cosine")])
def test_losses_equal_the_official_ones(path, suffix, official):
    """Theirs: noise at t = 1, velocity noise - data, of an adapted network in our clock."""
    network, io = official(conventions=THEIRS)
    features = [io[f"loss_encoder_features_{index}"] for index in range(2)]
    draw = Draw(io["loss_data"], io["loss_noise"], io["y"], (1 - io["loss_t"])[None])
    loss = Alignment(FlowMatching(interpolant=path), lambda images: features)(network, draw)
    close(loss.terms["fm"], io["loss_denoising" + suffix].mean(), 2e-5)
    close(loss.terms["alignment"], io["loss_projection" + suffix], 1e-6)
    close(loss.total, loss.terms["fm"] + 0.5 * loss.terms["alignment"], 1e-6)


def test_the_loss_is_a_mean_of_cosines():
    ours, theirs = normal(2, 4, 3, seed=1), normal(2, 4, 3, seed=2)
    cosines = [a @ b / (a.norm() * b.norm()) for a, b in zip(ours.flatten(0, 1), theirs.flatten(0, 1), strict=True)]
    close(projection_loss([ours, ours], [theirs, ours], (4, 4)), -(torch.stack(cosines).mean() + 1) / 2)


def test_features_on_another_grid_are_interpolated():
    ramp = torch.arange(4.0).reshape(1, 4, 1)  # 2 x 2: rows 0 1 / 2 3
    assert torch.equal(on_grid(ramp, 4, (8, 8)), ramp)
    finer = on_grid(ramp, 16, (8, 8)).reshape(4, 4)
    close(finer[:, 0], torch.tensor([0.0, 0.5, 1.5, 2.0]), 1e-6)
    close(finer[0], torch.tensor([0.0, 0.25, 0.75, 1.0]), 1e-6)
    close(on_grid(torch.arange(16.0).reshape(1, 16, 1), 1, (8, 8)), torch.tensor([[[7.5]]]), 1e-5)
    close(on_grid(ramp.repeat(1, 2, 1), 2, (4, 8)).mean(), ramp.mean(), 1e-6)  # 2 x 4 -> 1 x 2


def test_the_objective_draws_and_pays_as_it_does_alone():
    alone = make("defar", label_dropout=0.5, null_label=3)
    aligned = Alignment(alone, encode)
    plain, drawn = alone.draw(batch(), generator()), aligned.draw(batch(), generator())
    assert torch.equal(plain.noise, drawn.noise) and torch.equal(plain.labels, drawn.labels)
    network = small()
    ours, its = aligned(network, drawn), alone(network, drawn)
    assert ours.forwards == its.forwards == 3
    assert {**its.terms, "alignment": 0}.keys() == ours.terms.keys()
    assert all(torch.equal(its.terms[name], ours.terms[name]) for name in its.terms)
    close(ours.total, its.total + 0.5 * ours.terms["alignment"], 1e-6)
    cost = count_step(aligned, network, batch())
    assert (cost.forwards, cost.passes) == (3, 7)


@pytest.mark.parametrize("name", EVERY)
def test_around_every_objective_projectors_and_blocks_are_trained(name):
    """Also where the first forward has no gradients: the first that has some is aligned."""
    network, objective = small(), Alignment(make(name), encode, weight=1.0)
    draw = objective.draw(Batch(batch(8).data), generator())
    loss = objective(network, draw)
    (loss.total - objective.objective(network, draw).total).backward()
    assert loss.terms["alignment"].isfinite() and loss.terms["alignment"].abs() <= 1
    assert all(p.grad.abs().max() > 0 for p in network.projectors.parameters())
    assert network.blocks[0].mlp.fc1.weight.grad.abs().max() > 0
    assert not network.blocks[0]._forward_hooks


def test_tokens_are_those_of_the_pairs_own_point():
    network, objective = small(), Alignment(make("defar"), encode)
    draw = objective.draw(batch(), generator())
    own = Alignment(FlowMatching(), encode)(network, replace(draw, times=draw.times[:1]))
    close(objective(network, draw).terms["alignment"], own.terms["alignment"], 1e-6)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_split_batch_is_aligned_with_its_own_images(count):
    """ReflexFlow's share of the batch comes first, in an order of its own."""
    objective = Alignment(make("defar", sampled_fraction=0.9), encode)
    draw, network = objective.draw(Batch(batch(count).data), generator(3)), small()
    part = draw.split(draw.subset)[0]
    own = Alignment(FlowMatching(), encode)(network, replace(part, times=part.times[:1]))
    close(objective(network, draw).terms["alignment"], own.terms["alignment"], 1e-6)


@each_backbone
def test_every_backbone_with_blocks_can_be_aligned(name):
    network = small(name)
    for depth in (1, 2):
        tapped = Aligned(network.network, depth, (5, 3), 7)
        loss = Alignment(FlowMatching(), lambda x: [*encode(x), torch.ones(len(x), 1, 3)])(
            tapped, FlowMatching().draw(batch(), generator())
        )
        loss.total.backward()
        assert tapped.projectors[1][0].weight.grad.abs().max() > 0


def test_nothing_stays_behind_and_copies_are_their_own():
    network = small()
    with network.recording() as taps, torch.no_grad():
        network(batch().data, torch.zeros(4))
        network(batch().data + 1, torch.zeros(4))
    first = taps.tokens
    with network.recording() as again, torch.no_grad():
        network(batch().data, torch.zeros(4))
    assert torch.equal(first, again.tokens) and first is not again.tokens
    twin = copy.deepcopy(network)
    with network.recording() as ours, torch.no_grad():
        twin(batch().data, torch.zeros(4))
    with pytest.raises(Exception, match="no forward"):
        ours.tokens  # noqa: B018


def test_under_autocast_the_cosine_is_float32_and_the_encoder_is_not_rounded():
    network, seen = small(), []

    def encoder(images):
        product = images.flatten(1) @ images.flatten(1).T
        seen.append((product.dtype, torch.is_grad_enabled()))
        return encode(images)

    objective = Alignment(make("defar"), encoder)
    draw = objective.draw(batch(), generator())
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(network, draw)
    loss.total.backward()
    assert seen == [(torch.float32, False)] and loss.terms["alignment"].dtype == torch.float32
    assert loss.terms["alignment"] == pytest.approx(float(objective(network, draw).terms["alignment"]), abs=0.02)


def test_a_card_describes_the_backbone_alone():
    network = small()
    card, holder = described(network)
    assert card == {"family": "sit", **network.network.config} and holder is network.network
    assert not any("projector" in name for name in holder.state_dict())


def test_the_meta_device_is_enough_to_count():
    with torch.device("meta"):
        network = small()
    cost = count_step(Alignment(make("defar"), stand_in((5,))), network, Batch(torch.zeros(4, 2, 8, 8, device="meta")))
    assert cost.forwards == 3


def test_what_cannot_be_aligned_is_named(refuses):
    network = small()
    draw = FlowMatching().draw(batch(), generator())
    refuses(lambda: Alignment(FlowMatching(), encode)(network.network, draw), "Aligned network", "SiT")
    refuses(lambda: Aligned(UNet(8, 2, None, 64, (1,), 1, (), 16)), "UNet has none")
    refuses(lambda: Aligned(network.network, 3), "blocks 1 to 2")
    refuses(lambda: Aligned(network.network, 1, ()), "dims = []")
    refuses(lambda: Alignment(FlowMatching(), encode, weight=-1.0), "weight")
    refuses(lambda: Alignment(encode, FlowMatching()), "in this order")
    for features, expected in {
        (4, 4, 6): "(B, tokens, width)",
        (3, 4, 5): "(B, tokens, width)",
        (4, 3, 5): "3 tokens are no grid",
    }.items():
        refuses(lambda f=features: Alignment(FlowMatching(), lambda x: [torch.ones(f)])(network, draw), expected)
    refuses(lambda: Alignment(FlowMatching(), lambda x: [])(network, draw), "0 feature maps for 1 projectors")
    part = replace(draw, subset=torch.tensor([0, 1]))
    refuses(lambda: Alignment(FlowMatching(), encode)(network, part), "own draw()")
    refuses(lambda: Aligning("effnet-lite0-64").objective(FlowMatching(), None), "defar train", "encoder=")
    refuses(lambda: Aligning("mine", dims=[3]).objective(FlowMatching(), None), "none of ours")
