"""The study behind Tabs. 1, 2 and 4-9: its tables follow from one another, and the short profile only reads."""

import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from defar_analysis import catalog
from defar_analysis.artefacts import read
from defar_analysis.measures.evaluation import BETTER, WORSE
from defar_analysis.our_rows import EQUAL_STEPS, JUDGED, METHODS_TABLES, METHODS_TAKE
from defar_analysis.studies import methods as study

ROOT = Path(__file__).parents[2]
GUIDED_PART = replace(study.STUDIES["full"], parts=tuple(p for p in study.STUDIES["full"].parts if p.group == "guided"))


@pytest.fixture(scope="module")
def committed():
    return read("methods", ROOT / "figures", METHODS_TABLES)


def test_mean_and_deviation_over_seeds_are_those_of_two_numbers():
    rows = pd.DataFrame({"method": "m", "metric": "d", "n": 2, "protocol": "p", "value": [3.0, 7.0], "seed": [1, 2]})
    rows = rows.assign(group="labels", solver="euler", interpolant="linear", nfe=1)
    (found,) = study.over_seeds(rows).itertuples()
    assert (found.mean, found.std, found.seeds) == (5.0, pytest.approx(np.sqrt(8.0)), 2)
    apart = study.over_seeds(rows.assign(group=["labels", "no labels"]))
    assert apart["seeds"].tolist() == [1, 1] and apart["std"].isna().all()


def test_every_committed_part_has_its_methods(committed):
    sampled = committed.table.groupby(study.IN_PART)["method"].agg(set)
    parts = study.STUDIES["full"].parts
    assert len(sampled) == len(parts)
    for part in parts:
        known = sampled.xs(part.group, level="group").xs(part.seed, level="seed").xs(part.solver, level="solver")
        assert set(part.runs) in list(known.xs(part.nfe, level="nfe"))


def test_every_run_of_the_study_is_trained_by_the_record_at_its_budget():
    place = ROOT / "reproduce" / "records" / "2026-11-21-objectives" / "run.py"
    record = SimpleNamespace(**runpy.run_path(str(place)))
    for part in study.STUDIES["full"].parts:
        if part.group == JUDGED:  # the shipped checkpoints
            continue
        recipes = {}
        for method, folder in part.runs.items():
            variant, _, seed = Path(folder).parent.name.rpartition("-")
            assert int(seed) == part.seed and (part.seed == 1 or variant not in record.ONE_SEED)
            recipes[method] = record.VARIANTS[variant][1], record.recipe(variant, part.seed).steps
        if part.group == EQUAL_STEPS:
            assert {steps for _, steps in recipes.values()} == {recipes["SiT"][1]}
        else:
            spent = [passes * steps for passes, steps in recipes.values()]
            assert max(spent) == record.PASSES and min(spent) > 0.99 * record.PASSES


def test_committed_differences_are_those_of_the_committed_values(committed):
    keys = [*study.IN_PART, "metric"]
    values = committed.table.set_index(["method", *keys])["value"]
    for name in ("differences", "pairs"):
        for row in committed.tables[name].itertuples():
            where = tuple(getattr(row, key) for key in keys)
            own, base = values[row.method, *where], values[row.baseline, *where]
            assert row.difference == pytest.approx(own - base, rel=1e-3, abs=2e-5 * abs(base))
            assert row.paired and row.low <= row.difference <= row.high
            if row.metric.startswith("FD-"):
                assert row.verdict == (BETTER if row.high < 0 else WORSE if row.low > 0 else "undecided")


def test_the_short_profile_reads_what_is_committed_and_says_how_to_measure(tmp_path, refuses):
    kept = catalog.collect("methods", "quick", "cpu", ROOT)
    assert kept.provenance["profile"] == "full"
    refuses(lambda: catalog.collect("methods", "quick", "cpu", tmp_path), "--only methods", METHODS_TAKE)


def project(tmp_path, committed):
    """A folder with what is committed, and a study of one group of whose runs only the names are there."""
    shutil.copytree(ROOT / "figures" / "data", tmp_path / "figures" / "data", ignore=lambda _, names: [
        name for name in names if not name.startswith("methods")
    ])  # fmt: skip
    return SimpleNamespace(root=tmp_path, profile="full")


def test_a_group_measured_anew_takes_the_place_of_its_rows_alone(tmp_path, committed, monkeypatch, refuses):
    experiment = project(tmp_path, committed)

    def measured(_, asked):
        """What is committed of the parts that are asked for, each value one larger."""
        assert {part.group for part in asked.parts} == {"guided"}
        own = {name: table[table["group"] == "guided"] for name, table in committed.tables.items()}
        table = committed.table[committed.table["group"] == "guided"]
        models = {"SiT, new": {"checkpoint": "new", "sha256": "0" * 64}}
        return replace(committed, table=table.assign(value=table["value"] + 1), tables=own,
                       provenance={**committed.provenance, "models": models})  # fmt: skip

    monkeypatch.setattr(study, "_measured", measured)
    found = study.remeasured(experiment, ["guided"])
    theirs, own = (t.drop(columns="value").reset_index(drop=True) for t in (committed.table, found.table))
    pd.testing.assert_frame_equal(own, theirs, check_dtype=False)  # the same rows, in their places
    moved = found.table["value"].to_numpy() - committed.table["value"].to_numpy()
    assert moved == pytest.approx(np.where(committed.table["group"] == "guided", 1.0, 0.0))
    assert all(len(found.tables[name]) == len(table) for name, table in committed.tables.items())
    assert found.provenance["note"] == committed.provenance["note"]
    assert found.provenance["models"] == {
        **committed.provenance["models"],
        **measured(0, GUIDED_PART).provenance["models"],
    }
    refuses(lambda: study.remeasured(experiment, ["guided", "nothing"]), "'nothing'", "equal steps")

    old = committed.provenance["protocols"]
    other = {**committed.provenance, "protocols": {k: {**v, "sha256": "0" * 64} for k, v in old.items()}}
    monkeypatch.setattr(study, "_measured", lambda *_: replace(committed, provenance=other))
    refuses(lambda: study.remeasured(experiment, ["guided"]), "another protocols", "--profile full")


def test_a_run_that_is_missing_is_named_with_its_command(tmp_path, refuses):
    runs = tmp_path / "objectives"
    refuses(lambda: study.checked(runs / "adr-detached-1" / "checkpoint"), "run.py adr-detached")
    refuses(lambda: study.checked(runs / "gvp-fm-1" / "checkpoint"), "run.py gvp-start gvp-fm")
    refuses(lambda: study.checked(runs / "defar-detached-steps-2" / "checkpoint"), "run.py defar-detached-steps")
    refuses(lambda: study.checked(tmp_path / "checkpoints" / "cifar10-sit"), "clone")
