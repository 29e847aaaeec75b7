"""Results on disk: results/<measurement>/<key>.parquet + .json (+ .npz), the key naming everything they depend on."""

from __future__ import annotations

import dataclasses
import json
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core.checkpoints import file_sha256, replaced
from ..provenance import digest, environment
from .base import Arrays, Context, Measurement, measure


@dataclass(frozen=True)
class Store:
    """A folder of measured tables. A result is trusted only while its files match the checksums in its .json."""

    folder: Path

    def measure(self, measurements: Sequence[Measurement], ctx: Context) -> tuple[dict[str, pd.DataFrame], list[str]]:
        """Tables by measurement name, and the names that had to be measured; those share one sweep."""
        tables = {m.name: self.load(m, ctx) for m in measurements}
        missing = [m for m in measurements if tables[m.name] is None]
        if missing:
            for name, table in measure(missing, ctx).items():
                self.save(next(m for m in missing if m.name == name), ctx, table)
                tables[name] = table
        return tables, [m.name for m in missing]

    def load(self, measurement: Measurement, ctx: Context) -> pd.DataFrame | None:
        """The stored table with its attrs, or None where there is none that can be trusted."""
        stem = self._stem(measurement, ctx)
        note = stem.with_suffix(".json")
        if not note.is_file():
            return None
        try:
            record = json.loads(note.read_text(encoding="utf-8"))
            for name, expected in record["files"].items():
                if file_sha256(stem.parent / name) != expected:
                    raise ValueError(f"{name} does not match its checksum")
            table = pd.read_parquet(stem.with_suffix(".parquet"))
            with np.load(stem.with_suffix(".npz"), allow_pickle=False) as arrays:
                table.attrs = {"arrays": Arrays(arrays), "forwards": record["forwards"]}
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            print(f"{note}: cannot be trusted ({' '.join(str(error).split())[:100]}); measuring again", file=sys.stderr)
            return None
        return table

    def save(self, measurement: Measurement, ctx: Context, table: pd.DataFrame) -> None:
        """Write table, arrays and provenance; the .json comes last, so a result without one never counts."""
        stem = self._stem(measurement, ctx)
        stem.parent.mkdir(parents=True, exist_ok=True)
        plain = table.copy()
        arrays, plain.attrs = table.attrs.get("arrays", {}), {}
        with replaced(stem.with_suffix(".parquet")) as beside:
            plain.to_parquet(beside, index=False)
        with replaced(stem.with_suffix(".npz")) as beside, open(beside, "wb") as file:
            np.savez_compressed(file, **arrays)
        files = [stem.with_suffix(suffix) for suffix in (".parquet", ".npz")]
        record = {
            "measurement": measurement.name,
            "version": measurement.version,
            "settings": _settings(measurement),
            "context": ctx.key_parts(),
            "forwards": table.attrs.get("forwards"),
            "environment": environment(ctx.device),
            "files": {file.name: file_sha256(file) for file in files},
        }
        with replaced(stem.with_suffix(".json")) as beside:
            beside.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _stem(self, measurement: Measurement, ctx: Context) -> Path:
        key = digest([measurement.name, measurement.version, _settings(measurement), ctx.key_parts()])
        return self.folder / measurement.name / key


def _settings(measurement: Measurement) -> dict[str, Any]:
    return dataclasses.asdict(measurement)
