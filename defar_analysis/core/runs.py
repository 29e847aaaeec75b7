"""Around a training: its folder and log, requests to stop, and the progress bar."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config import dump_toml
from ..errors import DefarError
from ..files import replaced
from .checkpoints import load_checkpoint
from .recipes import Recipe, load_recipe
from .states import saved_states

LOG, RECIPE, CHECKPOINT = "log.jsonl", "recipe.toml", "checkpoint"
MANNER = {"accumulate", "recompute_blocks", "keep_states"}


def claim(folder: Path, recipe: Any, load: Callable[[Path], Any] = load_recipe) -> None:
    """Make the folder this recipe's, or refuse if it is another's. A key the older file lacks counts as its default.
    load: how such a recipe is read.

    What only says how the work is done (MANNER) may differ: the run goes on in the new manner.
    """
    file = folder / RECIPE
    if file.exists():
        theirs = load(file)
        keys = [f.name for f in dataclasses.fields(recipe) if f.name not in MANNER]
        changed = [key for key in keys if getattr(theirs, key) != getattr(recipe, key)]
        begun = saved_states(folder) or any((folder / name).exists() for name in (LOG, CHECKPOINT))
        if changed and begun:
            raise DefarError(f"{folder}: holds a run with other {', '.join(changed)}; give another --out or remove it")
        if not changed:
            return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(file) as beside:
            beside.write_text(dump_toml(dataclasses.asdict(recipe)), encoding="utf-8")
    except OSError as error:
        raise DefarError(f"{folder}: cannot be written: {error.strerror}; give another --out") from None


def holds_checkpoint(folder: Path) -> bool:
    """Whether the run's checkpoint is there and whole."""
    try:
        return bool(load_checkpoint(folder / CHECKPOINT))
    except DefarError:
        return False


def append_log(file: Path, record: dict) -> None:
    """One more line of JSON. Raises OSError, naming the file; what it wrote of the line is dropped by cut_log."""
    try:
        with open(file, "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def cut_log(file: Path, step: int) -> None:
    """Drop what an interrupted run logged after its last saved state."""
    if file.exists():
        kept = []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, LookupError, TypeError, RecursionError):  # cut short by a kill, or no record of ours
                continue
        with replaced(file) as beside:
            beside.write_text("".join(kept), encoding="utf-8")


class _Stop:
    requested = False


@contextmanager
def stop_requests():
    """Turn Ctrl-C and SIGTERM into a request to stop after the running step; a second one stops at once."""
    stop = _Stop()

    def ask(signum, frame):
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever runs us handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class _NoBar:
    def update(self) -> None: ...

    def set_postfix(self, **values) -> None: ...


@contextmanager
def progress(recipe: Recipe, done: int, shown: bool = True):
    """A progress bar on a terminal, nothing elsewhere."""
    if not shown:
        yield _NoBar()
        return
    try:
        from tqdm import tqdm
    except ImportError:  # the core does without
        yield _NoBar()
        return
    # disable=None: no bar unless stderr is a terminal
    with tqdm(total=recipe.steps, initial=done, desc=recipe.name, unit="step", disable=None) as bar:
        yield bar
