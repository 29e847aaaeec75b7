"""What objectives change, from what the sweep collected: exact where the change is known; and how it is drawn."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from defar_analysis import catalog
from defar_analysis.artefacts import read
from defar_analysis.measures.evaluation import BETTER, UNDECIDED, WORSE
from defar_analysis.plots import objectives as drawn
from defar_analysis.studies import objectives as study

sys.path.insert(0, str(Path(__file__).parents[1] / "plots"))
from reading import check_readable

ROOT = Path(__file__).parents[2]
IMAGES, STARTS = 40, 5


def collected(seed=0):
    """What PFR, FEL and VelocityError give for IMAGES images at STARTS starts and the last time."""
    rng = np.random.default_rng(seed)
    energies = {"prediction": (STARTS + 1, 3), "target": (STARTS + 1, 3), "bias": (STARTS, 3)}
    pfr = {name: rng.uniform(1, 2, (IMAGES, *shape)) for name, shape in energies.items()}
    return {
        "pfr": {**pfr, "t": np.arange(STARTS + 1) / STARTS},
        "short": {"bias": rng.uniform(1, 2, (IMAGES, 3, 3)), "t": np.array([0, 0.1, 0.2, 1.0])},
        "fel": {"fel": rng.uniform(1, 2, (IMAGES, STARTS, 2))},
        "velocity_error": {"loss": rng.uniform(1, 2, (IMAGES, STARTS + 1))},
    }


def scaled(own, **factors):
    return {name: (t, values * factors.get(name, 1.0)) for name, (t, values) in own.items()}


def test_quantities_are_those_of_the_images_at_the_starts():
    arrays = collected()
    found = study.per_image(arrays)
    assert list(found) == list(study.QUANTITIES) and found["bias"][0].tolist() == [0, 0.2, 0.4, 0.6, 0.8]
    for name, (t, values) in found.items():
        assert values.shape == (IMAGES, len(t)) == (IMAGES, 3 if name == "step" else STARTS)
    assert found["bias"][1] == pytest.approx(arrays["pfr"]["bias"][..., 0] + arrays["pfr"]["bias"][..., 1:].sum(-1))
    assert found["step"][1][5, 1] == pytest.approx(sum(arrays["short"]["bias"][5, 1]))
    prediction = arrays["pfr"]["prediction"][3, 2]
    assert found["PFR"][1][3, 2] == prediction[1] / prediction[2], "without the zero frequency"
    assert found["FEL"][1][3, 2] == arrays["fel"]["fel"][3, 2, 0], "of the loss before any reweighting"


def test_the_short_steps_end_before_the_data():
    for t0, (t1,) in zip(study.SHORT.t0, study.SHORT.t1, strict=True):
        assert t1 == pytest.approx(t0 + 0.1) and t1 < 1


def test_a_known_change_is_found_with_no_width_and_the_baseline_is_compared_with_nothing():
    base = study.per_image(collected())
    found = {"SiT": base, "FC": scaled(base, loss=1.02, step=1.05, bias=0.9, PFR=1.1), "IP": base}
    table = study.changes(found, seed=2).set_index(["method", "quantity"])
    assert "SiT" not in table.index and (table["seed"] == 2).all() and (table["n"] == IMAGES).all()
    for quantity, percent in (("loss", 2.0), ("step", 5.0), ("bias", -10.0), ("PFR", 10.0), ("FEL", 0.0)):
        rows = table.loc[("FC", quantity)]
        assert rows["t"].tolist() == base[quantity][0].tolist()
        assert rows[["percent", "low", "high"]].to_numpy() == pytest.approx(percent, abs=1e-9)
    assert table.loc["IP", "percent"].to_numpy() == pytest.approx(0, abs=1e-9)


def test_verdicts_know_which_way_is_better_and_where_the_mean_is_taken():
    base = study.per_image(collected())
    more = scaled(base, loss=1.02, step=0.9, bias=0.9, PFR=1.1, FEL=1.1)
    t, ratios = base["PFR"]
    late = {**base, "PFR": (t, np.where(t < study.HIGH_NOISE, 1.0, 3.0) * ratios)}
    noisy = {**base, "loss": study.per_image(collected(1))["loss"]}
    table = study.means({"SiT": base, "FC": more, "late": late, "noisy": noisy}, seed=1)
    verdicts = table.set_index(["method", "quantity"])["verdict"]
    assert verdicts["FC"].to_dict() == {"loss": WORSE, "step": BETTER, "bias": BETTER, "PFR": BETTER, "FEL": ""}
    assert verdicts["late", "PFR"] == UNDECIDED, "at high noise it is the same"
    assert verdicts["noisy", "loss"] == UNDECIDED
    assert table.set_index(["method", "quantity"])["percent"]["FC", "bias"] == pytest.approx(-10)


@pytest.fixture(scope="module")
def committed():
    return read("objectives", ROOT / "figures", study.TABLES)


def test_every_committed_run_has_its_curves_and_means(committed):
    runs = {(method, seed) for seed, own in study.STUDIES["full"].runs.items() for method in own if method != "SiT"}
    for table in (committed.table, committed.tables["means"]):
        for quantity in study.QUANTITIES:
            own = table[table["quantity"] == quantity]
            assert set(zip(own["method"], own["seed"], strict=True)) == runs
        assert (table["low"] <= table["percent"]).all() and (table["percent"] <= table["high"]).all()
    assert len(committed.provenance["models"]) == len(runs) + len(study.STUDIES["full"].runs)


def test_the_short_profile_reads_what_is_committed_and_says_how_to_measure(tmp_path, refuses):
    assert catalog.collect("objectives", "quick", "cpu", ROOT).provenance["profile"] == "full"
    refuses(lambda: catalog.collect("objectives", "quick", "cpu", tmp_path), "--only objectives", study.TAKES)


def test_the_picture_has_a_line_for_each_run_and_hollow_marks_in_doubt(committed, refuses):
    figure = drawn.plot(committed.table, note=committed.provenance["note"])
    check_readable(figure)
    for ax, quantity in zip(figure.axes[:-1], drawn.PANELS, strict=True):
        own = committed.table[committed.table["quantity"] == quantity]
        lines = [line for line in ax.get_lines() if line.get_linestyle() != "None" and len(line.get_xdata()) > 2]
        curves = {tuple(rows["percent"]) for _, rows in own.groupby(["method", "seed"])}
        assert {tuple(line.get_ydata()) for line in lines} == curves
        hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
        doubtful = own[(own["low"] <= 0) & (own["high"] >= 0)]
        assert sorted(y for line in hollow for y in line.get_ydata()) == sorted(doubtful["percent"])
        marks = {to_hex(line.get_color()): line.get_marker() for line in lines}
        assert len(set(marks.values())) == len(marks) == own["method"].nunique(), "a mark for each colour"
    legend = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert set(committed.table["method"]) < set(legend) and "training seed 2" in legend
    refuses(lambda: drawn.plot(pd.DataFrame({"method": []})), "'seed'")
