"""A checkpoint of latents through every door that one of pixels goes through: training, sampling, measuring, quality,
the inspector."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from defar_analysis import evaluating
from defar_analysis.cli import main
from defar_analysis.core.autoencoders import AutoencoderCard, save_autoencoder
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.datasets import npz_dataset
from defar_analysis.core.latents import open_latents, seen_batch
from defar_analysis.core.networks.autoencoder import KLAutoencoder
from defar_analysis.core.samplers import Euler, sample
from defar_analysis.core.seeding import image_noise
from defar_analysis.inspection import open_inspector, write_page

RECIPE = """
name = "latent"
steps = {steps}
global_batch = 4
save_every = 3
[data]
name = "latents"
horizontal_flip = {flip}
[network]
size = ""
options = {{patch_size = 1, hidden_size = 16, depth = 1, num_heads = 2}}
[objective]
name = "defar"
label_dropout = 0.1
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Images of 32 pixels, their latents of 4 x 8 x 8, and a network trained on those for a few steps."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = KLAutoencoder(width=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_autoencoder(Path("vae"), model, AutoencoderCard("vae", "", {}, scale=2.0, shift=0.5, size=32))
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(12) % 4)
    assert (
        main(["data", "latents", "images.npz", "--codec", "vae", "--out", "latents", "--flip", "--device", "cpu"]) == 0
    )
    Path("recipe.toml").write_text(RECIPE.format(steps=6, flip="true"))
    assert main(["train", "recipe.toml", "--out", "run", "--device", "cpu"]) == 0
    return Path("run/checkpoint")


def test_a_training_draws_samples_of_the_posteriors_and_resumes(place, capsys):
    weights = (place / "weights.safetensors").read_bytes()
    assert main(["train", "recipe.toml", "--out", "other", "--device", "cpu"]) == 0
    assert Path("other/checkpoint/weights.safetensors").read_bytes() == weights
    card = load_checkpoint(place).card
    assert card.codec["kind"] == "vae" and card.codec["scale"] == 2.0
    assert card.data["name"] == "images.npz" and card.data["classes"] == 4
    assert card.data["sha256"] == open_latents(Path("latents")).hash
    assert main(["data", "latents", "images.npz", "--codec", "vae", "--out", "plain", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["train", "recipe.toml", "--out", "flipped", "--set", "data.name=plain", "--device", "cpu"]) == 2
    assert "holds no mirrored images" in capsys.readouterr().err


def test_the_card_without_its_autoencoder(place, refuses):
    loaded = load_checkpoint(place)
    assert loaded.shape == (4, 8, 8) and loaded.pixel_shape == (3, 32, 32) and loaded.codec.rule == "round_half_up"
    card = place / "card.toml"
    text = card.read_text()
    card.write_text(text.replace(f'path = "{Path("vae").resolve()}"', 'path = "../../vae"'))
    assert load_checkpoint(place).codec.identity == loaded.codec.identity  # relative to the card
    Path("vae").rename("gone")
    refuses(lambda: load_checkpoint(place), card, "vae: no such folder", loaded.codec.identity["sha256"])
    Path("gone").rename("vae")
    save_autoencoder(Path("vae"), KLAutoencoder(width=8), AutoencoderCard("vae", "", {}))
    refuses(lambda: load_checkpoint(place), card, "another autoencoder")
    save_autoencoder(Path("five"), KLAutoencoder(latent_channels=5, width=8), AutoencoderCard("vae", "", {}))
    start, end = text.index("[codec]"), text.index("[data]")
    card.write_text(f'{text[:start]}[codec]\nkind = "vae"\npath = "../../five"\n\n{text[end:]}')
    refuses(lambda: load_checkpoint(place), card, "5 channels, the network takes 4")


def test_sampling_decodes(place):
    loaded, command = load_checkpoint(place), ["sample", str(place), "--count", "6", "--steps", "2", "--device", "cpu"]
    noise, labels = image_noise(0, range(6), (4, 8, 8)), torch.arange(6) % 4
    drawn = sample(loaded.model, noise, Euler(2), labels=labels)
    expected = loaded.codec.decode(drawn.x).permute(0, 2, 3, 1).numpy()
    assert main([*command, "--out", "s.npz"]) == 0
    with np.load("s.npz", allow_pickle=False) as file:
        assert np.array_equal(file["arr_0"], expected) and expected.shape == (6, 32, 32, 3)
    assert main([*command, "--out", "grid.png"]) == 0 and main([*command, "--out", "folder"]) == 0
    assert len(list(Path("folder").glob("*.png"))) == 6
    assert main([*command, "--out", "s.npz"]) == 0  # finished: the same command, codec and all


def test_measuring_encodes_and_shows_what_is_decoded(place, capsys):
    command = ["measure", str(place), "--profile", "tiny", "--device", "cpu", "--data"]
    assert main([*command, "images.npz"]) == 0
    of_images = capsys.readouterr().out.split("\n\n", 1)
    assert main([*command, "latents"]) == 0  # half precision: the same to some digits
    of_latents = capsys.readouterr().out.split("\n\n", 1)
    assert "8 images of images.npz" in of_images[0] and "8 images of latents" in of_latents[0]
    files = list(Path("results/maps").glob("*.npz"))
    assert len(files) == 2
    with np.load(files[0], allow_pickle=False) as arrays:
        assert arrays["images"].shape == (8, 32, 32, 3) and arrays["bias"].shape[2:] == (8, 8)
        loaded = load_checkpoint(place)
        seen = seen_batch(loaded.codec, npz_dataset("images.npz"), range(8))
        shown = loaded.codec.decode(seen.data).permute(0, 2, 3, 1).numpy()
        assert np.abs(arrays["images"].astype(int) - shown).max() <= 3
    assert json.loads(next(Path("results/maps").glob("*.json")).read_text())["context"]["codec"]["scale"] == 2.0
    np.savez("small.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4))
    assert main([*command, "small.npz"]) == 2
    said = capsys.readouterr().err
    assert "(3, 8, 8)" in said and "(3, 32, 32)" in said and said.count("\n") == 1
    for other in (["evaluate", "latents", "--n", "4"], ["inspect", str(place), "--data", "latents", "--out", "p.html"]):
        assert main(other) == 2
        assert "latents are no images" in capsys.readouterr().err


def test_evaluating_looks_at_decoded_images(place):
    loaded = load_checkpoint(place)
    plan = evaluating.Plan(Euler(2), 4, 0, "balanced")
    stream, _ = evaluating.open_images(place, plan, _protocol(4), torch.device("cpu"))
    assert stream.shape == (3, 32, 32)
    images = stream.images(0)
    assert images.shape == (4, 3, 32, 32) and images.dtype == np.uint8
    assert stream.identity["codec"] == loaded.codec.identity


def _protocol(count):
    from dataclasses import replace

    from defar_analysis.measures.protocols import PROTOCOLS

    return replace(next(iter(PROTOCOLS.values())), count=count)


def test_the_inspector_lays_the_map_over_the_pixels(place):
    inspector = open_inspector({"latent": place}, "images.npz", images=3, device="cpu")
    view = inspector.view("latent", 0, 0.2, 0.7, 0.2)
    assert view.picture.shape == (32, 32, 3) and view.map.shape == (32, 32)
    blocks = view.map.reshape(8, 4, 8, 4).transpose(0, 2, 1, 3).reshape(8, 8, 16)
    assert np.array_equal(blocks.min(-1), blocks.max(-1)) and view.map.max() > 0
    assert write_page(inspector, Path("page.html"), times=3).stat().st_size > 20_000
