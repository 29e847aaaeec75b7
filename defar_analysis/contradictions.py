"""Where the DEFAR paper's numbers contradict each other or its sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .errors import DefarError
from .paper import QUALITY

Row = tuple[str, str, str]  # kind, where, what
# Settings that the paper's other tables do not name, because they are its own choice.
_OWN_CHOICE = {"normalization=Unit Length; direction=Anti-Drift", "weight=Exposure Bias", "coefficients=10/1.0/1.0",
               "steps=1; spacing=Random", "interpolant=Linear", "interpolant=Linear; solver=ODE"}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A sentence, shortened: `row` has a lower FID than each of `others`, in every cell of the tables `ids`."""

    where: str
    words: str
    row: str
    others: tuple[str, ...]
    ids: tuple[str, ...]
    longest: bool = False  # of several trainings of `row`, only the longest


_BASELINES = ("IP", "SDSS", "MDSS")
CLAIMS = (
    Claim("Sec. 5.2 (ii)", "ADR outperforms MDSS and SDSS", "DEFAR w/o FC", ("SDSS", "MDSS"), ("tab1", "tab2")),
    Claim("Sec. 5.2 (iii)", "ADR independently yields gains", "DEFAR w/o FC", ("SiT",), ("tab1", "tab2")),
    Claim("Sec. 5.2 (iii)", "FC independently yields gains", "DEFAR w/o ADR", ("SiT",), ("tab1", "tab2")),
    Claim("Sec. 5.2 (iii)", "their integration achieves better results", "DEFAR", ("DEFAR w/o FC", "DEFAR w/o ADR"),
          ("tab1", "tab2"), longest=True),
    Claim("Sec. 5.2 (iv)", "consistent empirical gains over these approaches", "DEFAR", _BASELINES, ("tab1", "tab2")),
    Claim("Sec. 6", "consistently outperforms the SiT models", "DEFAR", ("SiT",), ("tab3",)),
    Claim("Sec. 6", "gains under both ODE and SDE", "DEFAR", ("SiT",), ("tab5",)),
    Claim("Sec. 6", "lowest FID across nearly all settings", "DEFAR", ("SiT", *_BASELINES), ("tab4",)),
    Claim("App. 0.B.5", "consistently achieves the lowest FID scores", "DEFAR", ("SiT", *_BASELINES), ("tab10",)),
)  # fmt: skip


def differences(values: pd.DataFrame) -> pd.DataFrame:
    """Each printed difference beside `recomputed`, that of the values it belongs to. Raises where one of them lacks."""
    printed, cells = (values[values["kind"] == kind] for kind in ("difference", "value"))
    same = ["id", "panel", "dataset", "backbone", "column", "x", "condition"]
    own = [*same, "row", "iters", "setting"]
    found = printed.merge(cells[[*own, "value"]], on=own, how="left", suffixes=("", "_own"))
    base = cells[[*same, "row", "value"]].rename(columns={"row": "against", "value": "value_base"})
    found = found.merge(base, on=[*same, "against"], how="left")
    if len(found) != len(printed) or found[["value_own", "value_base"]].isna().any(axis=None):
        raise DefarError("a printed difference lacks its values or has several; mend reproduce/paper_values.csv")
    return found.assign(recomputed=found["value_own"] - found["value_base"])


def contradictions(values: pd.DataFrame) -> pd.DataFrame:
    """Where the DEFAR paper contradicts itself: columns kind, where, what.

    kind "difference": a printed difference is not that of its values; "mean": an Avg. FID is not the mean of its two;
    "cell": two tables print different values for one cell; "budget": they print one result for two budgets;
    "configuration": Tab. 11 differs from the tables; "claim": a sentence of CLAIMS does not hold for its values.
    """
    cells = values[(values["kind"] == "value") & values["id"].str.startswith("tab")]
    rows = [*_wrong_differences(values), *_wrong_means(cells), *_wrong_cells(cells), *_wrong_configurations(cells)]
    rows += [row for claim in CLAIMS for row in refuted(claim, cells)]
    return pd.DataFrame(rows, columns=["kind", "where", "what"])


def _wrong_differences(values: pd.DataFrame) -> Iterator[Row]:
    for d in differences(values).itertuples():
        if abs(d.recomputed - d.value) > 1e-6:
            what = f"{d.row} {d.column} {d.condition}: {d.value:+g} printed, {d.recomputed:+.4g} of the values"
            yield "difference", d.source, what


def _wrong_means(cells: pd.DataFrame) -> Iterator[Row]:
    wide = cells.pivot_table(index=["row", "source"], columns="column", values="value")
    for (row, source), w in wide.dropna(subset="Avg. FID").iterrows() if "Avg. FID" in wide else ():
        mean = (w["FID, first"] + w["FID, second"]) / 2
        if abs(mean - w["Avg. FID"]) > 0.00051:  # half a unit of the last digit
            yield "mean", source, f"{row} Avg. FID: {w['Avg. FID']:g} printed, {mean:.4f} of its two"


def _wrong_cells(cells: pd.DataFrame) -> Iterator[Row]:
    """Results that two tables share: one cell with two values, or one result at two budgets."""
    runs = cells.assign(setting=cells["setting"].where(~cells["setting"].isin(_OWN_CHOICE), ""))
    runs = runs[(runs["id"] != "tab11") & runs["column"].isin((*QUALITY, "Hour"))]
    what = ["dataset", "row", "backbone", "setting", "column", "x", "condition"]
    two = runs.merge(runs, on=what, suffixes=("", "_2"))
    two = two[two["id"].str[3:].astype(int) < two["id_2"].str[3:].astype(int)]
    for c in two[(two["iters"] == two["iters_2"]) & (two["value"] != two["value_2"])].itertuples():
        yield "cell", f"{c.source}; {c.source_2}", f"{c.row} {c.column} {c.condition}: {c.value:g} and {c.value_2:g}"
    # A table that prints no budget must at least show one of the values that the other prints.
    silent = runs[runs["iters"].isna()].merge(runs[runs["iters"].notna()], on=what, suffixes=("", "_2"))
    silent = silent[silent["id"] != silent["id_2"]].assign(agrees=lambda c: c["value"] == c["value_2"])
    found = silent.groupby([*what, "source", "value", "id_2"], dropna=False, as_index=False)["agrees"].any()
    for c in found[~found["agrees"]].itertuples():
        other = f"Tab. {c.id_2.removeprefix('tab')}"
        yield "cell", f"{c.source}; {other}", f"{c.row} {c.column} {c.condition}: {c.value:g} is not in {other}"
    known = two[two["iters"].notna() & two["iters_2"].notna() & (two["iters"] != two["iters_2"])]
    known = known[known["column"] != "Hour"]
    keys = ["source", "source_2", "row", "iters", "iters_2", "dataset"]
    for (one, other, row, iters, iters_2, _), group in known.groupby(keys):
        if len(group) > 1 and (group["value"] == group["value_2"]).all():
            result = ", ".join(f"{c.column} {c.value:g}" for c in group.itertuples())
            yield "budget", f"{one}; {other}", f"{row} {result}: {iters / 1000:g}k and {iters_2 / 1000:g}k iterations"


def _wrong_configurations(cells: pd.DataFrame) -> Iterator[Row]:
    trained = cells[cells["id"].isin(["tab1", "tab2", "tab3"])]
    for c in cells[(cells["id"] == "tab11") & cells["column"].isin(["Training iterations", "Params"])].itertuples():
        like = trained[(trained["backbone"] == c.backbone) & (trained["dataset"] == c.dataset)]
        if c.column == "Params":
            others = like.loc[like["column"] == "Params", "value"]
        else:
            others = like["iters"].iloc[:0] if like.empty else pd.Series([like["iters"].max()])
        for other in set(others) - {c.value}:
            source = like["source"].iloc[0].partition(",")[0]
            yield "configuration", f"{c.source}; {source}", f"{c.backbone} {c.column}: {c.value:g} and {other:g}"


def refuted(claim: Claim, cells: pd.DataFrame) -> Iterator[Row]:
    fid = cells[cells["id"].isin(claim.ids) & (cells["column"] == "FID")]
    same = ["id", "panel", "dataset", "backbone", "setting", "x", "condition"]
    own = fid[fid["row"] == claim.row]
    if claim.longest:
        own = own[own["iters"] == own.groupby(same, dropna=False)["iters"].transform("max")]
    two = own.merge(fid[fid["row"].isin(claim.others)], on=same, suffixes=("", "_2"))
    if two.empty:
        raise DefarError(f"{claim.where}, {claim.words!r}: no cells to check it on; give all values")
    for c in two[two["value"] >= two["value_2"]].itertuples():
        where = " ".join(filter(None, (c.dataset, c.condition, f"NFE {c.x:g}" if c.x != 50 else "")))
        what = f"{c.value:.2f} ({_named(c.row, c.iters)}) and {c.value_2:.2f} ({c.row_2})"
        yield "claim", f"{claim.where}; {c.source}", f"{claim.words}: {where}, FID {what}"


def _named(row: str, iters: float) -> str:
    return row if np.isnan(iters) else f"{row}, {iters / 1000:g}k"
