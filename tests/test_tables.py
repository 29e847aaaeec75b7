"""Tables put the paper's value, ours and the difference side by side; unlike measures get no difference."""

from __future__ import annotations

import csv
import re

import numpy as np
import pandas as pd
import pytest

from defar_analysis import tables
from defar_analysis.tables import comparison, latex, markdown, save


@pytest.fixture
def paper():
    rows = [("SiT", 250000.0, "FID", 17.41, np.nan, 2, "", "value"),
            ("SiT", 250000.0, "Pre.", 0.580, 0.002, 3, "", "value"),
            ("SiT", 250000.0, "Hour", 12, np.nan, 0, "h", "value"),
            ("DEFAR_x", 120000.0, "FID", 15.93, np.nan, 2, "", "value"),
            ("DEFAR_x", 120000.0, "FID", -1.48, np.nan, 2, "", "difference")]  # fmt: skip
    return pd.DataFrame(rows, columns=["row", "iters", "column", "value", "spread", "decimals", "unit", "kind"])


def ours(*rows):
    table = pd.DataFrame(rows, columns=["row", "iters", "metric", "value", "low", "high", "unit"])
    return table.assign(n=2048, protocol="Lite0 features, 128 px")


OTHER = ("SiT", 250000.0, "FD-EffNet-128", 312.43, 305.12, 319.84, "")
SAME = ("SiT", 250000.0, "FID", 18.00, 17.20, 18.80, "")
ON = ["row", "iters"]


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return split[0], split[2:]


def test_another_measure_gets_no_difference_and_both_keep_their_names(paper):
    table = comparison(ours(OTHER), paper, ON)
    row = table[table["metric"] == "FD-EffNet-128"].iloc[0]
    assert row["paper"] == 17.41 and row["ours"] == 312.43
    assert np.isnan(row["difference"]) and row["remark"] == "not comparable"
    headers, rows = cells(markdown(table))
    at = headers.index("paper: FID")
    assert headers[at + 1 : at + 3] == ["ours: FD-EffNet-128", "difference: FID"]
    assert rows[0][at : at + 3] == ["17.41", "312.4 [305.1, 319.8]", "not comparable"]


def test_the_same_measure_gets_its_difference(paper):
    table = comparison(ours(SAME), paper, ON)
    assert table.loc[0, "difference"] == pytest.approx(0.59) and table.loc[0, "remark"] == ""
    headers, rows = cells(markdown(table))
    at = headers.index("ours: FID")
    assert rows[0][at - 1 : at + 2] == ["17.41", "18.00 [17.20, 18.80]", "+0.59"]


def test_another_data_set_number_of_samples_or_unit_is_another_measure(paper):
    few = comparison(ours(SAME), paper.assign(n=[50000, 50000, np.nan, 50000, 50000]), ON)
    assert few.loc[0, "remark"] == "not comparable" and few["difference"].isna().all()
    many = comparison(ours(SAME).assign(n=50000), paper.assign(n=50000), ON)
    assert many.loc[0, "difference"] == pytest.approx(0.59)
    elsewhere = comparison(ours(SAME).assign(dataset="cifar10"), paper.assign(dataset="imagenet256"), ON)
    assert elsewhere.loc[0, "remark"] == "not comparable" and elsewhere["difference"].isna().all()
    seconds = comparison(ours(("SiT", 250000.0, "Hour", 43200.0, np.nan, np.nan, "s")), paper, ON)
    assert seconds.set_index("quantity").loc["Hour", "remark"] == "not comparable"


def test_precision_is_the_papers_only_with_the_features_of_fid(paper):
    precision = ("SiT", 250000.0, "precision", 0.6, np.nan, np.nan, "")
    alone = comparison(ours(precision, OTHER), paper, ON).set_index("quantity")
    assert alone.loc["Pre.", "remark"] == "not comparable" and alone.loc["Pre.", "metric"] == "precision"
    inception = comparison(ours(precision, SAME), paper, ON).set_index("metric")
    assert inception.loc["Pre.", "difference"] == pytest.approx(0.02)


def test_cells_not_run_say_so_and_the_papers_digits_stay(paper):
    headers, rows = cells(markdown(comparison(ours(SAME), paper, ON)))
    found = {row[0]: dict(zip(headers, row, strict=True)) for row in rows}
    assert found["SiT"]["paper: Pre."] == "0.580 ± 0.002" and found["SiT"]["paper: Hour (h)"] == "12"
    assert found["DEFAR_x"]["paper: FID"] == "15.93" and found["DEFAR_x"]["ours: FID"] == "not run"
    assert found["SiT"]["iters"] == "250000"
    nothing = comparison(ours(), paper, ON)
    assert (nothing["remark"] == "not run").all() and len(nothing) == 4  # the printed difference is no value
    assert "Ours: not run." in markdown(nothing)


def test_what_the_paper_lacks_is_kept(paper):
    extra = ("DEFAR_x", 120000.0, "KD-EffNet-128", 0.0123, np.nan, np.nan, "")
    table = comparison(ours(SAME, extra), paper, ON)
    headers, rows = cells(markdown(table))
    cell = dict(zip(headers, rows[1], strict=True))
    assert cell["paper: KD-EffNet-128"] == "not in the paper" and cell["ours: KD-EffNet-128"] == "0.0123"
    assert table["remark"].tolist().count("not in the paper") == 1


def test_two_measures_beside_one_of_the_papers_have_columns_each(paper):
    headers, rows = cells(
        markdown(comparison(ours(OTHER, ("DEFAR_x", 120000.0, "FID", 16, np.nan, np.nan, "")), paper, ON))
    )
    shown = {(row[0], header): cell for row in rows for header, cell in zip(headers, row, strict=True)}
    assert shown["SiT", "ours: FID"] == "not run" and shown["DEFAR_x", "ours: FD-EffNet-128"] == "not run"
    assert shown["DEFAR_x", "ours: FID"] == "16.00"


def test_caption_has_n_and_protocol(paper):
    text = markdown(comparison(ours(OTHER), paper, ON), "Tab. 5.")
    assert text.startswith("Tab. 5. Ours: FD-EffNet-128: n = 2,048, Lite0 features, 128 px.")
    assert "95 % intervals" in text and "Not comparable" in text
    assert "Not comparable" not in markdown(comparison(ours(SAME), paper, ON))


def test_latex_is_escaped_and_has_as_many_cells_in_each_row(paper):
    text = latex(comparison(ours(OTHER), paper, ON), "50 % of A&B_c", "tab:x")
    assert r"\caption{50 \% of A\&B\_c " in text and r"DEFAR\_x" in text and r"\label{tab:x}" in text
    assert r"0.580 $\pm$ 0.002" in text and "312.4 {[}305.1, 319.8]" in text
    rules = [text.index(rf"\{rule}rule") for rule in ("top", "mid", "bottom")]
    assert rules == sorted(rules)
    columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 3 and all(len(re.split(r"(?<!\\)&", line)) == columns for line in body)
    assert tables.escaped(r"a\b{c}~d^e-f -1.5 #$") == (
        r"a\textbackslash{}b\{c\}\textasciitilde{}d\textasciicircum{}e-f $-$1.5 \#\$")  # fmt: skip


def test_saved_files_are_all_or_none_and_the_csv_has_the_numbers(paper, tmp_path, monkeypatch):
    table = comparison(ours(OTHER), paper, ON)
    paths = save(table, tmp_path / "deep" / "tab5.x", "Tab. 5.")
    assert [p.name for p in paths] == ["tab5.x.md", "tab5.x.tex", "tab5.x.csv"]
    rows = list(csv.DictReader(paths[2].open()))
    assert len(rows) == 4 and rows[0]["ours"] == "312.43" and rows[0]["remark"] == "not comparable"
    before = [p.read_bytes() for p in paths]
    monkeypatch.setattr(tables, "latex", lambda *args: "a surrogate cannot be written: \ud800")
    with pytest.raises(UnicodeEncodeError):
        save(table, tmp_path / "deep" / "tab5.x", "another caption")
    assert [p.read_bytes() for p in paths] == before and len(list((tmp_path / "deep").iterdir())) == 3


def test_bad_tables_are_named(paper, refuses):
    refuses(lambda: comparison(ours(SAME, SAME), paper, ON), "row = SiT", "FID", "`on`")
    refuses(lambda: comparison(ours(SAME), pd.concat([paper, paper]), ON), "the paper's", "row = SiT")
    refuses(lambda: comparison(ours(SAME).drop(columns="low"), paper, ON), "'low'")
    refuses(lambda: comparison(ours(SAME), paper, [*ON, "solver"]), "'solver'")
    refuses(lambda: comparison(ours(SAME).astype({"iters": str}), paper, ON), "type")
    refuses(lambda: markdown(paper), "comparison()")
