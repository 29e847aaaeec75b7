"""The doctor passes what is right, and of each planted mistake says which it is and how to mend it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from defar_analysis.cli import main
from defar_analysis.core.adapters import Adapted, Conventions
from defar_analysis.core.cards import as_saved
from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint, tensors_digest
from defar_analysis.core.datasets import cifar10
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.networks import SiT
from defar_analysis.core.oracles import EmpiricalFlow, GaussianFlow, MixtureFlow
from defar_analysis.core.seeding import generator_for, image_noise
from defar_analysis.doctor import examine, examine_checkpoint
from defar_analysis.doctor.direction import direction, fit, scale
from defar_analysis.doctor.misfit import Patient
from defar_analysis.doctor.plug import plug_of
from defar_analysis.doctor.weights import averaged
from defar_analysis.experiment import SHIPPED

ROOT = Path(__file__).parents[1]
CHECKPOINTS = [ROOT / "reproduce" / "checkpoints" / name for name in (*SHIPPED.values(), "cifar10-latent-sit")]
CLASSES, SHAPE, COUNT = 4, (3, 8, 8), 64


class Exact(nn.Module):
    """The best field there is of a mixture with one smooth image for each class; the label CLASSES means none."""

    def __init__(self, interpolant=None):
        super().__init__()
        coarse = torch.randn(CLASSES, 3, 3, 3, generator=generator_for(0, "means"))
        means = nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear") * 0.8
        self.register_buffer("means", means)
        self.weight = nn.Parameter(torch.ones(()))
        self.of_class = [MixtureFlow(means[k : k + 1], 0.3, interpolant=interpolant) for k in range(CLASSES)]
        self.of_all = MixtureFlow(means, 0.3, interpolant=interpolant)

    def forward(self, x, t, labels):
        velocity = self.of_all(x, t)
        for label in labels.unique().tolist():
            if label > CLASSES:
                raise IndexError(f"index {label} is out of range")
            if label < CLASSES:
                rows = labels == label
                velocity[rows] = self.of_class[label](x[rows], t[rows])
        return self.weight * velocity


def mixture():
    """(data, labels) that Exact() knows."""
    labels = torch.arange(COUNT) % CLASSES
    return Exact().means[labels] + 0.3 * image_noise(5, range(COUNT), SHAPE), labels


class Broken(nn.Module):
    """An exact field with a mistake around it: `call` is given the field and what it was asked."""

    def __init__(self, call):
        super().__init__()
        self.exact, self.call = Exact(), call

    def forward(self, *given, **named):
        return self.call(self, *given, **named)


def normalized_over_the_batch(self, x, t, y):
    velocity = self.exact(x, t, y)
    return velocity - 0.1 * velocity.mean(dim=0, keepdim=True)


def dropping_labels(self, x, t, y):
    drop = torch.rand(len(y)) < 0.1
    return self.exact(x, t, torch.where(drop & self.training, CLASSES, y))


def not_finite(self, x, t, y):
    return self.exact(x, t, y) + (0 / (1 - t))[:, None, None, None]


MISTAKES = {  # name: (the network, {the check that fails: what its line must name})
    "flipped clock": (lambda self, x, t, y: self.exact(x, 1 - t, y), {"clock": "noise_at = 1"}),
    "negated": (lambda self, x, t, y: -self.exact(x, t, y), {"sign": 'velocity = "noise-data"'}),
    "both": (
        lambda self, x, t, y: -self.exact(x, 1 - t, y),
        {"clock": "noise_at = 1", "sign": 'velocity = "noise-data"'},
    ),
    "a clock of 1000": (lambda self, x, t, y: self.exact(x, t / 1000, y), {"time scale": "time_scale = 1000.0"}),
    "swapped arguments": (
        lambda self, t, x, y: self.exact(x, t[:, None][:, 0], y),
        {"arguments": 'arguments = ["t", "x", "labels"]'},
    ),
    "no labels taken": (
        lambda self, x, t: self.exact(x, t, torch.full((len(x),), CLASSES)),
        {"arguments": 'arguments = ["x", "t"]'},
    ),
    "a tuple": (lambda self, x, t, y: (self.exact(x, t, y), [x]), {"output": "output = 0"}),
    "an attribute": (
        lambda self, x, t, y: type("Output", (), {"sample": self.exact(x, t, y)})(),
        {"output": 'attribute = "sample"'},
    ),
    "learn_sigma": (
        lambda self, x, t, y: torch.cat([self.exact(x, t, y), x], dim=1),
        {"output": "[network.conventions]"},
    ),
    "a class for none": (
        lambda self, x, t, y: self.exact(x, t, torch.where(y == CLASSES, 2, y.clamp(max=CLASSES))),
        {"null label": "is class 2"},
    ),
    "dropped inside": (dropping_labels, {"train mode": "label_dropout"}),
    "dropped in evaluation": (
        lambda self, x, t, y: nn.functional.dropout(self.exact(x, t, y), 0.01, training=True),
        {"same twice": "model.eval()", "one by one": "model.eval()"},
    ),
    "over the batch": (normalized_over_the_batch, {"one by one": "BatchNorm"}),
    "an infinite end": (not_finite, {"finite": "t = 1"}),
    "nothing but nan": (lambda self, x, t, y: x * torch.nan, {"finite": "float32"}),
    "predicts nothing": (lambda self, x, t, y: torch.zeros_like(x), {"fit": "predicts nothing"}),
    "double": (lambda self, x, t, y: self.exact(x, t, y).double(), {"dtype": "x.dtype"}),
    "deaf to t": (
        lambda self, x, t, y: self.exact(x, torch.full_like(t, 0.5), y),
        {"x and t": "time_scale"},
    ),
}  # fmt: skip


def failures(found):
    return {f.name: str(f) for f in found if f.verdict == "fails"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_planted_mistake_is_the_one_that_fails_and_its_line_names_the_mend(mistake):
    call, expected = MISTAKES[mistake]
    found = examine(Broken(call), *mixture(), classes=CLASSES)
    failed = failures(found)
    assert failed.keys() == expected.keys(), "\n".join(map(str, found))
    for name, words in expected.items():
        assert words in failed[name] and "\n" not in failed[name]


MENDS = {
    "flipped clock": {"noise_at": 1},
    "negated": {"velocity": "noise-data"},
    "both": {"noise_at": 1, "velocity": "noise-data"},
    "a clock of 1000": {"time_scale": 1000.0},
    "swapped arguments": {"arguments": ["t", "x", "labels"]},
    "a tuple": {"output": 0},
    "an attribute": {"attribute": "sample"},
    "learn_sigma": {},
}


@pytest.mark.parametrize("mistake", MENDS)
def test_what_it_prescribes_cures(mistake):
    model = Adapted(Broken(MISTAKES[mistake][0]), Conventions(**MENDS[mistake]), {"num_classes": CLASSES})
    found = examine(model, *mixture(), classes=CLASSES)
    assert not failures(found), "\n".join(map(str, found))


def test_a_mend_starts_from_the_conventions_that_are_there():
    wrong = Adapted(Exact(), Conventions(noise_at=1, velocity="noise-data"), {"num_classes": CLASSES})
    failed = failures(examine(wrong, *mixture(), classes=CLASSES))
    assert "noise_at = 0" in failed["clock"] and 'velocity = "data-noise"' in failed["sign"] and len(failed) == 2


def test_a_null_label_that_the_network_refuses_or_that_is_a_class():
    for label in (1000, 1):
        wrong = Adapted(Exact(), Conventions(null_label=label), {"num_classes": CLASSES})
        failed = failures(examine(wrong, *mixture(), classes=CLASSES))
        assert failed.keys() == {"null label"} and f"null_label = {CLASSES}" in failed["null label"]


def test_a_null_label_that_was_never_trained():
    def untrained(self, x, t, y):
        return torch.where((y == CLASSES)[:, None, None, None], 2 * x, self.exact(x, t, y))

    data, labels = mixture()
    failed = failures(examine(Broken(untrained), data, labels, classes=CLASSES))
    assert failed.keys() == {"null label"} and "never trained" in failed["null label"]
    found = examine(Broken(untrained), data, labels, classes=CLASSES, label_dropout=0.0)
    assert not failures(found)
    assert "label_dropout = 0" in next(f for f in found if f.name == "null label").measured


@pytest.mark.parametrize(
    ("factor", "shift", "mend"),
    [
        (0.18215, 0.0, "multiply the data by 5"),
        (1 / 0.18215, 0.0, "multiply the data by 0.1"),
        (0.5, 0.5, "[0, 1]"),
        (2.0, -1.0, "0.5 * data + 0.5"),
    ],
)
def test_data_on_another_scale(factor, shift, mend):
    data, labels = mixture()
    failed = failures(examine(Exact(), factor * data + shift, labels, classes=CLASSES))
    assert failed.keys() == {"data scale"} and mend in failed["data scale"], failed
    assert "scale" in failed["data scale"] or "codec" in failed["data scale"]


def test_labels_in_another_order():
    data, labels = mixture()
    failed = failures(examine(Exact(), data, (labels + 1) % CLASSES, classes=CLASSES))
    assert failed.keys() == {"labels"} and "order" in failed["labels"], failed


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=lambda path: type(path).__name__)
def test_the_exact_field_of_a_mixture_passes_on_every_path(path):
    found = examine(Exact(path), *mixture(), classes=CLASSES, interpolant=path)
    assert all(f.verdict == "passes" for f in found), "\n".join(map(str, found))


def test_the_oracles_pass():
    data, _ = mixture()
    for oracle in (GaussianFlow.fit(data), EmpiricalFlow(data)):
        found = examine(oracle, data)
        assert all(f.verdict == "passes" for f in found), "\n".join(map(str, found))
    gaussian = GaussianFlow.fit(data)
    drawn = gaussian.sample(COUNT, generator_for(0, "drawn"))
    assert not failures(examine(gaussian, drawn))
    told = {f.name: f for f in examine(gaussian, drawn, torch.arange(COUNT) % 2, classes=2)}
    assert told["labels"].verdict == told["null label"].verdict == "cannot be told"


def test_data_that_look_like_noise_do_not_tell_both_clock_and_sign():
    """v(x, t) = -v(x, 1 - t) where data and noise have one law: no examination can tell, and none should say."""
    white = GaussianFlow(torch.zeros(SHAPE), torch.ones(SHAPE[1:]))
    found = {f.name: f.verdict for f in examine(white, image_noise(9, range(COUNT), SHAPE))}
    assert found["clock"] == found["sign"] == "cannot be told" and "fails" not in found.values()


def test_the_network_is_left_as_it_was():
    class Counting(Exact):
        def __init__(self):
            super().__init__()
            self.norm, self.frozen = nn.BatchNorm2d(3), nn.Dropout().eval()

        def forward(self, x, t, labels):
            return super().forward(x, t, labels) + 0 * self.norm(x)

    model = Counting().train()
    model.frozen.eval()
    state, generator = {k: v.clone() for k, v in model.norm.state_dict().items()}, torch.get_rng_state()
    model.norm.eval()
    examine(model, *mixture(), classes=CLASSES)
    assert model.training and not model.norm.training and not model.frozen.training
    assert all(torch.equal(value, state[key]) for key, value in model.norm.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_it_says_the_same_twice():
    runs = [list(map(str, examine(Broken(dropping_labels), *mixture(), classes=CLASSES))) for _ in range(2)]
    assert runs[0] == runs[1]


def test_it_refuses_data_that_it_cannot_judge_by(refuses):
    data, _ = mixture()
    refuses(lambda: examine(Exact(), data[:1]), "at least 2")
    refuses(lambda: examine(Exact(), data * torch.inf), "finite")


# --- checkpoints ---


def small_sit(seed):
    torch.manual_seed(seed)
    model = SiT(8, 4, 3, 32, 1, 2, num_classes=CLASSES)
    nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    return model


def test_raw_weights_in_place_of_averaged_ones(tmp_path):
    """By the state of the run beside the checkpoint, and by the digests of an import."""
    raw, ema = small_sit(0), small_sit(1)
    torch.save({"model": raw.state_dict(), "ema": ema.state_dict()}, tmp_path / "state.pt")
    kinds = {"raw": raw, "ema": ema}
    source = {f"{k}_digest": tensors_digest(as_saved(m.state_dict(), torch.float16)) for k, m in kinds.items()}
    for beside, card in (
        (tmp_path, Card("run", "ema", "", {})),
        (tmp_path / "elsewhere", Card("brought", "ema", "", {}, source={**source, "entry": "ema"})),
    ):
        for kind, model in kinds.items():
            folder = save_checkpoint(beside / kind, model, card)
            finding = averaged(folder, load_checkpoint(folder))
            assert finding.verdict == ("passes" if kind == "ema" else "fails"), finding
        assert 'weights = "ema"' in finding.mend or kind == "ema"
    folder = save_checkpoint(tmp_path / "twin" / "c", ema, Card("t", "ema", "", {}, source={k: "1" for k in source}))
    assert "never updated" in averaged(folder, load_checkpoint(folder)).mend
    folder = save_checkpoint(tmp_path / "alone" / "c", ema, Card("alone", "ema", "", {}))
    assert averaged(folder, load_checkpoint(folder)).verdict == "cannot be told"


@pytest.fixture
def sick(tmp_path, monkeypatch):
    """A folder with a fresh network's checkpoint and data for it."""
    data, labels = mixture()
    pixels = (127.5 * data + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels.numpy())
    save_checkpoint(tmp_path / "fresh", SiT(8, 4, 3, 32, 1, 2, num_classes=CLASSES), Card("fresh", "ema", "", {}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_prints_one_line_for_each_check_and_a_fingerprint(sick, capsys):
    command = ["doctor", "fresh", "--data", "data.npz", "--images", "16", "--device", "cpu"]
    assert main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 16 + 2 and lines[-1].startswith("fingerprint: 16 images, sha256 ")
    assert "predicts nothing" in next(line for line in lines if line.startswith("fails"))
    assert main([*command, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["fingerprint"]["sha256"].startswith(lines[-1].split("sha256 ")[1][:16])
    assert [f["name"] for f in told["findings"]] == [line[16:31].strip() for line in lines[:-2]]


@pytest.mark.parametrize(
    "options",
    [["nowhere"], ["fresh", "--data", "nothing"], ["fresh", "--images", "1"], ["fresh", "--weights", "raw"]],
    ids=lambda options: options[-1],
)
def test_what_it_cannot_open_is_one_line_and_status_2(sick, capsys, options):
    assert main(["doctor", *(options if "--data" in options else [*options, "--data", "data.npz"])]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and printed.err.startswith("defar: error: ")


def test_a_checkpoint_that_fails_in_the_middle_has_no_traceback(sick, capsys):
    """Whatever its conventions are, an answer is given."""
    card = (sick / "fresh" / "card.toml").read_text()
    (sick / "fresh" / "card.toml").write_text(card + '\n[network.conventions]\narguments = ["t", "x", "labels"]\n')
    assert main(["doctor", "fresh", "--data", "data.npz", "--images", "8", "--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert 'arguments = ["x", "t", "labels"]' in out and "fingerprint: none" in out


@pytest.mark.real_data
@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_every_shipped_checkpoint_passes(folder):
    diagnosis = examine_checkpoint(folder, images=32, device="cpu")
    other = [f for f in diagnosis.findings if f.verdict != "passes" and f.name != "weights"]
    assert diagnosis.healthy and not other, str(diagnosis)
    assert diagnosis.fingerprint.means[0] == pytest.approx(120, abs=15)  # of pixels, the latents decoded


@pytest.fixture(scope="module")
def real():
    """The shipped SiT and 32 test images, noised."""
    batch = cifar10("test").batch(range(32))
    checkpoint = load_checkpoint(ROOT / "reproduce" / "checkpoints" / "cifar10-sit")
    patient = Patient(batch.data, image_noise(0, range(32), (3, 32, 32)), batch.labels, checkpoint.interpolant)
    return checkpoint.model, patient


@pytest.mark.real_data
@pytest.mark.parametrize("changed", [{"noise_at": 1}, {"velocity": "noise-data"}, {"time_scale": 1000.0}], ids=str)
def test_wrong_conventions_of_a_trained_network(real, changed):
    model, patient = real
    found, mended = direction(plug_of(model, 10).changed(**changed), patient)
    names = {"noise_at": "clock", "velocity": "sign", "time_scale": "time scale"}
    assert failures(found).keys() == {names[key] for key in changed}
    assert mended.conventions == Conventions()


@pytest.mark.real_data
@pytest.mark.parametrize("factor", [0.18215, 1 / 0.18215])
def test_a_wrong_latent_scale_of_a_trained_network(real, factor):
    model, patient = real
    wrong = dataclasses.replace(patient, data=factor * patient.data)
    found, mended = direction(plug_of(model, 10), wrong)
    finding, _ = scale(mended, wrong)
    assert not failures(found) and finding.verdict == "fails" and "SD-VAE" in finding.mend


@pytest.mark.real_data
def test_a_trained_network_with_two_blocks_swapped_does_not_fit(real):
    model, patient = real
    blocks = model.blocks
    blocks[0], blocks[5] = blocks[5], blocks[0]
    try:
        finding = fit(plug_of(model, 10), patient)
    finally:
        blocks[0], blocks[5] = blocks[5], blocks[0]
    assert finding.verdict == "fails" and "does not fit these data" in finding.mend
    assert fit(plug_of(model, 10), patient).verdict == "passes"
