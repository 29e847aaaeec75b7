"""The paper's experiments as recipes: all there, all runnable, and what they would cost."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch

from defar_analysis.cli import main
from defar_analysis.core.datasets import Batch
from defar_analysis.core.recipes import Data, Network, Recipe, load_recipe
from defar_analysis.measures.cost import count_step
from defar_analysis.planning import describe, dry_run, dry_runs, estimate, recipes_in, survey

EXPERIMENTS = Path(__file__).parents[1] / "reproduce" / "experiments"
TINY = Network(size="", options={"patch_size": 8, "hidden_size": 16, "depth": 1, "num_heads": 2})
TINIES = {
    "sit": TINY,
    "ddt": Network("ddt", "", {**TINY.options, "depth": 2, "encoder_depth": 1}),
    "unet": Network(
        "unet", "", {"width": 32, "multipliers": [1], "residual_blocks": 1, "attention_sizes": [], "head_width": 16}
    ),
}
RECIPES = {file.relative_to(EXPERIMENTS).as_posix(): recipe for file, recipe in recipes_in(EXPERIMENTS).items()}


def test_every_row_of_the_papers_tables_has_its_recipe():
    """Tab. 1: 8 rows on two data sets; 2: 8 on two and 4 of the U-Net; 3: 9; 4 left: 4 and the 2 that they start from;
    5: 6; 6: 6; 7: 5; 8: 8 on two and 2 of M/2; 9: 5; 11: 6."""
    rows = Counter(file.split("/")[0] for file in RECIPES)
    assert rows == {
        "tab1": 16,
        "tab2": 20,
        "tab3": 9,
        "tab4": 6,
        "tab5": 6,
        "tab6": 6,
        "tab7": 5,
        "tab8": 18,
        "tab9": 5,
        "tab11": 6,
    }


def test_a_recipe_is_called_after_its_file():
    for file, recipe in RECIPES.items():
        assert recipe.name == file.replace("/", "-").removesuffix(".toml")


def test_sizes_and_optimizer_are_those_of_tab_11():
    for file, recipe in RECIPES.items():
        if file.startswith(("tab4/", "tab2/unet")):  # which the paper trains as their authors do
            continue
        assert recipe.global_batch == (128 if recipe.data.name == "cifar10" else 256)
        o = recipe.optimizer
        assert (o.lr, o.betas, o.weight_decay, o.clip, o.warmup) == (1e-4, (0.9, 0.999), 0.0, 0.2, 0)
        assert recipe.flow_matching_steps == 0
    millions = {size: {round(estimate(r).parameters / 1e6) for r in RECIPES.values()
                       if r.network.size == size and r.data.name != "imagenet512-latents"}
                for size in ("M/2", "XL/2")}  # fmt: skip
    assert millions == {"M/2": {307}, "XL/2": {675}}  # the paper prints 308 and 675
    assert estimate(RECIPES["tab1/imagenet256-sit.toml"]).parameters == pytest.approx(131e6, rel=0.01)


def test_other_backbones_are_the_published_ones():
    """Parameters as their authors' files have them; at 512 pixels REPA has more positions, which are not trained."""
    parameters = {}
    for file in ("tab4/ddt", "tab4/start-ddt", "tab4/start-repa", "tab4/repa-defar", "tab2/unet-ot-cfm"):
        recipe = RECIPES[f"{file}.toml"]
        with torch.device("meta"):
            network = recipe.build_network(recipe.data_spec())
        parameters[file] = sum(p.numel() for p in network.parameters())
    assert parameters["tab4/ddt"] == parameters["tab4/start-ddt"] == 674_646_352
    assert parameters["tab4/start-repa"] == 675_111_184
    assert parameters["tab4/repa-defar"] == 675_111_184 + 768 * 1152
    # without the table of labels, which of an unlabelled training is one class and none
    assert parameters["tab2/unet-ot-cfm"] == 35_746_307 + 2 * 512


def test_what_is_fine_tuned_begins_with_what_another_recipe_trains():
    for scale, mark in (("paper", ""), ("cpu", "-cpu")):
        recipes = {file.stem: load_recipe(file, scale=scale) for file in (EXPERIMENTS / "tab4").glob("*.toml")}
        for name in ("repa", "ddt"):
            start = recipes[f"start-{name}"]
            for row in (name, f"{name}-defar"):
                assert recipes[row].init_from == f"runs/{start.name}/checkpoint" and start.name.endswith(name + mark)
                assert recipes[row].network == start.network and recipes[row].alignment == start.alignment
            assert recipes[f"{name}-defar"].objective["name"] == "defar"
            assert 0.44 < recipes[f"{name}-defar"].steps / recipes[name].steps < 0.46


def test_an_alignment_is_named_and_its_encoder_not_needed():
    row = load_recipe(EXPERIMENTS / "tab4" / "repa-defar.toml", scale="cpu")
    assert describe(row) == "defar aligned=effnet-lite0-64" and row.alignment.dims == []
    own = {"name": "defar", "alignment": {"encoder": "mine", "dims": [5, 3], "depth": 1}}
    assert "one step runs" in dry_run(
        Recipe("r", steps=10, network=TINY, objective=own, init_from="runs/none/checkpoint")
    )


def test_within_a_table_no_two_rows_are_the_same_training():
    for table in {file.split("/")[0] for file in RECIPES} - {"tab11"}:
        trainings = [repr(dataclasses.replace(r, name="any")) for f, r in RECIPES.items() if f.startswith(table + "/")]
        assert len(set(trainings)) == len(trainings), table


def test_forwards_a_step():
    forwards = {file: estimate(recipe).forwards for file, recipe in RECIPES.items()}
    for method, expected in {
        "sit": 1,
        "ip": 1,
        "sdss": 2,
        "mdss": 2,
        "defar-without-fc": 2,
        "defar-without-adr": 3,
    }.items():
        assert forwards[f"tab1/cifar10-{method}.toml"] == forwards[f"tab2/celeba64-{method}.toml"] == expected
    assert forwards["tab1/imagenet256-defar-250k.toml"] == 3
    assert [forwards[f"tab9/{n}-random.toml"] for n in (1, 2, 3)] == [2, 3, 4]


def test_the_estimate_agrees_with_counting_the_real_step():
    """passes x one forward leaves out that the first layer needs no gradient of its input: within 3 %."""
    recipe = Recipe("r", steps=10, global_batch=8, network=Network(size="Ti/4"), objective={"name": "defar"})
    data = recipe.data_spec()
    with torch.device("meta"):
        network = recipe.build_network(data)
    batch = Batch(torch.zeros(8, 3, 32, 32, device="meta"))
    counted = count_step(recipe.build_objective(data, 10), network, batch)
    assert estimate(recipe).flops == pytest.approx(10 * counted.flops, rel=0.03)
    assert estimate(recipe).passes == counted.passes == 7


def test_compute_is_linear_in_steps_and_batch():
    recipe = Recipe("r", steps=10, global_batch=8)
    double = dataclasses.replace(recipe, steps=20, global_batch=16)
    assert estimate(double).flops == pytest.approx(4 * estimate(recipe).flops)


@pytest.mark.parametrize("file", RECIPES)
def test_one_step_of_every_row_runs_at_cpu_scale(file):
    """Networks shrunk to one block: the paper's and the scale's sizes are tried by `defar train --list --dry-run`."""
    recipe = load_recipe(EXPERIMENTS / file, scale="cpu")
    tiny = dataclasses.replace(recipe, network=TINIES[recipe.network.family])
    if recipe.alignment is not None:
        tiny.objective["alignment"]["depth"] = 1
    assert f"{recipe.name}: one step runs" in dry_run(tiny)


def test_a_large_network_is_tried_on_the_meta_device():
    said = dry_run(RECIPES["tab3/xl2-defar-700k.toml"])
    assert "675M parameters, 3 forwards, meta device" in said


def test_equal_steps_are_tried_once():
    recipe = Recipe("a", steps=10, network=TINY)
    longer = dataclasses.replace(recipe, name="b", steps=20)
    paired = dataclasses.replace(recipe, name="c", coupling="ot", data=Data(class_conditional=False))
    assert "c: one step runs" in next(dry_runs([paired]))
    assert list(dry_runs([recipe, longer]))[1] == "b: the same step as a"


def test_a_step_that_cannot_run_is_refused(refuses):
    wrong = Recipe("r", steps=10, objective={"name": "defar", "sampled_fraction": 0.0})
    refuses(lambda: dry_run(wrong), "sampled_fraction")


def test_the_survey_has_one_line_for_each_recipe():
    lines = survey(EXPERIMENTS, "cpu").splitlines()
    assert len(lines) == len(RECIPES) + 2
    line = next(line for line in lines if line.startswith("tab1/cifar10-sdss.toml"))
    assert line.split() == [
        "tab1/cifar10-sdss.toml",
        "sdss",
        "Ti/4",
        "1.9",
        "cifar10",
        "7,000",
        "64",
        "2",
        "6",
        "0.448",
    ]


COMMON = """steps = 5
[network]
size = ""
options = {patch_size = 8, hidden_size = 16, depth = 1, num_heads = 2}
"""


def test_listing_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "common.toml").write_text(COMMON)
    (tmp_path / "row.toml").write_text('extends = "base/common.toml"\nname = "row"\n')
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--list", "."]) == 0
    assert main(["train", "--list", "--dry-run", "."]) == 0
    assert main(["train", "row.toml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count("row.toml") == 2 and out.count("row: one step runs") == 2
    assert not (tmp_path / "runs").exists()
    for arguments, expected in {
        ("train",): "train needs a recipe",
        ("train", "--list"): "reproduce/experiments: no such folder",
        ("train", "--list", ".", "--set", "steps=3"): "goes with one recipe",
        ("train", "none.toml", "--dry-run"): "none.toml: no such file",
        ("train", "row.toml", "--scale", "cpu"): "has no smaller network",
    }.items():
        assert main(list(arguments)) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("defar: error: ") and "\n" not in error and expected in error


def test_data_that_cannot_be_had_is_named(refuses, tmp_path):
    celeba = Recipe("r", steps=1, data=Data("celeba64", class_conditional=False))
    refuses(lambda: celeba.open_data(tmp_path), "celeba64: not found", tmp_path)
    latents = Recipe("r", steps=1, data=Data("imagenet256-latents"))
    refuses(lambda: latents.open_data(tmp_path), "imagenet256-latents", "--dry-run")
