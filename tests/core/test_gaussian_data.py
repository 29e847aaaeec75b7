"""Gaussian training images: their law is the one that is known, each draw depends on its number alone."""

import numpy as np
import pytest
import torch

from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.datasets import npz_dataset
from defar_analysis.core.gaussian_data import gaussian_images
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.recipes import Data, Network, Recipe
from defar_analysis.core.training import train


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    smooth = np.repeat(rng.integers(40, 200, (50, 4, 1, 3)), 2, axis=1)
    images = (smooth + rng.integers(-20, 20, (50, 8, 8, 3))).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, arr_0=images, arr_1=np.arange(50) % 2)
    return path


def recipe(file, **changes):
    data = Data(f"gaussian:{file}", class_conditional=False, horizontal_flip=False)
    network = Network(size="", options={"patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2})
    return Recipe(**{"name": "g", "steps": 3, "global_batch": 8, "data": data, "network": network, **changes})


def test_draws_have_the_law_of_the_images_that_they_are_named_for(file):
    drawn = gaussian_images(f"gaussian:{file}")
    images = npz_dataset(file).batch(range(50)).data
    law = GaussianFlow.fit(images)
    assert torch.equal(drawn.flow.mean, law.mean) and torch.equal(drawn.flow.spectrum, law.spectrum)
    found = GaussianFlow.fit(drawn.batch(range(20_000)).data)
    assert (found.mean - law.mean).abs().max() < 0.02
    scale = law.spectrum.abs().max()
    assert (found.spectrum - law.spectrum).abs().max() < 0.05 * scale


def test_a_draw_depends_on_its_number_alone(file):
    drawn = gaussian_images(f"gaussian:{file}")
    whole = drawn.batch(np.arange(6)).data
    assert whole.dtype == torch.float32 and whole.shape == (6, 3, 8, 8)
    assert torch.allclose(drawn.batch(torch.tensor([4, 1])).data, whole[[4, 1]], atol=1e-6)
    assert drawn.hash == gaussian_images(f"gaussian:{file}").hash != npz_dataset(file).hash


def test_a_recipe_trains_on_them_and_its_card_names_their_law(file, tmp_path):
    card = load_checkpoint(train(recipe(file), tmp_path / "run")).card
    assert card.data["name"] == f"gaussian:{file}" and card.data["class_conditional"] is False
    assert card.data["sha256"] == gaussian_images(f"gaussian:{file}").hash


def test_mirroring_and_labels_are_refused(file, tmp_path, refuses):
    flipped = recipe(file, data=Data(f"gaussian:{file}", class_conditional=False))
    refuses(lambda: train(flipped, tmp_path / "a"), "horizontal_flip = false")
    labelled = recipe(file, data=Data(f"gaussian:{file}", horizontal_flip=False))
    refuses(lambda: train(labelled, tmp_path / "b"), "no labels", "class_conditional = false")
    missing = recipe(tmp_path / "none.npz")
    refuses(lambda: train(missing, tmp_path / "c"), "none.npz", "no such file")
