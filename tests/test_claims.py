"""The claims' verdicts follow from tables: a table that changes changes them, and a table that lacks is named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from defar_analysis import artefacts
from defar_analysis.claim_rules import (
    EXPECTED,
    NOT_RUN,
    UNDECIDED,
    VERDICTS,
    both,
    of_sentence,
    paired,
    restored,
    rule,
    waiting,
)
from defar_analysis.claims import COLUMNS, ENTRIES, build
from defar_analysis.measures.evaluation import BETTER, WORSE
from defar_analysis.measures.robustness import FAILS, HOLDS
from defar_analysis.our_rows import FROM_NOTHING
from defar_analysis.plots import claims as plots

ROOT = Path(__file__).parents[1]
PAIRS = [("ADR", "SDSS"), ("ADR", "MDSS"), *(("DEFAR", m) for m in ("ADR", "FC", "IP", "SDSS", "MDSS")),
         *(("OT + DEFAR", m) for m in ("OT", "DEFAR")), *(("DEFAR-G++", m) for m in ("DEFAR", "SiT-G++"))]  # fmt: skip


def differences(pairs, outcome=BETTER, seeds=(1, 2), **where):
    """Rows as in methods_differences.csv, and a metric that no claim is judged by."""
    percent = {BETTER: -4.0, WORSE: 4.0}.get(outcome, 0.5)
    rows = [(m, seed, b, metric, percent, percent - 1, percent + 1, outcome, 1000)
            for m, b in pairs for seed in seeds for metric in ("FD-EffNet-128", "sFD-EffNet-128")]  # fmt: skip
    columns = ["method", "seed", "baseline", "metric", "percent", "percent_low", "percent_high", "verdict", "n"]
    place = {"group": "labels", "interpolant": "linear", "solver": "euler", "nfe": 50, **where}
    return pd.DataFrame(rows, columns=columns).assign(**place)


def changed(table, outcome, **which):
    """The table with the verdict of the rows that `which` names."""
    rows = (table[list(which)] == list(which.values())).all(axis=1)
    assert rows.any()
    return table.assign(verdict=table["verdict"].mask(rows, outcome))


def test_a_claim_holds_by_all_and_falls_by_one_comparison_in_every_run():
    assert rule([("a", BETTER), ("a", BETTER), ("b", BETTER)]) == HOLDS
    assert rule([("a", BETTER), ("b", WORSE), ("b", WORSE)]) == FAILS
    assert rule([("a", BETTER), ("b", WORSE), ("b", "undecided")]) == UNDECIDED
    assert rule([("a", BETTER), ("b", WORSE), ("b", BETTER)]) == UNDECIDED


def test_no_comparison_is_no_verdict(refuses):
    refuses(lambda: rule([]), "no comparisons")


def test_pairs_are_judged_by_the_distance_alone_and_over_all_seeds():
    pairs = [("DEFAR", "ADR"), ("DEFAR", "FC")]
    table = differences(pairs)
    assert paired(table, *pairs)[0] == HOLDS
    assert paired(changed(table, WORSE, metric="sFD-EffNet-128"), *pairs)[0] == HOLDS
    assert paired(changed(table, WORSE, baseline="FC", seed=2), *pairs)[0] == UNDECIDED
    assert paired(changed(table, WORSE, baseline="FC"), *pairs)[0] == FAILS
    assert paired(changed(table, "undecided", baseline="FC"), *pairs)[0] == UNDECIDED
    assert paired(table, pairs[0])[1] == (
        "FD-EffNet-128, n = 1000, 95 % intervals: DEFAR against ADR -4.0 % [-5.0, -3.0] (labels, seed 1), "
        "-4.0 % [-5.0, -3.0] (labels, seed 2)."
    )


def test_a_claim_over_two_groups_needs_both_and_other_groups_count_for_nothing():
    pair, both = ("DEFAR", "SiT"), {"groups": ("labels", "no labels")}
    labelled, unlabelled = differences([pair]), differences([pair], seeds=(1,), group="no labels")
    verdict, evidence = paired(labelled, pair, **both)
    assert verdict == NOT_RUN and evidence.endswith("Not measured yet: DEFAR against SiT (no labels, seed 1).")
    assert paired(pd.concat([labelled, unlabelled]), pair, **both)[0] == HOLDS
    steps = differences([pair], WORSE, group="steps")
    assert paired(pd.concat([labelled, unlabelled, steps]), pair, **both)[0] == HOLDS
    assert paired(pd.concat([labelled, unlabelled.assign(verdict=WORSE)]), pair, **both)[0] == UNDECIDED
    assert paired(pd.concat([labelled, unlabelled]).assign(verdict=WORSE), pair, **both)[0] == FAILS


def test_equal_steps_are_a_comparison_apart_from_equal_compute():
    pair, both_budgets = ("FC", "SiT"), {"groups": ("labels", "equal steps")}
    table = pd.concat([differences([pair]), differences([pair], group="equal steps")])
    assert paired(table, pair, **both_budgets)[0] == HOLDS
    verdict, evidence = paired(changed(table, WORSE, group="equal steps"), pair, **both_budgets)
    assert verdict == FAILS and "(equal steps, seed 2)" in evidence
    assert paired(changed(table, WORSE, group="equal steps", seed=1), pair, **both_budgets)[0] == UNDECIDED
    assert paired(table[table["group"] == "labels"], pair, **both_budgets)[0] == NOT_RUN


def test_every_path_and_solver_is_a_comparison_of_its_own_and_none_may_lack():
    pair, of_paths = ("DEFAR", "SiT"), {"group": "paths", "seeds": (1,)}
    table = pd.concat([differences([pair], interpolant=path, solver=solver, **of_paths)
                       for path in ("linear", "vp", "gvp") for solver in ("euler", "em")])  # fmt: skip
    verdict, evidence = paired(table, pair, groups=("paths",))
    assert verdict == HOLDS and "(vp, em)" in evidence and evidence.count(" %") == 6 + 1
    five = table[(table["interpolant"] != "gvp") | (table["solver"] != "em")]
    verdict, evidence = paired(five, pair, groups=("paths",))
    assert verdict == NOT_RUN and evidence.endswith("Not measured yet: DEFAR against SiT (gvp, em).")
    assert paired(changed(table, WORSE, interpolant="vp", solver="em"), pair, groups=("paths",))[0] == FAILS


def test_a_pair_or_seed_that_lacks_is_not_run_and_two_values_are_refused(refuses):
    pairs = [("DEFAR", "ADR"), ("DEFAR", "FC")]
    table = differences(pairs)
    assert paired(table, ("DEFAR", "IP")) == (
        NOT_RUN, "Not measured yet: DEFAR against IP (labels, seed 1), DEFAR against IP (labels, seed 2)."
    )  # fmt: skip
    short = table[(table["baseline"] == "ADR") | (table["seed"] == 1)]
    assert paired(short, *pairs)[0] == NOT_RUN
    assert paired(short, *pairs)[1].endswith(" Not measured yet: DEFAR against FC (labels, seed 2).")
    assert paired(changed(short, WORSE, baseline="ADR"), *pairs)[0] == FAILS  # one comparison is enough
    refuses(lambda: paired(pd.concat([table, table]), *pairs), "several differences")


def test_two_measurements_of_a_claim_must_both_hold():
    holds, fails, open_ = (HOLDS, "A."), (FAILS, "B."), (UNDECIDED, "C.")
    assert both(holds, holds) == (HOLDS, "A. A.")
    assert [both(holds, other)[0] for other in (fails, open_, (NOT_RUN, "D."))] == [FAILS, UNDECIDED, NOT_RUN]
    assert both(open_, fails) == (FAILS, "C. B.")


def restoration(*intervals):
    """Rows as in fig5.csv at t = 0.1, 0.2, ... by both readings, and one at low noise that no verdict may see."""
    rows = [("pfr_change_percent", dc, 0.1 * (k + 1), (low + high) / 2, low, high, 64)
            for dc in ("without", "with") for k, (low, high) in enumerate(intervals)]  # fmt: skip
    rows += [("pfr_change_percent", "without", 0.9, -50, -60, -40, 64), ("pfr_prediction", "without", 0.1, 1, 1, 1, 64)]
    return pd.DataFrame(rows, columns=["quantity", "dc", "t", "value", "low", "high", "n"])


def test_restoration_is_judged_at_high_noise_over_both_readings(refuses):
    assert restored(restoration((1, 3), (2, 4)))[0] == HOLDS
    assert restored(restoration((1, 3), (-4, -2)))[0] == FAILS
    assert restored(restoration((1, 3), (-1, 2)))[0] == UNDECIDED
    one_reading = restoration((1, 3), (-4, -2))
    one_reading.loc[one_reading["dc"] == "with", ["low", "high"]] = (1, 3)
    assert restored(one_reading)[0] == UNDECIDED
    assert "+2.0 % [+1.0, +3.0] at t = 0.1" in restored(restoration((1, 3)))[1]
    refuses(lambda: restored(restoration()), "no comparisons")


def test_a_sentence_needs_all_evaluators():
    table = pd.DataFrame({"claim": "c", "verdict": [HOLDS, HOLDS], "evidence": ["One.", "Two."]})
    assert of_sentence(table, "c") == (HOLDS, "One. Two.")
    assert of_sentence(table.assign(verdict=[HOLDS, FAILS]), "c")[0] == UNDECIDED
    assert of_sentence(table.assign(verdict=FAILS), "c")[0] == FAILS


def test_what_waits_says_for_what():
    assert waiting(["tab5/a.toml", "tab5/b.toml", "tab5/run/card.toml"], "tab5/") == (
        NOT_RUN, "2 recipes wait in tab5/; none has a result here.")  # fmt: skip
    assert waiting(["tab5/a.toml"], "tab4/", "no network") == (NOT_RUN, "No recipe in tab4/; no network.")


@pytest.fixture
def project(tmp_path):
    """A folder with the committed tables, and methods that all help."""
    data = tmp_path / "figures" / "data"
    data.mkdir(parents=True)
    for name in ("fig5.csv", "fig5.json", "robustness.csv", "robustness.json", "robustness_verdicts.csv"):
        shutil.copy(ROOT / "figures" / "data" / name, data)
    for folder in ("experiments", "discriminators"):
        shutil.copytree(ROOT / "reproduce" / folder, tmp_path / "reproduce" / folder,
                        ignore=shutil.ignore_patterns("*.safetensors"))  # fmt: skip
    shutil.copy(ROOT / "reproduce" / "paper_values.csv", tmp_path / "reproduce")
    (data / "methods.json").write_text(json.dumps({"profile": "full", "note": "synthetic"}))
    (data / "methods.csv").write_text("method,value\nSiT,1\n")
    own = [(m, "SiT") for m in ("ADR", "FC", "DEFAR", "DEFAR-G++", "MixFlow")]
    keys = ("group", "interpolant", "solver", "nfe")
    runs = [run for group in EXPECTED.values() for run in group if run[0] != FROM_NOTHING]
    groups = [{**dict(zip(keys, run[:4], strict=True)), "seeds": run[4:]} for run in runs]
    pd.concat([differences(own, **g) for g in groups]).to_csv(data / "methods_differences.csv", index=False)
    pd.concat([differences(PAIRS, **g) for g in groups]).to_csv(data / "methods_pairs.csv", index=False)
    (data / "zoo.json").write_text(json.dumps({"profile": "quick", "note": "synthetic"}))
    zoo = differences([("ADR", "SiT"), ("FC", "SiT")], seeds=(0,)).assign(equal="steps", cell="euler-50")
    zoo.to_csv(data / "zoo.csv", index=False)
    return tmp_path


def judged(root, profile="quick"):
    return build(SimpleNamespace(root=root, profile=profile))


def test_every_claim_has_a_verdict_that_the_committed_tables_give(project):
    artefact = judged(project)
    table = artefact.table.set_index("key")
    assert list(artefact.table.columns) == COLUMNS and len(table) == len(ENTRIES) == table.index.nunique()
    verdicts = table["verdict"].to_dict()
    trained = ("improves", "adr-target", "adr", "fc", "together", "baselines", "paths", "guided", "coupled",
               "mixflow")  # fmt: skip
    assert all(verdicts[key] == HOLDS for key in trained)
    waits = {key for key, verdict in verdicts.items() if verdict == NOT_RUN}
    assert waits == {"scales", "universal", "superior"}
    assert verdicts["lowest"] == FAILS  # by the robustness study, whatever the methods say
    assert verdicts["restores"] in VERDICTS and verdicts["stable"] == HOLDS
    assert table.loc["scales", "evidence"].startswith("9 recipes wait in reproduce/experiments/tab3/")
    assert (table[["claim", "where", "paper", "evidence", "source", "command"]].map(bool)).all(axis=None)


def test_the_papers_own_tables_bear_out_what_they_print(project):
    own = judged(project).table.set_index("key")["paper"]
    assert own["adr-target"] == "holds in 10 of 12 comparisons (Tabs. 1, 2)"  # CelebA-64: 6.83 and 6.12, 6.10
    assert own["together"] == "holds in 11 of 12 comparisons (Tabs. 1, 2)"  # CIFAR-10 with CFG: 7.56 and 7.53
    assert own["improves"] == "holds in 6 of 6 comparisons (Tabs. 1, 2)"  # of each, the shorter training
    assert own["superior"] == "holds in 8 of 10 comparisons (Tab. 4 left, its five metrics)"  # recall falls twice
    assert (
        own["amplified"] == "holds in 0 of 4 comparisons (FID of Tab. 4 right)"
    )  # SiT: 63.63, 61.64, 60.42, 59.84, 59.70
    assert own["stable"] == "holds in 8 of 8 comparisons (FID of Tab. 4 right)"
    assert own["mixflow"] == "holds in 26 of 26 comparisons (MixFlow's tables)"
    assert own["restores"] == "no printed numbers (Fig. 5)"


def test_the_runs_from_nothing_are_a_comparison_of_their_own(project):
    path = project / "figures" / "data" / "zoo.csv"
    changed(pd.read_csv(path), WORSE, method="FC").to_csv(path, index=False)
    after = judged(project).table.set_index("key")
    assert after["verdict"]["fc"] == FAILS and after["verdict"]["adr"] == HOLDS
    assert "(from nothing, seed 0)" in after["evidence"]["adr"]
    assert after["source"]["adr"] == "figures/data/methods_differences.csv, figures/data/zoo.csv"


def test_a_changed_table_changes_the_verdict_it_is_behind_and_no_other(project):
    before = judged(project).table.set_index("key")["verdict"]
    path = project / "figures" / "data" / "methods_pairs.csv"
    changed(pd.read_csv(path), WORSE, method="DEFAR", baseline="IP").to_csv(path, index=False)
    after = judged(project).table.set_index("key")["verdict"]
    assert after["baselines"] == FAILS
    assert (after == before).drop("baselines").all()


@pytest.mark.parametrize(
    "name", ["methods.json", "methods_pairs.csv", "fig5.csv", "robustness_verdicts.csv", "zoo.csv"]
)
def test_a_missing_table_is_named(project, refuses, name):
    (project / "figures" / "data" / name).unlink()
    refuses(lambda: judged(project), f"--only {name.partition('.')[0].partition('_')[0]}")


def test_the_artefact_survives_its_file(project):
    artefact = judged(project)
    assert {"profile", "note", "models", "device"} <= set(artefact.provenance)
    assert set(artefact.provenance["sources"]) == set(", ".join(artefact.table["source"]).split(", ")) - {"none"}
    pd.testing.assert_frame_equal(artefacts.write(artefact).table, artefact.table)
    assert judged(project, "tiny").folder == project / "results" / "tiny" / "figures"


def test_commands_name_what_is_there():
    for entry in ENTRIES:
        for path in re.findall(r"reproduce/\S+?(?:\.toml|/\*\.toml)", entry.command):
            assert list(ROOT.glob(path)), f"{entry.key}: {path}"


def test_the_picture_tells_every_verdict_by_word_mark_and_colour_and_nothing_overlaps(project):
    assert tuple(plots.LOOKS) == VERDICTS
    assert all(len({look[k] for look in plots.LOOKS.values()}) == len(VERDICTS) for k in range(3))
    table = judged(project).table
    table["verdict"] = [VERDICTS[k % len(VERDICTS)] for k in range(len(table))]
    figure = plots.plot(table, note="a note")
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text()]
    page = figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    words = [text.get_text() for text in figure.findobj(Text)]
    for verdict, (word, *_) in plots.LOOKS.items():
        assert words.count(word) == (table["verdict"] == verdict).sum()


def test_the_picture_refuses_what_it_cannot_draw(refuses):
    row = pd.DataFrame([("c", "Sec. 6", 1, 2, "perhaps")], columns=plots.COLUMNS)
    refuses(lambda: plots.plot(row), "'perhaps'", "not run")
    refuses(lambda: plots.plot(row.drop(columns="where")), "'where'")
