"""The papers' tables: every printed number is there, ours stand beside the right rows, and nothing else is compared."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from defar_analysis import catalog, our_rows, paper_tables
from defar_analysis.artefacts import Artefact, read, write
from defar_analysis.cli import main
from defar_analysis.experiment import Experiment
from defar_analysis.paper import paper_values
from defar_analysis.tables import NOT_COMPARABLE, NOT_RUN, markdown

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
BY_METHOD = [t.id for t in paper_tables.TABLES.values() if t.rows]


def built(id: str) -> Artefact:
    return paper_tables.build(id, Experiment(ROOT, "quick", "cpu"))


@pytest.mark.parametrize("id", paper_tables.TABLES)
def test_every_number_of_the_paper_is_in_its_table(id):
    """As a multiset of values: the comparison loses none, adds none and changes none."""
    printed = paper_values(ROOT, id)
    printed = printed[printed["kind"] == "value"]["value"]
    assert sorted(built(id).table["paper"].dropna()) == sorted(printed)


@pytest.mark.parametrize("id", paper_tables.TABLES)
def test_the_committed_table_is_what_is_built_now(id, tmp_path):
    now = write(dataclasses.replace(built(id), folder=tmp_path))
    for suffix in ("", "_changes"):
        name = f"data/{id}{suffix}.csv"
        assert (tmp_path / name).read_bytes() == (FIGURES / name).read_bytes()
    paper_tables.written(now)
    for kind in ("csv", "md", "tex"):
        assert (tmp_path / f"data/{id}.{kind}").read_bytes() == (FIGURES / f"data/{id}.{kind}").read_bytes()


@pytest.mark.parametrize("id", BY_METHOD)
def test_ours_are_the_studys_means_over_seeds_in_the_row_that_they_name(id):
    table, entry = built(id).table, paper_tables.TABLES[id]
    study = read("methods", FIGURES, our_rows.METHODS_TABLES).table
    study = study[study["metric"] == "FD-EffNet-128"]
    for ours in entry.rows:
        keys = [key for key in ours.paper if key in table]
        here = table[(table[keys] == pd.Series(ours.paper)[keys]).all(axis=1) & (table["metric"] == "FD-EffNet-128")]
        assert len(here) == 1 and here["ours"].iloc[0] == pytest.approx(ours.of(study)["value"].mean(), rel=1e-6)
        assert here["paper"].notna().all() and here["quantity"].iloc[0] == ours.beside["FD-"]


@pytest.mark.parametrize("id", BY_METHOD)
def test_a_distance_of_another_network_is_never_subtracted_from_the_papers(id):
    table = built(id).table
    ours = table[table["ours"].notna()]
    assert len(ours) and ours["difference"].isna().all()
    assert set(ours["remark"]) <= {NOT_COMPARABLE, "not in the paper"}
    assert (table.loc[table["ours"].isna(), "remark"] == NOT_RUN).all()


def test_the_papers_changes_are_those_that_it_prints():
    """Printed differences of FID, as a share of the baseline's value, are the drawn percentages."""
    values = paper_values(ROOT, "tab1")
    printed = values[(values["kind"] == "difference") & (values["column"] == "FID")]
    drawn = paper_tables.paper_changes(paper_tables.TABLES["tab1"], values)
    compared = 0
    for row in printed[printed["row"] != "SiT"].itertuples():
        like = values[(values["kind"] == "value") & (values["column"] == "FID") & (values["dataset"] == row.dataset)]
        start = like[(like["row"] == "SiT") & (like["condition"] == row.condition)]["value"].item()
        where = f"{row.dataset}, {row.condition}"
        name = row.row + (f" {row.iters / 1000:.0f}k" if row.row == "DEFAR" else "")
        shown = drawn[(drawn["where"] == where) & (drawn["row"] == name)]["percent"].item()
        assert shown == pytest.approx(100 * row.value / start, abs=0.02)
        compared += 1
    assert compared > 3


def test_our_recipes_build_the_papers_configurations():
    table = built("tab11").table
    ours = table[table["ours"].notna() & ~table["parameter"].str.startswith("Params")]
    assert len(ours) > 70 and (ours["difference"].abs() < 1e-12).all()
    millions = table[table["parameter"].str.startswith("Params")]
    assert (millions["difference"].abs() <= 1.5).all()  # the paper counts embeddings that are no parameters here


@pytest.mark.parametrize("id", paper_tables.TABLES)
def test_what_was_not_run_names_its_command(id):
    table, command = built(id).table, "recipe" if id == "tab11" else "defar "  # what no recipe holds, no command runs
    if (table["remark"] == NOT_RUN).any():
        assert command in markdown(table, paper_tables.TABLES[id].caption).partition("What was not run")[2]


def test_the_command_prints_each_format(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for kind, start in (("markdown", "Main results"), ("latex", r"\begin{table}"), ("csv", "dataset,row")):
        assert main(["table", "tab1", "--format", kind]) == 0
        assert capsys.readouterr().out.startswith(start)
    assert main(["table", "tab12"]) == 2
    assert "tab12" in (said := capsys.readouterr().err) and "tab11" in said and said.count("\n") == 1


def test_a_table_reads_back_as_it_was_written():
    for id in catalog.TABLES:
        back = paper_tables.whole(catalog.load(id, FIGURES))
        pd.testing.assert_series_equal(back["remark"], built(id).table["remark"], check_dtype=False)
        assert not back[["unit", "remark"]].isna().any(axis=None)
