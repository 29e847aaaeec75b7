"""Foreign networks in our clock, sign, argument order and labels; networks of the user's own code; any callable."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from defar_analysis.core.adapters import Adapted, Conventions, adapt, build_model
from defar_analysis.core.checkpoints import (
    Card,
    as_checkpoint,
    load_checkpoint,
    save_checkpoint,
    tensors_digest,
)
from defar_analysis.core.datasets import Batch
from defar_analysis.core.networks import SiT
from defar_analysis.core.rollout import exposure_bias
from defar_analysis.core.samplers import Euler, Heun, sample
from defar_analysis.measures.base import Context, TimeGrid, measure
from defar_analysis.measures.frequency import PFR

X, T = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.25, 1.0])
LABELS = torch.tensor([0, 4, 2])
SIZES = {"input_size": 4, "patch_size": 2, "in_channels": 2, "hidden_size": 8, "depth": 1, "num_heads": 2}
FACTORY = """
import torch
from torch import nn

MARKER = {marker!r}
open(MARKER, "a").write("run ")

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))
        self.same = self.layers[2].weight  # shares memory

    def forward(self, t, x, y):
        return {{}}, self.layers(x) * t[:, None, None, None] + y[:, None, None, None]

def build(width=3):
    return Net(width)

def nothing():
    return 5

def fails():
    raise KeyError("width")
"""


def smooth(x, t, labels=None):
    return torch.tanh(x) * (1 + t[:, None, None, None]) + (0 if labels is None else labels[:, None, None, None])


def test_without_conventions_a_network_is_called_as_ours_are():
    model = adapt(smooth, (2, 4, 4), classes=4)
    assert torch.equal(model(X, T, LABELS), smooth(X, T, LABELS))
    assert torch.equal(model(X, T), smooth(X, T, torch.full((3,), 4)))


def test_a_clock_with_noise_at_one_and_the_other_sign():
    model = adapt(smooth, (2, 4, 4), classes=4, noise_at=1, velocity="noise-data")
    assert torch.equal(model(X, T, LABELS), -smooth(X, 1 - T, LABELS))


def test_sampling_a_turned_network_equals_running_its_own_clock_backwards():
    model = adapt(smooth, (2, 4, 4), classes=None, noise_at=1, velocity="noise-data")
    theirs = X.clone()
    for t in (1.0, 0.75, 0.5, 0.25):
        theirs = theirs - 0.25 * smooth(theirs, torch.full((3,), t))
    torch.testing.assert_close(sample(model, X, Euler(4)).x, theirs)


def test_arguments_in_any_order_or_by_name_and_a_scaled_clock():
    def other(t, *, sample, classes):
        return smooth(sample, t / 1000, classes)

    told = {"arguments": ["t", "sample=x", "classes=labels"], "time_scale": 1000.0}
    torch.testing.assert_close(adapt(other, (2, 4, 4), 4, **told)(X, T, LABELS), smooth(X, T, LABELS))
    unlabelled = adapt(lambda t, x: smooth(x, t), (2, 4, 4), None, arguments=["t", "x"])
    assert torch.equal(unlabelled(X, T, LABELS), smooth(X, T)) and torch.equal(unlabelled(X, T), smooth(X, T))


def test_velocities_in_a_tuple_an_attribute_or_beside_further_channels():
    expected = smooth(X, T, LABELS)
    for answer, told in (
        (lambda v: (v, None), {"output": 0}),
        (lambda v: [None, v], {"output": 1}),
        (lambda v: SimpleNamespace(sample=v), {"attribute": "sample"}),
        (lambda v: torch.cat([v, v**2], dim=1), {}),
    ):
        model = adapt(lambda x, t, y, answer=answer: answer(smooth(x, t, y)), (2, 4, 4), 4, **told)
        assert torch.equal(model(X, T, LABELS), expected)


def test_a_null_label_of_its_own():
    seen = []
    model = adapt(lambda x, t, y: seen.append(y.tolist()) or x, (2, 4, 4), classes=4, null_label=1000)
    model(X, T, LABELS)
    model(X, T)
    assert seen == [[0, 1000, 2], [1000, 1000, 1000]]


@pytest.mark.parametrize(
    "wrong",
    [{"noise_at": 2}, {"velocity": "up"}, {"arguments": ["x"]}, {"arguments": ["x", "t", "t"]}, {"time_scale": 0.0},
     {"time_scale": float("inf")}, {"surprise": 1}, {"arguments": [1, 2]}, {"output": "first"}],
)  # fmt: skip
def test_conventions_that_cannot_be_are_refused(wrong, refuses):
    refuses(lambda: adapt(smooth, (2, 4, 4), **wrong), next(iter(wrong)))


def test_what_cannot_be_adapted_is_refused(refuses):
    refuses(lambda: adapt(5), "int", "called")
    refuses(lambda: adapt(smooth, (3, 32, 31)), "shape")
    refuses(lambda: as_checkpoint(nn.Linear(2, 2), "mine"), "adapt")
    refuses(lambda: as_checkpoint(adapt(smooth), "mine", "cubic"), "cubic", "linear")


def test_any_callable_is_sampled_measured_and_asked_for_its_bias():
    model = adapt(lambda x, t, y: -x, (2, 4, 4), classes=3)
    drawn = sample(model, X, Heun(2), labels=torch.tensor([0, 1, 3]))
    torch.testing.assert_close(drawn.x, X * 0.625**2)  # Heun: 1 - h + h^2 / 2 each step
    data, t0 = torch.randn(3, 2, 4, 4), torch.full((3,), 0.2)
    bias = exposure_bias(model, X, data, t0, t0 + 0.3, labels=torch.tensor([0, 1, 2]))
    on_path, stepped = 0.5 * data + 0.5 * X, (0.2 * data + 0.8 * X) * 0.7
    torch.testing.assert_close(bias, on_path - stepped)
    context = Context(model, Batch(data, torch.tensor([0, 1, 2])), TimeGrid.spaced("g", 3, 2), "mine", chunk=3)
    assert set(measure([PFR()], context)["pfr"]["quantity"]) >= {"pfr_prediction", "pfr_bias"}


def test_any_callable_stands_where_a_checkpoint_is_asked_for():
    checkpoint = as_checkpoint(adapt(smooth, (2, 4, 4), classes=3), "mine", "gvp")
    assert (checkpoint.shape, checkpoint.classes, checkpoint.card.name) == ((2, 4, 4), 3, "mine")
    assert checkpoint.interpolant == type(checkpoint.interpolant)()
    assert as_checkpoint(adapt(smooth, (2, 4, 4), classes=None), "mine").classes is None


def test_a_known_family_with_conventions_is_saved_and_loaded(tmp_path):
    told = {"noise_at": 1, "velocity": "noise-data"}
    model = build_model("sit", None, {**SIZES, "num_classes": 4, "conventions": told})
    nn.init.normal_(model.network.final_layer.linear.weight)
    loaded = load_checkpoint(save_checkpoint(tmp_path / "c", model, Card("c", "ema", "", {}), torch.float32))
    assert isinstance(loaded.model, Adapted) and loaded.model.conventions == Conventions(1, "noise-data")
    with torch.no_grad():
        assert torch.equal(loaded.model(X, T, LABELS), -model.network(X, 1 - T, LABELS))
    weights, config = model.without_labels(1)
    other = build_model("sit", None, config)
    other.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(other(X, T, LABELS % 2), model(X, T))


def test_what_says_its_own_shape_wrongly_costs_nothing(tmp_path, refuses):
    folder = save_checkpoint(tmp_path / "c", SiT(**SIZES, num_classes=4), Card("c", "ema", "", {}))
    text = (folder / "card.toml").read_text()
    (folder / "card.toml").write_text(text.replace("hidden_size = 8", "hidden_size = 4000"))  # 1 GB, if it were built
    refuses(lambda: load_checkpoint(folder), folder / "weights.safetensors", "does not fit", "4000")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the current folder, which leaves a mark when it is run."""
    (tmp_path / "own_network.py").write_text(FACTORY.format(marker=str(tmp_path / "mark")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEFAR_TRUST", raising=False)
    return tmp_path


TOLD = {
    "input_size": 4, "in_channels": 2, "num_classes": 4, "options": {"width": 5},
    "conventions": {"arguments": ["t", "x", "labels"], "output": 1},
}  # fmt: skip


def test_own_code_runs_only_where_it_is_trusted_by_name(own, refuses, monkeypatch):
    trusted = ("own_network:build",)
    folder = save_checkpoint(own / "c", build_model("own_network:build", None, TOLD, trusted), Card("c", "ema", "", {}))
    (own / "mark").unlink()
    for wrong in ("", "other:build", "own_network", "own_network:*", "*"):
        monkeypatch.setenv("DEFAR_TRUST", wrong)
        refuses(lambda: load_checkpoint(folder), "DEFAR_TRUST=own_network:build", own / "own_network.py")
    refuses(lambda: load_checkpoint(folder, trust=("own_network:nothing",)), "DEFAR_TRUST=own_network:build")
    assert not (own / "mark").exists()
    by_argument = load_checkpoint(folder, trust=trusted)
    monkeypatch.setenv("DEFAR_TRUST", "something:else, own_network:build")
    by_environment = load_checkpoint(folder)
    with torch.no_grad():
        assert torch.equal(by_argument.model(X, T, LABELS), by_environment.model(X, T, LABELS))
    assert by_argument.shape == (2, 4, 4) and by_argument.classes == 4
    assert by_argument.model.network.layers[1].num_batches_tracked.dtype == torch.int64


def test_own_code_is_found_beside_the_card_and_another_folder_has_another(own, monkeypatch, tmp_path_factory):
    folder = save_checkpoint(
        own / "c", build_model("own_network:build", None, TOLD, ("own_network:build",)), Card("c", "ema", "", {})
    )
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (own / "own_network.py").rename(folder / "own_network.py")
    monkeypatch.chdir(elsewhere)
    assert load_checkpoint(folder, trust=("own_network:build",)).model.network.layers[0].out_channels == 5
    source = (folder / "own_network.py").read_text()
    (elsewhere / "own_network.py").write_text(source.replace("self.layers(x)", "7 + 0 * self.layers(x)"))
    assert load_checkpoint(folder, trust=("own_network:build",)).model(X, T * 0 + 1, LABELS * 0).unique().tolist() == [
        7
    ]


@pytest.mark.parametrize(
    ("name", "part"),
    [("own_network:nothing", "int"), ("own_network:fails", "KeyError"), ("own_network:absent", "no function"),
     ("no_such_module:build", "no_such_module"), ("own_network:build", "surprise")],
)  # fmt: skip
def test_own_code_that_does_not_work_says_so_in_one_line(own, refuses, name, part):
    options = {"surprise": 1} if part == "surprise" else {}
    refuses(lambda: build_model(name, None, {**TOLD, "options": options}, (name,)), name, part)


@pytest.mark.parametrize(
    "changed",
    [
        {"input_size": 0},
        {"input_size": "4"},
        {"in_channels": None},
        {"num_classes": True},
        {"options": 3},
        {"wdith": 3},
    ],
)
def test_own_networks_need_a_shape(own, refuses, changed):
    refuses(lambda: build_model("own_network:build", None, {**TOLD, **changed}, ("own_network:build",)), *changed)
    assert not (own / "mark").exists()


def test_equal_tensors_have_equal_digests():
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.0)}
    assert tensors_digest(tensors) == tensors_digest(dict(reversed(tensors.items())))
    different = [{**tensors, "b": torch.tensor(2.0)}, {**tensors, "a": tensors["a"].half()}, {"a": tensors["a"]},
                 {**tensors, "a": tensors["a"].reshape(3, 2)}, {"c": tensors["a"], "b": tensors["b"]}]  # fmt: skip
    assert len({tensors_digest(each) for each in [tensors, *different]}) == 6
    assert tensors_digest({**tensors, "a": tensors["a"].T.contiguous().T}) == tensors_digest(tensors)


def test_conventions_are_plain_values():
    assert dataclasses.asdict(Conventions())["arguments"] == ["x", "t", "labels"]
