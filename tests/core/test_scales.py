"""Smaller versions of recipes: budgets keep their ratios, and what is asked for on top wins."""

import dataclasses
from pathlib import Path

import pytest

from defar_analysis.core.recipes import Network, Optimizer, Recipe, as_table, load_recipe
from defar_analysis.core.scales import SCALES, scaled

EXPERIMENTS = Path(__file__).parents[2] / "reproduce" / "experiments"


def recipe(**changes):
    big = Recipe("row", steps=250_000, global_batch=128, network=Network(size="B/4"), optimizer=Optimizer(lr=1e-4))
    return dataclasses.replace(big, **changes)


def test_the_papers_scale_changes_nothing():
    assert scaled(recipe(), "paper") == recipe()


@pytest.mark.parametrize("name", SCALES)
def test_budgets_keep_their_ratio(name):
    full, half = scaled(recipe(steps=500_000), name), scaled(recipe(steps=250_000), name)
    assert full.steps == 2 * half.steps == round(SCALES[name].steps * 500_000)
    assert full.name == f"row-{name}"  # so that its run has a folder of its own


@pytest.mark.parametrize("name", SCALES)
def test_networks_keep_their_order(name):
    assert list(SCALES[name].sizes) == ["B/4", "M/2", "XL/2"]
    assert len(set(SCALES[name].sizes.values())) == 3


def test_networks_that_are_no_sit_have_their_own():
    ddt = scaled(recipe(network=Network("ddt", "XL/2")), "cpu").network
    assert (ddt.family, ddt.size, ddt.options["encoder_depth"]) == ("ddt", "", 9)
    unet = scaled(recipe(network=Network("unet", "cifar10", {"dropout": 0.1})), "gpu").network
    assert unet == Network("unet", "cifar10", {"dropout": 0.1, "width": 64})


def test_a_start_that_a_recipe_trains_is_the_scaled_ones():
    assert scaled(recipe(init_from="runs/a-start/checkpoint"), "cpu").init_from == "runs/a-start-cpu/checkpoint"
    for own in (None, "reproduce/checkpoints/cifar10-sit", "runs/deeper/a/checkpoint"):
        assert scaled(recipe(init_from=own), "cpu").init_from == own


def test_the_objective_is_left_alone():
    objective = {"name": "defar", "beta1": 50.0}
    assert scaled(recipe(objective=objective), "cpu").objective == objective


def test_assignments_are_made_after_scaling():
    file = EXPERIMENTS / "tab1" / "cifar10-sdss.toml"
    assert load_recipe(file, ["steps=30"], "cpu").steps == 30
    assert load_recipe(file, scale="cpu").steps == 7000
    assert load_recipe(file, scale="cpu").network.size == "Ti/4"


def test_a_table_of_a_recipe_makes_the_same_recipe(tmp_path):
    from defar_analysis.config import dump_toml

    one = recipe(objective={"name": "sdss", "add_fm": True})
    (tmp_path / "r.toml").write_text(dump_toml(as_table(one)))
    assert load_recipe(tmp_path / "r.toml") == one


def test_an_unknown_scale_or_network_is_refused(refuses):
    refuses(lambda: scaled(recipe(), "phone"), "'phone'", "gpu", "cpu")
    refuses(lambda: scaled(recipe(network=Network(size="Ti/4")), "cpu"), "Ti/4", "B/4", "ddt XL/2")
    refuses(lambda: scaled(recipe(network=Network("rae", "XL/1")), "cpu"), "rae XL/1")
