"""What a robustness sweep found, in words and as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .artefacts import CSV_FORMAT
from .files import replaced
from .measures.protocols import Protocol
from .measures.robustness import lowest_everywhere, steps_sentence


@dataclass(frozen=True)
class Robustness:
    """What a sweep found. table: every cell; differences: to the baseline; steps: of each model to its smallest NFE."""

    table: pd.DataFrame
    differences: pd.DataFrame
    steps: pd.DataFrame


def in_words(found: Robustness, protocol: Protocol) -> str:
    """The Fréchet distances as a table, and what they say: against the baseline, and of more steps."""
    metric = protocol.metric_names["frechet"]
    rows = found.table[found.table["metric"] == metric]
    shown = [f"{row.value:.4g} [{row.low:.4g}, {row.high:.4g}]" for row in rows.itertuples()]
    several = [name for name in ("solver", "interpolant", "guidance") if rows[name].nunique(dropna=False) > 1]
    rows = rows.assign(shown=shown).fillna({"guidance": 1.0})
    wide = rows.pivot(index=["nfe", *several], columns="model", values="shown").fillna("")
    said = [f"{metric}, n = {protocol.count}, {protocol.name}; brackets: 95 % bootstrap over images", wide.to_string()]
    for settings, group in _by_settings(found.differences, several):
        for model in dict.fromkeys(group["model"]):
            said.append(f"{settings}: {lowest_everywhere(group, model, metric)[1]}")
    for settings, group in _by_settings(found.steps, several):
        said.append(f"{settings}: {steps_sentence(group, metric)}")
    return "\n\n".join(said)


def _by_settings(table: pd.DataFrame, several: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of one solver, path and guidance, and what to call them: the solver, and what else there are several of."""
    for (solver, path, scale), group in table.groupby(["solver", "interpolant", "guidance"], dropna=False):
        words = {"interpolant": f", {path}", "guidance": ", no guidance" if pd.isna(scale) else f", guidance {scale:g}"}
        yield solver + "".join(said for name, said in words.items() if name in several), group


def save(found: Robustness, stem: Path) -> list[Path]:
    """Write stem.csv, stem_differences.csv and stem_steps.csv, each whole or not at all."""
    stem = Path(stem)
    tables = {"": found.table, "_differences": found.differences, "_steps": found.steps}
    paths = []
    for suffix, table in tables.items():
        paths.append(stem.with_name(f"{stem.name}{suffix}.csv"))
        with replaced(paths[-1]) as beside:
            table.to_csv(beside, index=False, float_format=CSV_FORMAT)
    return paths
