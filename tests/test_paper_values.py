"""The papers' values are those that their texts print, whole, and where they contradict each other is known."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from defar_analysis.contradictions import contradictions, differences
from defar_analysis.paper import CELL, COLUMNS, figure_values, paper_values, selected

ROOT = Path(__file__).parents[1]

# Lines of the paper's text as they stand there (references cut), by the source that their rows name.
TEXT = {
    "Tab. 1, line 104": (
        "| SiT (origin) [SiT2024] | SiT-B/4 | 131M | 500k | 166 | 61.64/31.64 | 12.20/8.44 | 24.67/55.65 | "
        "0.387/0.542 | 0.581/0.524 | 250k | 11 | 14.09/9.36 | 6.28/5.73 | 8.22/8.90 | 0.617/0.676 | 0.538/0.500 |"
    ),
    "Tab. 1, line 111": (
        "| DEFAR | SiT-B/4 | 131M | 250k | 144 | 60.40/29.81 | 9.05/7.35 | 26.21/58.81 | 0.375/0.531 | "
        "0.586/0.532 | 120k | 10 | 12.01/7.73 | 5.46/5.13 | 8.27/9.01 | 0.605/0.667 | 0.555/0.514 |"
    ),
    "Tab. 1, line 112": (
        "| -1.24/ -1.83 | -3.15/ -1.09 | +1.54/+3.16 | -0.012/-0.011 | +0.005/+0.008 | -2.08/-1.63 | -0.82/-0.60 "
        "| +0.05/+0.11 | -0.012/-0.009 | +0.017/+0.014 |"
    ),
    "Tab. 1, line 113": (
        "| DEFAR | SiT-B/4 | 131M | 500k | 289 | 56.39/28.34 | 9.50/7.84 | 26.62/58.94 | 0.386/0.551 | "
        "0.594/0.524 | 180k | 15 | 11.22/7.56 | 5.32/5.21 | 8.31/9.06 | 0.618/0.682 | 0.553/0.500 |"
    ),
    "Tab. 3, line 128": (
        "| DEFAR | SiT-M/2 | 308M | 350k | 330 | 29.46/7.85 | 5.60/4.64 | 59.01/156.27 | 0.549/0.751 | 0.639/0.518 |"
    ),
    "Tab. 3, line 133": "| -0.92/-0.14 | -1.92/-0.02 | +2.70/+5.17 | +0.010/+0.013 | -0.008/-0.009 |",
    "Tab. 3, line 134": (
        "| DEFAR | SiT-XL/2 | 675M | 700k | 4640 | 18.45/4.14 | 6.34/4.95 | 77.80/199.59 | 0.621/0.810 | 0.644/0.529 |"
    ),
    "Tab. 2 left, line 114": (
        "SiT (origin) SiT-B/4 131M 250k 12 17.41 6.19 7.82 0.586 0.539 36 7.04 6.88 2.76 0.626 0.521 +0.0 +0.0 "
        "+0.0 +0.0 +0.0 +0.0 +0.0 +0.0 +0.0 +0.0 IP SiT-B/4 131M 250k 12 15.95 6.65 7.97 0.583 0.556 36 5.93 6.57"
        " 2.72 0.640 0.543 SDSS SiT-B/4 131M 250k 17 16.02 6.37 7.70 0.590 0.542 60 6.12 8.01 2.71 0.671 0.476 "
        "MDSS(4steps) SiT-B/4 131M 250k 17 16.10 6.59 7.91 0.594 0.547 60 6.10 8.29 2.91 0.623 0.527 DEFAR w/o FC"
        " SiT-B/4 131M 250k 17 15.92 6.45 7.83 0.585 0.554 60 6.83 6.47 2.67 0.676 0.498 DEFAR w/o ADR SiT-B/4 "
        "131M 250k 23 15.99 5.99 8.07 0.580 0.562 80 4.96 6.26 2.94 0.641 0.541 DEFAR SiT-B/4 131M 120k 11 15.93 "
        "5.99 7.86 0.567 0.567 36 5.91 6.13 2.77 0.634 0.521 -1.48 -0.20 +0.04 -0.019 +0.028 -1.13 -0.75 +0.01 "
        "+0.008 +0.000 DEFAR SiT-B/4 131M 250k 23 14.82 5.88 7.79 0.570 0.563 80 4.53 6.41 2.92 0.629 0.551"
    ),
    "Tab. 2 right, line 115": (
        "SiT - 61.64 12.20 24.67 0.387 0.581 +0.00 +0.00 DEFAR - 60.40 9.05 26.21 0.375 0.586 -1.24 +1.54 SiT-G++"
        " ADM/U-Netshallow 60.92 11.10 25.08 0.388 0.579 -0.72 +0.41 DEFAR-G++ ADM/U-Netshallow 59.03 8.84 26.49 "
        "0.374 0.590 -2.61 +1.82 OT-FM U-Net 20 400k 4.6430.035 3.8240.037 4.2330.027 +0.0000.000 OT-FM + DEFAR "
        "U-Net 20 200k 4.3970.029 3.7160.017 4.0560.018 -0.1770.023 OT-CFM U-Net 20 400k 4.4460.037 3.7440.029 "
        "4.0950.022 -0.1380.033 OT-CFM + DEFAR U-Net 20 200k 4.2600.047 3.6600.037 3.9600.034 -0.2730.029"
    ),
    "Tab. 4 left, line 135": (
        "REPA-XL/2 675M 100k 400 3.99 11.76 248.60 0.796 0.595 + DEFAR 675M 45k 410 3.46 9.12 255.26 0.798 0.582 "
        "-0.53 -2.64 +6.66 +0.002 -0.013 DDT-XL/2 675M 100k 570 1.90 4.33 281.25 0.793 0.601 + DEFAR 675M 45k 580"
        " 1.82 4.21 285.42 0.799 0.596 -0.08 -0.12 +4.17 +0.006 -0.005"
    ),
    "Tab. 4 right, line 136": (
        "30 63.63 24.70 61.25 26.21 63.41 25.80 65.93 24.78 61.12 25.62 57.20 25.84 50 61.64 24.67 60.45 26.05 "
        "61.25 25.81 63.66 24.72 60.40 26.21 56.39 26.62 100 60.42 24.48 58.26 26.01 59.92 25.78 61.33 24.64 "
        "58.11 26.09 55.89 26.51 250 59.84 24.30 57.75 25.83 59.23 25.64 61.33 24.48 57.56 25.91 55.66 26.33 500 "
        "59.70 24.24 57.58 25.76 59.06 25.56 61.10 24.41 57.32 25.79 55.60 26.30"
    ),
    "Tab. 5, line 138": (
        "Linear SiT-B/4 12 17.41 16.81 Linear DEFAR-B/4 11 15.93 15.31 SBDM-VP SiT-B/4 12 19.89 18.89 SBDM-VP "
        "DEFAR-B/4 11 18.33 17.35 GVP SiT-B/4 12 17.31 16.42 GVP DEFAR-B/4 11 15.84 14.91"
    ),
    "Tab. 6, line 165": "| DEFAR (ours) | Unit Length | Anti-Drift | 250k | 11.22 | 8.31 |",
    "Tab. 7, line 187": "| DEFAR (ours) | Exposure Bias | on | 11.22 | 8.31 |",
    "Tab. 8, line 194": (
        "| SiT | SiT-B/4 | 50 | - | - | - | 166 | 61.64 | -0.00 | 24.67 | +0.00 | 11 | 14.09 | -0.00 | 8.22 | +0.00 |"
    ),
    "Tab. 8, line 199": (
        "| DEFAR | SiT-B/4 | 50 | 10 | 5.0 | 1.0 | 144 | 61.34 | -0.30 | 24.91 | +0.24 | 10 | 13.78 | -0.31 | "
        "8.21 | -0.01 |"
    ),
    "Tab. 8, line 203": (
        "| DEFAR | SiT-M/2 | 50 | 10 | 5.0 | 1.0 | 330 | 30.11 | -0.46 | 58.82 | +0.16 | - | - | - | - | - |"
    ),
    "Tab. 9, line 214": "| DEFAR w/o FC | 2 | Random | Regularizer | 21.89 | 8.10 |",
    "Tab. 10, line 221": (
        "| 30 | 32.62 | 55.64 | 30.30 | 59.14 | 31.48 | 58.24 | 33.05 | 56.61 | 30.36 | 56.31 | 29.36 | 56.43 |"
    ),
    "Tab. 10, line 225": (
        "| 500 | 30.94 | 54.98 | 28.55 | 58.32 | 29.41 | 58.14 | 30.90 | 56.57 | 28.41 | 58.81 | 27.87 | 59.36 |"
    ),
    "Tab. 11, line 230": "| Params (M) | 131 | 308 | 675 | 675 | 131 | 131 |",
    "Tab. 11, line 235": "| Training iterations | 500k | 500k | 500k | 700k | 250k | 250k |",
    "Tab. 11, line 236": "| Global batch size | 256 | 256 | 256 | 256 | 256 | 128 |",
}

COUNTS = {
    # eight rows on two data sets: parameters, hours and five metrics, with and without CFG in Tab. 1
    ("tab1", "value"): 8 * 2 * 12,
    ("tab1", "difference"): 2 * 20,
    # the same without CFG; DG: four rows of five; OT: four rows of hours and three FIDs
    ("tab2", "value"): 8 * 2 * 7 + 4 * 5 + 4 * 4,
    ("tab2", "difference"): 2 * 10 + 4 * 2 + 4 + 4,  # four stand in Sec. 5.2
    ("tab3", "value"): 9 * 12,
    ("tab3", "difference"): 3 * 10,
    ("tab4", "value"): 4 * 7 + 5 * 6 * 2,
    ("tab4", "difference"): 2 * 5,
    ("tab5", "value"): 6 * 3,
    ("tab6", "value"): 6 * 2,
    ("tab7", "value"): 5 * 2,
    ("tab8", "value"): 8 * 2 * 3 + 2 * 3,
    ("tab8", "difference"): 8 * 2 * 2 + 2 * 2,
    ("tab9", "value"): 5 * 2,
    ("tab10", "value"): 5 * 6 * 2,
    ("tab11", "value"): 16 * 6,
    ("fig3", "read off"): 21,
    ("reflexflow", "value"): 4,
    ("mixflow", "value"): 2 * (3 * 2 * 3 + 3 * 2 + 3 + 5),
    ("mixflow", "read off"): 2 * 5,
}

CONTRADICTIONS = """
budget; DEFAR FID 11.22, IS 8.31: 180k and 250k iterations
configuration; SiT-M/2 Training iterations: 500000 and 700000
configuration; SiT-XL/2 Training iterations: 500000 and 700000
claim; ADR outperforms MDSS and SDSS: celeba64, FID 6.83 (DEFAR w/o FC, 250k) and 6.12 (SDSS)
claim; ADR outperforms MDSS and SDSS: celeba64, FID 6.83 (DEFAR w/o FC, 250k) and 6.10 (MDSS)
claim; their integration achieves better results: cifar10 cfg, FID 7.56 (DEFAR, 180k) and 7.53 (DEFAR w/o ADR)
claim; consistently achieves the lowest FID scores: imagenet256 cfg NFE 30, FID 30.36 (DEFAR, 250k) and 30.30 (IP)
"""


@pytest.fixture(scope="module")
def values():
    return paper_values(ROOT)


@pytest.fixture(scope="module")
def printed():
    return pd.read_csv(ROOT / "reproduce" / "paper_values.csv", dtype=str, keep_default_na=False)


def numbers(text: str) -> list[str]:
    named = re.sub(r"\[\w+\]|\(4steps\)|(SiT|DEFAR|REPA|DDT)-\w+/\d", "", text)
    glued = re.sub(r"(\d\.\d{3})(?=\d\.)", r"\1 ", named)  # a plus-minus is lost between 4.643 and 0.035
    return [n.lstrip("+") for n in re.findall(r"[+-]?\d+(?:\.\d+)?", glued)]


@pytest.mark.parametrize("source", TEXT)
def test_rows_are_the_texts_numbers_in_its_order(source, printed):
    rows = printed[printed["source"] == source]
    found = numbers(TEXT[source])
    settings = [n for text in rows["setting"].unique() for n in re.findall(r"\d+(?:\.\d+)?", text)]
    mine = [n for pair in zip(rows["value"], rows["spread"], strict=True) for n in pair if n]
    points = [n for n in found if "." in n]
    if source.startswith("Tab. 8"):
        points = points[sum("." in n for n in settings) :]
    assert points == [n for n in mine if "." in n]
    thousands = {n.removesuffix("000") for n in (*rows["iters"], *rows["value"]) if n.endswith("000")}
    assert {n for n in found if "." not in n} <= {*mine, *thousands, *rows["x"], *settings}
    assert {n for n in mine if "." not in n and not n.endswith("000")} <= set(found)


def test_every_table_has_all_its_rows(values):
    assert values.groupby(["id", "kind"]).size().to_dict() == COUNTS


def test_no_number_stands_twice_and_all_are_complete(values):
    assert not values.duplicated(CELL).any()
    always = ["id", "dataset", "column", "kind", "value", "source"]
    assert values[always].notna().all(axis=None) and (values[[c for c in always if c != "value"]] != "").all(axis=None)
    assert (values["against"].ne("") == (values["kind"] == "difference")).all()
    assert values["x"].notna().eq(values["x_name"] != "").all()
    assert set(values["condition"]) == {"", "cfg", "no cfg"} and set(values["unit"]) == {"", "h", "M", "%"}


@pytest.mark.parametrize(
    ("wanted", "value", "spread", "decimals"),
    [
        ({"id": "tab1", "dataset": "imagenet256", "row": "IP", "column": "FID", "condition": "cfg"}, 29.84, None, 2),
        ({"id": "tab1", "dataset": "cifar10", "row": "DEFAR", "iters": 180e3, "column": "Hour"}, 15, None, 0),
        ({"id": "tab1", "dataset": "cifar10", "row": "MDSS", "column": "Rec.", "condition": "no cfg"}, 0.529, None, 3),
        ({"id": "tab2", "dataset": "celeba64", "row": "DEFAR w/o ADR", "column": "sFID"}, 6.26, None, 2),
        ({"id": "tab2", "row": "OT-CFM + DEFAR", "column": "Avg. FID", "kind": "value"}, 3.96, 0.034, 3),
        ({"id": "tab3", "backbone": "SiT-XL/2", "iters": 700e3, "row": "DEFAR", "column": "IS", "condition": "no cfg"},
         77.8, None, 2),
        ({"id": "tab4", "panel": "right", "row": "MDSS", "x": 500, "column": "IS"}, 24.41, None, 2),
        ({"id": "tab5", "row": "DEFAR", "setting": "interpolant=GVP; solver=SDE"}, 14.91, None, 2),
        ({"id": "tab6", "setting": "normalization=none; direction=Anti-Drift", "column": "FID"}, 317.31, None, 2),
        ({"id": "tab9", "setting": "steps=3; spacing=Equal", "column": "IS"}, 7.3, None, 2),
        ({"id": "tab10", "row": "DEFAR", "iters": 250e3, "x": 30, "column": "FID"}, 30.36, None, 2),
        ({"id": "tab11", "dataset": "cifar10", "column": "Global batch size"}, 128, None, 0),
        ({"id": "mixflow", "dataset": "imagenet512", "backbone": "RAE", "condition": "cfg"}, 1.10, None, 2),
        ({"id": "reflexflow", "dataset": "celeba64"}, 35.65, None, 2),
    ],
)  # fmt: skip
def test_a_sample_of_cells(values, wanted, value, spread, decimals):
    (row,) = selected(values, **wanted).itertuples()
    assert row.value == value and row.decimals == decimals
    assert row.spread == spread if spread else np.isnan(row.spread)


def test_all_printed_differences_are_those_of_the_values(values):
    found = differences(values)
    assert len(found) == sum(n for (_, kind), n in COUNTS.items() if kind == "difference")
    np.testing.assert_allclose(found["recomputed"], found["value"], atol=1e-6)


def test_the_papers_contradictions_are_the_known_ones(values):
    found = contradictions(values)
    assert [f"{row.kind}; {row.what}" for row in found.itertuples()] == CONTRADICTIONS.strip().splitlines()
    assert found["where"].str.contains("Tab").all()


@pytest.mark.parametrize(
    ("wanted", "value", "kind"),
    [
        ({"id": "tab3", "backbone": "SiT-M/2", "iters": 350e3, "column": "FID", "condition": "cfg"}, 7.8, "difference"),
        ({"id": "tab2", "row": "OT-CFM", "column": "FID, first"}, 4.5, "mean"),
        ({"id": "tab4", "panel": "right", "row": "IP", "x": 50, "column": "FID"}, 60.54, "cell"),
        ({"id": "tab10", "row": "DEFAR", "iters": 500e3, "x": 50, "column": "IS"}, 58.49, "cell"),
        ({"id": "tab6", "iters": 120e3, "column": "FID"}, 12.1, "cell"),
        ({"id": "tab7", "setting": "weight=Exposure Bias", "column": "FID"}, 11.3, "cell"),
        ({"id": "tab11", "backbone": "SiT-M/2", "column": "Params"}, 380, "configuration"),
        ({"id": "tab5", "setting": "interpolant=GVP; solver=SDE", "row": "DEFAR"}, 16.5, "claim"),
    ],
)  # fmt: skip
def test_a_wrong_digit_is_found(values, wanted, value, kind):
    (at,) = selected(values.reset_index(names="at"), kind="value", **wanted)["at"]
    changed = values.copy()
    changed.loc[at, "value"] = value
    before, after = (contradictions(table)["kind"].value_counts() for table in (values, changed))
    assert after.get(kind, 0) > before.get(kind, 0)


def test_metrics_rest_on_the_papers_number_of_samples(values):
    metrics = values[values["column"].isin(["FID", "IS"]) & values["id"].str.startswith("tab")]
    assert (metrics["n"] == 50_000).all() and len(metrics) > 300
    assert values.loc[values["column"].isin(["Hour", "Depth", "pfr_bias"]), "n"].isna().all()


def test_figure_values_are_those_of_the_committed_figure():
    committed = pd.read_csv(ROOT / "figures" / "data" / "fig3_paper.csv")
    pd.testing.assert_frame_equal(figure_values(ROOT, "fig3"), committed)


def test_bad_input_is_named(values, tmp_path, refuses):
    refuses(lambda: paper_values(ROOT, "tab12"), "'tab12'", "tab11")
    refuses(lambda: paper_values(tmp_path), "paper_values.csv", "clone")
    refuses(lambda: selected(values, row="DEFUR"), "row", "'DEFUR'", "DEFAR")
    refuses(lambda: selected(values, rows="DEFAR"), "'rows'")
    (tmp_path / "reproduce").mkdir()
    (tmp_path / "reproduce" / "paper_values.csv").write_text("id,value\nfig3,1\n")
    refuses(lambda: paper_values(tmp_path), "columns id, value", ", ".join(COLUMNS))
    refuses(lambda: differences(values[values["row"] != "SiT"]), "lacks its values")
