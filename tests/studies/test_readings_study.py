"""The readings of Eq. 15 as a record tells them: which run is which reading, means over seeds, what is refused."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from defar_analysis.errors import DefarError
from defar_analysis.plots import readings as drawn
from defar_analysis.studies import readings

ROOT = Path(__file__).parents[2]
PERCENTS = {"inside-l2-detached": (-1.0, 1.0, 3.0), "inside-mean-gradient": (-11.0, -10.0, -9.0)}


def differences(metrics=("FD-EffNet-128", "bias")) -> pd.DataFrame:
    rows = [
        (f"{reading}-s{seed}", metric, percent, percent - 0.5, percent + 0.5, "better" if percent < 0 else "worse")
        for metric in metrics
        for reading, percents in PERCENTS.items()
        for seed, percent in enumerate(percents, start=1)
    ]
    return pd.DataFrame([*rows, ("sit-s2", "bias", 7.0, 6.0, 8.0, "worse")], columns=readings.COLUMNS)


def test_the_mean_over_seeds_has_its_t_interval_and_its_share_of_the_claim():
    found = readings.means(readings.by_reading(differences()), -20.0).set_index(["metric", "norm"])
    strong, weak = found.loc["FD-EffNet-128", "mean"], found.loc["FD-EffNet-128", "l2"]
    assert strong["percent"] == pytest.approx(-10) and strong["share_of_claim"] == pytest.approx(0.5)
    assert strong["high"] == pytest.approx(-10 + 4.303 / 3**0.5, abs=1e-3), "t of two degrees of freedom"
    assert (weak["better"], weak["worse"], weak["seeds"]) == (1, 2, 3) and weak["low"] < 0 < weak["high"]
    assert np.isnan(found.loc["bias", "l2"]["share_of_claim"]), "the paper's claim is on a distance"
    assert len(found) == 4, "a SiT is no reading"


def test_one_seed_has_no_interval():
    one = readings.by_reading(differences().query("model.str.endswith('-s1')"))
    found = readings.means(one, -20.0)
    assert found["low"].isna().all() and (found["seeds"] == 1).all()


def test_names_say_where_the_weight_stands():
    names = ("max-max-gradient-s12", "outside-l1-detached-s3", "inside-l1-detached-s3")
    rows = pd.DataFrame({name: differences()[name].iloc[: len(names)] for name in readings.COLUMNS}).assign(model=names)
    found = readings.by_reading(rows)
    assert list(found["place"]) == ["inside", "outside", "inside"]
    assert list(found["norm"]) == ["max", "l1", "l1"] and list(found["seed"]) == [12, 3, 3]
    with pytest.raises(DefarError, match="run 'fc-s1' names no reading of Eq"):
        readings.by_reading(rows.assign(model="fc-s1"))


def test_the_paper_claims_a_fifth():
    assert readings.claimed(ROOT) == pytest.approx(100 * (11.25 / 14.09 - 1))


@pytest.fixture
def project(tmp_path):
    """A clone with the paper's values and one record, and an older one that must not be taken."""
    (tmp_path / "reproduce").mkdir()
    shutil.copy(ROOT / "reproduce" / "paper_values.csv", tmp_path / "reproduce")
    (tmp_path / "reproduce" / "records" / "2026-01-01-eq15").mkdir(parents=True)
    folder = tmp_path / "reproduce" / "records" / "2026-02-01-eq15"
    folder.mkdir()
    differences(("FD-EffNet-128",)).to_csv(folder / "differences.csv")
    differences(("bias", "loss", "PFR")).to_csv(folder / "drift.csv")
    runs = [
        {"name": f"{reading}-s{seed}", "sha256": "0" * 64, "steps": 9} for reading in PERCENTS for seed in (1, 2, 3)
    ]
    pd.DataFrame(runs).to_csv(folder / "runs.csv")
    said = 'note = "tiny"\ndevice = "cpu"\nhardware = "two cores"\ncommand = "train"\ncommit = "abc"\n'
    (folder / "record.toml").write_text(said, encoding="utf-8")
    return tmp_path, folder


def test_the_newest_record_is_drawn_in_every_metric_it_has(project):
    root, _ = project
    artefact = readings.build(SimpleNamespace(root=root, profile="quick"))
    assert len(artefact.table) == 4 * 6 and len(artefact.tables["means"]) == 4 * 2
    assert all("2026-02-01-eq15" in path for path in artefact.provenance["sources"])
    assert artefact.provenance["models"]["inside-l2-detached-s2"]["steps"] == 9
    claim = artefact.provenance["claimed_percent"]
    figure = drawn.plot(artefact.table, artefact.tables["means"], claim, note="a note")
    assert len(figure.axes) == 4
    first = figure.axes[0]
    assert any(math.isclose(line.get_xdata()[0], claim) for line in first.lines if len(line.get_xdata()) == 2)
    (diamonds,) = [line for line in first.lines if line.get_marker() == "D"]
    assert list(diamonds.get_xdata()) == pytest.approx([1, -10]) and list(diamonds.get_ydata()) == [0, 1]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["L2, detached", "mean, gradient"]


def test_what_a_record_lacks_is_named(project):
    root, folder = project
    experiment = SimpleNamespace(root=root, profile="quick")
    (folder / "record.toml").write_text(
        'note = "tiny"\ndevice = "cpu"\nhardware = "two cores"\ncommand = "train"\n', encoding="utf-8"
    )
    with pytest.raises(DefarError, match=r"record.toml has no commit"):
        readings.build(experiment)
    differences().drop(columns="verdict").to_csv(folder / "drift.csv")
    with pytest.raises(DefarError, match=r"drift.csv has no column 'verdict'"):
        readings.build(experiment)
    (folder / "runs.csv").unlink()
    (folder / "drift.csv").unlink()
    with pytest.raises(DefarError, match=r"drift\.csv"):
        readings.build(experiment)
    shutil.rmtree(root / "reproduce" / "records")
    with pytest.raises(DefarError, match=r"no reproduce/records/\*-eq15; take one from a clone"):
        readings.build(experiment)
