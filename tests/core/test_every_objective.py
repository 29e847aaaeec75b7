"""A short real training of every objective on CIFAR-10: finite, averaged, and resumed bit for bit."""

import math

import pytest
import torch

from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.datasets import cifar10
from defar_analysis.core.recipes import Data, Network, Optimizer, Recipe
from defar_analysis.core.training import TrainingRun

pytestmark = pytest.mark.real_data

STEPS, STOP = 6, 3
OPTIONS = {"patch_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2}
OBJECTIVES = {
    "flow matching": {"name": "flow_matching"},
    "IP": {"name": "input_perturbation"},
    "IP in state space": {"name": "input_perturbation", "space": "state"},
    "SDSS": {"name": "sdss"},
    "SDSS with all options": {"name": "sdss", "detach_step": True, "add_fm": True},
    "MDSS amplified": {"name": "mdss"},
    "MDSS exact": {"name": "mdss", "form": "exact"},
    "MDSS constant velocity": {"name": "mdss", "form": "constant_velocity"},
    "ADR": {"name": "defar", "fc": False},
    "ADR in 3 steps": {"name": "defar", "fc": False, "steps": 3, "spacing": "equal"},
    "ADR unnormalized": {"name": "defar", "normalize": "none"},
    "ADR rescaled": {"name": "defar", "normalize": "rescale"},
    "ADR straight": {"name": "defar", "direction": "straight"},
    "FC": {"name": "defar", "adr": False},
    "FC with gradients": {"name": "defar", "adr": False, "weight_grad": "both", "bias_norm": "mean"},
    "DEFAR": {"name": "defar"},
    "DEFAR stopped": {"name": "defar", "detach_step": True},
    "DEFAR on half the batch": {"name": "defar", "bias_fraction": 0.5},
    "low-pass weight": {"name": "defar", "weight_source": "low_pass"},
    "ReflexFlow": {"name": "reflexflow", "sampled_fraction": 0.25},
    "strong": {"name": "strong"},
    "MixFlow": {"name": "mixflow"},
}


@pytest.fixture(scope="module")
def images():
    return cifar10("train")


def recipe(objective, **changes):
    return Recipe(**{
        "name": "short", "steps": STEPS, "global_batch": 16, "data": Data(), "network": Network("sit", "", OPTIONS),
        "objective": {"label_dropout": 0.2, **objective}, "optimizer": Optimizer(lr=1e-3), **changes,
    })  # fmt: skip


def assert_trains_and_resumes(recipe, images, folder):
    straight = TrainingRun(recipe, images)
    start = {name: p.clone() for name, p in straight.model.named_parameters()}
    for step in range(STEPS):
        if step == STOP:
            straight.save(folder)
        assert all(math.isfinite(value) for value in straight.advance().values())
    resumed = TrainingRun(recipe, images)
    resumed.resume(folder)
    assert resumed.step == STOP
    while resumed.step < STEPS:
        resumed.advance()
    weights, averaged = straight.model.state_dict(), straight.ema.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, weights[name]) and value.isfinite().all()
        assert torch.equal(resumed.ema.model.state_dict()[name], averaged[name])
    moved = [n for n, p in straight.model.named_parameters() if p.requires_grad and not torch.equal(p, start[n])]
    assert len(moved) == sum(p.requires_grad for p in straight.model.parameters())
    assert not any(torch.equal(averaged[name], weights[name]) for name in moved)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_on_real_images_and_resumes(name, images, tmp_path):
    assert_trains_and_resumes(recipe(OBJECTIVES[name]), images, tmp_path)


@pytest.mark.parametrize("path", ["gvp", "vp"])
@pytest.mark.parametrize("name", ["SDSS", "DEFAR", "MixFlow"])
def test_so_they_do_on_the_other_paths(name, path, images, tmp_path):
    assert_trains_and_resumes(recipe(OBJECTIVES[name], interpolant=path), images, tmp_path)


@pytest.mark.parametrize("name", ["flow matching", "DEFAR"])
def test_so_they_do_under_mini_batch_optimal_transport(name, images, tmp_path):
    unconditional = Data(class_conditional=False)
    assert_trains_and_resumes(recipe(OBJECTIVES[name], coupling="ot", data=unconditional), images, tmp_path)


def test_mixflow_starts_from_a_checkpoint(images, tmp_path):
    first = TrainingRun(recipe(OBJECTIVES["flow matching"]), images)
    first.advance()
    save_checkpoint(tmp_path / "start", first.ema.model, Card("start", "ema", "", {}))
    post = recipe(OBJECTIVES["MixFlow"], init_from=str(tmp_path / "start"))
    run, start = TrainingRun(post, images), load_checkpoint(tmp_path / "start")
    for name, value in start.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value) and torch.equal(run.ema.model.state_dict()[name], value)
    assert run.card().training["started_from"] == {"checkpoint": "start", "sha256": start.card.sha256}
    assert_trains_and_resumes(post, images, tmp_path)
