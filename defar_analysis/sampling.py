"""From checkpoints to files of images: a grid, ADM's .npz or a folder.

Chunks are sampled one after another and those of an .npz or a folder are kept as they are finished, so the same command
goes on after an interruption, and its images are those of an uninterrupted run bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .core.checkpoints import Checkpoint, load_checkpoint
from .core.devices import keep_heap, resolve_device
from .core.runs import stop_requests
from .core.samplers import Dopri5, sample
from .core.seeding import balanced_labels, image_noise, random_labels, sde_generators
from .errors import DefarError, Interrupted
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
    sweep,
)
from .sample_plans import Plan, Sampler, sampler_for, solver_named

__all__ = ["ImageSource", "Plan", "compare_to_file", "finished", "sample_to_file", "solver_named"]

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


@dataclass(frozen=True)
class ImageSource:
    """A checkpoint under a plan: chunk(start) are the images from `start` on, uint8 (n, H, W, C), and their cost."""

    loaded: Checkpoint
    plan: Plan
    device: torch.device

    @cached_property
    def sampler(self) -> Sampler:
        return sampler_for(self.plan, self.loaded, self.device)

    @cached_property
    def labels(self) -> torch.Tensor | None:
        plan, classes, indices = self.plan.labels, self.loaded.classes, range(self.plan.count)
        choices = "balanced, random" if classes is None else f"balanced, random or a class from 0 to {classes - 1}"
        if isinstance(plan, str) and plan not in ("balanced", "random"):
            raise DefarError(f"labels = {plan!r}; choose from {choices}")
        if isinstance(plan, int) and classes is None:
            raise DefarError(
                f"labels = {plan}: {self.loaded.card.name} was trained without classes; leave --labels out"
            )
        if classes is None:
            return None
        if isinstance(plan, int):
            if not 0 <= plan < classes:
                raise DefarError(f"labels = {plan}; choose from {choices}")
            return torch.full((self.plan.count,), plan)
        return (
            balanced_labels(indices, classes) if plan == "balanced" else random_labels(self.plan.seed, indices, classes)
        )

    @property
    def command(self) -> dict[str, Any]:
        """All that the images depend on, as plain values."""
        plan, card, settings = self.plan, self.loaded.card, dict(self.sampler.settings)
        return {
            "checkpoint": card.name, "sha256": card.sha256, "interpolant": repr(self.loaded.interpolant),
            "codec": card.codec, "solver": repr(plan.solver), "guidance": settings.pop("guidance"), "seed": plan.seed,
            "labels": None if self.labels is None else plan.labels, "count": plan.count, "chunk": plan.chunk,
            "device": self.device.type,
        } | settings  # fmt: skip

    @property
    def starts(self) -> range:
        return range(0, self.plan.count, self.plan.chunk)

    def part(self, start: int) -> range:
        return range(start, min(start + self.plan.chunk, self.plan.count))

    def chunk(self, start: int) -> tuple[np.ndarray, int, int]:
        part, plan = self.part(start), self.plan
        labels = None if self.labels is None else self.labels[start : part.stop].to(self.device)
        generators = sde_generators(plan.seed, part) if plan.solver.draws_noise else None
        try:
            drawn = sample(
                self.sampler.field, image_noise(plan.seed, part, self.loaded.shape).to(self.device), plan.solver,
                interpolant=self.loaded.interpolant, labels=labels, generators=generators, chunk=plan.chunk,
                correction=self.sampler.correction,
            )  # fmt: skip
        except DefarError as error:
            raise DefarError(f"in the chunk from image {start}: {error}" if start else str(error)) from None
        return self.loaded.codec.decode(drawn.x).permute(0, 2, 3, 1).cpu().numpy(), drawn.nfe, drawn.forwards


def sample_to_file(checkpoint: Path, out: Path, plan: Plan, device: str = "auto") -> str:
    """Sample a checkpoint into a .png (one grid), an .npz (arr_0, arr_1, provenance) or a folder (000000.png ...,
    labels.csv, samples.json); returns one line that says what it cost. An .npz or a folder that this command finished
    is left as it is.

    Raises DefarError for a place or plan that does not fit, and where an .npz, its unfinished parts or a folder hold
    anything but this command's samples; Interrupted after Ctrl-C or SIGTERM, which wait for the chunk in work.
    """
    out = output_place(out)
    where = _device(device)
    source = ImageSource(load_checkpoint(checkpoint, device=where), plan, where)
    command = source.command
    if finished(out, command):
        return f"{out}: already there, {plan.count} images, {_cost(plan, _tidied(out, command))}"
    if out.suffix == ".npz":
        costs = _npz(source, out, Kept(_parts(out), command))
    elif out.suffix:
        _check_picture(source, out)
        images, costs = _in_memory(source, out.name)
        save_png(out, image_grid(images), _provenance(command, costs))
    else:
        _check_picture(source, out)
        costs = _folder(source, out, Kept(out, command))
    return f"{out}: {plan.count} images, {_cost(plan, max(nfe for nfe, _ in costs))}"


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


def compare_to_file(checkpoints: Sequence[Path], out: Path, plan: Plan, device: str = "auto") -> str:
    """One .png with a named row for each checkpoint and, down each column, the same noise and label; returns one line.

    Raises DefarError for anything but a .png, fewer than two checkpoints, and other shapes or numbers of classes.
    """
    out = output_place(out)
    if out.suffix != ".png":
        raise DefarError(f"{out}: --compare writes one grid; give a name ending in .png")
    if len(checkpoints) < 2:
        raise DefarError(f"--compare has {len(checkpoints)} checkpoint to show; give two or more")
    where = _device(device)
    sources = [ImageSource(load_checkpoint(path, device=where), plan, where) for path in checkpoints]
    commands, first = [source.command for source in sources], sources[0]
    for path, source in zip(checkpoints, sources, strict=True):
        if source.loaded.shape != first.loaded.shape:
            raise DefarError(
                f"{path}: images are {source.loaded.shape}, those of {checkpoints[0]} {first.loaded.shape}; compare "
                "checkpoints of one shape"
            )
    kinds = {source.loaded.classes for source in sources} - {None}
    if len(kinds) > 1:
        raise DefarError(f"--compare: the checkpoints have {sorted(kinds)} classes; compare those of one number")
    _check_picture(first, out)
    names = row_names(checkpoints)
    drawn = [_in_memory(source, name) for name, source in zip(names, sources, strict=True)]
    rows = [_provenance(command, costs) for command, (_, costs) in zip(commands, drawn, strict=True)]
    save_png(out, named_rows(names, [images for images, _ in drawn]), {"rows": dict(zip(names, rows, strict=True))})
    cost = _cost(plan, max(row["nfe"] for row in rows))
    return f"{out}: from top to bottom {', '.join(names)}; {plan.count} images each, {cost}"


def _device(name: str) -> torch.device:
    device = resolve_device(name)
    if device.type == "cpu":
        keep_heap()  # else page faults make a guided chunk a quarter slower
    return device


def _cost(plan: Plan, nfe: int) -> str:
    most = "at most " if isinstance(plan.solver, Dopri5) else ""
    return f"{plan.solver}, {most}{nfe} evaluations for each image{plan.extras}, seed {plan.seed}"


def _tidied(out: Path, command: dict[str, Any]) -> int:
    """The evaluations that finished samples took; what a kill just before the end left beside them is removed."""
    if out.suffix != ".npz":
        sweep(out)
        return max(nfe for nfe, _ in Kept(out, command).costs.values())
    if _parts(out).is_dir():
        with suppress(DefarError):  # another command's: left alone
            Kept(_parts(out), command).remove()
    sweep(out.parent, out.name)
    return npz_record(out)["nfe"]


def _parts(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _npz(source: ImageSource, out: Path, kept: Kept) -> list[tuple[int, int]]:
    def name(start: int) -> str:
        return f"{start:06d}.npy"

    costs = _resumed(source, out, kept, lambda part: [name(part.start)], lambda images: [images])
    channels, height, width = source.loaded.shape
    parts = (np.load(kept.folder / name(start), allow_pickle=False) for start in source.starts)
    labels = None if source.labels is None else source.labels.numpy()
    save_npz(out, parts, (source.plan.count, height, width, channels), labels, _provenance(kept.command, costs))
    kept.remove()
    sweep(out.parent, out.name)
    return costs


def _folder(source: ImageSource, out: Path, kept: Kept) -> list[tuple[int, int]]:
    def names(part: range) -> list[str]:
        return [f"{index:06d}.png" for index in part]

    costs = _resumed(source, out, kept, names, lambda images: [image_grid(image[None]) for image in images])
    if not kept.whole:
        if source.labels is not None:
            save_labels(out, names(range(source.plan.count)), source.labels.numpy())
        kept.finish(_provenance(kept.command, costs))
        sweep(out)
    return costs


def _resumed(
    source: ImageSource, out: Path, kept: Kept, names: Callable[[range], list[str]], files: Callable[[np.ndarray], list]
) -> list[tuple[int, int]]:
    """Sample the chunks that are not yet kept; returns the cost of every chunk. A request to stop, Ctrl-C or SIGTERM,
    waits for the chunk in work."""
    done = {start for start in source.starts if kept.has(start, names(source.part(start)))}
    # closing: the bar ends before what is said next
    with stop_requests() as stop, closing(_chunks(source, out.name, set(done))) as chunks:
        for start, images, *cost in chunks:
            kept.add(start, dict(zip(names(source.part(start)), files(images), strict=True)), tuple(cost))
            done.add(start)
            if stop.requested and len(done) < len(source.starts):
                count, total = sum(len(source.part(start)) for start in done), source.plan.count
                raise Interrupted(f"{out}: stopped with {count} of {total} images kept; the same command goes on")
    return [kept.costs[start] for start in source.starts]


def _in_memory(source: ImageSource, name: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    _, images, nfe, forwards = zip(*_chunks(source, name), strict=True)
    return np.concatenate(images), list(zip(nfe, forwards, strict=True))


def _chunks(source: ImageSource, name: str, done: Collection[int] = ()) -> Iterator[tuple[int, np.ndarray, int, int]]:
    """(first image, images, nfe, forwards) of the chunks that are not `done`, in order; on a terminal with a bar."""
    from tqdm import tqdm

    count, initial = source.plan.count, sum(len(source.part(start)) for start in done)
    left = [start for start in source.starts if start not in done]
    # disable=None: no bar unless stderr is a terminal
    with tqdm(total=count, initial=initial, desc=name, unit=" images", bar_format=BAR, disable=None) as bar:
        for start in left:
            yield start, *source.chunk(start)
            bar.update(len(source.part(start)))


def _check_picture(source: ImageSource, out: Path) -> None:
    if source.loaded.shape[0] not in (1, 3):
        raise DefarError(f"{out}: {source.loaded.shape[0]} channels are no picture; give a name ending in .npz")


def _provenance(command: dict[str, Any], costs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The command, nfe (of Dopri5: the most of any chunk), network calls in all, versions and hardware."""
    nfe, forwards = max(nfe for nfe, _ in costs), sum(forwards for _, forwards in costs)
    return {"command": command, "nfe": nfe, "forwards": forwards, "environment": environment()}
