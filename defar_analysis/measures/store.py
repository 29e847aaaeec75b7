"""Results on disk: results/<measurement>/<key>.parquet + .json (+ .npz), the key naming everything they depend on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core.arrays import read_npz
from ..core.parallel import ALONE, Processes
from ..errors import DefarError
from ..files import alone, file_sha256, replaced
from ..inputs import read_json
from ..provenance import digest, environment
from .base import Arrays, Context, Measurement, measure


@dataclass(frozen=True)
class Store:
    """A folder of measured tables. A result is trusted only while its files match the checksums in its .json."""

    folder: Path

    def measure(
        self, measurements: Sequence[Measurement], ctx: Context, processes: Processes = ALONE
    ) -> tuple[dict[str, pd.DataFrame], list[str]]:
        """Tables by measurement name, and the names that had to be measured; those share one sweep.

        Several processes share the sweep; the first one reads and writes the store and gets the tables. Raises
        DefarError for a context without identity: two models would share one key.
        """
        if not ctx.identity:
            raise DefarError(
                f"{ctx.name}: a stored result needs Context(identity=...), such as the checkpoint's sha256"
            )
        keys = {m.name: {"version": m.version, "settings": asdict(m), "context": ctx.key_parts()} for m in measurements}
        tables = {name: self._load(name, key) for name, key in keys.items()} if processes.first else {}
        names = processes.told([name for name, table in tables.items() if table is None])
        missing = [m for m in measurements if m.name in names]
        if missing:
            for name, table in measure(missing, ctx, processes).items():
                self._save(name, keys[name], table)
                tables[name] = table
        return tables, [m.name for m in missing]

    def keep(self, name: str, key: dict[str, Any], compute: Callable[[], pd.DataFrame]) -> tuple[pd.DataFrame, bool]:
        """The table stored under `name` and `key`, or computed and stored now; and whether it was computed."""
        table = self._load(name, key)
        if table is not None:
            return table, False
        table = compute()
        self._save(name, key, table)
        return table, True

    def _load(self, name: str, key: dict[str, Any]) -> pd.DataFrame | None:
        """The stored table with its attrs, or None where there is none that can be trusted."""
        stem = self._stem(name, key)
        note = stem.with_suffix(".json")
        if not note.is_file():
            return None
        with alone(stem):  # not while another run replaces one file after another
            try:
                return _read(stem)
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                reason = " ".join(str(error).split())[:100]
        print(f"{note}: cannot be trusted ({reason}); measuring again", file=sys.stderr)
        return None

    def _save(self, name: str, key: dict[str, Any], table: pd.DataFrame) -> None:
        """Write table, arrays and provenance; the .json comes last, so a result without one never counts."""
        stem = self._stem(name, key)
        plain = table.copy()
        arrays, plain.attrs = table.attrs.get("arrays", {}), {}
        with alone(stem):
            with replaced(stem.with_suffix(".parquet")) as beside:
                plain.to_parquet(beside, index=False)
            with replaced(stem.with_suffix(".npz")) as beside, open(beside, "wb") as file:
                np.savez_compressed(file, **arrays)
            files = [stem.with_suffix(suffix) for suffix in (".parquet", ".npz")]
            record = {
                "name": name,
                **key,
                "forwards": table.attrs.get("forwards"),
                "environment": environment(),
                "files": {file.name: file_sha256(file) for file in files},
            }
            with replaced(stem.with_suffix(".json")) as beside:
                beside.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _stem(self, name: str, key: dict[str, Any]) -> Path:
        return self.folder / name / digest([name, key])


def _read(stem: Path) -> pd.DataFrame:
    """A table whose files have the checksums in its note; raises in many ways where they have not."""
    record = read_json(stem.with_suffix(".json"))
    for file, expected in record["files"].items():
        if file_sha256(stem.parent / file) != expected:
            raise ValueError(f"{file} does not match its checksum")
    table = pd.read_parquet(stem.with_suffix(".parquet"))
    table.attrs = {"arrays": Arrays(read_npz(stem.with_suffix(".npz"))), "forwards": record["forwards"]}
    return table
