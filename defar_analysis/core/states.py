"""The saved states of a run: state-<step>.pt, the newest few, and last-good.json, which says which of them count.

A state is written whole, then last-good.json is replaced: it names the kept states, newest first, with their checksums.
Then those that it names no longer are removed. So a kill between any two of these leaves a state that is whole and
vouched for. Nothing that is not finite is ever saved. To go on from an older state remove the newer ones; to keep one
for good copy it to another folder.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import DefarError
from ..files import file_sha256, replaced
from ..inputs import read_json

POINTER = "last-good.json"
OLDER = ("state.pt", "state-previous.pt")  # of runs that older versions began; nothing vouches for them
NEEDED = {"model", "ema", "optimizer", "step", "seconds"}


def save_state(folder: Path, state: dict[str, Any], keep: int = 2) -> Path:
    """Write the state, name it the last good one, and keep the newest `keep`. Returns its file.

    Raises DefarError, and writes nothing, where a tensor in it is not finite.
    """
    step = state["step"]
    for name, tensor in _tensors(state):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DefarError(
                f"step {step}: {name} is not finite; the last good state is kept: try a lower optimizer.lr or float32, "
                "in another --out"
            )
    file = folder / f"state-{step:07d}.pt"
    older = [known for known in _named(folder) if known["step"] < step]
    if file.exists():  # the checksum of the one that is replaced must not meet the new bytes
        _point(folder, older, [])
    with replaced(file) as beside:
        with open(beside, "wb") as opened:  # torch tells no reason when a file that it opens itself cannot be written
            torch.save(state, opened)
        entry = {"file": file.name, "step": step, "sha256": file_sha256(beside)}
    kept = [entry, *older][:keep]
    names = [known["file"] for known in kept]
    dropped = [other.name for other in _numbered(folder) if _step(other) < step]  # what a killed saving left, too
    dropped += [name for name in OLDER if len(kept) == keep and (folder / name).exists()]
    _point(folder, kept, [name for name in dropped if name not in names])
    _drop(folder)
    return file


def saved_states(folder: Path) -> list[Path]:
    """The files of a run's states, newest first; the first one is the last good."""
    return [file for file, _ in _candidates(folder)]


def newest_state(
    folder: Path, device: torch.device, trained_on: str | None, restart: str = "give another --out to start again"
) -> dict[str, Any] | None:
    """The newest state that is whole, or None for a new run; a corrupt one is set aside, and said so.

    trained_on: the hash of the data. restart: what to do where no state is left. Raises DefarError, leaving the files
    alone, when there are states but none can be used, or when they were trained on other data.
    """
    corrupt = []
    for file, sha256 in _candidates(folder):
        try:
            state = _read(file, sha256, device)
        except (OSError, MemoryError, torch.OutOfMemoryError) as error:
            raise DefarError(f"{file}: cannot be read now ({type(error).__name__}: {error}); try again") from None
        except Exception as error:  # torch raises many kinds for a damaged file
            corrupt.append((file, " ".join(str(error).split())[:100]))
            continue
        if state.get("data_sha256", trained_on) != trained_on:
            raise DefarError(f"{folder}: was trained on other images; give another --out")
        for damaged, reason in corrupt:
            aside = damaged.with_name(f"{damaged.stem}-before-{state['step']}.corrupt")
            damaged.replace(aside)
            print(f"{damaged}: corrupt ({reason}); kept as {aside.name}, going on from {file.name}", file=sys.stderr)
        _drop(folder)
        return state
    if corrupt:
        raise DefarError(f"{corrupt[0][0]}: corrupt, and there is no older state; {restart}")
    if (pointer := _pointer(folder)) is not None and pointer[0]:
        raise DefarError(f"{folder / POINTER}: names {pointer[0][0]['file']}, which is gone; put it back, or {restart}")
    return None


def restore(state: dict[str, Any], folder: Path, **parts: Any) -> None:
    """Give network, average and optimizer, by their names in the state, what it holds. Raises DefarError for a state of
    another network."""
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DefarError(f"{folder}: its state is of another network ({reason}); give another --out") from None


def _read(file: Path, sha256: str | None, device: torch.device) -> dict[str, Any]:
    if sha256 is not None and file_sha256(file) != sha256:
        raise ValueError(f"its checksum is not the one in {POINTER}")
    state = torch.load(file, map_location=device, weights_only=True)
    if missing := NEEDED - state.keys():
        raise KeyError(min(missing))
    return state


def _candidates(folder: Path) -> list[tuple[Path, str | None]]:
    """States that are there, newest first, with their checksums."""
    dropped = (_pointer(folder) or ([], []))[1]
    older = [name for name in OLDER if name not in dropped and (folder / name).exists()]
    return [(folder / known["file"], known["sha256"]) for known in _named(folder)] + [(folder / n, None) for n in older]


def _named(folder: Path) -> list[dict[str, Any]]:
    """The kept states that are there, newest first, by the pointer; where it names none of them: all, unvouched."""
    kept, dropped = _pointer(folder) or ([], [])
    return [known for known in kept if (folder / known["file"]).exists()] or [
        {"file": file.name, "step": _step(file), "sha256": None}
        for file in reversed(_numbered(folder))
        if file.name not in dropped
    ]


def _point(folder: Path, kept: list[dict[str, Any]], dropped: list[str]) -> None:
    kept = [known | {"sha256": known["sha256"] or file_sha256(folder / known["file"])} for known in kept]
    with replaced(folder / POINTER) as beside:
        beside.write_text(json.dumps({"kept": kept, "dropped": dropped}, indent=1) + "\n", encoding="utf-8")


def _drop(folder: Path) -> None:
    """Remove what the pointer says is kept no longer; killed before that, a run does it when it goes on."""
    for name in (_pointer(folder) or ([], []))[1]:
        (folder / name).unlink(missing_ok=True)


def _pointer(folder: Path) -> tuple[list[dict[str, Any]], list[str]] | None:
    """The kept states, newest first, and the files that are kept no longer; None where it is absent or damaged."""
    try:
        told = read_json(folder / POINTER)
        kept = [{"file": k["file"], "step": int(k["step"]), "sha256": str(k["sha256"])} for k in told["kept"]]
        dropped = list(told["dropped"])
        ours = all(re.fullmatch(r"state-\w+\.pt|state\.pt", name) for name in [*dropped, *(k["file"] for k in kept)])
        return (kept, dropped) if ours else None  # another file, named by whom else, is not ours to remove
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _numbered(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("state-*.pt") if re.fullmatch(r"state-\d{7,}\.pt", file.name))


def _step(file: Path) -> int:
    return int(file.stem.removeprefix("state-"))


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(part, f"{name}.{key}" if name else str(key))
