"""From checkpoints to files of images: a grid, ADM's .npz or a folder.

Chunks are sampled one after another and those of an .npz or a folder are kept as they are finished, so the same command
goes on after an interruption, and its images are those of an uninterrupted run bit for bit. Under torchrun the
processes share the chunks and the first one writes: the same command, the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .core.arrays import read_npy
from .core.checkpoints import load_checkpoint
from .core.devices import keep_heap
from .core.parallel import Processes, joined
from .core.runs import stop_requests
from .core.samplers import Dopri5
from .errors import DefarError, Interrupted
from .files import alone, tidy
from .provenance import environment
from .sample_files import (
    Kept,
    check_command,
    image_grid,
    named_rows,
    npz_record,
    output_place,
    row_names,
    save_labels,
    save_npz,
    save_png,
)
from .sample_plans import Plan, solver_named
from .sample_source import ImageSource

__all__ = ["Plan", "compare_to_file", "finished", "sample_to_file", "settled", "solver_named"]

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


def sample_to_file(checkpoint: Path, out: Path, plan: Plan, device: str = "auto") -> str | None:
    """Sample a checkpoint into a .png (one grid), an .npz (arr_0, arr_1, provenance) or a folder (000000.png ...,
    labels.csv, samples.json); returns one line that says what it cost, None in a process that is not the first. An .npz
    or a folder that this command finished is left as it is.

    Raises DefarError for a place or plan that does not fit, and where an .npz, its unfinished parts or a folder hold
    anything but this command's samples; Interrupted after Ctrl-C or SIGTERM, which wait for the chunk in work.
    """
    out = output_place(out)
    with _together(device) as (processes, where), _alone(out, processes):
        source = ImageSource(load_checkpoint(checkpoint, device=where), plan, where)
        command = source.command
        if processes.told(processes.first and finished(out, command)):
            there = f"{out}: already there, {plan.count} images"
            return f"{there}, {_cost(plan, _tidied(out, command))}" if processes.first else None
        if out.suffix != ".npz":
            _check_picture(source, out)
        if out.suffix == ".png":
            images, costs = _in_memory(source, out.name, processes)
            if processes.first:
                save_png(out, image_grid(images), _provenance(command, costs))
        else:
            costs = (_npz if out.suffix else _folder)(source, out, processes)
    return f"{out}: {plan.count} images, {_cost(plan, max(nfe for nfe, _ in costs))}" if processes.first else None


def finished(out: Path, command: dict[str, Any]) -> bool:
    """Whether `out` holds all samples of `command` (`ImageSource.command`): an .npz by its array `provenance`, a folder
    by its samples.json and images; never a .png, which is drawn anew each time.

    Raises DefarError where it holds another command's samples or anything else.
    """
    out = Path(out)
    if out.suffix == ".npz":
        if not out.exists():
            return False
        check_command(out, npz_record(out)["command"], command)
        return True
    if out.suffix:
        return False
    kept = Kept(out, command)
    return kept.whole and all((out / f"{index:06d}.png").is_file() for index in range(command["count"]))


def settled(out: Path, command: dict[str, Any]) -> bool:
    """Whether `out` is finished; what a kill left beside it is then removed. Raises DefarError as `finished` does."""
    with alone(out):
        if there := finished(out, command):
            _tidied(out, command)
        return there


def compare_to_file(checkpoints: Sequence[Path], out: Path, plan: Plan, device: str = "auto") -> str | None:
    """One .png with a named row for each checkpoint and, down each column, the same noise and label; returns one line,
    None in a process that is not the first.

    Raises DefarError for anything but a .png, fewer than two checkpoints, and other shapes or numbers of classes.
    """
    out = output_place(out)
    if out.suffix != ".png":
        raise DefarError(f"{out}: --compare writes one grid; give a name ending in .png")
    if len(checkpoints) < 2:
        raise DefarError(f"--compare has {len(checkpoints)} checkpoint to show; give two or more")
    with _together(device) as (processes, where):
        sources = [ImageSource(load_checkpoint(path, device=where), plan, where) for path in checkpoints]
        _check_alike(checkpoints, sources)
        _check_picture(sources[0], out)
        names = row_names(checkpoints)
        drawn = [_in_memory(source, name, processes) for name, source in zip(names, sources, strict=True)]
    if not processes.first:
        return None
    rows = [_provenance(source.command, costs) for source, (_, costs) in zip(sources, drawn, strict=True)]
    save_png(out, named_rows(names, [images for images, _ in drawn]), {"rows": dict(zip(names, rows, strict=True))})
    cost = _cost(plan, max(row["nfe"] for row in rows))
    return f"{out}: from top to bottom {', '.join(names)}; {plan.count} images each, {cost}"


def _check_alike(checkpoints: Sequence[Path], sources: Sequence[ImageSource]) -> None:
    first = sources[0]
    for path, source in zip(checkpoints, sources, strict=True):
        if source.loaded.shape != first.loaded.shape:
            raise DefarError(
                f"{path}: images are {source.loaded.shape}, those of {checkpoints[0]} {first.loaded.shape}; compare "
                "checkpoints of one shape"
            )
    kinds = {source.loaded.classes for source in sources} - {None}
    if len(kinds) > 1:
        raise DefarError(f"--compare: the checkpoints have {sorted(kinds)} classes; compare those of one number")


@contextmanager
def _together(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """This process among those that torchrun started, and its device."""
    with joined(device) as (processes, where):
        if where.type == "cpu":
            keep_heap()  # else page faults make a guided chunk a quarter slower
        yield processes, where


def _alone(out: Path, processes: Processes) -> AbstractContextManager:
    """No other command writes to `out` meanwhile. One process waits for it, which may leave nothing to do; of several
    the others would run out of patience, so they refuse."""
    if not processes.first:
        return nullcontext()
    return alone(out, "wait, or give another --out" if processes.size > 1 else "")


def _cost(plan: Plan, nfe: int) -> str:
    most = "at most " if isinstance(plan.solver, Dopri5) else ""
    return f"{plan.solver}, {most}{nfe} evaluations for each image{plan.extras}, seed {plan.seed}"


def _tidied(out: Path, command: dict[str, Any]) -> int:
    """The evaluations that finished samples took; what a kill just before the end left beside them is removed."""
    if out.suffix != ".npz":
        tidy(out)
        return max(nfe for nfe, _ in Kept(out, command).costs.values())
    if _parts(out).is_dir():
        with suppress(DefarError):  # another command's: left alone
            Kept(_parts(out), command).remove()
    tidy(out.parent, out.name)
    return npz_record(out)["nfe"]


def _parts(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _npz(source: ImageSource, out: Path, processes: Processes) -> list[tuple[int, int]]:
    def name(start: int) -> str:
        return f"{start:06d}.npy"

    kept = Kept(_parts(out), source.command) if processes.first else None
    costs = _resumed(source, out, kept, processes, lambda part: [name(part.start)], lambda images: [images])
    if kept is not None:
        channels, height, width = source.loaded.pixel_shape
        parts = (read_npy(kept.folder / name(start)) for start in source.starts)
        labels = None if source.labels is None else source.labels.numpy()
        save_npz(out, parts, (source.plan.count, height, width, channels), labels, _provenance(kept.command, costs))
        kept.remove()
    return costs


def _folder(source: ImageSource, out: Path, processes: Processes) -> list[tuple[int, int]]:
    def names(part: range) -> list[str]:
        return [f"{index:06d}.png" for index in part]

    def pictures(images: np.ndarray) -> list[np.ndarray]:
        return [image_grid(image[None]) for image in images]

    kept = Kept(out, source.command) if processes.first else None
    costs = _resumed(source, out, kept, processes, names, pictures)
    if kept is not None and not kept.whole:
        if source.labels is not None:
            save_labels(out, names(range(source.plan.count)), source.labels.numpy())
        kept.finish(_provenance(kept.command, costs))
    return costs


def _resumed(
    source: ImageSource,
    out: Path,
    kept: Kept | None,
    processes: Processes,
    names: Callable[[range], list[str]],
    files: Callable[[np.ndarray], list],
) -> list[tuple[int, int]]:
    """Sample the chunks that are not yet kept by the first process; returns there the cost of every chunk. A request to
    stop, Ctrl-C or SIGTERM, waits for the chunks in work."""
    there = kept and {start for start in source.starts if kept.has(start, names(source.part(start)))}
    done: set[int] = processes.told(there)
    # closing: the bar ends before what is said next
    with stop_requests() as stop, closing(_chunks(source, out.name, processes, set(done))) as rounds:
        for chunks in rounds:
            for start, images, *cost in chunks:
                kept.add(start, dict(zip(names(source.part(start)), files(images), strict=True)), tuple(cost))
                done.add(start)
            left = processes.told(len(done) < len(source.starts))
            if processes.any(stop.requested) and left:
                count, total = sum(len(source.part(start)) for start in done), source.plan.count
                raise Interrupted(f"{out}: stopped with {count} of {total} images kept; the same command goes on")
    return [] if kept is None else [kept.costs[start] for start in source.starts]


def _in_memory(source: ImageSource, name: str, processes: Processes) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """All images and the costs of their chunks; nothing in a process that is not the first."""
    chunks = [chunk for chunks in _chunks(source, name, processes) for chunk in chunks]
    images = [chunk for _, chunk, _, _ in chunks] or [np.empty(0, np.uint8)]
    return np.concatenate(images), [(nfe, forwards) for _, _, nfe, forwards in chunks]


Chunk = tuple[int, np.ndarray, int, int]  # its first image, images, nfe, forwards


def _chunks(source: ImageSource, name: str, processes: Processes, done: Collection[int] = ()) -> Iterator[list[Chunk]]:
    """The chunks that are not `done`, in order, as many at a time as there are processes: those of one round in the
    first process, none in the others. On a terminal with a bar."""
    from tqdm import tqdm

    count, initial = source.plan.count, sum(len(source.part(start)) for start in done)
    left = [start for start in source.starts if start not in done]
    # disable=None: no bar unless stderr is a terminal
    hidden = None if processes.first else True
    with tqdm(total=count, initial=initial, desc=name, unit=" images", bar_format=BAR, disable=hidden) as bar:
        for place in range(0, len(left), processes.size):
            mine = left[place + processes.rank : place + processes.rank + 1]
            chunks = processes.gather([(start, *source.chunk(start)) for start in mine])
            yield [chunk for part in chunks for chunk in part]
            bar.update(sum(len(source.part(start)) for start in left[place : place + processes.size]))


def _check_picture(source: ImageSource, out: Path) -> None:
    if source.loaded.pixel_shape[0] not in (1, 3):
        raise DefarError(f"{out}: {source.loaded.pixel_shape[0]} channels are no picture; give a name ending in .npz")


def _provenance(command: dict[str, Any], costs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The command, nfe (of Dopri5: the most of any chunk), network calls in all, versions and hardware."""
    nfe, forwards = max(nfe for nfe, _ in costs), sum(forwards for _, forwards in costs)
    return {"command": command, "nfe": nfe, "forwards": forwards, "environment": environment()}
