"""The corrections' entry at its smallest, without notebook and picture; test_reproduction runs the whole."""

import numpy as np
import pytest
import torch

from defar_analysis.core.discriminators import DiscriminatorCard, save_discriminator
from defar_analysis.core.networks import SiT
from defar_analysis.core.networks.discriminator import ConvDiscriminator
from defar_analysis.core.samplers import Euler, sample
from defar_analysis.exact_fields import EXACT
from defar_analysis.experiment import Experiment
from defar_analysis.studies import corrections as study

pytestmark = [pytest.mark.real_data, pytest.mark.usefixtures("few_images_to_fit")]


def test_rows_costs_and_pictures(shipped_project, monkeypatch):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    artefact = study.build(experiment)
    assert len(experiment.measured) == len({**study.METHODS, **study.ON_DEFAR})
    start = artefact.table[artefact.table["t"] == 0]
    assert len(start) == 3 * len(experiment.measured) and np.allclose(start["value"], 1, atol=1e-5)  # the same noise
    changes = artefact.tables["changes"]
    assert (changes["nfe"] == 3).all() and (changes["t"] == 1).all()
    assert dict(zip(changes["model"], changes["forwards"], strict=True)) == {
        name: {"CFG 1.5": 6, **dict.fromkeys(EXACT, 0)}.get(name, 3) for name in study.METHODS
    }
    on_defar = artefact.tables["changes_defar"]
    assert list(dict.fromkeys(on_defar["model"])) == list(study.ON_DEFAR) and len(study.ON_DEFAR) == 7
    assert (on_defar.loc[on_defar["model"] == "DEFAR", "percent"] == 0).all()
    others = on_defar.loc[on_defar["model"] != "DEFAR", "percent"].abs()
    assert (others < 1000).all() and (others > 0).sum() > 6
    assert artefact.arrays["samples"].shape == (len(experiment.measured) - len(EXACT), 2, 32, 32, 3)
    assert len(set(artefact.arrays["labels"])) == 2

    # plain SiT's row is the sampler's own images
    batch = experiment.test_images.batch(range(8))
    checkpoint = experiment.checkpoint("SiT")
    noise = study._noise(experiment, study.STUDIES["tiny"])
    plain = sample(checkpoint.model, noise, Euler(3), labels=batch.labels, chunk=8).x[artefact.provenance["shown"]]
    pictures = checkpoint.codec.decode(plain).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(artefact.arrays["samples"][0], pictures)

    def forbidden(*args):
        raise AssertionError("a network was called")

    monkeypatch.setattr(SiT, "forward", forbidden)
    again = study.build(Experiment(shipped_project, "tiny", "cpu"))  # all from results/
    assert again.table.equals(artefact.table) and again.tables["changes"].equals(changes)
    assert again.tables["changes_defar"].equals(on_defar)


@pytest.mark.parametrize("name", ["SiT", "DEFAR"])
def test_a_discriminator_in_its_place_is_one_more_row(name, shipped_project):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    for each in ("SiT", "DEFAR"):
        assert study.discriminator_guidance(experiment, each) == {}
    card = experiment.checkpoint(name).card
    torch.manual_seed(0)
    network = ConvDiscriminator()
    torch.nn.init.normal_(network.head.weight)
    judges = {"name": card.name, "sha256": card.sha256}
    told = DiscriminatorCard("fresh", "", card.interpolant, judges, {})
    save_discriminator(shipped_project / study.DISCRIMINATORS[name], network, told)
    artefact = study.build(experiment)
    guided, table = {"SiT": ("DG 1", "changes"), "DEFAR": ("DG 1 on DEFAR", "changes_defar")}[name]
    method = artefact.provenance["methods"][guided]
    assert method["checkpoint"] == name and method["correction"].startswith("DiscriminatorGuidance(weight=1.0), ")
    rows = {key: found.set_index("model") for key, found in artefact.tables.items()}
    assert [key for key, found in rows.items() if guided in found.index] == [table]
    own = rows[table].loc[guided]
    # three passes of the network; two of the discriminator, which is silent at t = 0
    assert (own["forwards"] == 5).all() and (own["nfe"] == 3).all() and (own["percent"].abs() > 1e-6).all()
    assert artefact.arrays["samples"].shape[:2] == (15, 2)  # no more than 32
    assert guided in set(artefact.table["model"])
