"""From checkpoints to the gallery: measure, run each figure's notebook through papermill, collect the pictures."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import pandas as pd

from . import catalog
from .catalog import Artefact
from .errors import DefarError
from .files import replaced
from .provenance import files_digest

# What a first run takes, set-up aside; quick was timed at 1 to 5 min, full follows from its forwards.
TAKES = {"tiny": "half a minute", "quick": "1 to 5 minutes on 2 cores", "full": "about three hours on 2 cores"}


def reproduce(root: Path, profile: str, ids: list[str], device: str = "auto") -> Path:
    """Bring the figures `ids` up to date with checkpoints, data and code; returns the gallery's index.html.

    A figure whose measurements, notebook and plotting code have not changed is left alone, and said so. Raises
    DefarError when a notebook fails; its copy, executed as far as it came, is kept in results/<profile>/notebooks.
    """
    from .experiment import Experiment

    root = Path(root).resolve()
    experiment = Experiment(root, catalog.checked_profile(profile), device)
    entries = [catalog.figure(id) for id in ids]
    _say(f"profile {profile}: {TAKES[profile]}; what is still valid in {root / 'results'} is not repeated")
    folders = set()
    for entry in entries:
        started = time.perf_counter()
        before = len(experiment.measured)
        artefact = catalog.write(entry.build(experiment))
        new = experiment.measured[before:]
        _say(f"{entry.id}: {'measured ' + ', '.join(new) if new else 'measurements still valid, none repeated'}")
        if _is_current(root, artefact):
            _say(f"{entry.id}: picture still valid, not redrawn")
        else:
            _run_notebook(root, profile, device, entry.notebook)
            _stamp(root, artefact)
            _say(f"{entry.id}: drawn to {artefact.folder / entry.id}.png in {time.perf_counter() - started:.0f} s")
        folders.add(artefact.folder)
    return [write_gallery(folder) for folder in sorted(folders)][-1]


def write_gallery(folder: Path) -> Path:
    """index.html over every figure whose data and picture lie in `folder`."""
    from .plots import gallery

    entries = []
    for entry in catalog.FIGURES.values():
        if not (folder / "data" / f"{entry.id}.json").is_file() or not (folder / f"{entry.id}.png").is_file():
            continue
        artefact = catalog.load(entry.id, folder)
        entries.append(
            {
                "id": entry.id, "title": entry.title, "paper": entry.paper, "caption": entry.caption,
                "png": f"{entry.id}.png", "pdf": f"{entry.id}.pdf", "csv": f"data/{entry.id}.csv",
                "numbers": _key_numbers(artefact), "provenance": artefact.provenance,
                "note": artefact.provenance["note"],
            }
        )  # fmt: skip
    gallery.write(folder, entries)
    return folder / "index.html"


def _key_numbers(artefact: Artefact) -> pd.DataFrame | None:
    """The table worth reading beside a figure."""
    if "crossings" in artefact.tables:
        return artefact.crossings
    for name in ("verdicts", "changes"):
        if name in artefact.tables:
            return artefact.tables[name]
    if artefact.id == "samples":
        return None
    table = artefact.table
    return (
        table if "t" not in table else table[(table["dc"] == "without") & (table["quantity"] == "pfr_change_percent")]
    )


def _run_notebook(root: Path, profile: str, device: str, name: str) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    copy = root / "results" / profile / "notebooks" / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            root / "notebooks" / name, copy, {"profile": profile, "device": device, "root": str(root)},
            kernel_name="python3", cwd=str(root), progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=40"],  # no warning about its local socket
        )  # fmt: skip
    except PapermillExecutionError as error:
        raise DefarError(f"{name} failed: {error.ename}: {error.evalue}; open {copy} to see where") from None


def _inputs(root: Path, artefact: Artefact) -> str:
    """A name for everything a picture depends on: its data, its notebook and the plotting code."""
    code = sorted((Path(__file__).parent / "plots").glob("*.py"))
    return files_digest([*catalog.data_files(artefact), root / "notebooks" / f"{artefact.id}.ipynb", *code])


def _stamp_file(root: Path, artefact: Artefact) -> Path:
    return root / "results" / artefact.provenance["profile"] / "notebooks" / f"{artefact.id}.json"


def _is_current(root: Path, artefact: Artefact) -> bool:
    pictures = [artefact.folder / f"{artefact.id}{suffix}" for suffix in (".png", ".pdf")]
    try:
        stamp = json.loads(_stamp_file(root, artefact).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp == {"inputs": _inputs(root, artefact), "pictures": files_digest(pictures)}


def _stamp(root: Path, artefact: Artefact) -> None:
    pictures = [artefact.folder / f"{artefact.id}{suffix}" for suffix in (".png", ".pdf")]
    stamp = {"inputs": _inputs(root, artefact), "pictures": files_digest(pictures)}
    with replaced(_stamp_file(root, artefact)) as beside:
        beside.write_text(json.dumps(stamp), encoding="utf-8")


def _say(text: str) -> None:
    print(text.replace(os.getcwd() + os.sep, ""), file=sys.stderr, flush=True)
