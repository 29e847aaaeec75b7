"""Tables with the paper's value, ours and the difference beside each other, never merged: markdown, LaTeX, CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import DefarError
from .files import replaced

# The column of the paper's tables that a measure of ours stands beside, by how its name begins, where it is another.
BESIDE = {"FD-": "FID", "sFD-": "sFID", "IS-": "IS", "precision": "Pre.", "recall": "Rec."}
OURS = ("metric", "value", "low", "high", "n", "protocol")
PAPER = ("column", "value")
TAIL = ["quantity", "unit", "paper", "spread", "decimals", "metric", "ours", "low", "high", "n", "protocol",
        "difference", "remark"]  # fmt: skip
NOT_RUN, NOT_COMPARABLE, NOT_IN_PAPER, NOTHING = "not run", "not comparable", "not in the paper", "–"
_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
          "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
          ">": r"\textgreater{}", "±": r"$\pm$", "–": "--", "×": r"$\times$", "α": r"$\alpha$", "β": r"$\beta$",
          # \\ at the end of a row would take a [ that follows it for its argument
          "[": "{[}"}  # fmt: skip


def comparison(ours: pd.DataFrame, paper: pd.DataFrame, on: Sequence[str]) -> pd.DataFrame:
    """One row for each cell that the paper or we have: the columns `on`, then TAIL.

    ours: `on`, metric, value, low, high (NaN: no interval), n, protocol, and where wanted unit and column (the paper's
    column to stand beside; else by BESIDE, or the metric's own name). paper: rows of the paper's values; its printed
    differences do not count. difference = ours - paper only where metric, unit, data set and n are the same
    (a data set or n that one side does not give is no obstacle); else NaN, and remark says why. Raises DefarError where
    a cell has two values.
    """
    keys = [*on, "quantity"]
    mine, theirs = _ours(ours, on), _paper(paper, on)
    for name, table in (("ours", mine), ("the paper's", theirs)):
        twice = table[table.duplicated(keys)]
        if len(twice):
            cell = ", ".join(f"{k} = {v}" for k, v in twice.iloc[0][keys].items())
            raise DefarError(f"{name} values have two for {cell}; select one, or add to `on` what tells them apart")
    try:
        both = theirs.merge(mine, on=keys, how="outer", suffixes=("_paper", "_ours"))
    except ValueError as error:
        raise DefarError(f"`on` columns of the two tables differ in type: {str(error)[:90]}; give both one") from None
    both = both.sort_values(["order_paper", "order_ours"], kind="stable", na_position="last").reset_index(drop=True)
    run, printed = both["ours"].notna(), both["paper"].notna()
    same = (both["metric"] == both["quantity"]) & (both["unit_paper"] == both["unit_ours"])
    for known in ("dataset", "n"):  # a Fréchet distance depends on the number of samples, too
        one, other = both[f"{known}_paper"], both[f"{known}_ours"]
        same &= one.isna() | other.isna() | (one == other)
    both["difference"] = (both["ours"] - both["paper"]).where(same)
    remarks = [(~run, NOT_RUN), (~printed, NOT_IN_PAPER), (~same, NOT_COMPARABLE)]
    both["remark"] = np.select([where for where, _ in remarks], [words for _, words in remarks], "")
    # A comparable value has the paper's unit; one that is not may have its own, which then goes by its metric's name.
    both["n"] = both["n_ours"]
    both["unit"] = both["unit_paper"].fillna(both["unit_ours"]).fillna("")
    return both[[*on, *TAIL]]


def markdown(table: pd.DataFrame, caption: str = "") -> str:
    """The comparison as a markdown table, the caption above it."""
    headers, rows = grid(table)
    first = len(headers) - _measured(headers)
    lines = [headers, ["---"] * first + ["---:"] * (len(headers) - first), *rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return "\n\n".join(filter(None, (described(table, caption), body))) + "\n"


def latex(table: pd.DataFrame, caption: str = "", label: str = "") -> str:
    """The comparison as a LaTeX table with booktabs' rules."""
    headers, rows = grid(table)
    first = len(headers) - _measured(headers)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(described(table, caption))}}}",
        *([rf"\label{{{label}}}"] if label else []),
        rf"\begin{{tabular}}{{{'l' * first}{'r' * (len(headers) - first)}}}",
        r"\toprule",
        " & ".join(map(escaped, headers)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escaped, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def save(table: pd.DataFrame, stem: Path, caption: str = "") -> tuple[Path, Path, Path]:
    """Write stem.md, stem.tex and stem.csv, all three or none; the CSV has the numbers, one row for each cell."""
    stem = Path(stem)
    paths = tuple(stem.with_name(f"{stem.name}.{kind}") for kind in ("md", "tex", "csv"))
    texts = (markdown(table, caption), latex(table, caption, f"tab:{stem.name}"),
             table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))  # fmt: skip
    with ExitStack() as stack:
        for path, text in zip(paths, texts, strict=True):
            stack.enter_context(replaced(path)).write_text(text, encoding="utf-8")
    return paths


def grid(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headers and rows as text: the key columns, then three columns for each pair of the paper's measure and ours."""
    missing = [column for column in TAIL if column not in table.columns]
    if missing or table.empty:
        raise DefarError(f"not a comparison: {'no rows' if table.empty else f'no column {missing[0]!r}'}; "
                         "make it with comparison()")  # fmt: skip
    on = [column for column in table.columns if column not in TAIL]
    groups = table.groupby("quantity", sort=False)
    pairs = [(q, metric) for q, cells in groups for metric in (list(cells["metric"].dropna().unique()) or [None])]
    headers = list(on)
    for quantity, metric in pairs:
        unit = next((f" ({u})" for u in groups.get_group(quantity)["unit"] if u), "")
        own = f"ours: {metric}{unit if metric == quantity else ''}" if metric else "ours"
        headers += [f"paper: {quantity}{unit}", own, f"difference: {quantity}"]
    rows = []
    found = enumerate(table[[*on, "quantity"]].itertuples(index=False, name=None))
    cells = {(*map(_key, row[:-1]), row[-1]): k for k, row in found}
    for key in dict.fromkeys(key[:-1] for key in cells):
        row = list(key)
        for quantity, metric in pairs:
            k = cells.get((*key, quantity))
            row += [NOTHING] * 3 if k is None else _cell(table.iloc[k], metric)
        rows.append(row)
    return headers, rows


def described(table: pd.DataFrame, caption: str) -> str:
    """The caption with what stands behind our numbers: n and protocol of each measure, and what the brackets are."""
    run = table[table["ours"].notna()]
    parts = []
    for (metric, n, protocol), _ in run.groupby(["metric", "n", "protocol"], sort=False, dropna=False):
        parts.append(f"{metric}: " + (f"n = {n:,.0f}, " if pd.notna(n) else "") + str(protocol))
    text = [caption.strip(), f"Ours: {'; '.join(parts)}." if parts else "Ours: not run."]
    if run["low"].notna().any():
        text.append("Brackets: 95 % intervals.")
    if (table["remark"] == NOT_COMPARABLE).any():
        text.append(
            "Not comparable: another measure, other data or another number of samples than the paper's; "
            "no difference is formed."
        )
    return " ".join(filter(None, text))


def escaped(text: str) -> str:
    """Text as LaTeX prints it; a minus before a digit becomes a true one."""
    replaced_signs = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", replaced_signs)


def _ours(ours: pd.DataFrame, on: Sequence[str]) -> pd.DataFrame:
    table = _checked(ours, (*on, *OURS), "our table", may_be_empty=True)
    # One name for any features: precision and recall are the paper's where their protocol's distance is the FID.
    inception = table["protocol"].isin(table.loc[table["metric"] == "FID", "protocol"])
    table["metric"] = table["metric"].where(
        ~inception, table["metric"].replace({"precision": "Pre.", "recall": "Rec."})
    )
    beside = [next((theirs for start, theirs in BESIDE.items() if metric.startswith(start)), metric)
              for metric in table["metric"]]  # fmt: skip
    if "column" not in table:
        table["column"] = beside
    return pd.DataFrame(
        {**{c: table[c] for c in on}, "quantity": table["column"], "metric": table["metric"],
         "ours": table["value"].astype(float), "low": table["low"].astype(float), "high": table["high"].astype(float),
         "n_ours": table["n"], "protocol": table["protocol"], "unit_ours": table.get("unit", ""),
         "dataset_ours": table.get("dataset", np.nan), "order_ours": range(len(table))}
    )  # fmt: skip


def _paper(paper: pd.DataFrame, on: Sequence[str]) -> pd.DataFrame:
    table = _checked(paper, (*on, *PAPER), "the paper's table")
    if "kind" in table:
        table = table[table["kind"] == "value"]
    unit = table["unit"].fillna("") if "unit" in table else ""
    return pd.DataFrame(
        {**{c: table[c] for c in on}, "quantity": table["column"], "paper": table["value"].astype(float),
         "spread": table.get("spread", np.nan), "decimals": table.get("decimals", np.nan), "unit_paper": unit,
         "dataset_paper": table.get("dataset", np.nan), "n_paper": table.get("n", np.nan),
         "order_paper": range(len(table))}
    )  # fmt: skip


def _checked(table: pd.DataFrame, columns: Sequence[str], name: str, may_be_empty: bool = False) -> pd.DataFrame:
    for column in columns:
        if column not in table.columns:
            raise DefarError(f"{name} has no column {column!r}; it has: {', '.join(map(str, table.columns)) or 'none'}")
    if table.empty and not may_be_empty:
        raise DefarError(f"{name} has no rows; select some")
    return table.copy()


def _measured(headers: Sequence[str]) -> int:
    return 3 * sum(header.startswith("difference: ") for header in headers)


def _key(value) -> str:
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _cell(cell: pd.Series, metric: str | None) -> list[str]:
    """Paper, ours, difference as text, for one metric of ours."""
    places = None if pd.isna(cell["decimals"]) else int(cell["decimals"])
    paper = NOT_IN_PAPER if pd.isna(cell["paper"]) else _number(cell["paper"], places)
    if pd.notna(cell["spread"]):
        paper += f" ± {_number(cell['spread'], places)}"
    if cell["metric"] != metric or pd.isna(cell["ours"]):
        return [paper, NOT_RUN, NOTHING]
    low, high = cell["low"], cell["high"]
    if pd.notna(low) and pd.notna(high) and high > low:
        places = int(np.clip(1 - math.floor(math.log10((high - low) / 2)), 0, 6))  # half its width in two digits
        ours = f"{_number(cell['ours'], places)} [{_number(low, places)}, {_number(high, places)}]"
    else:
        ours = _number(cell["ours"], places)
    if cell["remark"] == NOT_COMPARABLE:
        return [paper, ours, NOT_COMPARABLE]
    return [paper, ours, NOTHING if pd.isna(cell["difference"]) else _number(cell["difference"], places, "+")]


def _number(value: float, places: int | None, sign: str = "") -> str:
    return f"{value:{sign}.4g}" if places is None else f"{value:{sign}.{places}f}"
