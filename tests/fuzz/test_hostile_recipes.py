"""Recipes, sweeps' assignments and cards of other networks: TOML that somebody else wrote."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
import torch
from hostile.words import TOML_VALUES, hostile_toml, toml_tables
from hypothesis import HealthCheck, given, settings

from defar_analysis.config import dump_toml, from_table, override, read_toml
from defar_analysis.core.autoencoder_training import load_autoencoder_recipe
from defar_analysis.core.datasets import DataSpec
from defar_analysis.core.discriminators import load_discriminator_recipe
from defar_analysis.core.recipes import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
CIFAR = DataSpec(3, 32, 10)


def whole_recipe(file):
    """The recipe with its objective and its network, which is built without memory."""
    recipe = load_recipe(file)
    recipe.build_objective(CIFAR, recipe.steps)
    with torch.device("meta"):
        recipe.build_network(CIFAR)
    return recipe


def kept(recipe):
    """Whether what was read is written and read again the same."""
    table = tomllib.loads(dump_toml(dataclasses.asdict(recipe)))
    return repr(from_table(type(recipe), table, "again")) == repr(recipe)


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("cifar10_defar.toml", whole_recipe),
        ("cifar10_discriminator.toml", load_discriminator_recipe),
        ("cifar10_autoencoder.toml", load_autoencoder_recipe),
    ],
)
def test_a_recipe_is_read_rightly_or_refused_in_one_line(name, load, watch):
    file, whole = watch.top / "hostile.toml", (ROOT / "reproduce" / name).read_text(encoding="utf-8")
    for what, content in hostile_toml(whole, every=4):
        file.write_bytes(content)
        watch(what, lambda: load(file), kept)
    file.write_text(whole)
    assert kept(load(file))
    watch.done(name)


KEYS = [field.name for field in dataclasses.fields(Recipe)] + [
    "data.name",
    "network.family",
    "network.size",
    "network.options.depth",
    "network.options.hidden_size",
    "optimizer.lr",
    "optimizer.betas",
    "objective.alpha",
    "objective.name",
    "objective.alignment",
    "extends",
    "surprise",
]


def test_recipes_after_the_grammar_of_toml(watch):
    file = watch.top / "hostile.toml"

    @settings(max_examples=120, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(toml_tables(KEYS))
    def recipes(text):
        file.write_text(f'name = "whole"\nsteps = 3\n{text}', encoding="utf-8", errors="surrogateescape")
        watch(text[:200], lambda: load_recipe(file), kept)

    recipes()
    watch.done("grammar")


def test_assignments(watch):
    whole = read_toml(ROOT / "reproduce" / "cifar10_defar.toml")
    for key in (
        "steps",
        "name",
        "optimizer.lr",
        "data",
        "data.name",
        "network.options.depth",
        "name.x",
        "",
        "a" + ".a" * 9999,
    ):
        for value in (*TOML_VALUES, "1\nsteps = 5", "[", "'", "\0"):
            watch(
                f"{key}={value[:30]}",
                lambda key=key, value=value: from_table(Recipe, override(whole, [f"{key}={value}"]), "x"),
                kept,
            )
    for word in ("", "=", "=1", "steps", " = ", ".=1", "..=1", "steps.=1"):
        watch(word, lambda word=word: from_table(Recipe, override(whole, [word]), "x"), kept)
    watch.done("assignments")


def test_files_that_extend_each_other(watch):
    for number in range(1000):
        (watch.top / f"{number}.toml").write_text(f'extends = "{number + 1}.toml"\n')
    watch("a long chain", lambda: load_recipe(watch.top / "0.toml"))
    (watch.top / "3.toml").write_text('extends = "1.toml"\n')
    watch("a circle", lambda: load_recipe(watch.top / "0.toml"))
    (watch.top / "loop.toml").symlink_to("loop.toml")
    watch("a link to itself", lambda: load_recipe(watch.top / "loop.toml"))
    watch("/dev/zero", lambda: load_recipe("/dev/zero"))
    watch.done("extending")
