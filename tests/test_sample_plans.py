"""`defar sample` with autoguidance, a discriminator and corrections: its images are those the core makes."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from defar_analysis.cli import main
from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.corrections import DCW, DCWHaar, EpsilonScaling, LabelShift, TargetShift
from defar_analysis.core.discriminators import DiscriminatorCard, load_discriminator, save_discriminator
from defar_analysis.core.guidance import CFG, Autoguidance, DiscriminatorGuidance
from defar_analysis.core.networks import SiT
from defar_analysis.core.networks.discriminator import ConvDiscriminator
from defar_analysis.core.samplers import Dopri5, Euler, EulerMaruyama, Heun, sample
from defar_analysis.core.seeding import balanced_labels, image_noise
from defar_analysis.sample_plans import EXAMPLES, Plan, parsed
from defar_analysis.sample_source import ImageSource
from defar_analysis.sampling import compare_to_file, finished, sample_to_file

STEPS = Heun(12)
PLAN = Plan(STEPS, count=5, chunk=3)


def network(folder, width=32, seed=0, classes=4, size=8, interpolant="linear", **data):
    torch.manual_seed(seed)
    model = SiT(size, 4, 3, width, 1, 2, num_classes=classes)
    for weight in (model.final_layer.linear.weight, model.final_layer.adaLN_modulation[1].weight):
        torch.nn.init.normal_(weight, std=0.3)
    save_checkpoint(folder, model, Card(folder.name, "ema", "", {}, interpolant, data=data))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with checkpoints `strong` and, smaller, `weak`, and `judge`, a discriminator of `strong`."""
    network(tmp_path / "strong")
    network(tmp_path / "weak", width=16, seed=1)
    monkeypatch.chdir(tmp_path)
    judge = ConvDiscriminator(3, 4, 8, 8)
    torch.nn.init.normal_(judge.head.weight, std=3)
    card = load_checkpoint("strong").card
    judges = {"name": card.name, "sha256": card.sha256}
    save_discriminator(tmp_path / "judge", judge, DiscriminatorCard("its judge", "", "linear", judges, {}))
    return tmp_path


@pytest.fixture
def drawn(folder):
    """drawn(**options): images of `strong` under these options of a plan, from an .npz, and what is recorded there."""

    def images(**options):
        out = f"{len(list(folder.glob('*.npz')))}.npz"
        sample_to_file("strong", out, dataclasses.replace(PLAN, **options), "cpu")
        with np.load(out) as file:
            return file["arr_0"], json.loads(str(file["provenance"]))

    return images


def by_the_core(field, correction=None):
    loaded = load_checkpoint("strong")
    noise, labels = image_noise(0, range(5), (3, 8, 8)), balanced_labels(range(5), 4)
    found = sample(field, noise, STEPS, labels=labels, chunk=3, correction=correction)
    return loaded.codec.decode(found.x).permute(0, 2, 3, 1).numpy()


def same(actual, expected):
    np.testing.assert_array_equal(actual, expected)
    assert actual.std() > 10


def strong():
    return load_checkpoint("strong").model


def test_a_plain_command_is_what_it_was(folder):
    """Unfinished samples of earlier versions go on, so neither its keys nor their order may change."""
    plain = ImageSource(load_checkpoint("strong"), PLAN, torch.device("cpu")).command
    keys = "checkpoint sha256 interpolant codec solver guidance seed labels count chunk device"
    assert list(plain) == keys.split()
    assert plain["guidance"] is None and plain["solver"] == "Heun(steps=12, grid='uniform', euler_last=False)"
    guided = dataclasses.replace(PLAN, guidance=2.0)
    assert list(ImageSource(load_checkpoint("strong"), guided, torch.device("cpu")).command) == list(plain)
    assert Plan(STEPS, 5, 1, "random", 1.5, (0.1, 0.9), "all", 3).chunk == 3  # positions are public too


def test_autoguidance_goes_on_from_the_weaker_checkpoint(drawn):
    """By hand, on two networks: weak + scale (strong - weak) at every evaluation inside the interval."""
    weak, field = load_checkpoint("weak").model, strong()

    def guided(x, t, labels):
        away, own = weak(x, t, labels), field(x, t, labels)
        return away + 2.5 * (own - away) if 0.3 <= float(t[0]) <= 0.7 else own

    images, record = drawn(guidance=2.5, autoguidance="weak", interval=(0.3, 0.7))
    assert np.abs(images.astype(int) - by_the_core(guided).astype(int)).max() <= 1  # a byte's rounding
    assert np.abs(images.astype(int) - by_the_core(field).astype(int)).max() > 20
    same(images, by_the_core(Autoguidance(field, weak, 2.5, (0.3, 0.7))))
    assert record["command"]["guidance"] == {
        "kind": "Autoguidance", "scale": 2.5, "weaker": "weak", "sha256": load_checkpoint("weak").card.sha256,
        "interval": [0.3, 0.7],
    }  # fmt: skip
    inside = sum(0.3 - 1e-6 <= k / 12 <= 0.7 + 1e-6 for stage in (0, 1) for k in range(stage, 12 + stage))
    assert record["nfe"] == 24 and record["forwards"] == 2 * (24 + inside)


def test_autoguidance_needs_no_labels(folder):
    network(folder / "free", classes=1, class_conditional=False)
    network(folder / "freer", width=16, classes=1, class_conditional=False)
    plan = Plan(Euler(2), 2, guidance=2.0, autoguidance="freer")
    assert "guidance 2 from freer" in sample_to_file("free", "a.png", plan, "cpu")


def test_a_discriminator_guides(drawn):
    judge = load_discriminator("judge", load_checkpoint("strong"))
    images, record = drawn(discriminator="judge", discriminator_weight=2.0)
    same(images, by_the_core(DiscriminatorGuidance(strong(), judge.model, 2.0)))
    assert np.abs(images.astype(int) - by_the_core(strong()).astype(int)).max() > 2
    assert record["command"]["discriminator"] == {
        "name": "its judge", "sha256": judge.card.sha256, "weight": 2.0, "t_min": 0.05, "clip": 0.0,
    }  # fmt: skip
    assert record["forwards"] == 2 * (24 + 23)  # not at t = 0
    assert drawn(discriminator="judge")[1]["command"]["discriminator"]["weight"] == 1.0


CASES = {
    "es=1.05": (lambda field: EpsilonScaling(field, 1.05), None),
    "es=1.05,slope=0.1,t_min=0.2": (lambda field: EpsilonScaling(field, 1.05, 0.1, 0.2), None),
    "ts-label=0.05,cutoff=0.6": (lambda field: LabelShift(field=field, window=0.05, cutoff=0.6), None),
    "ts-target=0.05,0.6,per_side=5": (lambda field: field, TargetShift(window=0.05, cutoff=0.6, per_side=5)),
    "dcw=0.05": (lambda field: field, DCW(0.05)),
    "dcw-haar=0.05,0.1": (lambda field: field, DCWHaar(0.05, 0.1)),
    "dcw-haar=high=0.1": (lambda field: field, DCWHaar(high=0.1)),
}


@pytest.mark.parametrize("text", CASES)
def test_each_correction_is_the_cores(text, drawn):
    wrap, correction = CASES[text]
    images, record = drawn(corrections=(text,))
    same(images, by_the_core(wrap(strong()), correction))
    assert np.abs(images.astype(int) - by_the_core(strong()).astype(int)).max() > 0
    assert record["command"]["corrections"] == [repr(correction or wrap(None))]


def test_neutral_settings_change_nothing(drawn):
    plain = drawn()[0]
    same(drawn(guidance=1.0, autoguidance="weak")[0], plain)
    same(drawn(discriminator="judge", discriminator_weight=0.0)[0], plain)
    for text in ("es=1", "ts-label=0", "ts-target=0", "dcw=0", "dcw-haar=0,0"):
        same(drawn(corrections=(text,))[0], plain)


def test_all_compose_in_the_cores_order_whatever_the_order_given(drawn):
    judge = load_discriminator("judge", load_checkpoint("strong")).model
    field = DiscriminatorGuidance(CFG(strong(), 2.0, 4), judge, 1.0)
    field = EpsilonScaling(LabelShift(field=field, window=0.05, cutoff=0.6), 1.02)
    given = ("dcw=0.02", "es=1.02", "ts-label=0.05,0.6")
    images, record = drawn(guidance=2.0, discriminator="judge", corrections=given)
    same(images, by_the_core(field, DCW(0.02)))
    again, other = drawn(guidance=2.0, discriminator="judge", corrections=given[::-1])
    same(again, images)
    assert other["command"] == record["command"] and len(record["command"]["corrections"]) == 3
    weaker = Autoguidance(strong(), load_checkpoint("weak").model, 2.0)
    same(drawn(guidance=2.0, autoguidance="weak", discriminator="judge")[0],
         by_the_core(DiscriminatorGuidance(weaker, judge, 1.0)))  # fmt: skip


def test_on_the_checkpoints_own_path(folder):
    network(folder / "gvp", interpolant="gvp")
    plan = Plan(Euler(3), 2, corrections=("es=1.01", "dcw=0.1"))
    source = ImageSource(load_checkpoint("gvp"), plan, torch.device("cpu"))
    assert all("interpolant=GVP()" in told for told in source.command["corrections"])


OPTIONS = {
    "guidance": {"guidance": 2.0, "autoguidance": "weak"},
    "discriminator": {"discriminator": "judge"},
    "corrections": {"corrections": ("es=1.05",)},
}


@pytest.mark.parametrize("key", OPTIONS)
@pytest.mark.parametrize("out", ["a.npz", "a"])
def test_samples_with_and_without_an_option_are_not_taken_for_each_other(key, out, folder, refuses):
    special = dataclasses.replace(PLAN, **OPTIONS[key])
    for first, second, place in ((PLAN, special, out), (special, PLAN, f"b{out}")):
        line = sample_to_file("strong", place, first, "cpu")
        assert finished(place, ImageSource(load_checkpoint("strong"), first, torch.device("cpu")).command)
        said = refuses(lambda args=(place, second): sample_to_file("strong", *args, "cpu"), "give another --out")
        assert said.startswith(f"{place}: holds samples with {key} ")
        assert sample_to_file("strong", place, first, "cpu") == line.replace(": ", ": already there, ", 1)


def test_compare_corrects_every_row(folder):
    plan = Plan(Euler(3), 2, guidance=1.5, corrections=("es=1.05",))
    assert compare_to_file(["strong", "weak"], "c.png", plan, "cpu").endswith("guidance 1.5, es=1.05, seed 0")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"autoguidance": "weak"}, ["--autoguidance weak", "--guidance SCALE"]),
        ({"autoguidance": "strong", "guidance": 2.0}, ["is strong itself", "give a weaker checkpoint"]),
        ({"autoguidance": "none", "guidance": 2.0}, ["none: no such checkpoint"]),
        ({"autoguidance": "large", "guidance": 2.0}, ["its images: (3, 16, 16)", "strong: (3, 8, 8)"]),
        ({"autoguidance": "more", "guidance": 2.0}, ["its classes: 5", "strong: 4"]),
        ({"autoguidance": "free", "guidance": 2.0}, ["its classes: None", "strong: 4"]),
        ({"autoguidance": "gvp", "guidance": 2.0}, ["its interpolant: gvp", "strong: linear"]),
        ({"autoguidance": "weak", "guidance": 2.0, "channels": "first3"}, ["'first3' are CFG's"]),
        ({"autoguidance": "weak", "guidance": -1.0}, ["scale", "-1"]),
        ({"autoguidance": "weak", "guidance": 2.0, "interval": (0.9, 0.1)}, ["upwards"]),
        ({"discriminator_weight": 2.0}, ["weight 2", "--discriminator FOLDER"]),
        ({"discriminator": "none"}, ["none: no such discriminator"]),
        ({"discriminator": "other"}, ["other: judges weak", "not strong"]),
        ({"discriminator": "judge", "discriminator_weight": -1.0}, ["weight", "-1"]),
        ({"corrections": ("sharpen=1",)}, ["sharpen=1", "no such correction", "es=1.005"]),
        ({"corrections": ("es",)}, ["--correction es:", "es=1.005"]),
        ({"corrections": ("es=slope=0.1",)}, ["give its setting, as in es=1.005"]),
        ({"corrections": ("dcw-haar",)}, ["dcw-haar=0.01,0.01"]),
        ({"corrections": ("es=strong",)}, ["scale = 'strong' is no number"]),
        ({"corrections": ("ts-label=0.1,per_side=1.5",)}, ["per_side = '1.5' is no number"]),
        ({"corrections": ("es=1,2,3,4",)}, ["no setting '4'", "scale, slope, t_min"]),
        ({"corrections": ("es=1,speed=3",)}, ["no setting 'speed'"]),
        ({"corrections": ("es=1,scale=2",)}, ["scale twice"]),
        ({"corrections": ("dcw=nan",)}, ["--correction dcw=nan: scale must be a finite number"]),
        ({"corrections": ("es=0",)}, ["--correction es=0: lambda"]),
        ({"corrections": ("es=1", "es=2")}, ["es is given twice"]),
        ({"corrections": ("ts-label=0.01", "ts-target=0.01")}, ["two forms of one correction"]),
        ({"corrections": ("dcw=0.1", "ts-target=0.01")}, ["dcw and ts-target", "leave all but one out"]),
        ({"corrections": ("dcw=0.1",), "solver": Dopri5()}, ["dcw needs the steps of a fixed grid", "--solver"]),
        ({"corrections": ("ts-target=0.1",), "solver": EulerMaruyama(3)}, ["the step's noise", "--solver"]),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(options, parts, folder, refuses):
    network(folder / "large", size=16)
    network(folder / "more", classes=5)
    network(folder / "free", classes=4, class_conditional=False)
    network(folder / "gvp", interpolant="gvp")
    weak = load_checkpoint("weak").card
    judges = {"name": weak.name, "sha256": weak.sha256}
    save_discriminator(
        folder / "other", ConvDiscriminator(3, 4, 8, 8), DiscriminatorCard("o", "", "linear", judges, {})
    )
    before = set(folder.rglob("*"))
    for out in ("a.npz", "a"):
        refuses(lambda out=out: sample_to_file("strong", out, dataclasses.replace(PLAN, **options), "cpu"), *parts)
    assert set(folder.rglob("*")) == before


def test_every_example_given_is_one(folder):
    assert [parsed(text)[0] for text in EXAMPLES] == ["ts-label", "es", "ts-target", "dcw", "dcw-haar"]


def test_from_the_command_line(folder, capsys):
    command = [
        "sample",
        "strong",
        "--out",
        "a.npz",
        "--count",
        "2",
        "--steps",
        "3",
        "--device",
        "cpu",
        "--guidance",
        "1.5",
    ]
    command += ["--autoguidance", "weak", "--discriminator", "judge", "--discriminator-weight", "0.5"]
    command += ["--correction", "es=1.005", "dcw=0.01"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "guidance 1.5 from weak, discriminator judge with weight 0.5, es=1.005, dcw=0.01, seed 0" in said
    with np.load("a.npz") as file:
        record = json.loads(str(file["provenance"]))["command"]
    assert record["guidance"]["kind"] == "Autoguidance" and record["discriminator"]["weight"] == 0.5
    assert [told.partition("(")[0] for told in record["corrections"]] == ["EpsilonScaling", "DCW"]
    assert main([*command, "ts-target=0.1"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("defar: error: --correction dcw and ts-target")
