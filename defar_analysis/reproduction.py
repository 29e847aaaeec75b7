"""From checkpoints to the gallery: measure, run each figure's notebook through papermill, collect the pictures."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from . import catalog
from .catalog import Artefact, Figure
from .drawing_code import drawing_code
from .errors import DefarError, Interrupted, one_line
from .files import replaced
from .inputs import read_json
from .provenance import files_digest, last_commit

# What a first run takes, set-up aside; full follows from its forwards.
TAKES = {"tiny": "a few minutes", "quick": "about 16 minutes on 2 cores", "full": "some seven hours on 2 cores"}
GROUPS = ("Figures", "Tables", "Beyond the paper")
MOST_ROWS = 100  # of a table in the gallery; a longer one is a link to its CSV


def reproduce(root: Path, profile: str, ids: Sequence[str], device: str = "auto") -> Path:
    """Bring the figures `ids` up to date with checkpoints, data and code; returns the gallery's index.html.

    A figure whose measurements, notebook and plotting code have not changed is left alone, and said so. One that fails
    does not stop the others and keeps the data and pictures it had; at the end a table says what happened to each, and
    DefarError names what failed. The copy of a failed notebook, executed as far as it came, is kept in
    results/<profile>/notebooks.
    """
    from .experiment import Experiment

    root = Path(root).resolve()
    experiment = Experiment(root, catalog.checked_profile(profile), device)
    entries = [catalog.figure(id) for id in dict.fromkeys(ids)]
    if not (root / "notebooks").is_dir():  # once, not once for each figure
        raise DefarError(f"{root / 'notebooks'}: not there; run in a clone of the project or name it with --root")
    _say(f"profile {profile}: {TAKES[profile]}; what is still valid in {root / 'results'} is not repeated")
    folders, rows, failures = set(), [], {}
    for number, entry in enumerate(entries, 1):
        started, place = time.perf_counter(), f"[{number}/{len(entries)}] {entry.id}:"
        _say(f"{place} {entry.title}")
        try:
            with _kept_if_it_fails(entry, [root / "figures", root / "results" / profile / "figures"]):
                happened, folder = _bring_up_to_date(experiment, entry, device)
        except Interrupted:
            raise
        except Exception as error:  # also a slip in one study's code: the others have nothing to do with it
            failures[entry.id] = _reason(error)
            happened, folder = f"failed: {failures[entry.id]}", catalog.figures_folder(root, entry.id, profile)
        seconds = time.perf_counter() - started
        _say(f"{place} {happened}, {seconds:.0f} s")
        rows.append((entry.id, f"{seconds:.1f}", happened))
        folders.add(folder)
    _say(_summary(rows))
    galleries = [write_gallery(folder) for folder in sorted(folders) if any((folder / "data").glob("*.json"))]
    if len(failures) == 1:
        raise DefarError("{} failed: {}".format(*failures.popitem()))
    if failures:
        raise DefarError(f"{len(failures)} of {len(entries)} failed: {', '.join(failures)}; the table above says why")
    return galleries[-1]


def _bring_up_to_date(experiment, entry: Figure, device: str) -> tuple[str, Path]:
    """Measure what is missing and draw what has changed; returns what that was, and the folder it lies in."""
    root, profile, before = experiment.root, experiment.profile, len(experiment.measured)
    artefact = catalog.write(entry.build(experiment))
    new = experiment.measured[before:]
    if new:
        _say(f"  measured {', '.join(new)}")
    if _is_current(root, entry, artefact):
        return ("measured, picture still valid" if new else "still valid"), artefact.folder
    _run_notebook(root, profile, device, entry)
    _stamp(root, entry, artefact)
    return ("measured + drawn" if new else "drawn"), artefact.folder


@contextmanager
def _kept_if_it_fails(entry: Figure, folders: Sequence[Path]) -> Iterator[None]:
    """Put back the entry's data and pictures, which belong together, if the block fails after it has changed some.

    What had been measured anew stays in results/. Where there was nothing before, what came to be is left to look at.
    """

    def files() -> list[Path]:
        names = (f"{entry.id}.*", f"data/{entry.id}.*", f"data/{entry.id}_*")
        return [path for folder in folders for name in names for path in folder.glob(name)]

    before = {path: path.read_bytes() for path in files()}
    try:
        yield
    except BaseException:  # Ctrl-C also
        for path in files() if before else []:
            if path not in before:
                path.unlink()
        for path, content in before.items():
            if not path.is_file() or path.read_bytes() != content:
                with replaced(path) as beside:
                    beside.write_bytes(content)
        raise


def _reason(error: Exception) -> str:
    """One line; where the error was not written for the user, with its type."""
    if isinstance(error, DefarError):
        text = str(error)
    elif isinstance(error, OSError):
        text = one_line(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _summary(rows: Sequence[tuple[str, str, str]]) -> str:
    """A plain table. What happened stands last: it may be long."""
    table = [("artefact", "seconds", "what happened"), *rows]
    name, seconds = (max(len(row[column]) for row in table) for column in (0, 1))
    return "\n".join(f"{row[0]:{name}}  {row[1]:>{seconds}}  {row[2]}" for row in table)


def write_gallery(folder: Path) -> Path:
    """index.html over every figure whose data lies in `folder`. One whose data cannot be read is left out, and said."""
    from .plots import gallery

    folder, entries = Path(folder).absolute(), []
    for entry in catalog.FIGURES.values():
        if not (folder / "data" / f"{entry.id}.json").is_file():
            continue
        try:
            entries.append(_shown(folder, entry, catalog.load(entry.id, folder)))
        except DefarError as error:
            _say(f"gallery: {entry.id} left out: {error}")
    entries.sort(key=lambda shown: GROUPS.index(shown["group"]))
    gallery.write(folder, entries, "Figures and tables")
    return folder / "index.html"


def _shown(folder: Path, entry: Figure, artefact: Artefact) -> dict:
    """What the gallery says of an entry, and links to where it exists."""
    stem, p = folder / "data" / entry.id, artefact.provenance
    files = {kind: folder / f"{entry.id}.{kind}" for kind in ("png", "pdf")}
    files |= {kind: stem.with_suffix(f".{kind}") for kind in ("csv", "md", "tex")}
    files["notebook"] = _executed_copy(folder, entry.id)
    command = f"defar reproduce --profile {p['profile']} --only {entry.id}"
    machine = {key: p[key] for key in ("command", "device") if key in p}
    commit = last_commit(catalog.data_files(artefact))
    if commit is not None:
        machine["commit"] = f"{commit} (the last that changed these data)"
    return {
        "id": entry.id, "title": entry.title, "paper": entry.paper, "caption": entry.caption,
        "group": _group(entry.paper), "numbers": _key_numbers(artefact), "note": p["note"],
        "provenance": {"command": command} | machine | p,
        **{kind: path for kind, path in files.items() if path.is_file()},
    }  # fmt: skip


def _executed_copy(folder: Path, id: str) -> Path:
    """figures/ is committed and links only to what can be committed too; results/ is not."""
    if folder.parent.parent.name == "results":
        return folder.parent / "notebooks" / f"{id}.ipynb"
    return folder.parent / "docs" / f"{id}_executed.ipynb"


def _group(paper: str) -> str:
    """Where in the gallery: by the first word of the place in the paper ("Fig. 3", "as Figs. 4, 6, 7", "Tab. 4")."""
    place = paper.removeprefix("as ")
    return {"Fig": GROUPS[0], "Tab": GROUPS[1]}.get(place[:3], GROUPS[2])


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
    if {"t", "dc", "quantity"} <= set(table):
        return table[(table["dc"] == "without") & (table["quantity"] == "pfr_change_percent")]
    return table if len(table) <= MOST_ROWS else None


def _run_notebook(root: Path, profile: str, device: str, entry: Figure) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    source = root / "notebooks" / entry.notebook
    if not source.is_file():
        raise DefarError(f"{source}: not there; {entry.id} is drawn by it")
    copy = root / "results" / profile / "notebooks" / f"{entry.id}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    parameters = {"profile": profile, "device": device, "root": str(root)}
    if entry.notebook != f"{entry.id}.ipynb":  # it serves several entries
        parameters["id"] = entry.id
    try:
        papermill.execute_notebook(
            source, copy, parameters, kernel_name="python3", cwd=str(root), progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=50"],  # no word on its socket, nor when it is stopped
        )  # fmt: skip
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # nobody waits any more for what the kernel says
        raise
    except PapermillExecutionError as error:
        if error.ename in ("KeyboardInterrupt", "Interrupted"):  # Ctrl-C reached the kernel first
            raise KeyboardInterrupt from None
        why = f"{error.ename}: {error.evalue}"
        raise DefarError(f"{entry.notebook} failed: {why}; open {copy} to see where") from None


def _inputs(root: Path, entry: Figure, artefact: Artefact) -> str:
    """A name for everything a picture depends on: its data, its notebook and the code that draws it."""
    notebook = root / "notebooks" / entry.notebook
    text = notebook.read_text(encoding="utf-8") if notebook.is_file() else ""
    code = sorted(drawing_code(entry.plot, text))
    if any(path.is_file() for path in _texts(artefact)):
        code += [Path(__file__).with_name(name) for name in ("paper_tables.py", "tables.py")]
    return files_digest([*catalog.data_files(artefact), notebook, *code])


def _texts(artefact: Artefact) -> list[Path]:
    """What a notebook may write beside the pictures: a table as markdown and LaTeX."""
    return [artefact.folder / "data" / f"{artefact.id}{suffix}" for suffix in (".md", ".tex")]


def _stamp_file(root: Path, artefact: Artefact) -> Path:
    return root / "results" / artefact.provenance["profile"] / "notebooks" / f"{artefact.id}.json"


def _is_current(root: Path, entry: Figure, artefact: Artefact) -> bool:
    try:
        stamp = read_json(_stamp_file(root, artefact))
    except (OSError, ValueError):
        return False
    return stamp == _state(root, entry, artefact)


def _stamp(root: Path, entry: Figure, artefact: Artefact) -> None:
    with replaced(_stamp_file(root, artefact)) as beside:
        beside.write_text(json.dumps(_state(root, entry, artefact)), encoding="utf-8")


def _state(root: Path, entry: Figure, artefact: Artefact) -> dict[str, str]:
    pictures = [artefact.folder / f"{artefact.id}{suffix}" for suffix in (".png", ".pdf")]
    return {"inputs": _inputs(root, entry, artefact), "pictures": files_digest([*pictures, *_texts(artefact)])}


def _say(text: str) -> None:
    print(text.replace(os.getcwd() + os.sep, ""), file=sys.stderr, flush=True)
