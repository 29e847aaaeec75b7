"""Every backbone trains by recipe: flow matching, then DEFAR from its checkpoint; and with REPA's alignment."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from defar_analysis.config import dump_toml
from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.datasets import npz_dataset
from defar_analysis.core.networks import NETWORKS, UNet
from defar_analysis.core.networks.aligned import Aligned
from defar_analysis.core.recipes import Data, Network, Optimizer, Recipe
from defar_analysis.core.runs import LOG
from defar_analysis.core.training import TrainingRun, main, train

TINY = {
    "sit": {"patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2, "qk_norm": True},
    "ddt": {"patch_size": 4, "hidden_size": 16, "depth": 2, "encoder_depth": 1, "num_heads": 2},
    "rae": {
        "patch_size": 4, "hidden_size": 16, "decoder_hidden_size": 24, "depth": 2, "encoder_depth": 1, "num_heads": 2,
        "decoder_num_heads": 2,
    },
    "lightningdit": {"patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2},
    "unet": {"width": 64, "multipliers": [1, 1], "residual_blocks": 1, "attention_sizes": [4], "head_width": 16},
}  # fmt: skip
ALIGNED = {"encoder": "tiny", "depth": 1, "width": 12, "dims": [5, 3]}
each_family = pytest.mark.parametrize("family", TINY)


def encode(images):
    """Two frozen networks, their grids 2 x 2 and 1 x 1."""
    quarters = torch.nn.functional.avg_pool2d(images[:, :1], 4).flatten(1)
    first = torch.stack([(k * quarters).sin() + 0.1 * k for k in range(5)], dim=-1)
    return [first, images.mean(dim=(2, 3))[:, None]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """48 smooth images of 8 x 8 in three classes."""
    rng, place = np.random.default_rng(0), np.linspace(0, 1, 8)
    slope = rng.uniform(-100, 100, (48, 1, 1, 3))
    images = 128 + slope * (place[:, None, None] - 0.5) + rng.normal(0, 10, (48, 8, 8, 3))
    file = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(file, arr_0=images.clip(0, 255).astype(np.uint8), arr_1=np.arange(48) % 3)
    return file


@pytest.fixture
def recipe(data):
    def make(family="sit", **changes):
        return Recipe(**{
            "name": "tiny", "steps": 2, "global_batch": 12, "data": Data(str(data)),
            "network": Network(family, "", TINY[family]), "objective": {"name": "flow_matching", "label_dropout": 0.2},
            "optimizer": Optimizer(lr=1e-2), "log_every": 1, "save_every": 2, **changes,
        })  # fmt: skip

    return make


def test_these_tests_know_every_family():
    assert TINY.keys() == NETWORKS.keys()


@each_family
@pytest.mark.parametrize("labelled", [True, False])
def test_defar_begins_where_flow_matching_ended(family, labelled, recipe, data, tmp_path):
    given = {"data": Data(str(data), class_conditional=labelled)}
    start = train(recipe(family, **given), tmp_path / "start")
    post = recipe(family, objective={"name": "defar", "detach_step": True}, init_from=str(start), **given)
    run = TrainingRun(post, npz_dataset(data))
    before = load_checkpoint(start).model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    end = load_checkpoint(train(post, tmp_path / "post"))
    after = end.model.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert end.card.network["family"] == family
    labels = torch.tensor([0, 3]) if labelled else None
    assert end.model(torch.zeros(2, 3, 8, 8), torch.tensor([0.0, 0.5]), labels).isfinite().all()
    logged = [json.loads(line) for line in (tmp_path / "post" / LOG).read_text().splitlines()]
    assert [row["step"] for row in logged] == [1, 2] and {"fm", "fc", "adr"} <= logged[0].keys()


@pytest.mark.parametrize("family", ["ddt", "rae", "lightningdit", "unet"])
def test_an_unlabelled_training_may_begin_with_a_labelled_one(family, recipe, data, tmp_path):
    start = train(recipe(family), tmp_path / "start")
    given = {"data": Data(str(data), class_conditional=False), "init_from": str(start)}
    run = TrainingRun(recipe(family, **given), npz_dataset(data))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.7])
    torch.testing.assert_close(run.model.eval()(x, t), load_checkpoint(start).model(x, t), rtol=0, atol=1e-5)


def test_a_published_unet_without_labels_is_a_start(recipe, data, tmp_path):
    published = UNet(8, 3, None, **TINY["unet"])
    torch.nn.init.normal_(published.out[-1].weight)
    save_checkpoint(tmp_path / "unet", published, Card("unet", "ema", "", {}, data={"class_conditional": False}))
    given = {"data": Data(str(data), class_conditional=False), "init_from": str(tmp_path / "unet"), "coupling": "ot"}
    run = TrainingRun(recipe("unet", **given), npz_dataset(data))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        expected = load_checkpoint(tmp_path / "unet").model(x, t)
        torch.testing.assert_close(run.model.eval()(x, t), expected, rtol=0, atol=1e-5)
    assert run.started_from.keys() == {"checkpoint", "sha256"}


@pytest.mark.parametrize("family", ["sit", "ddt", "rae", "lightningdit"])
def test_alignment_begins_as_without_and_leaves_a_plain_checkpoint(family, recipe, data, tmp_path):
    aligned = recipe(family, objective={"name": "defar", "alignment": ALIGNED}, flow_matching_steps=1)
    run, plain = (TrainingRun(r, npz_dataset(data), encoder=encode) for r in (aligned, recipe(family)))
    assert isinstance(run.model, Aligned)
    ours, theirs = run.model.network.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    end = load_checkpoint(train(aligned, tmp_path / "run", encoder=encode))
    assert type(end.model) is NETWORKS[family] and end.card.training["recipe"]["objective"]["alignment"] == ALIGNED
    logged = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert all(-1 <= row["alignment"] <= 1 for row in logged)
    assert logged[1]["loss"] == pytest.approx(10 * logged[1]["adr"] + logged[1]["fc"] + 0.5 * logged[1]["alignment"])


def test_an_aligned_run_resumes_bit_for_bit(recipe, data, tmp_path):
    whole = recipe(objective={"name": "defar", "label_dropout": 0.2, "alignment": ALIGNED}, steps=6)
    straight = TrainingRun(whole, npz_dataset(data), encoder=encode)
    for step in range(6):
        if step == 3:
            straight.save(tmp_path)
        straight.advance()
    resumed = TrainingRun(whole, npz_dataset(data), encoder=encode, begun=True)
    resumed.resume(tmp_path)
    while resumed.step < 6:
        resumed.advance()
    for ours, theirs in ((straight.model, resumed.model), (straight.ema.model, resumed.ema.model)):
        expected = theirs.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    moved = resumed.model.projectors.state_dict()
    fresh = TrainingRun(whole, npz_dataset(data), encoder=encode).model.projectors.state_dict()
    assert all(not torch.equal(value, fresh[name]) for name, value in moved.items())


def test_accumulated_and_recomputed_steps_are_the_same(recipe, data):
    """In parts, and with blocks that are computed again in the backward pass."""
    ends = []
    for changes in ({}, {"accumulate": 2}, {"recompute_blocks": True}):
        whole = recipe(objective={"name": "defar", "alignment": ALIGNED}, **changes)
        run = TrainingRun(whole, npz_dataset(data), encoder=encode)
        ends.append((run.advance(), run.model.projectors[0][0].weight))
    for values, weight in ends[1:]:
        assert values == pytest.approx(ends[0][0], rel=1e-4)
        torch.testing.assert_close(weight, ends[0][1], rtol=1e-3, atol=1e-5)


def test_an_alignment_goes_on_from_a_plain_checkpoint(recipe, tmp_path):
    """Tab. 4's way: what was trained with or without one is a plain network to begin with."""
    objective = {"name": "flow_matching", "alignment": ALIGNED}
    first = train(recipe(objective=objective), tmp_path / "first", encoder=encode)
    train(recipe(objective=objective, init_from=str(first)), tmp_path / "second", encoder=encode)
    train(recipe(init_from=str(first)), tmp_path / "third")


def test_another_network_or_clock_is_no_start(recipe, tmp_path, refuses):
    start = str(train(recipe("ddt"), tmp_path / "start"))
    refuses(lambda: train(recipe("sit", init_from=start), tmp_path / "run"), "family ddt instead of sit")
    theirs = {**TINY["ddt"], "conventions": {"noise_at": 1, "velocity": "noise-data"}}
    turned = recipe("ddt", init_from=start, network=Network("ddt", "", theirs))
    refuses(lambda: train(turned, tmp_path / "run"), "conventions None instead of {'noise_at': 1")
    own = str(train(dataclasses.replace(turned, init_from=None), tmp_path / "turned"))
    train(dataclasses.replace(turned, init_from=own), tmp_path / "again")
    refuses(lambda: train(recipe("ddt", init_from=own), tmp_path / "run"), "instead of None")


def test_recipes_that_cannot_be_aligned_are_refused(recipe, data, refuses, tmp_path):
    def of(family="sit", **table):
        return recipe(family, objective={"name": "defar", "alignment": {**ALIGNED, **table}})

    refuses(lambda: train(of(), tmp_path / "run"), "'tiny'", "encoder=")
    refuses(lambda: train(of(encoder="effnet-lite0-64", dims=[]), tmp_path / "run"), "`defar train` opens it")
    refuses(lambda: train(of("unet"), tmp_path / "run", encoder=encode), "UNet has none")
    refuses(lambda: train(of(depth=9), tmp_path / "run", encoder=encode), "depth = 9")
    refuses(lambda: of(dims=[]), "choose from effnet-lite0-32")
    refuses(lambda: of(wieght=1.0), "did you mean 'weight'")
    refuses(lambda: of(dims=["a"]), "dims = ['a']")
    refuses(lambda: of(encoder="effnet-lite0-64"), "leave them out")
    refuses(lambda: recipe(objective={"alignment": 1}), "must be a table")
    refuses(lambda: dataclasses.replace(of(), compile=True), "compile = true")
    assert not (tmp_path / "run").exists()


def test_the_core_alone_names_who_opens_the_encoder(recipe, tmp_path, capsys):
    file = tmp_path / "aligned.toml"
    table = {"encoder": "effnet-lite0-32", "depth": 1}
    file.write_text(dump_toml(dataclasses.asdict(recipe(objective={"alignment": table}))))
    assert main([str(file), "--out", str(tmp_path / "run")]) == 2
    assert "`defar train` opens it" in capsys.readouterr().err
