"""What stands behind one figure: its tables, arrays and provenance, as files that are whole or not there."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .core.arrays import read_npz
from .errors import DefarError, reason
from .files import replaced
from .inputs import read_bytes, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from .experiment import Experiment

PROFILES = ("tiny", "quick", "full")  # from worst to best
CSV_FORMAT = "%.6g"


@dataclass(frozen=True)
class Artefact:
    """The data behind one figure.

    table: what is drawn; tables: what stands beside it, by name; arrays: small images; provenance: what all of it was
    measured from; folder: where data and pictures belong.
    """

    id: str
    table: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path("figures")

    @property
    def crossings(self) -> pd.DataFrame:
        return self.tables["crossings"]

    def summary(self) -> str:
        """One paragraph: what this is and what it rests on."""
        from .catalog import figure  # which is made of artefacts

        entry, p = figure(self.id), self.provenance
        models = ", ".join(p.get("models", ()))
        return f"{entry.paper}: {entry.title}\n{entry.caption}\nmeasured: {p['note']}\nmodels: {models}"


@dataclass(frozen=True)
class Figure:
    """One entry of the catalog. build measures; plot draws; `tables` names the tables that stand beside the curves.

    shared: the notebook, where several entries have one, which then takes their id as a parameter.
    """

    id: str
    paper: str
    title: str
    caption: str
    build: Callable[[Experiment], Artefact]
    plot: Callable[[Artefact], MatplotlibFigure]
    tables: tuple[str, ...] = ()
    shared: str = ""

    @property
    def notebook(self) -> str:
        return self.shared or f"{self.id}.ipynb"


def read(id: str, folder: Path, names: tuple[str, ...] = ()) -> Artefact:
    """The artefact whose data lies in `folder`/data, with the tables of those names beside its own."""
    stem = Path(folder) / "data" / id
    try:
        provenance = read_json(stem.with_suffix(".json"))
        if not isinstance(provenance, dict):
            raise DefarError(f"{stem.name}.json holds {type(provenance).__name__}, no table of names and values")
        models = provenance.get("models", [])
        if not isinstance(models, dict | list) or not all(isinstance(name, str) for name in models):
            raise DefarError(f"{stem.name}.json: models = {models!r}; names are needed")
        if missing := {"profile", "note"} - provenance.keys():
            raise DefarError(f"{stem.name}.json has no {min(missing)}")
        table = _read_csv(stem.with_suffix(".csv"), keep_default_na=False, na_values=["nan", ""])
        table = table.fillna({c: "" for c in ("dc", "estimator") if c in table})
        tables = {name: _read_csv(Path(f"{stem}_{name}.csv")) for name in names}
        arrays = read_npz(stem.with_suffix(".npz")) if stem.with_suffix(".npz").exists() else {}
    except (OSError, ValueError) as error:
        raise DefarError(f"{stem}.*: {reason(error, 150)}; run: defar reproduce --only {id}") from None
    return Artefact(id, table, tables, arrays, provenance, Path(folder))


def _holds(file: Path, arrays: dict[str, np.ndarray]) -> bool:
    """Whether an .npz has just these arrays: it is not written again then, since another Python packs other bytes."""
    try:
        there = read_npz(file)
    except DefarError:
        return False
    return there.keys() == arrays.keys() and all(_same(there[name], np.asarray(a)) for name, a in arrays.items())


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    return one.dtype == two.dtype and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """A table of ours. pandas is given bytes, not a name: a name it would also fetch from the network, or unpack."""
    return pd.read_csv(io.BytesIO(read_bytes(path)), **options)


def committed(id: str, names: tuple[str, ...], root: Path, takes: str) -> Artefact:
    """What lies in figures/ as it is, for profiles that are too short to measure it anew. Raises DefarError, with how
    long measuring takes, where there is nothing."""
    if not (root / "figures" / "data" / f"{id}.json").is_file():
        again = f"defar reproduce --profile full --only {id}"
        raise DefarError(f"{root / 'figures' / 'data' / id}.json: not there; measure it: {again} ({takes})")
    return read(id, root / "figures", names)


def checked_root(root: str | Path) -> Path:
    """The project's folder, which a notebook may have been given as anything. Raises DefarError where it is none."""
    try:
        if (folder := Path(root)).is_dir():
            return folder
    except (TypeError, OSError):  # no path at all, or too long a name
        pass
    raise DefarError(f"root = {root!r}: no such folder; name a clone of the project")


def checked_profile(profile: str) -> str:
    if profile not in PROFILES:
        raise DefarError(f"unknown profile {profile!r}; choose from {', '.join(PROFILES)}")
    return profile


def figures_folder(root: Path, id: str, profile: str) -> Path:
    """figures/, unless it holds this figure from a better profile: then results/<profile>/figures."""
    note = root / "figures" / "data" / f"{id}.json"
    try:
        existing = read_json(note)["profile"]
    except (OSError, ValueError, KeyError, TypeError):
        existing = None
    if existing in PROFILES and PROFILES.index(existing) > PROFILES.index(profile):
        return root / "results" / profile / "figures"
    return root / "figures"


def data_files(artefact: Artefact) -> list[Path]:
    """The files that hold an artefact's data."""
    stem = artefact.folder / "data" / artefact.id
    csvs = [stem.with_suffix(".csv"), *(Path(f"{stem}_{name}.csv") for name in artefact.tables)]
    return csvs + ([stem.with_suffix(".npz")] if artefact.arrays else [])


def write(artefact: Artefact) -> Artefact:
    """Write the artefact's tables, arrays and provenance to <folder>/data/, each file whole or not at all."""
    stem = artefact.folder / "data" / artefact.id
    stem.parent.mkdir(parents=True, exist_ok=True)
    frames = {stem.with_suffix(".csv"): artefact.table}
    frames |= {Path(f"{stem}_{name}.csv"): table for name, table in artefact.tables.items()}
    for path, frame in frames.items():
        with replaced(path) as beside:
            frame.to_csv(beside, index=False, float_format=CSV_FORMAT)
    if artefact.arrays and not _holds(stem.with_suffix(".npz"), artefact.arrays):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **artefact.arrays)
        with replaced(stem.with_suffix(".npz")) as beside:
            beside.write_bytes(buffer.getvalue())
    with replaced(stem.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(artefact.provenance, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return read(artefact.id, artefact.folder, tuple(artefact.tables))  # what is drawn is what was written
