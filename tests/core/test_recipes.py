"""Recipes: from a file to the objective of each step."""

import dataclasses

import pytest

from defar_analysis.config import dump_toml
from defar_analysis.core.couplings import Independent, MinibatchOT
from defar_analysis.core.datasets import DataSpec
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.objectives import (
    MDSS,
    MIXFLOW_GAMMA,
    OBJECTIVES,
    PRESETS,
    Defar,
    FlowMatching,
    MixFlow,
    reflexflow,
    simpletuner,
    strong,
)
from defar_analysis.core.recipes import Network, Recipe, load_recipe

DATA = DataSpec(3, 32, 10)


def recipe(**changes):
    return Recipe(**{"name": "r", "steps": 10, **changes})


def objective(step=10, data=DATA, **changes):
    """What that recipe trains at `step`."""
    return recipe(**changes).build_objective(data, step)


@pytest.fixture
def write(tmp_path):
    def file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return file


# --- objectives by name ---


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_name(name):
    made = objective(objective={"name": name, "label_dropout": 0.1})
    assert made == OBJECTIVES[name](label_dropout=0.1, null_label=10)


@pytest.mark.parametrize(
    ("name", "preset"), [("reflexflow", reflexflow), ("simpletuner", simpletuner), ("strong", strong)]
)
def test_presets_are_names_of_objectives(name, preset):
    assert objective(objective={"name": name}) == preset(null_label=10)
    assert objective(objective={"name": name, "alpha": 2}) == preset(alpha=2.0, null_label=10)
    own = objective(objective={"name": name, "bias_norm": "max"})
    assert own.bias_norm == "max" and own == preset(bias_norm="max", null_label=10)
    assert objective(objective={"name": name}) != Defar(null_label=10)


def test_the_names_are_unique():
    assert not set(OBJECTIVES) & set(PRESETS)


def test_mixflows_gamma_is_that_of_the_backbone_unless_given(monkeypatch):
    assert objective(objective={"name": "mixflow"}).gamma == 0.8
    monkeypatch.setitem(MIXFLOW_GAMMA, "sit", 0.55)
    assert objective(objective={"name": "mixflow"}).gamma == 0.55
    assert objective(objective={"name": "mixflow", "gamma": 0.3}) == MixFlow(gamma=0.3, null_label=10)
    monkeypatch.setitem(MIXFLOW_GAMMA, "unet", 0.1)
    assert objective(objective={"name": "mixflow"}).gamma == 0.55  # other backbones' do not count


@pytest.mark.parametrize(("name", "path"), [("linear", Linear()), ("gvp", GVP()), ("vp", VP())])
@pytest.mark.parametrize(("coupled", "coupling"), [("independent", Independent()), ("ot", MinibatchOT())])
def test_path_and_coupling_reach_the_objective_and_its_warm_up(name, path, coupled, coupling):
    options = {"interpolant": name, "coupling": coupled, "objective": {"name": "mdss"}, "flow_matching_steps": 5}
    for step, cls in ((0, FlowMatching), (4, FlowMatching), (5, MDSS), (10, MDSS)):
        assert objective(step, **options) == cls(interpolant=path, coupling=coupling, null_label=10)


@pytest.mark.parametrize("name", ["strong", "mixflow", "defar", "input_perturbation"])
def test_the_warm_up_keeps_the_label_dropout_and_nothing_else(name):
    own = {"mixflow": {"gamma": 0.5}, "input_perturbation": {"scale": 0.3}}.get(name, {"alpha": 0.5})
    table = {"name": name, "label_dropout": 0.25, **own}
    assert objective(0, flow_matching_steps=1, objective=table) == FlowMatching(label_dropout=0.25, null_label=10)


def test_the_null_label_is_the_number_of_classes():
    assert objective().null_label == 10
    assert objective(data=DataSpec(3, 32, None)).null_label == 1


# --- what is refused ---


def test_unknown_names_are_refused_with_all_known_ones(refuses):
    refuses(lambda: recipe(coupling="sinkhorn"), "coupling = 'sinkhorn'; choose from independent, ot")
    for name in ("magic", "", "Strong", ["defar"], 3):
        refuses(lambda n=name: recipe(objective={"name": n}), f"objective.name = {name!r}", *OBJECTIVES, *PRESETS)


def test_an_objective_without_a_name_is_flow_matching():
    assert isinstance(recipe(objective={"label_dropout": 0.1}).build_objective(DataSpec(3, 8, 4), 0), FlowMatching)


@pytest.mark.parametrize("key", ["interpolant", "coupling", "null_label"])
def test_what_the_recipe_itself_says_is_refused_in_the_objective(key, refuses):
    refuses(lambda: recipe(objective={"name": "defar", key: "ot"}), f"objective.{key}")


def test_names_that_leave_the_runs_folder_are_refused(refuses):
    for name in ("../up", "..", "a/b", "", "a\\b"):
        refuses(lambda n=name: recipe(name=n), f"name = {name!r}")


def test_optimal_transport_needs_two_images(refuses):
    refuses(lambda: recipe(coupling="ot", global_batch=1), "global_batch = 1", "2 or more")


def test_a_network_takes_its_shape_from_the_data(refuses):
    made = recipe(network=Network(options={"num_classes": 3}))
    refuses(lambda: made.build_network(DataSpec(3, 8, 4)), "network.options.num_classes", "4")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"name": "mdss", "form": "quick"}, ("r: objective: form = 'quick'", "'amplified'", "'constant_velocity'")),
        ({"name": "mdss", "steps": 0}, ("steps must be at least 1; got 0",)),
        ({"name": "mdss", "steps": 2.5}, ("steps = 2.5; int is needed",)),
        ({"name": "input_perturbation", "scale": "big"}, ("r: objective: scale = 'big'; float is needed",)),
        ({"name": "input_perturbation", "space": "x"}, ("space = 'x'", "'noise', 'state'")),
        ({"name": "sdss", "detach": True}, ("unknown key 'detach'", "did you mean 'detach_step'")),
        ({"name": "sdss", "add_fm": 1}, ("add_fm = 1; bool is needed",)),
        ({"name": "mixflow", "gamma": 2}, ("gamma must lie in [0, 1]; got 2.0",)),
        ({"name": "defar", "weight_source": "data"}, ("weight_source = 'data'", "'low_pass'")),
        ({"name": "defar", "normalize": "none", "bias_fraction": 0.5}, ("bias_fraction = 0.5 needs normalize",)),
        ({"name": "strong", "bias_norm": "l3"}, ("r: objective: bias_norm = 'l3'",)),
        ({"name": "reflexflow", "gamma": 0.5}, ("unknown key 'gamma'",)),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_options_are_refused_in_the_recipes_words(table, words, refuses):
    refuses(lambda: objective(objective=table), *words)


# --- files ---


BASE = """
name = "base"
steps = 100
seed = 7
[objective]
name = "defar"
alpha = 0.5
beta1 = 3.0
[network]
size = "S/2"
options = {mlp_ratio = 2.0}
[optimizer]
lr = 0.001
"""


def test_a_recipe_that_extends_another_gives_only_what_differs(write):
    base = load_recipe(write("base.toml", BASE))
    text = 'extends = "../base.toml"\nname = "variant"\n[objective]\nalpha = 2.0\n[network.options]\ndepth = 3\n'
    variant = load_recipe(write("more/variant.toml", text))
    assert variant == dataclasses.replace(
        base, name="variant", objective={"name": "defar", "alpha": 2.0, "beta1": 3.0},
        network=dataclasses.replace(base.network, options={"mlp_ratio": 2.0, "depth": 3}),
    )  # fmt: skip
    assert variant.optimizer.lr == 0.001 and variant.seed == 7


def test_assignments_lie_over_all_layers(write):
    write("base.toml", BASE)
    variant = write("variant.toml", 'extends = "base.toml"\nsteps = 200\n')
    assert load_recipe(variant, ["steps=300", "objective.alpha=4"]).steps == 300
    assert load_recipe(variant, ["steps=300", "objective.alpha=4"]).objective["alpha"] == 4
    assert load_recipe(variant).steps == 200


def test_a_recipe_written_down_is_the_same_recipe_without_layers(write):
    write("base.toml", BASE)
    made = load_recipe(
        write("variant.toml", 'extends = "base.toml"\ncoupling = "ot"\ninit_from = "runs/a/checkpoint"\n')
    )
    text = dump_toml(dataclasses.asdict(made))
    assert "extends" not in text
    again = load_recipe(write("elsewhere/recipe.toml", text))
    assert again == made and (again.coupling, again.init_from) == ("ot", "runs/a/checkpoint")


def test_mistakes_in_layers_are_refused_by_file(write, refuses):
    write("base.toml", BASE)
    refuses(lambda: load_recipe(write("a.toml", 'extends = "bse.toml"\n')), "bse.toml", "no such file")
    refuses(lambda: load_recipe(write("b.toml", 'extends = "b.toml"\n')), "b.toml", "extends itself")
    refuses(
        lambda: load_recipe(write("c.toml", 'extends = "base.toml"\nstpes = 3\n')), "c.toml", "did you mean 'steps'"
    )
    refuses(lambda: load_recipe(write("d.toml", 'extends = "base.toml"\ncoupling = "best"\n')), "'best'", "ot")
    refuses(
        lambda: load_recipe(write("e.toml", 'extends = "base.toml"\ninit_from = 3\n')), "e.toml", "init_from", "str"
    )
