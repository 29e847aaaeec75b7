"""The entry on latents at its smallest, and its sentences and figure."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from defar_analysis import catalog
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.codecs import PixelCodec
from defar_analysis.core.networks import SiT
from defar_analysis.experiment import Experiment
from defar_analysis.measures.latents import decoded_bias, sentences, spectra
from defar_analysis.measures.radial import radii
from defar_analysis.studies import latents as study

sys.path.insert(0, str(Path(__file__).parents[1] / "plots"))
from reading import check_readable

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / study.CHECKPOINT


def test_the_shipped_checkpoint_is_of_the_shipped_autoencoder():
    checkpoint = load_checkpoint(SHIPPED)
    assert checkpoint.shape == (4, 8, 8) and checkpoint.pixel_shape == (3, 32, 32)
    assert checkpoint.card.codec["path"] == "../cifar10-autoencoder"
    assert (SHIPPED / "weights.safetensors").stat().st_size < 5e6


@pytest.mark.real_data
def test_the_entry_at_its_smallest(shipped_project, monkeypatch, refuses):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    artefact = catalog.write(study.build(experiment))
    assert experiment.measured[-1] == "decoded bias of Latent SiT" and len(experiment.measured) == 6
    table, arrays = artefact.table, artefact.arrays
    assert set(table["quantity"]) == {"bias_rms", "corr_low_band", "corr_high_band", "decoded_rms", "corr_decoded"}
    assert arrays["bias"].shape == (3, 4, 8, 8) and arrays["x_hat"].shape == arrays["end"].shape == (3, 4, 32, 32, 3)
    assert np.array_equal(arrays["images"], np.moveaxis(experiment.test_images.images[:4], 1, -1))
    error = (arrays["decoded"].astype(float) - arrays["images"]) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 22
    said = sentences(table, artefact.tables["curves"], artefact.tables["spectra"], study.MODEL)
    assert said.count("Step ") == 3 and "over 8 images" in said
    check_readable(catalog.draw(artefact), least=40)

    monkeypatch.setattr(SiT, "forward", lambda *_: pytest.fail("a network was called"))
    again = study.build(Experiment(shipped_project, "tiny", "cpu"))
    assert again.table.equals(study.build(Experiment(shipped_project, "tiny", "cpu")).table)
    (shipped_project / study.CHECKPOINT).rename(shipped_project / "away")
    refuses(lambda: study.build(Experiment(shipped_project, "tiny", "cpu")), "cifar10-latent-sit", "defar train")


def test_a_network_that_knows_the_step_changes_nothing_once_decoded():
    """The pair's own velocity has no bias and decodes to the true state."""
    from defar_analysis.core.datasets import Batch
    from defar_analysis.core.seeding import image_noise
    from defar_analysis.measures.base import Context, TimeGrid

    data = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = image_noise(0, range(5), (3, 8, 8))

    def knowing(x, t, labels=None):
        return (data - noise)[: len(x)]

    context = Context(knowing, Batch(data), TimeGrid.spaced("one", 2, 2), "knowing", chunk=5)
    pairs = [(0.25, 0.75), (0.5, 1.0)]
    table = decoded_bias(context, pairs, shown=3)
    assert (table[table["quantity"] == "decoded_rms"]["value"] < 0.2).all()  # rounding to bytes
    arrays = table.attrs["arrays"]
    assert arrays["x_hat"].shape == (2, 3, 8, 8, 3) and np.abs(arrays["energies"]).max() < 1e-8
    expected = PixelCodec().decode(data[:3]).permute(0, 2, 3, 1).numpy()
    assert np.abs(arrays["end"].astype(int) - expected).max() <= 1


def test_shares_add_up_to_one():
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    bias = np.random.default_rng(0).random((2, len(radii(8, 8)[0])))
    table = spectra(images, PixelCodec(), latents, bias, [(0.1, 0.4), (0.4, 0.7)])
    table["all"] = table["share"] * table["coefficients"]
    np.testing.assert_allclose(table.groupby(["space", "t0"], dropna=False)["all"].sum(), 1.0)
    assert set(table["space"]) == {"pixels", "latents", "bias"} and (table["frequency"] > 0).all()
