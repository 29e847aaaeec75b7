"""docs/scale.md says what the code does, and what it counts is what files and steps weigh."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.checkpoints import save_checkpoint
from defar_analysis.core.datasets import Batch, ImageDataset
from defar_analysis.core.recipes import Network, Recipe, load_recipe
from defar_analysis.core.states import saved_states
from defar_analysis.core.training import TrainingRun
from defar_analysis.measures.memory import planned_bytes
from defar_analysis.paper import paper_values
from defar_analysis.planning import EXPERIMENTS, estimate, recipes_in
from defar_analysis.scale.bounds import Bounds, rounds, step_on
from defar_analysis.scale.hours import Accelerator, cpu_hours, measured_rate, paper_hours, paper_row
from defar_analysis.scale.page import PAGE, filled, tables
from defar_analysis.scale.runs import Run, runs_in

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs():
    return runs_in(ROOT / EXPERIMENTS)


@pytest.fixture(scope="module")
def by_recipe(runs):
    return {name: run for run in runs for name in run.recipes}


@pytest.fixture
def tiny():
    """A run of the shipped network's size."""
    recipe = Recipe("tiny", 1000, 100, network=Network(size="Ti/4"))
    return Run({"tab0/tiny": recipe}, estimate(recipe), 1e6)


def test_the_page_holds_what_the_generator_makes():
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert filled(page, tables(ROOT)) == page, "python -m defar_analysis.scale.page writes it anew"


def test_a_table_that_only_one_side_knows_is_named(refuses):
    page = "a <!-- table one --> old <!-- end --> b"
    assert filled(page, {"one": "new"}) == "a <!-- table one -->\nnew\n<!-- end --> b"
    refuses(lambda: filled(page, {}), "'one' is only asked for")
    refuses(lambda: filled(page, {"one": "", "two": ""}), "'two' is only made")


def test_every_recipe_is_in_one_run_and_those_of_a_run_take_the_same_work(runs):
    names = [name for run in runs for name in run.recipes]
    files = recipes_in(ROOT / EXPERIMENTS)
    assert len(names) == len(set(names)) == len(files)
    for run in runs:
        for recipe in run.recipes.values():
            assert estimate(recipe) == run.cost and recipe.global_batch == run.recipe.global_batch


def test_all_hours_that_the_paper_prints_beside_iterations_are_found(runs, by_recipe):
    values = paper_values(ROOT)
    printed = values[(values["column"] == "Hour") & values["iters"].notna()]
    keys = list(paper_row("tab1/any", Recipe("r", 1)))
    asked = [paper_row(name, recipe) for run in runs for name, recipe in run.recipes.items()]
    assert {tuple(row) for row in printed[keys].to_numpy().tolist()} <= {tuple(row.values()) for row in asked}
    for name, hours in {"tab1/cifar10-sdss": 15, "tab2/unet-ot-cfm-defar": 20, "tab3/xl2-defar-700k": 4640,
                        "tab4/ddt": 570, "tab2/celeba64-defar-without-adr": 80}.items():  # fmt: skip
        assert paper_hours(by_recipe[name], values) == [hours], name
    assert paper_hours(by_recipe["tab4/start-ddt"], values) == []


@pytest.mark.parametrize("name", ["tab9/3-equal", "tab1/cifar10-defar-without-adr"])
def test_activations_are_those_of_the_recipes_own_objective(by_recipe, name):
    recipe = load_recipe(ROOT / EXPERIMENTS / f"{name}.toml")
    data = recipe.data_spec()
    objective = recipe.build_objective(data, recipe.steps)
    draw = objective.draw(Batch(torch.zeros(2, 3, 32, 32)), torch.Generator().manual_seed(0))
    kept = planned_bytes(objective, lambda: recipe.build_network(data), draw) / 2
    assert by_recipe[name].kept_per_image == pytest.approx(kept, rel=0.02)


def test_files_are_as_large_as_counted(tiny, tmp_path):
    images = np.zeros((4, 3, 32, 32), np.uint8)
    data = ImageDataset(images, np.arange(4), "images", 10)
    training = TrainingRun(dataclasses.replace(tiny.recipe, global_batch=2), data)
    training.advance()  # Adam's moments begin with the first step
    training.save(tmp_path)
    (state,) = saved_states(tmp_path)
    assert state.stat().st_size == pytest.approx(tiny.state_bytes, rel=0.01)
    save_checkpoint(tmp_path / "checkpoint", training.ema.model, training.card())
    (weights,) = (tmp_path / "checkpoint").glob("*.safetensors")
    assert weights.stat().st_size == pytest.approx(tiny.checkpoint_bytes, rel=0.02)
    held = [*training.model.parameters(), *training.ema.model.parameters()]
    held += [p.grad for p in training.model.parameters() if p.grad is not None]
    held += [z for moments in training.optimizer.state.values() for z in moments.values() if z.ndim]
    assert sum(z.nbytes for z in held) == pytest.approx(tiny.training_bytes, rel=0.02)
    assert tiny.data_bytes == 50_000 * 3 * 32 * 32


def test_hours_and_bytes_are_plain_arithmetic(tiny):
    assert Accelerator("slow", 1e9).hours(3.6e12, 0.5) == 2.0
    table = pd.DataFrame([("sit Ti/4", 32, 2e6, 20.0), ("sit Ti/4", 64, 2e6, 5.0), ("sit XL/2", 32, 6e8, 10.0)],
                         columns=["network", "side", "parameters", "gflop_per_second"])  # fmt: skip
    assert measured_rate(tiny, table) == 20 and cpu_hours(tiny, table, 2 * 20e9 * 3600) == 1
    assert measured_rate(tiny, table[1:]) == 10  # the largest network's, where this one was not measured
    assert tiny.exchanged_bytes(1) == 0
    assert tiny.exchanged_bytes(2) == 4 * tiny.cost.parameters
    assert tiny.name == "tab0/tiny" and re.match("Ti/4, cifar10", tiny.network)


def test_a_table_without_rows_is_refused(tiny, refuses):
    empty = pd.DataFrame(columns=["network", "side", "parameters", "gflop_per_second"])
    refuses(lambda: measured_rate(tiny, empty), "throughput.csv", "measure.py")
    bounds = Bounds(pd.DataFrame([("draw of a step", 10, 1.0)], columns=["what", "n", "seconds"]))
    refuses(lambda: bounds.rows("dreams"), "no 'dreams'", "draw of a step")


def test_bounds_go_on_as_they_were_measured(tiny):
    rows = [("draw of a step", 100, 1.0), ("draw of a step", 200, 4.0), ("pairs", 10, 1.0), ("pairs", 100, 100.0)]
    bounds = Bounds(pd.DataFrame(rows, columns=["what", "n", "seconds"]))
    assert bounds.power("pairs") == pytest.approx((0.01, 2.0)) and bounds.at("pairs", 1000) == pytest.approx(1e4)
    assert [bounds.draw(tiny, n) for n in (100, 150, 200, 400)] == pytest.approx([1, 2.5, 4, 8])
    assert rounds(50_000, 1) == 782 and rounds(50_000, 782) == 1 and rounds(50_000, 500) == 2
    one, four = step_on(tiny, 1, 100, bounds), step_on(tiny, 4, 100, bounds)
    assert one.compute == pytest.approx(4 * four.compute) and one.draw == four.draw == 1 and four.images == 25
    assert one.seconds == 1 and one.efficiency == pytest.approx(one.compute)  # the draw is the longest
