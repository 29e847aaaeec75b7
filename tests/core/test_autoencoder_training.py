"""The small KL autoencoder: its network, its training, and what was shipped."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from defar_analysis.core import autoencoder_training as training
from defar_analysis.core.autoencoders import load_autoencoder
from defar_analysis.core.codecs import open_codec
from defar_analysis.core.datasets import ImageDataset, cifar10
from defar_analysis.core.networks.autoencoder import KLAutoencoder
from defar_analysis.core.states import saved_states
from defar_analysis.errors import Interrupted

SHIPPED = Path(__file__).parents[2] / "reproduce" / "checkpoints" / "cifar10-autoencoder"


def smooth_images(count: int, size: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    ramps = rng.normal(size=(count, 3, 1, 1)) * np.linspace(-60, 60, size) + rng.normal(size=(count, 3, 1, 1)) * 40
    return np.clip(128 + np.broadcast_to(ramps, (count, 3, size, size)), 0, 255).astype(np.uint8)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A training of twelve steps on smooth images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", images=smooth_images(40), labels=np.arange(40) % 4)
    (tmp_path / "vae.toml").write_text(
        'name = "vae"\nsteps = 12\nbatch = 8\nsave_every = 5\nlog_every = 4\n[data]\nname = "images.npz"\n'
        "[network]\nwidth = 8\n[optimizer]\nlr = 1e-2\nwarmup = 2\n"
    )
    return training.load_autoencoder_recipe(Path("vae.toml"))


def test_shapes_moments_and_sizes(refuses):
    torch.manual_seed(0)
    model = KLAutoencoder(width=16, latent_channels=5, blocks=2)
    mean, logvar = model.encode(torch.randn(2, 3, 12, 8))
    assert mean.shape == logvar.shape == (2, 5, 3, 2) and model.decode(mean).shape == (2, 3, 12, 8)
    assert sum(p.numel() for p in KLAutoencoder().parameters()) < 1e6
    refuses(lambda: KLAutoencoder(width=12), "width = 12")
    refuses(lambda: model.encode(torch.randn(1, 3, 8, 6)), "(8, 6)", "multiples of 4")


def test_a_training_that_was_stopped_equals_one_that_was_not(recipe, monkeypatch, refuses):
    whole = training.train_autoencoder(recipe, Path("whole"))
    advance, calls = training.AutoencoderRun.advance, []

    def stopping(run):
        calls.append(run.step)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return advance(run)

    monkeypatch.setattr(training.AutoencoderRun, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        training.train_autoencoder(recipe, Path("cut"))
    assert training.train_autoencoder(recipe, Path("cut")) == Path("cut/autoencoder")
    assert calls[8] == 5  # the last saved state
    assert (whole / "weights.safetensors").read_bytes() == Path("cut/autoencoder/weights.safetensors").read_bytes()
    assert Path("whole/log.jsonl").read_text().count("\n") == Path("cut/log.jsonl").read_text().count("\n") == 3
    before = (whole / "weights.safetensors").stat().st_mtime_ns
    training.train_autoencoder(recipe, Path("whole"))  # finished: nothing to do
    assert (whole / "weights.safetensors").stat().st_mtime_ns == before
    other = training.load_autoencoder_recipe(Path("vae.toml"), ("steps=3",))
    refuses(lambda: training.train_autoencoder(other, Path("whole")), "other steps", "--out")
    np.savez("images.npz", images=smooth_images(41))
    refuses(lambda: training.train_autoencoder(recipe, Path("whole")), "other images")


def test_a_request_to_stop_is_saved(recipe, monkeypatch):
    class Stop:
        requested = True

    class Requests:
        def __enter__(self):
            return Stop()

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(training, "stop_requests", Requests)
    with pytest.raises(Interrupted, match="stopped at step 1 of 12"):
        training.train_autoencoder(recipe, Path("run"))
    assert [file.name for file in saved_states(Path("run"))] == ["state-0000001.pt"]


def test_the_cards_numbers_are_those_of_the_file(recipe):
    loaded = load_autoencoder(training.train_autoencoder(recipe, Path("run")))
    images = ImageDataset(smooth_images(40))
    codec = open_codec({"kind": "vae", "path": "run/autoencoder"})
    shown = torch.from_numpy(images.images)
    again = codec.decode(codec.encode(shown))
    error = (again.double() - shown.double()).square().mean()
    assert loaded.card.psnr["images"] == 40
    assert loaded.card.psnr["db"] == pytest.approx(10 * math.log10(255**2 / error), abs=0.02)
    latents = codec.encode(shown, generator=torch.Generator().manual_seed(0))
    assert abs(latents.mean()) < 0.1 and latents.std() == pytest.approx(1, abs=0.1)


def test_it_learns(recipe):
    longer = training.load_autoencoder_recipe(Path("vae.toml"), ("steps=60", "data.horizontal_flip=false"))
    card = load_autoencoder(training.train_autoencoder(longer, Path("longer"))).card
    assert card.psnr["db"] > load_autoencoder(training.train_autoencoder(recipe, Path("short"))).card.psnr["db"] + 3


@pytest.mark.parametrize(
    "change, part",
    [("steps=0", "steps = 0"), ("kl_weight=-1", "kl_weight"), ("name=../x", "../x"), ("colour=red", "colour")],
)
def test_wrong_recipes(recipe, change, part, refuses):
    refuses(lambda: training.load_autoencoder_recipe(Path("vae.toml"), (change,)), part)


def test_the_shipped_one_is_small_and_as_its_recipe_says():
    loaded = load_autoencoder(SHIPPED)
    committed = training.load_autoencoder_recipe(SHIPPED.parents[1] / "cifar10_autoencoder.toml")
    trained = loaded.card.training["recipe"]
    assert (trained["steps"], trained["kl_weight"]) == (committed.steps, committed.kl_weight)
    assert loaded.card.training["steps"] == committed.steps
    assert (SHIPPED / "weights.safetensors").stat().st_size < 3e6
    assert loaded.card.psnr["db"] >= 22 and loaded.card.psnr["images"] == 10_000


@pytest.mark.real_data
def test_the_shipped_one_on_real_test_images():
    """1,000 of the 10,000 that its card counts: at least 22 dB, latents of variance 1 where the network looks."""
    test, card = cifar10("test"), load_autoencoder(SHIPPED).card
    part = ImageDataset(np.array(test.images[:1000]), name="first 1,000")
    assert training.psnr(load_autoencoder(SHIPPED).model, part) == pytest.approx(card.psnr["db"], abs=0.3)
    latents = open_codec({"kind": "vae", "path": str(SHIPPED)}).encode(torch.from_numpy(part.images[:500]))
    assert abs(latents.mean()) < 0.1 and latents.std() == pytest.approx(1, abs=0.1)
