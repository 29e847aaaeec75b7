"""The catalog's step-robustness entry: its verdicts follow from its tables, and the short profile only reads."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_shipped import executed_outputs

from defar_analysis import catalog
from defar_analysis.measures.protocols import DEFAULT, comparable, protocol
from defar_analysis.measures.robustness import NFES
from defar_analysis.studies.robustness import (
    BASELINE,
    FLOOR,
    METHOD,
    SECOND,
    STUDIES,
    build,
    stable,
    verdicts,
    worsens,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def committed():
    return catalog.load("robustness", ROOT / "figures")


def of_protocol(artefact, name):
    tables = {key: artefact.tables[key] for key in ("differences", "steps")}
    return SimpleNamespace(**{key: table[table["protocol"] == name] for key, table in tables.items()})


def test_the_committed_table_has_every_cell_of_the_issue(committed):
    study = STUDIES["full"]
    assert study.nfes == NFES == (30, 50, 100, 250, 500) and study.count == 2000
    assert set(study.protocols) == {DEFAULT, SECOND} == set(committed.provenance["protocols"])
    for name in study.protocols:
        rows = committed.table[committed.table["protocol"] == name]
        comparable(rows)
        frechet = rows[rows["metric"] == protocol(name).metric_names["frechet"]]
        cells = {(row.model, row.nfe) for row in frechet.itertuples() if row.model != FLOOR}
        assert cells == {(model, nfe) for model in (BASELINE, METHOD) for nfe in NFES}
        assert (
            (rows["n"] == 2000).all() and (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
        )


def test_all_differences_are_paired_and_agree_with_the_values(committed):
    found = committed.tables["differences"]
    assert found["paired"].all() and (found["baseline"] == BASELINE).all() and (found["model"] == METHOD).all()
    values = committed.table.set_index(["protocol", "model", "nfe", "metric"])["value"]
    for row in found.itertuples():
        pair = [values[row.protocol, model, row.nfe, row.metric] for model in (METHOD, BASELINE)]
        assert row.difference == pytest.approx(pair[0] - pair[1], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", STUDIES["full"].protocols)
def test_the_committed_verdicts_are_those_of_the_committed_tables(committed, name):
    own = committed.tables["verdicts"].query(f"protocol == '{name}'").reset_index(drop=True)
    pd.testing.assert_frame_equal(verdicts(of_protocol(committed, name), protocol(name)), own, check_dtype=False)


def test_other_tables_give_other_verdicts(committed):
    tables, used = of_protocol(committed, DEFAULT), protocol(DEFAULT)
    before = verdicts(tables, used)
    metric = used.metric_names["frechet"]
    for table in (tables.differences, tables.steps):
        rows = table["metric"] == metric
        table.loc[rows, "verdict"] = "better"
        table.loc[rows, ["percent", "percent_low", "percent_high"]] = -1.5, -2.5, -0.5
    after = verdicts(tables, used)
    assert list(after["verdict"]) == ["holds", "holds", "does not hold"]
    assert (before["evidence"] != after["evidence"]).all()
    assert after["evidence"].str.contains("-1.5 % [-2.5, -0.5]", regex=False).all()


def test_stability_and_amplification_are_judged_beyond_doubt():
    def steps(*rows):
        columns = ["model", "nfe", "verdict", "percent_low", "percent_high"]
        return pd.DataFrame([("A", *row) for row in rows], columns=columns)

    better, slightly, vague = (50, "better", -3, -2), (50, "worse", 0.1, 0.9), (500, "undecided", -4, 3)
    worse = (500, "worse", 1.1, 2)
    assert stable(steps(better, slightly), "A") == "holds"  # by less than the margin of one percent
    assert stable(steps(better, vague), "A") == "undecided"
    assert stable(steps(better, worse), "A") == "does not hold"
    judged = [worsens(steps(better, last), "A") for last in (worse, vague, (500, "better", -3, -1))]
    assert judged == ["holds", "undecided", "does not hold"]


def test_the_quick_profile_reads_what_is_committed_and_says_so_where_there_is_nothing(tmp_path, refuses):
    found = build(SimpleNamespace(profile="quick", root=ROOT))
    assert found.provenance["profile"] == "full" and found.folder == ROOT / "figures"
    empty = SimpleNamespace(profile="quick", root=tmp_path)
    refuses(lambda: build(empty), "robustness.json", "defar reproduce --profile full --only robustness")


def test_the_executed_notebook_says_what_the_committed_tables_say():
    outputs, artefact = executed_outputs("robustness", pictures=2)
    said = "".join(outputs["sentences"][0]["text"])
    for row in artefact.tables["verdicts"].itertuples():
        assert f"{row.claim}, by {row.metric}: {row.verdict}.\n  {row.evidence}" in said
    table = "".join(outputs["table"][0]["data"]["text/markdown"])
    assert "not comparable" in table and "FD-EffNet-128" in table
