"""The discriminator of discriminator guidance: its AUC, what it can and cannot tell, resuming, and whom it judges."""

import dataclasses
import functools
import itertools
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from defar_analysis.cli import main
from defar_analysis.config import dump_toml, from_table, read_toml
from defar_analysis.core import discriminator_training, discriminators
from defar_analysis.core.cards import CARD, WEIGHTS
from defar_analysis.core.checkpoints import Card, Checkpoint, load_checkpoint, save_checkpoint
from defar_analysis.core.codecs import PixelCodec
from defar_analysis.core.discriminator_training import (
    DISCRIMINATOR,
    SAMPLES,
    DiscriminatorRun,
    Pairs,
    train_discriminator,
)
from defar_analysis.core.discriminators import (
    DiscriminatorCard,
    DiscriminatorRecipe,
    Generated,
    RealImages,
    Shape,
    auc,
    load_discriminator,
    load_discriminator_recipe,
    noised_logits,
    save_discriminator,
)
from defar_analysis.core.guidance import CFG, DiscriminatorGuidance
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.networks import SiT
from defar_analysis.core.networks.discriminator import ConvDiscriminator
from defar_analysis.core.recipes import Optimizer, load_recipe
from defar_analysis.core.runs import LOG, RECIPE
from defar_analysis.core.states import saved_states
from defar_analysis.errors import Interrupted

ROOT = Path(__file__).parents[2]
CLASSES = 3


def tiny_checkpoint(**card) -> Checkpoint:
    torch.manual_seed(0)
    model = SiT(8, 4, 3, 16, 1, 2, num_classes=CLASSES)
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    return Checkpoint(model.eval().requires_grad_(False), PixelCodec(), Card("tiny", "ema", "0" * 64, {}, **card))


def small_recipe(**changes) -> DiscriminatorRecipe:
    return DiscriminatorRecipe(**{
        "name": "tiny", "checkpoint": "checkpoint", "steps": 6, "batch": 8, "bins": 4, "log_every": 2, "save_every": 2,
        "data": RealImages("data.npz"), "samples": Generated(100, 30, "euler", 2), "network": Shape(8, 16),
        "optimizer": Optimizer(lr=3e-3, clip=1.0), **changes,
    })  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: a checkpoint of three classes, 120 images of 8 x 8 and small_recipe() as recipe.toml."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % CLASSES
    np.savez(tmp_path / "data.npz", images=rng.integers(0, 256, (120, 8, 8, 3), np.uint8), labels=labels)
    save_checkpoint(tmp_path / "checkpoint", tiny_checkpoint().model, Card("tiny", "ema", "", {}))
    (tmp_path / "recipe.toml").write_text(dump_toml(dataclasses.asdict(small_recipe())))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(folder):
    return (folder / WEIGHTS).read_bytes()


# --- the AUC ---


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_auc_is_that_of_all_pairs_with_ties_counted_half(levels):
    rng = np.random.default_rng(levels)
    real, generated = rng.integers(0, levels, 41) / 4, rng.integers(0, levels, 29) / 4
    pairs = list(itertools.product(real, generated))
    brute = sum(1.0 if r > g else 0.5 if r == g else 0.0 for r, g in pairs) / len(pairs)
    assert auc(real, generated) == pytest.approx(brute, abs=1e-12)
    assert auc(torch.tensor(real), torch.tensor(generated)) == auc(real, generated)
    assert auc(generated, real) == pytest.approx(1 - brute, abs=1e-12)


def test_the_auc_at_its_ends(refuses):
    assert auc([2.0, 3.0], [0.0, 1.0]) == 1 and auc([0.0], [1.0, 2.0]) == 0 and auc([1.0, 1.0], [1.0]) == 0.5
    refuses(lambda: auc([], [1.0]), "both sides")


# --- what it can and cannot tell ---


@functools.cache
def told(shift: int, interpolant: str = "linear", steps: int = 80) -> tuple[DiscriminatorRun, Pairs]:
    """A discriminator trained on images around 128 against others around 128 - shift, and its held-out pairs."""
    generator = torch.Generator().manual_seed(5)
    images = [
        (mean + 30 * torch.randn(600, 3, 8, 8, generator=generator)).clamp(0, 255).byte() for mean in (128, 128 - shift)
    ]
    recipe = small_recipe(steps=steps, batch=24, samples=Generated(600, 300), ema_decay=0.9)
    pairs = Pairs(*images, torch.arange(600) % CLASSES)
    run = DiscriminatorRun(recipe, tiny_checkpoint(interpolant=interpolant), pairs, torch.device("cpu"))
    for _ in range(steps):
        run.advance()
    return run, run.held_out


@pytest.mark.parametrize("interpolant", ["linear", "gvp", "vp"])
def test_it_tells_two_sets_apart_better_the_less_noise_and_not_at_all_at_t_0(interpolant):
    run, held_out = told(120, interpolant)
    found = run.verdict()
    assert len(found.bins) == 4 and found.bins[-1] > 0.98 and found.bins[0] < found.bins[-1]
    assert found.overall > (0.75 if interpolant == "vp" else 0.9)  # VP is nearly all noise for a third of its times
    path, logits = run.checkpoint.interpolant, []
    for seed, images in enumerate((held_out.real, held_out.generated)):
        data = PixelCodec().encode(images)
        logits.append(noised_logits(run.ema.model, data, held_out.labels, path, torch.zeros(len(data)), seed))
    assert abs(auc(*logits) - 0.5) < 0.08  # its standard error on 300 against 300 is 0.024


def test_it_finds_nothing_between_two_draws_of_one_set():
    assert abs(told(0)[0].verdict().overall - 0.5) < 0.06


def test_what_it_learned_guides_samples_towards_the_data():
    run, held_out = told(120)
    field = run.checkpoint.model
    guided = DiscriminatorGuidance(field, run.ema.model, 1.0, t_min=0.1)
    data, labels = PixelCodec().encode(held_out.generated[:8]), held_out.labels[:8]
    x = Linear().at(torch.randn(data.shape, generator=torch.Generator().manual_seed(1)), data, torch.full((8,), 0.2)).x
    for t in (0.0, 0.05):
        times = torch.full((8,), t)
        assert torch.equal(guided(x, times, labels), field(x, times, labels))
    times = torch.full((8,), 0.2)
    with torch.no_grad():
        change = guided(x, times, labels) - field(x, times, labels)
        assert change.mean() > 0  # the data are the brighter ones
        assert run.ema.model(x + 0.1 * change, times, labels).mean() > run.ema.model(x, times, labels).mean()
        assert torch.isfinite(CFG(guided, 1.5, CLASSES)(x, times, labels)).all()  # under the null label too


# --- the network ---


def test_the_default_network_is_small_and_a_logit_depends_on_its_own_sample():
    torch.manual_seed(0)
    model = ConvDiscriminator().eval()
    torch.nn.init.normal_(model.head.weight)
    assert 0.2e6 < sum(p.numel() for p in model.parameters()) < 0.6e6
    x, t, labels = torch.randn(4, 3, 32, 32), torch.rand(4), torch.tensor([0, 3, 9, 10])
    logits = model(x, t, labels)
    assert logits.shape == (4,)
    torch.testing.assert_close(model(x[1:2], t[1:2], labels[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x, t), model(x, t, torch.full((4,), 10)))
    assert (model(x, t.flip(0), labels) - logits).abs().min() > 1e-5
    assert (model(x, t, labels.flip(0)) - logits).abs().min() > 1e-5


@pytest.mark.parametrize("size", [1, 2, 3, 7, 28])
def test_any_size_of_image_goes_in(size):
    assert ConvDiscriminator(1, 1, 8, 8)(torch.randn(2, 1, max(size, 2), max(size, 2)), torch.rand(2)).shape == (2,)


# --- runs ---


def test_a_stopped_run_ends_where_an_uninterrupted_one_ends(place, monkeypatch, capsys):
    whole = train_discriminator(small_recipe(), place / "whole")
    state = torch.load(saved_states(place / "whole")[0], weights_only=True)

    class Stop(Exception):
        pass

    advance = DiscriminatorRun.advance

    def killed(self):
        if self.step == 3:
            raise Stop
        return advance(self)

    monkeypatch.setattr(DiscriminatorRun, "advance", killed)
    with pytest.raises(Stop):
        train_discriminator(small_recipe(), place / "cut")
    assert torch.load(saved_states(place / "cut")[0], weights_only=True)["step"] == 2
    (place / "cut" / SAMPLES / "000064.npy").write_bytes(b"half")  # one chunk damaged, the other is not drawn again
    before = (place / "cut" / SAMPLES / "000000.npy").stat().st_mtime_ns
    monkeypatch.setattr(DiscriminatorRun, "advance", advance)
    cut = train_discriminator(small_recipe(), place / "cut")
    assert "damaged; drawn again" in capsys.readouterr().err
    assert (place / "cut" / SAMPLES / "000000.npy").stat().st_mtime_ns == before
    assert weights(cut) == weights(whole)
    again = torch.load(saved_states(place / "cut")[0], weights_only=True)
    for key in ("model", "ema"):
        assert all(torch.equal(again[key][name], state[key][name]) for name in state[key])
    assert (cut / CARD).read_text() != "" and read_toml(cut / CARD)["auc"] == read_toml(whole / CARD)["auc"]
    lines = [line.split('"seconds"')[0] for line in (place / "cut" / LOG).read_text().splitlines()]
    assert lines == [line.split('"seconds"')[0] for line in (place / "whole" / LOG).read_text().splitlines()]
    assert not list(place.rglob(".*tmp"))


@pytest.mark.parametrize("when", ["samples", "steps"])
def test_a_request_to_stop_is_kept_and_said(when, place, monkeypatch):
    target = (discriminator_training, "sample") if when == "samples" else (DiscriminatorRun, "advance")
    plain = getattr(*target)

    def stop(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return plain(*args, **kwargs)

    monkeypatch.setattr(*target, stop)
    with pytest.raises(Interrupted, match="stopped after 64 of 100" if when == "samples" else "stopped at step 1 of 6"):
        train_discriminator(small_recipe(), place / "cut")
    monkeypatch.setattr(*target, plain)
    cut = train_discriminator(small_recipe(), place / "cut")
    assert weights(cut) == weights(train_discriminator(small_recipe(), place / "whole"))


def test_samples_are_bytes_under_the_datas_labels(place, monkeypatch):
    seen, plain = [], discriminator_training.sample

    def watched(model, noise, solver, *, labels, **kwargs):
        seen.append(labels)
        return plain(model, noise, solver, labels=labels, **kwargs)

    monkeypatch.setattr(discriminator_training, "sample", watched)
    train_discriminator(small_recipe(), place / "run")
    parts = [np.load(place / "run" / SAMPLES / name) for name in ("000000.npy", "000064.npy")]
    assert [p.shape for p in parts] == [(64, 3, 8, 8), (36, 3, 8, 8)] and {p.dtype.name for p in parts} == {"uint8"}
    assert torch.cat(seen).bincount(minlength=CLASSES).min() > 25


def test_a_checkpoint_without_classes_gets_a_discriminator_without(place):
    card = Card("free", "ema", "", {}, data={"class_conditional": False})
    save_checkpoint(place / "free", SiT(8, 4, 3, 16, 1, 2, num_classes=1), card)
    folder = train_discriminator(small_recipe(checkpoint="free", steps=2), place / "run")
    loaded = load_discriminator(folder, load_checkpoint(place / "free"))
    assert loaded.card.network["num_classes"] == 1
    assert loaded.model(torch.randn(2, 3, 8, 8), torch.rand(2)).shape == (2,)


# --- whom it judges ---


def test_it_loads_for_its_own_checkpoint_only(place, refuses):
    checkpoint = load_checkpoint(place / "checkpoint")
    folder = train_discriminator(small_recipe(), place / "run")
    loaded = load_discriminator(folder, checkpoint)
    assert loaded.card.judges == {"name": "tiny", "sha256": checkpoint.card.sha256}
    assert not any(p.requires_grad for p in loaded.model.parameters()) and not loaded.model.training
    assert loaded.card.summary().startswith("held-out AUC 0.") and len(loaded.card.auc["bins"]) == 4
    other = dataclasses.replace(checkpoint, card=dataclasses.replace(checkpoint.card, name="other", sha256="f" * 64))
    refuses(lambda: load_discriminator(folder, other), "judges tiny", "not other (ffffffff)", "train-discriminator")
    refuses(lambda: load_discriminator(place, checkpoint), "no such discriminator")
    (folder / WEIGHTS).write_bytes(b"other")
    refuses(lambda: load_discriminator(folder, checkpoint), "corrupt or replaced")


def test_a_card_that_does_not_fit_the_weights_is_refused(tmp_path, refuses):
    checkpoint = tiny_checkpoint()
    card = DiscriminatorCard("d", "", "linear", {"name": "tiny", "sha256": "0" * 64}, {})
    folder = save_discriminator(tmp_path / "d", ConvDiscriminator(3, 3, 8, 8), card)
    text = (folder / CARD).read_text()
    (folder / CARD).write_text(text.replace("width = 8", "width = 16"))
    refuses(lambda: load_discriminator(folder, checkpoint), f"does not fit {CARD}")
    broken = ConvDiscriminator(3, 3, 8, 8)
    torch.nn.init.constant_(broken.head.bias, float("nan"))
    refuses(lambda: save_discriminator(tmp_path / "e", broken, card), "head.bias is not finite")
    assert not (tmp_path / "e").exists()


# --- mistakes ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"label_dropout": 1.5}, "label_dropout = 1.5"),
        ({"name": "a/b"}, "name = 'a/b'"),
        ({"samples": Generated(10, 10)}, "samples.held_out = 10; it must lie in 1 ... 9"),
        ({"samples": Generated(10, 2, "euler", 0)}, "samples.steps = 0"),
    ],
)
def test_settings_out_of_range_are_one_line(changes, said, refuses):
    refuses(lambda: small_recipe(**changes), said)


def test_what_does_not_fit_is_one_line(place, refuses):
    run = place / "run"
    refuses(lambda: train_discriminator(small_recipe(samples=Generated(200, 20)), run), "data.npz has 120 images")
    refuses(lambda: train_discriminator(small_recipe(checkpoint="nowhere"), run), "no such checkpoint")
    refuses(lambda: train_discriminator(small_recipe(network=Shape(9, 16)), run), "width must be a multiple of 8")
    shutil.rmtree(run)
    np.savez("large.npz", images=np.zeros((120, 16, 16, 3), np.uint8), labels=np.arange(120) % CLASSES)
    refuses(lambda: train_discriminator(small_recipe(data=RealImages("large.npz")), run), "tiny makes (3, 8, 8)")
    np.savez("bare.npz", images=np.zeros((120, 8, 8, 3), np.uint8))
    refuses(lambda: train_discriminator(small_recipe(data=RealImages("bare.npz")), run), "has no classes")
    assert not run.exists()
    train_discriminator(small_recipe(), run)
    refuses(lambda: train_discriminator(small_recipe(seed=1), run), "holds a run with other seed;")
    torch.manual_seed(9)
    save_checkpoint(place / "checkpoint", SiT(8, 4, 3, 16, 1, 2, num_classes=CLASSES), Card("tiny", "ema", "", {}))
    refuses(lambda: train_discriminator(small_recipe(), run), "holds a run with other judges.sha256;")
    save_checkpoint(place / "checkpoint", tiny_checkpoint().model, Card("tiny", "ema", "", {}))
    for file in saved_states(run):
        file.write_bytes(b"no state")
    refuses(lambda: train_discriminator(small_recipe(), run), f"{saved_states(run)[0]}: corrupt", "remove it")


# --- the command line ---


def test_the_command_trains_and_says_how_well_it_tells(place, capsys):
    assert main(["train-discriminator", "recipe.toml", "--out", "run", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("run/discriminator: held-out AUC 0.") and "4 bins from 0 to 1" in out
    before = weights(place / "run" / DISCRIMINATOR)
    assert main(["train-discriminator", "recipe.toml", "--out", "run", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == out and weights(place / "run" / DISCRIMINATOR) == before
    assert main(["train-discriminator", "recipe.toml", "--out", "other", "--device", "cpu", "--set", "step=1"]) == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err
    assert (place / "run" / RECIPE).exists() and not (place / "other").exists()


# --- what the repository ships ---


@pytest.mark.parametrize("file", sorted((ROOT / "reproduce" / "discriminators").glob("*.toml")), ids=lambda f: f.stem)
def test_tab_2s_discriminators_judge_rows_of_the_matrix(file):
    recipe = load_discriminator_recipe(file)
    row = recipe.checkpoint.removeprefix("runs/").removesuffix("/checkpoint")
    matrix = [load_recipe(path) for path in (ROOT / "reproduce" / "experiments" / "tab1").glob("*.toml")]
    (judged,) = [other for other in matrix if other.name == row]
    assert judged.data.name == recipe.data.name and recipe.name == f"{row.replace('tab1', 'tab2')}-discriminator"


def test_the_shipped_discriminator_is_small_judges_the_shipped_checkpoint_and_tells_something():
    recipe = load_discriminator_recipe(ROOT / "reproduce" / "cifar10_discriminator.toml")
    checkpoint = load_checkpoint(ROOT / recipe.checkpoint)
    folder = ROOT / "reproduce" / "discriminators" / "cifar10-sit"
    card = load_discriminator(folder, checkpoint).card
    assert (folder / WEIGHTS).stat().st_size < 1.5e6
    assert from_table(DiscriminatorRecipe, card.training["recipe"], "card") == recipe
    assert card.auc["overall"] > 0.6 and abs(card.auc["bins"][0] - 0.5) < 0.08 and card.auc["images"] == 400


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=lambda path: type(path).__name__)
def test_bins_cover_the_times_of_the_path(path):
    seen = []

    def watched(x, t, labels):
        seen.append(t)
        return t

    images = torch.zeros(50, 1, 2, 2)
    found = discriminators.held_out_auc(watched, images, images, None, path, bins=5)
    times = torch.cat(seen)
    low, high = path.interval("train")
    assert times.min() >= low and times.max() <= high and times.max() > 0.95 * high
    assert len(found.bins) == 5 and abs(found.overall - 0.5) < 0.1
