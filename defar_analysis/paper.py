"""The papers' own numbers, as printed: DEFAR's Tabs. 1-11 and Fig. 3, ReflexFlow's and MixFlow's."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import DefarError, reason
from .inputs import read_bytes

# row: the method. setting: what else tells rows apart ("key=value; ..."). x: NFE, steps or t, as x_name says.
# condition: "cfg", "no cfg" or "". kind: "value", "difference" (printed as one, to the row that `against` names), or
# "read off" a figure. spread: what stands behind a plus-minus. source: where it is printed, and the line in our text.
# Our text lost the names of Tab. 8's three coefficients (the first is beta1) and of the two FIDs of Tab. 2's OT rows.
COLUMNS = ["id", "panel", "dataset", "row", "backbone", "iters", "setting", "column", "x_name", "x", "condition",
           "kind", "against", "value", "spread", "unit", "source"]  # fmt: skip
CELL = COLUMNS[: COLUMNS.index("against") + 1]  # names one number
QUALITY = ("FID", "sFID", "IS", "Pre.", "Rec.", "Avg. FID", "FID, first", "FID, second")
SAMPLES = 50_000  # Sec. 5.1, behind every quality metric


def paper_values(root: Path, id: str | None = None) -> pd.DataFrame:
    """reproduce/paper_values.csv under `root`, or its rows of one id ("fig3", "tab1" ... "tab11", "mixflow", ...).

    Columns: COLUMNS; decimals, the digits printed after the point; n, the samples behind a metric of Tabs. 1-10.
    """
    path = Path(root) / "reproduce" / "paper_values.csv"
    try:
        table = pd.read_csv(io.BytesIO(read_bytes(path)), dtype={"value": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DefarError(f"{path}: {' '.join(str(error).split())[:120]}; take it from a clone of the project") from None
    if list(table.columns) != COLUMNS:
        raise DefarError(f"{path}: columns {', '.join(table.columns)}; expected {', '.join(COLUMNS)}")
    try:
        decimals = table["value"].str.partition(".")[2].str.len()
        numbers = {name: pd.to_numeric(table[name].replace("", np.nan)) for name in ("iters", "x", "value", "spread")}
        sampled = table["column"].isin(QUALITY) & table["id"].astype(str).str.startswith("tab")
    except (ValueError, TypeError, AttributeError) as error:  # words where numbers belong, or the other way round
        raise DefarError(f"{path}: {reason(error)}; take it from a clone of the project") from None
    table = table.assign(**numbers, decimals=decimals, n=np.where(sampled, SAMPLES, np.nan))
    if id is None:
        return table
    if id not in set(table["id"]):
        raise DefarError(f"the papers' values have no {id!r}; they have {', '.join(dict.fromkeys(table['id']))}")
    return table[table["id"] == id].reset_index(drop=True)


def figure_values(root: Path, id: str) -> pd.DataFrame:
    """Values read off a figure over t: columns figure, panel, quantity, t, value, source."""
    rows = paper_values(root, id).rename(columns={"id": "figure", "column": "quantity", "x": "t"})
    return rows[["figure", "panel", "quantity", "t", "value", "source"]]


def selected(values: pd.DataFrame, **wanted: Sequence | str | float) -> pd.DataFrame:
    """Rows where each named column holds the wanted value, or one of several. Raises DefarError if none is left."""
    for column, value in wanted.items():
        if column not in values:
            raise DefarError(f"the papers' values have no column {column!r}; they have {', '.join(values.columns)}")
        kept = values[values[column].isin([value] if np.isscalar(value) else list(value))]
        if kept.empty:
            held = ", ".join(map(str, dict.fromkeys(values[column])))
            raise DefarError(f"the papers' values have no {column} = {value!r}; it holds {held}")
        values = kept
    return values.reset_index(drop=True)
