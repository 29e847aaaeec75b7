"""The entry on robust statements at its smallest, without notebook and picture; test_reproduction runs the whole."""

from dataclasses import replace

import pytest

from defar_analysis.core.networks import SiT
from defar_analysis.exact_fields import EXACT
from defar_analysis.experiment import SHIPPED, Experiment
from defar_analysis.measures import sensitivity
from defar_analysis.measures.frequency import PFR
from defar_analysis.studies import sensitivity as study

pytestmark = [pytest.mark.real_data, pytest.mark.usefixtures("few_images_to_fit")]


def test_every_statement_of_every_field(shipped_project, monkeypatch):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    artefact = study.build(experiment)
    names = [*SHIPPED, *EXACT]
    assert experiment.measured == [f"{m} of {name}" for name in names for m in ("radial_spectra", "emphases")]
    table, counted = artefact.table, artefact.tables["verdicts"]
    assert list(dict.fromkeys(table["statement"])) == list(sensitivity.STATEMENTS) and (table["n"] == 8).all()
    by_field = counted[counted["statement"] != sensitivity.BETWEEN]
    assert by_field["model"].tolist() == names * 5 and set(counted["by_default"]) <= {
        "holds",
        "does not hold",
        "undecided",
    }
    assert counted["settings"].sum() == len(table)

    # the default reading is the measurement's: SiT's prediction against the target at the first time
    grid, batch = study.STUDIES["tiny"].grid, experiment.test_images.batch(range(8))
    context = replace(experiment._context("SiT"), grid=grid, batch=batch, chunk=8)
    curves = PFR().run(context)
    first = curves[(curves["dc"] == "without") & (curves["estimator"] == "mean_of_ratios") & (curves["t"] == 0)]
    value = first.set_index("quantity")["value"]
    own = table[(table["statement"] == "prediction below target") & (table["model"] == "SiT")]
    found = own[sensitivity.is_default(own)]["value"].iloc[0]
    assert found == pytest.approx(1 - value["pfr_prediction"] / value["pfr_target"], rel=1e-5)

    def forbidden(*args):
        raise AssertionError("a network was called")

    monkeypatch.setattr(SiT, "forward", forbidden)
    again = study.build(Experiment(shipped_project, "tiny", "cpu"))  # all from results/
    assert again.table.equals(table) and again.provenance == artefact.provenance
