"""The study behind Tabs. 1, 2 and 4-9: its tables follow from one another, and the short profile only reads."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from defar_analysis import catalog
from defar_analysis.artefacts import read
from defar_analysis.measures.evaluation import BETTER, WORSE
from defar_analysis.our_rows import METHODS_TABLES, METHODS_TAKE
from defar_analysis.studies import methods as study

ROOT = Path(__file__).parents[2]


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


def test_a_run_that_is_missing_is_named_with_its_command(tmp_path, refuses):
    runs = tmp_path / "objectives"
    refuses(lambda: study.checked(runs / "adr-detached-1" / "checkpoint"), "run.py adr-detached")
    refuses(lambda: study.checked(runs / "gvp-fm-1" / "checkpoint"), "run.py gvp-start gvp-fm")
    refuses(lambda: study.checked(tmp_path / "checkpoints" / "cifar10-sit"), "clone")
