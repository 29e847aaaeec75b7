"""The records of trainings that one machine made and another draws: what reproduce/gpu/tables.py and drift.py wrote."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..artefacts import Artefact, figures_folder
from ..config import read_toml
from ..errors import DefarError, reason
from ..files import file_sha256
from ..inputs import read_bytes

COLUMNS = ["model", "metric", "percent", "percent_low", "percent_high", "verdict"]  # of what is compared with a SiT
RUNS = ["name", "sha256", "steps"]
TOLD = "record.toml"


@dataclass(frozen=True)
class Record:
    """A folder of reproduce/records: its tables by file name, and what its record.toml says."""

    folder: Path
    tables: Mapping[str, pd.DataFrame]
    told: Mapping[str, Any]

    def artefact(self, root: Path, profile: str, id: str, table: pd.DataFrame, **tables: pd.DataFrame) -> Artefact:
        """What is drawn from the record, with its runs, files and commands as provenance."""
        runs = self.tables["runs.csv"].to_dict("records")
        models = {r["name"]: {"checkpoint": r["name"], "sha256": r["sha256"], "weights": "ema", "steps": r["steps"]}
                  for r in runs}  # fmt: skip
        files = (self.folder / name for name in (*self.tables, TOLD))
        provenance = {
            "profile": profile,
            "note": f"{self.told['note']}; profile {profile}",
            "models": models,
            **{key: self.told[key] for key in ("device", "hardware", "commit")},
            "sources": {path.relative_to(root).as_posix(): file_sha256(path) for path in files},
            "command": f"{self.told['command']}; defar reproduce --profile {profile} --only {id}",
        }
        return Artefact(id, table, tables, {}, provenance, figures_folder(root, id, profile))


def newest(root: Path, kind: str) -> Path:
    """The newest reproduce/records/<date>-<kind> under `root`. Raises DefarError where there is none."""
    found = sorted((root / "reproduce" / "records").glob(f"*-{kind}"))
    if not found:
        raise DefarError(f"{root}: no reproduce/records/*-{kind}; take one from a clone of the project")
    return found[-1]


def read(root: Path, kind: str, needed: Mapping[str, Sequence[str]]) -> Record:
    """The newest record of a kind. needed: columns by file. Raises DefarError for a file or column that is missing."""
    folder = newest(root, kind)
    tables = {name: _read(folder / name, columns) for name, columns in needed.items()}
    told = read_toml(folder / TOLD)
    if missing := {"note", "device", "hardware", "command", "commit"} - told.keys():
        raise DefarError(f"{folder / TOLD} has no {min(missing)}")
    return Record(folder, tables, told)


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(io.BytesIO(read_bytes(path)))
    except (OSError, ValueError) as error:
        raise DefarError(f"{path}: {reason(error, 150)}; take it from a clone of the project") from None
    if missing := [name for name in columns if name not in table]:
        raise DefarError(f"{path} has no column {missing[0]!r}")
    return table
