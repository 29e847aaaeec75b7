"""Step robustness: sample quality over the number of function evaluations, for methods, solvers, paths and guidance.

A cell is one model sampled one way. All cells share one reference and the noise and labels of image i, so cells are
compared image by image: methods at the same NFE (Tabs. 4 right, 5, 10), and one method at several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..errors import DefarError
from .evaluation import BETTER, DIFFERENCES, WORSE, Evaluation, differences
from .protocols import Protocol

NFES = (30, 50, 100, 250, 500)  # the paper's, Tabs. 4 right and 10
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
SETTINGS = ["solver", "interpolant", "guidance", "nfe"]


@dataclass(frozen=True)
class Cell:
    """One entry of a robustness table. guidance: CFG's scale, None for none; nfe counts velocity evaluations."""

    model: str
    checkpoint: str
    solver: str
    interpolant: str
    guidance: float | None
    nfe: int

    @property
    def settings(self) -> dict[str, Any]:
        """All but the model: equal where methods may be compared."""
        return {name: getattr(self, name) for name in SETTINGS}

    def __str__(self) -> str:
        guided = "" if self.guidance is None else f", guidance {self.guidance:g}"
        return f"{self.model}, {self.solver}, {self.nfe} evaluations{guided}"


def quality_table(evaluations: Mapping[Cell, Evaluation]) -> pd.DataFrame:
    """One row for each cell and metric: the cell's settings beside value, interval, n, protocol and reference."""
    if not evaluations:
        raise DefarError("no cells: a robustness table needs at least one model and one NFE")
    parts = [_labelled(evaluation.table.assign(checkpoint=c.checkpoint), c) for c, evaluation in evaluations.items()]
    first = ["model", "checkpoint", *SETTINGS]
    table = pd.concat(parts, ignore_index=True)
    return table[[*first, *(column for column in table if column not in first)]]


def against_baseline(evaluations: Mapping[Cell, Evaluation], baseline: str, protocol: Protocol) -> pd.DataFrame:
    """Every model against `baseline` in cells of equal settings, paired by noise: `evaluation.differences`, and the
    settings. Cells whose baseline is missing are left out."""
    parts = []
    for cell in {tuple(cell.settings.values()): cell for cell in evaluations}.values():
        group = [evaluation for other, evaluation in evaluations.items() if other.settings == cell.settings]
        if len(group) > 1 and any(evaluation.model == baseline for evaluation in group):
            parts.append(_labelled(differences(group, baseline, protocol), cell))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*DIFFERENCES, *SETTINGS])


def over_steps(evaluations: Mapping[Cell, Evaluation], protocol: Protocol) -> pd.DataFrame:
    """Every model against itself at its smallest NFE, paired by noise: does more stepping help or harm it?

    Rows as `evaluation.differences`, with columns nfe and first_nfe."""
    parts = []
    for cell, evaluation in evaluations.items():
        like = {**cell.settings, "nfe": None}
        own = [c for c in evaluations if c.model == cell.model and {**c.settings, "nfe": None} == like]
        first = min(own, key=lambda c: c.nfe)
        if cell != first:
            pair = [_renamed(evaluations[first], "first"), evaluation]
            found = differences(pair, "first", protocol).drop(columns="baseline").assign(first_nfe=first.nfe)
            parts.append(_labelled(found, cell))
    columns = [*(name for name in DIFFERENCES if name != "baseline"), "first_nfe", *SETTINGS]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _labelled(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    guidance = math.nan if cell.guidance is None else cell.guidance
    return table.assign(**{**cell.settings, "guidance": guidance})


def _renamed(evaluation: Evaluation, name: str) -> Evaluation:
    return Evaluation(evaluation.table.assign(model=name), evaluation.influences, evaluation.pairing)


def lowest_everywhere(table: pd.DataFrame, model: str, metric: str) -> tuple[str, str]:
    """The verdict on "`model` is lowest at every NFE", and a sentence with the numbers behind it.

    table: rows of :func:`against_baseline`. "holds" where the model is better than the baseline beyond doubt at every
    NFE, "does not hold" where it is worse beyond doubt at one, else "undecided". Raises DefarError for no such rows.
    """
    rows = table[(table["model"] == model) & (table["metric"] == metric)].sort_values("nfe")
    if rows.empty:
        raise DefarError(f"no rows of {model!r} and {metric!r}: nothing to judge")
    verdict = UNDECIDED
    if (rows["verdict"] == BETTER).all():
        verdict = HOLDS
    elif (rows["verdict"] == WORSE).any():
        verdict = FAILS
    shown = "; ".join(
        f"NFE {row.nfe:g}: {row.percent:+.1f} % [{row.percent_low:+.1f}, {row.percent_high:+.1f}]"
        for row in rows.itertuples()
    )
    baseline, n = rows["baseline"].iloc[0], rows["n"].iloc[0]
    noise = "same noise" if rows["paired"].all() else "not the same noise"
    return verdict, (
        f'"{model} is lowest at every NFE": {verdict} here. {metric} of {model} against {baseline}, {noise}, '
        f"n = {n}: {shown}. Brackets are 95 % bootstrap intervals over images; one training run of each, so they say "
        "nothing of other runs."
    )


def steps_sentence(table: pd.DataFrame, metric: str, model: str | None = None) -> str:
    """What more steps do to each model, or to one, from :func:`over_steps`: the largest NFE against the smallest."""
    rows = table[(table["metric"] == metric) & (True if model is None else table["model"] == model)]
    if rows.empty:
        raise DefarError(f"no rows of {metric!r}{f' and {model!r}' if model else ''}: nothing to tell")
    clauses = []
    for name, own in rows.groupby("model", sort=False):
        row = next(own[own["nfe"] == own["nfe"].max()].itertuples())
        moved = {BETTER: "improves", WORSE: "worsens"}.get(row.verdict, "does not move detectably")
        clauses.append(f"{name} {moved} ({row.percent:+.1f} % [{row.percent_low:+.1f}, {row.percent_high:+.1f}])")
    first, last = rows["first_nfe"].iloc[0], rows["nfe"].max()
    return f"From {first:g} to {last:g} evaluations, in {metric}: {'; '.join(clauses)}."
