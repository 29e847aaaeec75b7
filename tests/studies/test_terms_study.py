"""The terms' entry at its smallest, without notebook and picture; test_reproduction runs the whole."""

import numpy as np
import pytest
import torch

from defar_analysis.core.networks import SiT
from defar_analysis.core.objectives import FlowMatching
from defar_analysis.exact_fields import EXACT
from defar_analysis.experiment import SHIPPED, Experiment
from defar_analysis.measures.gradients import differentiable
from defar_analysis.studies import terms as study

pytestmark = [pytest.mark.real_data, pytest.mark.usefixtures("few_images_to_fit")]


def test_tables_of_every_network_and_the_reference(shipped_project, monkeypatch):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    artefact = study.build(experiment)
    names = [*SHIPPED, *EXACT]
    assert experiment.measured == [f"terms of {name}" for name in names]
    table, tables = artefact.table, artefact.tables
    assert set(table["model"]) == set(SHIPPED) and (table["n"] == 3).all() and set(table["t"]) == {0.5}
    assert list(dict.fromkeys(tables["weights"]["model"])) == names and set(tables["curves"]["model"]) == set(names)
    assert set(tables["changes"]["model"]) == set(names[1:])
    assert artefact.arrays["images"].shape == (3, 2, 32, 32, 1)
    np.testing.assert_allclose(artefact.arrays["images"].astype(float).mean(axis=(2, 3)), 1, atol=1e-2)

    # SiT's norm of FM's gradient is that of the objective on the study's own draws
    own, path = experiment.checkpoint("SiT").model, experiment.checkpoint("SiT").interpolant
    norms = []
    with differentiable(own) as parameters, torch.enable_grad():
        for start in (0, 4, 8):
            draw = study.draw_for(experiment.test_images.batch(range(start, start + 4)), start, 0, 1, path)
            loss = FlowMatching()(own, draw).total
            norms.append(float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double().norm()))
    row = table[(table["model"] == "SiT") & (table["quantity"] == "norm") & (table["first"] == "fm")].iloc[0]
    assert row["value"] == pytest.approx(np.mean(norms), rel=1e-5)

    def forbidden(*args):
        raise AssertionError("a network was called")

    monkeypatch.setattr(SiT, "forward", forbidden)
    again = study.build(Experiment(shipped_project, "tiny", "cpu"))  # all from results/
    assert again.table.equals(table) and again.tables["weights"].equals(tables["weights"])
    assert again.provenance == artefact.provenance


def test_a_draw_depends_on_its_images_alone(shipped_project):
    """The same image has the same noise and the same place in every bin, whatever batch it comes in."""
    experiment = Experiment(shipped_project, "tiny", "cpu")
    path = experiment.checkpoint("SiT").interpolant
    whole = study.draw_for(experiment.test_images.batch(range(6)), 0, 0.2, 0.4, path)
    part = study.draw_for(experiment.test_images.batch(range(2, 6)), 2, 0.2, 0.4, path)
    later = study.draw_for(experiment.test_images.batch(range(6)), 0, 0.6, 0.8, path)
    assert torch.equal(part.noise, whole.noise[2:]) and torch.equal(part.times, whole.times[:, 2:])
    assert torch.equal(later.noise, whole.noise)
    torch.testing.assert_close(later.t0 - whole.t0, torch.full((6,), 0.4))
    assert float(whole.t0.min()) >= 0.2 and float(whole.t0.max()) < 0.4 and float(whole.t0.std()) > 0.01
