"""Robustness tables: which cells are compared with which, and what is said of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from defar_analysis.measures.evaluation import BETTER, DIFFERENCES, UNDECIDED, WORSE, Evaluation, differences
from defar_analysis.measures.protocols import Protocol
from defar_analysis.measures.robustness import (
    FAILS,
    HOLDS,
    SETTINGS,
    Cell,
    against_baseline,
    lowest_everywhere,
    over_steps,
    quality_table,
    steps_sentence,
)
from defar_analysis.measures.robustness import UNDECIDED as OPEN

N = 30
PROTOCOL = Protocol("p", "r", N, "effnet-lite0-128")
METRIC = "FD-EffNet-128"
NOISE = {"seed": 0, "labels": "balanced"}


def cell(model="sit", nfe=30, solver="euler", guidance=None, interpolant="linear"):
    return Cell(model, f"cifar10-{model}", solver, interpolant, guidance, nfe)


def evaluation(model, value, spread=0.1):
    table = pd.DataFrame(
        {
            "model": model, "metric": [METRIC, "recall"], "value": [value, 0.5], "low": value - 1, "high": value + 1,
            "n": N, "protocol": "p", "reference": "r", "reference_n": N, "reference_sha256": "abcd",
        }
    )  # fmt: skip
    influences = spread * np.random.default_rng(int(100 * value)).normal(size=N)
    return Evaluation(table, {METRIC: influences, "recall": influences / 10}, NOISE)


def evaluations(**values):
    """By cell, of {model: {nfe: value}}."""
    return {cell(model, nfe): evaluation(model, value) for model, own in values.items() for nfe, value in own.items()}


# --- cells and tables ---


def test_a_cells_settings_are_all_but_its_model():
    assert cell().settings == {"solver": "euler", "interpolant": "linear", "guidance": None, "nfe": 30}
    assert list(cell().settings) == SETTINGS and cell("defar").settings == cell().settings
    assert str(cell()) == "sit, euler, 30 evaluations"
    assert str(cell("defar", 60, "heun", 1.5)) == "defar, heun, 60 evaluations, guidance 1.5"


def test_the_table_has_a_row_for_every_cell_and_metric():
    found = {cell(): evaluation("sit", 40.0), cell("defar", 60, "heun", 1.5, "gvp"): evaluation("defar", 35.0)}
    table = quality_table(found)
    beside = ["metric", "value", "low", "high", "n", "protocol", "reference", "reference_n", "reference_sha256"]
    assert list(table) == ["model", "checkpoint", *SETTINGS, *beside]
    assert table["model"].tolist() == ["sit", "sit", "defar", "defar"]
    assert table["checkpoint"].tolist() == ["cifar10-sit"] * 2 + ["cifar10-defar"] * 2
    assert table["solver"].tolist() == ["euler"] * 2 + ["heun"] * 2 and table["nfe"].tolist() == [30, 30, 60, 60]
    assert table["interpolant"].tolist() == ["linear"] * 2 + ["gvp"] * 2
    assert table["guidance"].isna().tolist() == [True, True, False, False] and table["guidance"][2] == 1.5
    assert table["value"].tolist() == [40.0, 0.5, 35.0, 0.5]


def test_an_empty_table_is_refused(refuses):
    refuses(lambda: quality_table({}), "no cells", "at least one model")


# --- against a baseline ---


def test_models_are_compared_at_equal_settings():
    found = evaluations(sit={30: 40.0, 50: 38.0}, defar={30: 35.0, 50: 39.0})
    rows = against_baseline(found, "sit", PROTOCOL)
    assert set(rows) == {*DIFFERENCES, *SETTINGS}
    own = rows[rows["metric"] == METRIC].set_index("nfe")
    assert own["difference"].to_dict() == {30: -5.0, 50: 1.0} and own["paired"].all()
    assert own["verdict"].to_dict() == {30: BETTER, 50: WORSE}
    assert own.loc[30, "percent"] == -12.5
    assert (rows["model"] == "defar").all() and (rows["baseline"] == "sit").all() and len(rows) == 4
    alone = differences([found[cell("sit", 30)], found[cell("defar", 30)]], "sit", PROTOCOL)
    pd.testing.assert_frame_equal(rows[rows["nfe"] == 30][DIFFERENCES].reset_index(drop=True), alone)


OTHERS = [{"solver": "heun"}, {"interpolant": "gvp"}, {"guidance": 1.5}, {"nfe": 50}]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
def test_cells_of_other_settings_are_never_compared(other):
    found = {cell("sit"): evaluation("sit", 40.0), cell("defar", **other): evaluation("defar", 35.0)}
    rows = against_baseline(found, "sit", PROTOCOL)
    assert rows.empty and list(rows) == [*DIFFERENCES, *SETTINGS]
    found[cell("sit", **other)] = evaluation("sit", 30.0)
    rows = against_baseline(found, "sit", PROTOCOL)
    assert rows[rows["metric"] == METRIC]["difference"].tolist() == [5.0]
    ((setting, value),) = other.items()
    assert (rows[setting] == value).all()


def test_cells_without_a_baseline_are_left_out():
    found = evaluations(sit={30: 40.0}, defar={30: 35.0, 50: 34.0}, mixflow={30: 36.0, 50: 37.0})
    rows = against_baseline(found, "sit", PROTOCOL)
    assert rows["nfe"].unique().tolist() == [30] and rows["model"].unique().tolist() == ["defar", "mixflow"]
    assert against_baseline(found, "nobody", PROTOCOL).empty


def test_cells_of_another_protocol_are_refused(refuses):
    found = evaluations(sit={30: 40.0})
    other = evaluation("defar", 35.0)
    found[cell("defar")] = replace(other, table=other.table.assign(protocol="q"))
    refuses(lambda: against_baseline(found, "sit", PROTOCOL), "different protocol")


# --- over steps ---


def test_every_model_is_compared_with_itself_at_its_smallest_nfe():
    found = evaluations(sit={100: 43.0, 30: 40.0, 50: 40.5}, defar={50: 35.0, 100: 30.0})
    rows = over_steps(found, PROTOCOL)
    assert set(rows) == {*DIFFERENCES, "first_nfe", *SETTINGS} - {"baseline"}
    own = rows[rows["metric"] == METRIC].set_index(["model", "nfe"])
    assert own["difference"].to_dict() == {("sit", 100): 3.0, ("sit", 50): 0.5, ("defar", 100): -5.0}
    assert own["first_nfe"].to_dict() == {("sit", 100): 30, ("sit", 50): 30, ("defar", 100): 50}
    assert own["verdict"].to_dict() == {("sit", 100): WORSE, ("sit", 50): WORSE, ("defar", 100): BETTER}
    assert own["paired"].all()


@pytest.mark.parametrize("other", OTHERS[:3], ids=lambda other: next(iter(other)))
def test_a_solver_a_path_and_a_guidance_have_their_own_first_steps(other):
    found = {
        cell(nfe=30): evaluation("sit", 40.0),
        cell(nfe=60, **other): evaluation("sit", 41.0),
        cell(nfe=100, **other): evaluation("sit", 45.0),
    }
    rows = over_steps(found, PROTOCOL)
    rows = rows[rows["metric"] == METRIC]
    assert rows[["nfe", "first_nfe", "difference"]].values.tolist() == [[100, 60, 4.0]]


def test_one_nfe_has_nothing_to_compare_with():
    rows = over_steps(evaluations(sit={30: 40.0}, defar={30: 35.0}), PROTOCOL)
    assert rows.empty and "first_nfe" in rows and "baseline" not in rows


# --- verdicts and sentences ---


def made_up(*verdicts, nfes=(30, 50, 100), percent=-5.0):
    return pd.DataFrame(
        {
            "model": "defar", "baseline": "sit", "metric": METRIC, "nfe": nfes, "percent": percent,
            "percent_low": percent - 1, "percent_high": percent + 1, "verdict": verdicts, "n": 2000, "paired": True,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "verdicts, expected",
    [
        ((BETTER, BETTER, BETTER), HOLDS),
        ((BETTER, UNDECIDED, BETTER), OPEN),
        ((UNDECIDED, UNDECIDED, UNDECIDED), OPEN),
        ((BETTER, BETTER, WORSE), FAILS),
        ((WORSE, UNDECIDED, UNDECIDED), FAILS),
    ],
)
def test_lowest_everywhere_takes_every_nfe_beyond_doubt(verdicts, expected):
    verdict, sentence = lowest_everywhere(made_up(*verdicts), "defar", METRIC)
    assert verdict == expected and f'"defar is lowest at every NFE": {expected} here' in sentence


def test_the_sentence_tells_the_numbers_of_its_table():
    rows = made_up(BETTER, BETTER, BETTER)
    _, sentence = lowest_everywhere(rows.iloc[::-1], "defar", METRIC)
    assert f"{METRIC} of defar against sit, same noise, n = 2000" in sentence
    assert "NFE 30: -5.0 % [-6.0, -4.0]; NFE 50: -5.0 % [-6.0, -4.0]; NFE 100" in sentence
    rows.loc[1, ["percent", "percent_low", "percent_high"]] = 2.25, -1.5, 6.04
    _, other = lowest_everywhere(rows, "defar", METRIC)
    assert "NFE 50: +2.2 % [-1.5, +6.0]" in other and other != sentence


def test_only_the_models_and_metrics_own_rows_are_judged(refuses):
    rows = made_up(BETTER, BETTER, BETTER)
    worse = made_up(WORSE, WORSE, WORSE)
    table = pd.concat([rows, worse.assign(model="mixflow"), worse.assign(metric="recall")])
    assert lowest_everywhere(table, "defar", METRIC)[0] == HOLDS
    assert lowest_everywhere(table, "mixflow", METRIC)[0] == FAILS
    refuses(lambda: lowest_everywhere(table, "sit", METRIC), "'sit'", METRIC)
    refuses(lambda: lowest_everywhere(table, "defar", "FID"), "'defar'", "'FID'")


def test_a_sentence_on_unpaired_rows_does_not_speak_of_the_same_noise():
    _, sentence = lowest_everywhere(made_up(BETTER, BETTER, BETTER).assign(paired=False), "defar", METRIC)
    assert "against sit, not the same noise, n" in sentence


def test_the_sentence_on_steps_takes_the_largest_nfe_of_every_model():
    clauses = {BETTER: "improves", WORSE: "worsens", UNDECIDED: "does not move detectably"}
    for verdict, words in clauses.items():
        rows = made_up(UNDECIDED, verdict, nfes=(50, 100)).assign(first_nfe=30)
        rows.loc[1, ["percent", "percent_low", "percent_high"]] = 3.0, 1.0, 5.0
        sentence = steps_sentence(rows, METRIC)
        assert sentence == f"From 30 to 100 evaluations, in {METRIC}: defar {words} (+3.0 % [+1.0, +5.0])."
    both = pd.concat([rows, rows.assign(model="sit", percent=-7.0)])
    assert "; sit does not move detectably (-7.0 %" in steps_sentence(both, METRIC)


def test_steps_of_another_metric_are_refused(refuses):
    refuses(lambda: steps_sentence(made_up(BETTER, nfes=(50,)).assign(first_nfe=30), "FID"), "'FID'")
