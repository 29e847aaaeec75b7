"""The evaluators' entry: at its smallest, from what is committed, and what the committed tables say."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_shipped import executed_outputs

from defar_analysis import catalog
from defar_analysis.experiment import CLASSES, Experiment
from defar_analysis.measures.protocols import protocol
from defar_analysis.studies import evaluator as study

ROOT = Path(__file__).parents[2]
DAMAGES = [("noise", s) for s in (4, 8, 16, 32)] + [("blur", s) for s in (0.5, 0.75, 1, 2)]
DAMAGES += [("removal", k) for k in (2, 4, 6, 8)]


@pytest.fixture(scope="module")
def shipped():
    return catalog.load("evaluator", ROOT / "figures")


@pytest.mark.real_data
def test_sets_are_real_images_of_the_size_and_classes_that_they_claim():
    experiment = Experiment(ROOT, "full", "cpu")
    sets = study.image_sets(experiment, study.STUDIES["full"])
    assert [(s.kind, s.strength) for s in sets[2:]] == DAMAGES and len({s.stream.name for s in sets}) == 14
    assert all(s.stream.count == 2000 for s in sets)
    plain, control = sets[0].stream, sets[1].stream
    for found in sets:
        labels, counts = np.unique(found.stream.labels, return_counts=True)
        left = len(CLASSES) - (found.strength if found.kind == "removal" else 0)
        assert labels.tolist() == list(range(left)) and np.ptp(counts) <= 1
        if found.kind in ("noise", "blur"):  # paired: image i is test image i
            assert found.stream.base is plain
    first = {s.stream.name: s.stream.images(64) for s in sets}
    # what the reference takes, the control does not
    used = protocol(study.DEFAULT)
    assert used.reference_count == 2000
    train = experiment.train_images
    reference = study.balanced_indices(train.labels, len(train), 2000)
    assert not set(reference) & set(control.indices)
    np.testing.assert_array_equal(first[study.CONTROL], train.images[control.indices[64:128]])
    np.testing.assert_array_equal(first[study.FLOOR], experiment.test_images.images[plain.indices[64:128]])
    errors = {name: np.abs(found.astype(float) - first[study.FLOOR]).mean() for name, found in first.items()}
    for kind in ("noise", "blur"):
        grown = [errors[s.stream.name] for s in sets if s.kind == kind]
        assert grown[0] > 0.5 and (np.diff(grown) > 0).all()


@pytest.mark.real_data
def test_the_smallest_study_has_every_row_and_is_kept(tmp_path, monkeypatch):
    small = replace(study.STUDIES["tiny"], count=12, noise=(64,))
    monkeypatch.setitem(study.STUDIES, "tiny", small)
    experiment = Experiment(tmp_path, "tiny", "cpu")
    artefact = study.build(experiment)
    names = [study.FLOOR, study.CONTROL, "noise 64", "blur 2", "8 classes removed"]
    assert experiment.measured == [f"{name} by {study.DEFAULT}" for name in names]
    table, changes, verdicts = artefact.table, artefact.tables["changes"], artefact.tables["verdicts"]
    assert list(dict.fromkeys(table["set"])) == names and len(table) == 5 * 6 and (table["n"] == 12).all()
    assert not table[["value", "low", "high"]].isna().any(axis=None)
    # a change is the difference of two rows of the table; only damaged test images are paired with the plain ones
    values = table.set_index(["set", "metric"])["value"]
    for row in changes.itertuples():
        assert row.baseline == study.FLOOR and row.paired == (row.kind in ("noise", "blur"))
        assert row.difference == pytest.approx(values[row.set, row.metric] - values[study.FLOOR, row.metric])
    assert len(changes) == 4 * 6 and len(verdicts) == 3 * 4
    assert artefact.arrays["images"].shape == (3, 32, 32, 3)
    assert artefact.arrays["kind"].tolist() == ["floor", "noise", "blur"]
    assert artefact.folder == tmp_path / "figures"
    # damage of that size shows at any n, by the unbiased distance
    kernel = verdicts[verdicts["metric"] == "KD-EffNet-128"].set_index("kind")
    assert kernel.loc[["noise", "blur"], "trend"].eq("rises").all()
    assert (kernel.loc[["noise", "blur"], "certain_steps"] == 1).all()

    def forbidden(*args):
        raise AssertionError("an image was looked at again")

    monkeypatch.setattr(study, "evaluate", forbidden)
    monkeypatch.setattr(study.FeatureStore, "features", forbidden)
    again = study.build(Experiment(tmp_path, "tiny", "cpu"))
    pd.testing.assert_frame_equal(again.table, table)
    assert all(again.tables[name].equals(artefact.tables[name]) for name in study.TABLES)
    assert again.provenance == artefact.provenance


def test_quick_takes_what_is_committed_and_changes_no_byte_of_it(tmp_path, monkeypatch):
    data = tmp_path / "figures" / "data"
    data.mkdir(parents=True)
    for file in (ROOT / "figures" / "data").glob("evaluator*"):
        shutil.copy(file, data)
    before = {file.name: file.read_bytes() for file in data.iterdir()}
    monkeypatch.setattr(study, "extractor_for", None)  # no network
    artefact = catalog.collect("evaluator", "quick", "cpu", tmp_path)
    assert artefact.provenance["profile"] == "full" and artefact.folder == tmp_path / "figures"
    assert {file.name: file.read_bytes() for file in data.iterdir()} == before and len(before) == 5


def test_quick_without_committed_data_says_how_to_measure_it(tmp_path, refuses):
    call = "defar reproduce --profile full --only evaluator"
    refuses(lambda: catalog.collect("evaluator", "quick", "cpu", tmp_path), call, study.TAKES)


def test_both_evaluators_see_more_of_more_damage(shipped):
    table, changes = shipped.table, shipped.tables["changes"]
    assert list(dict.fromkeys(table["protocol"])) == list(study.STUDIES["full"].protocols)
    for name, rows in table.groupby("protocol"):
        assert len(rows) == 14 * 6 and (rows["n"] == 2000).all()
        names = protocol(name).metric_names
        for metric in (names["frechet"], names["kernel"]):
            own = rows[rows["metric"] == metric]
            floor = own.loc[own["kind"] == "floor", "value"].iloc[0]
            for kind in study.KINDS:
                line = own[own["kind"] == kind].sort_values("strength")
                assert (np.diff([floor, *line["value"]]) > 0).all(), f"{metric} over {kind}"
                assert len(line) == 4
            against = changes[(changes["protocol"] == name) & (changes["metric"] == metric)]
            against = against[against["kind"] != "control"]
            assert len(against) == 12 and (against["low"] > 0).all()
        # nothing is wrong with test images: they are as far away as training images are from each other
        distances = rows[rows["metric"] == names["frechet"]].set_index("kind")["value"]
        assert distances["control"] == pytest.approx(distances["floor"], rel=0.05)
        shares = rows.set_index(["metric", "set"])["value"]
        assert shares["recall", "8 classes removed"] < 0.8 * shares["recall", study.FLOOR]


def test_the_committed_verdicts_are_those_of_the_committed_values(shipped):
    verdicts = shipped.tables["verdicts"]
    assert len(verdicts) == 2 * 3 * 4 and (verdicts["steps"] == 4).all()
    for row in verdicts.itertuples():
        own = shipped.table.query(
            "protocol == @row.protocol and metric == @row.metric and kind in ['floor', @row.kind]"
        )
        steps = np.diff(own.sort_values("strength")["value"])
        expected = "rises" if (steps > 0).all() else "falls" if (steps < 0).all() else "neither"
        assert row.trend == expected and 0 <= row.certain_steps <= 4


def test_the_executed_notebook_says_what_the_committed_tables_say():
    outputs, artefact = executed_outputs("evaluator", pictures=1)
    said = "".join(outputs["sentences"][0]["text"]).strip()
    assert said == study.sentences(artefact.table, artefact.tables["verdicts"])


def test_the_sentences_name_what_does_not_rise(shipped):
    table, verdicts = shipped.table, shipped.tables["verdicts"].copy()
    whole = study.sentences(table, verdicts)
    assert whole.count("rises with every step of noise, blur and removal") == 2 and "does not rise" not in whole
    first = verdicts["metric"] == "FD-EffNet-128"
    verdicts.loc[first & (verdicts["kind"] == "blur"), ["trend", "certain_steps"]] = ["neither", 2]
    said = study.sentences(table, verdicts).splitlines()[0]
    assert said.startswith("FD-EffNet-128 does not rise with every step of blur (")
