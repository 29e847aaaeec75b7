"""Drift against a baseline: known factors come out as they are, paired by image, and the sentences are the tables'."""

import numpy as np
import pandas as pd
import pytest

from defar_analysis.measures import drift_changes as measured
from defar_analysis.measures import drift_maps

COUNT, TIMES, NFES = 16, np.array([0.4, 0.7, 1.0]), (10, 50)


def walked(factor: float, seed: int = 0) -> drift_maps.Trajectory:
    """Error amplitudes `factor` times those of factor 1, on images that differ much in energy."""
    rng = np.random.default_rng(seed)
    scale = {kind: rng.gamma(1.0, size=(3, COUNT, drift_maps.RINGS)) for kind in drift_maps.KINDS}
    error = {kind: 0.01 * factor**2 * energy for kind, energy in scale.items()}
    error["marginal"] = (1 - 0.1 * factor) ** 2 * scale["marginal"]  # sampled states: an amplitude short by a tenth
    return drift_maps.Trajectory(TIMES, error, scale, {kind: np.zeros((3, 3)) for kind in drift_maps.KINDS})


@pytest.fixture
def found():
    factors = {"SiT": 1.0, "DEFAR": 1.5, "FC": 0.5}
    return {(name, nfe): walked(factor) for name, factor in factors.items() for nfe in NFES}


def test_a_known_factor_is_the_change_whatever_the_images(found):
    table = measured.changes(found, "SiT")
    assert list(table.columns) == measured.COLUMNS and (table["n"] == COUNT).all()
    assert len(table) == 2 * len(NFES) * len(drift_maps.KINDS)
    for name, percent in (("DEFAR", 50), ("FC", -50)):
        for column in ("percent", "percent_low", "percent_high"):
            np.testing.assert_allclose(table.loc[table["model"] == name, column], percent, rtol=1e-9)
    at = table.groupby("kind")["t"].unique()
    assert {kind: times.tolist() for kind, times in at.items()} == {"one_step": [0.7], "marginal": [1], "solver": [1]}


def test_it_is_the_change_of_the_curves_magnitude(found):
    other = {key: walked(1.2, seed=1) for key in found if key[0] == "DEFAR"}
    table = measured.changes(found | other, "SiT")
    _, curves = drift_maps.tables(found | other, (8, 8))
    magnitude = curves.set_index(["model", "kind", "nfe", "t"])["magnitude"]
    for row in table.itertuples():
        own, base = (magnitude[name, row.kind, row.nfe, row.t] for name in (row.model, "SiT"))
        assert row.percent == pytest.approx(100 * (own / base - 1), abs=1e-6)
        assert row.percent_low <= row.percent + 1e-6 and row.percent <= row.percent_high + 1e-6


def test_sentences_change_with_the_tables(found):
    table, (_, curves) = measured.changes(found, "SiT"), drift_maps.tables(found, (8, 8))
    said = measured.sentences(curves, table, "SiT")
    assert said.count("less by every number of steps: FC (-50 %)") == 3
    assert said.count("more by every number of steps: DEFAR (+50 %)") == 3
    assert "0.100 [0.100, 0.100] by 10 and 0.100 [0.100, 0.100] by 50 steps" in said and f"over {COUNT} images" in said
    few = (table["model"] == "FC") & (table["nfe"] == 50)
    mixed = table.assign(percent_high=table["percent_high"].where(~few, 5.0))
    assert "less by 10 steps, else undecided: FC (-50 %)" in measured.sentences(curves, mixed, "SiT")
    turned = table.assign(**{c: table[c].where(~few, 30.0) for c in ("percent", "percent_low", "percent_high")})
    told = measured.sentences(curves, turned, "SiT")
    assert "less by 10 and more by 50 steps: FC (-50 to +30 %)" in told
    wide = table.assign(percent_low=-90.0, percent_high=90.0)
    assert measured.sentences(curves, wide, "SiT").count("undecided: DEFAR (+50 %), FC (-50 %)") == 3
    exact = measured.sentences(curves, table, "SiT", ["FC"])
    assert "without defect, by 50 steps: FC -50 % [-50, -50]" in exact and "less by every" not in exact


def test_what_is_missing_is_named(found, refuses):
    table, (_, curves) = measured.changes(found, "SiT"), drift_maps.tables(found, (8, 8))
    refuses(lambda: measured.changes(found, "IP"), "'IP'", "10 steps")
    alone = {key: own for key, own in found.items() if key[0] == "SiT"}
    refuses(lambda: measured.changes(alone, "SiT"), "only model")
    refuses(lambda: measured.sentences(curves, pd.DataFrame(columns=measured.COLUMNS), "SiT"), "'SiT'")
    refuses(lambda: measured.sentences(curves, table, "IP"), "'IP'")
