"""The zoo as a record tells it: which run is which method on which budget, what is drawn, what is refused."""

from types import SimpleNamespace

import pandas as pd
import pytest

from defar_analysis import artefacts
from defar_analysis.claim_rules import paired
from defar_analysis.errors import DefarError
from defar_analysis.plots import zoo as drawn
from defar_analysis.studies import zoo

RUNS = {"ip": -3.0, "fc": 20.0, "fc-steps": -2.0, "defar-steps": 40.0}


def changes(metrics: tuple[str, ...], **more: str) -> pd.DataFrame:
    rows = [(name, metric, percent, percent - 1, percent + 1, "better" if percent < 0 else "worse")
            for metric in metrics for name, percent in RUNS.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=zoo.COLUMNS).assign(**more)


def write_record(folder) -> None:
    folder.mkdir(parents=True)
    names, steps = ("sit", *RUNS), {"sit": 3, "fc": 5, "fc-steps": 5}
    values = [(name, "FD-EffNet-128", 500.0, 490.0, 510.0, 64, "any", "euler-50") for name in names]
    curves = [(name, step, each * step, 1 / step) for name, each in steps.items() for step in (10, 20)]
    at_50 = changes(("FD-EffNet-128", "sFD-EffNet-128"), cell="euler-50")
    tables = {
        "differences.csv": pd.concat([at_50, changes(("FD-EffNet-128",), cell="euler-30-cfg1.5")]).assign(n=64),
        "drift.csv": changes(("loss", "bias", "PFR")),
        "table.csv": pd.DataFrame(values, columns=zoo.NEEDED["table.csv"]),
        "curves.csv": pd.DataFrame(curves, columns=zoo.NEEDED["curves.csv"]),
        "runs.csv": pd.DataFrame({"name": names, "sha256": "0" * 64, "steps": 9}),
    }
    for name, table in tables.items():
        table.to_csv(folder / name, index=False)
    said = 'note = "tiny"\ndevice = "cpu"\nhardware = "two cores"\ncommand = "train"\ncommit = "abc"\n'
    (folder / "record.toml").write_text(said, encoding="utf-8")


@pytest.fixture
def experiment(tmp_path):
    write_record(tmp_path / "reproduce" / "records" / "2026-02-01-zoo")
    return SimpleNamespace(root=tmp_path, profile="quick")


def test_every_run_is_told_with_its_method_and_its_budget(experiment):
    artefact = zoo.build(experiment)
    found = artefact.table.set_index(["method", "equal", "metric", "cell"])["percent"]
    assert found["FC", "compute", "FD-EffNet-128", "euler-50"] == 20
    assert found["FC", "steps", "FD-EffNet-128", "euler-30-cfg1.5"] == -2 and found["DEFAR", "steps", "PFR", ""] == 40
    assert found["IP", "both", "bias", ""] == -3, "its steps cost what SiT's do"
    assert len(found) == 6 * len(RUNS)
    assert set(artefact.tables["values"]["method"]) == {"SiT", "IP", "FC", "DEFAR"}
    assert artefact.provenance["models"]["fc-steps"]["steps"] == 9
    assert artefact.provenance["hardware"] == "two cores"
    assert set(artefact.provenance["sources"]) == {
        f"reproduce/records/2026-02-01-zoo/{name}" for name in (*zoo.NEEDED, "record.toml")
    }


def test_claims_take_the_distances_at_equal_steps_without_guidance(experiment):
    artefact = artefacts.write(zoo.build(experiment))
    rows = zoo.of_equal_steps(artefact.table)
    found = {(row.method, row.metric, row.solver, row.nfe): row.percent for row in rows.itertuples()}
    plain = {"IP": -3, "FC": -2, "DEFAR": 40}
    metrics = ("FD-EffNet-128", "sFD-EffNet-128")
    assert found == {(method, metric, "euler", 50): plain[method] for method in plain for metric in metrics}
    assert paired(rows, ("IP", "SiT"), groups=("from nothing",)) == (
        "holds", "FD-EffNet-128, n = 64, 95 % intervals: IP against SiT -3.0 % [-4.0, -2.0] (from nothing, seed 0)."
    )  # fmt: skip


def test_the_picture_has_every_run_once_and_hollow_at_equal_compute(experiment):
    artefact = zoo.build(experiment)
    figure = drawn.plot(artefact.table, artefact.tables["curves"], note="a note")
    panels = dict(zip(("curve", *drawn.PANELS), figure.axes, strict=False))
    assert len(panels["curve"].lines) == 3, "SiT, and FC with both budgets"
    assert [text.get_text() for text in panels["curve"].get_legend().get_texts()] == ["SiT", "FC"]
    assert list(panels["curve"].lines[1].get_xdata()) == [0.05, 0.1], "thousands of passes"
    marks = {line.get_xdata()[0]: line for line in figure.axes[1].lines if line.get_marker() == "o"}
    assert {x: line.get_markerfacecolor() == "white" for x, line in marks.items()} == {
        -3: False,
        20: True,
        -2: False,
        40: False,
    }
    (above, beside) = (marks[x].get_ydata()[0] for x in (20, -2))
    assert above == pytest.approx(1 - 0.16) and beside == pytest.approx(1 + 0.16)
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == ["IP", "FC", "DEFAR"]


def test_what_is_no_zoo_is_refused(experiment):
    folder = experiment.root / "reproduce" / "records" / "2026-02-01-zoo"
    told = pd.read_csv(folder / "drift.csv")
    told.assign(model="gvp-sit").to_csv(folder / "drift.csv", index=False)
    with pytest.raises(DefarError, match="run 'gvp-sit' is none of the zoo's: sit, ip, "):
        zoo.build(experiment)
    told.drop(columns="percent").to_csv(folder / "drift.csv", index=False)
    with pytest.raises(DefarError, match=r"drift.csv has no column 'percent'"):
        zoo.build(experiment)
