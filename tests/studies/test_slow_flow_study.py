"""Slow Flow's entry at its smallest, without notebook and picture; test_reproduction runs the whole."""

import numpy as np
import pytest

from defar_analysis.core.networks import SiT
from defar_analysis.core.samplers import Euler, sample
from defar_analysis.core.seeding import image_noise
from defar_analysis.exact_fields import EXACT, GAUSSIAN
from defar_analysis.experiment import Experiment
from defar_analysis.measures.slow_flow import slowed_time
from defar_analysis.studies import slow_flow as study

pytestmark = [pytest.mark.real_data, pytest.mark.usefixtures("few_images_to_fit")]


def test_rows_of_every_model_and_pairing(shipped_project, monkeypatch):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    artefact = study.build(experiment)
    names = ["SiT", "DEFAR", "MixFlow", *EXACT]
    assert experiment.measured == [f"slowed times of {name}" for name in names]
    table, changes = artefact.table, artefact.tables["changes"]
    paired = [("class", name) for name in names] + [("inversion", name) for name in names[:4]]  # memories go one way
    assert [key for key, _ in table.groupby(["pairing", "model"], sort=False)] == paired
    assert len(table) == 10 * 4 and (table["n"] == 8).all() and set(changes["model"]) == set(names[1:])
    assert (table.loc[table["t"] == 0, ["value", "minimum", "maximum"]] == 0).all(axis=None)  # the noise itself
    assert set(artefact.provenance["nfe"]["DEFAR"].values()) == {3, 6}
    assert artefact.provenance["nfe"][EXACT[1]] == {"nfe": 3}
    paper = artefact.tables["paper"]
    assert set(paper["row"]) == {"SiT", "MixFlow"} and set(paper["t"]) == {0.2, 0.4, 0.6, 1.0}

    # SiT's row at the end is that of its own samples, beside the test images whose labels they have
    batch, noise = experiment.test_images.batch(range(8)), image_noise(0, range(8), (3, 32, 32))
    drawn = sample(experiment.checkpoint("SiT").model, noise, Euler(3), labels=batch.labels, chunk=8).x
    end = table[(table["model"] == "SiT") & (table["pairing"] == "class") & (table["t"] == 1)].iloc[0]
    found = slowed_time(drawn, noise, batch.data)
    np.testing.assert_allclose([end["value"], end["maximum"]], [float(found.mean()), float(found.max())], atol=1e-9)
    assert (table[(table["pairing"] == "class") & (table["t"] == 1)]["value"] < 1).all()

    def forbidden(*args):
        raise AssertionError("a network was called")

    monkeypatch.setattr(SiT, "forward", forbidden)
    again = study.build(Experiment(shipped_project, "tiny", "cpu"))  # all from results/
    assert again.table.equals(table) and again.tables["changes"].equals(changes)
    assert again.provenance == artefact.provenance


def test_both_pairings_are_of_the_model_that_is_measured(shipped_project):
    """A model that goes straight from each image's noise to it, and so straight back, reads t in both."""
    experiment = Experiment(shipped_project, "tiny", "cpu")
    batch = experiment.test_images.batch(range(8))
    way = batch.data - image_noise(0, range(8), (3, 32, 32))
    experiment.reference = lambda x, t, labels=None: way
    table = study._measure(experiment, GAUSSIAN, study.STUDIES["tiny"], batch)
    grid = np.linspace(0, 1, 4)[:, None]
    for pairing in study.PAIRINGS:
        np.testing.assert_allclose(table.attrs["arrays"][pairing], np.broadcast_to(grid, (4, 8)), atol=1e-6)
    assert table["inverted_noise_std"].iloc[0] == pytest.approx(1, abs=0.02)
