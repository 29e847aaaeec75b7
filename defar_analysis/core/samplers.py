"""Sampling: from noise (t = 0) to data (t = 1) by any solver, in fixed chunks, with every network call counted."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import DefarError
from ..files import replaced
from .fields import NetworkField, Watch, counted_forwards, networks, padded, precision_for
from .interpolants import Interpolant, Linear
from .rollout import VelocityModel
from .sde import Diffusion, EulerMaruyama
from .solvers import Dopri5, Euler, Grid, Heun, StepSolver

__all__ = ["Correction", "Diffusion", "Dopri5", "Euler", "EulerMaruyama", "Grid", "Heun", "Sample", "sample"]

Correction = Callable[[Tensor, Tensor, float, float, Tensor], Tensor]
Save = Literal["all"] | int | Sequence[int] | None


@dataclass(frozen=True)
class Sample:
    """x (N, C, H, W); nfe, velocity evaluations for each image (Dopri5: the most of any chunk); forwards, network calls
    in all, those of guidance too; times, the grid; states, (S, N, C, H, W) on the CPU where they were asked for:
    states[j] is the state at times[saved[j]]."""

    x: Tensor
    nfe: int
    forwards: int
    times: Tensor
    states: Tensor | None = None
    saved: tuple[int, ...] = ()


@torch.no_grad()
def sample(
    model: VelocityModel,
    noise: Tensor,
    solver: StepSolver | Dopri5,
    *,
    interpolant: Interpolant | None = None,
    labels: Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
    chunk: int = 64,
    save: Save = None,
    save_to: Path | None = None,
    correction: Correction | None = None,
    network_dtype: torch.dtype | None = None,
) -> Sample:
    """Images from `noise` (N, C, H, W), the whole batch in fixed chunks.

    The network always sees `chunk` images, the last chunk padded with repeats, so image i is the same bit for bit
    whatever else is asked for beside it (Dopri5: to its tolerance). Times run over the interpolant's interval.

    Args:
        labels: (N,) long, or None.
        generators: one CPU generator for each image, for solvers that draw noise on the way
            (`seeding.sde_generators`); sampling advances them. Other solvers ignore them.
        save: which states of the grid to keep: "all", k for every k-th and the last, or their indices. They are moved
            to the CPU as they arise (Dopri5: after each chunk).
        save_to: a .npy file to keep them in, mapped into memory, instead of memory itself.
        correction: called after every step with (x_before, velocity_before, now, then, x_after), returns the x_after
            to go on with. velocity_before is the field at x_before and `now`; x has a whole padded chunk.
        network_dtype: the precision the network runs in; the state keeps the noise's dtype, float32 or float64. By
            default that of the network's own parameters, else the state's. bfloat16 and float16 on a float32 network
            mean autocast. t is never given in less than float32.

    Raises DefarError on what does not fit together, and on values that are not finite, with the step and its t.
    """
    _check(model, noise, solver, labels, generators, chunk, correction)
    path, precision = interpolant or Linear(), precision_for(model, noise.dtype, network_dtype)
    times = solver.times(path)
    kept = _indices(save, len(times))
    if save_to is not None and not kept:
        raise DefarError(f"save_to = {str(save_to)!r} has nothing to keep; say which states with save")
    walker = _Walker(solver, times.tolist(), kept, correction)
    images, nfe, evaluations = [], 0, 0
    with ExitStack() as stack:
        forwards = stack.enter_context(counted_forwards(model))
        states = _room((len(kept), *noise.shape), noise.dtype, save_to, stack) if kept else None
        for start in range(0, len(noise), chunk):
            part = slice(start, min(start + chunk, len(noise)))
            x = padded(noise[part], chunk)
            field = NetworkField(
                model, path, precision, x, None if labels is None else padded(labels[part], chunk),
                generators[part] if generators is not None and solver.draws_noise else None,
            )  # fmt: skip
            for index, state in walker.walk(field, part):
                if index in kept:
                    states[kept.index(index), part] = state[: part.stop - start].cpu()
                x = state
            if not bool(torch.isfinite(x).all()):
                walker.blame(field, part)
            images.append(x[: part.stop - start].clone())  # the rest of a chunk and of Dopri5's states can go
            nfe, evaluations = max(nfe, field.calls), evaluations + field.calls
        called = forwards()
    return Sample(torch.cat(images), nfe, evaluations if called is None else called, times, states, kept)


@dataclass(frozen=True)
class _Walker:
    """Takes one chunk after another along the grid. `part` is the chunk's place in the whole batch, for messages."""

    solver: StepSolver | Dopri5
    times: list[float]
    kept: tuple[int, ...]
    correction: Correction | None

    def walk(self, field: NetworkField, part: slice) -> Iterator[tuple[int, Tensor]]:
        """(index into the grid, state) from first to last; a solver that adapts gives the kept states and both ends."""
        last = len(self.times) - 1
        if isinstance(self.solver, Dopri5):
            field.watch = self._watcher(part, lambda: f"evaluation {field.calls}")  # it waits for each one anyway
            wanted = sorted({0, *self.kept, last})
            states = self.solver.solve(field, field.start, [self.times[i] for i in wanted])
            yield from zip(wanted, states, strict=True)
            return
        x = field.start
        yield 0, x
        for index, (now, then) in enumerate(itertools.pairwise(self.times), start=1):
            field.first = None
            after = self.solver.step(field, x, now, then, index == last)
            x = after if self.correction is None else self.correction(x, field.first, now, then, after)
            yield index, x

    def blame(self, field: NetworkField, part: slice) -> None:
        """Walk a chunk that ended badly once more, with the same noise, and raise at the first value not finite."""
        if not bool(torch.isfinite(field.start).all()):
            raise DefarError(f"the noise of image {_first_bad(field.start, part)} is not finite; nothing was sampled")
        step = 1
        watch = self._watcher(part, lambda: f"step {step} of {len(self.times) - 1}")
        field.rewind()
        field.watch = watch
        for index, state in self.walk(field, part):
            if index:
                watch("the state after it", self.times[index - 1], state)
            step = index + 1
        raise DefarError(f"{self.solver} met values that are not finite, but not when run again; is the model in eval?")

    def _watcher(self, part: slice, place: Callable[[], str]) -> Watch:
        def watch(what: str, t: float, values: Tensor) -> None:
            if not bool(torch.isfinite(values).all()):
                raise DefarError(
                    f"{self.solver}, {place()}, t = {t:.6g}: {what} of image {_first_bad(values, part)} is not finite; "
                    "more steps or float32 may mend it"
                )

        return watch


def _first_bad(values: Tensor, part: slice) -> int:
    """The first image of the whole batch that is not finite."""
    bad = ~torch.isfinite(values).flatten(1).all(dim=1)
    return min(part.start + int(bad.nonzero()[0]), part.stop - 1)


def _check(model, noise, solver, labels, generators, chunk, correction) -> None:
    count = noise.shape[0] if noise.ndim else 0
    if labels is not None and labels.shape != noise.shape[:1]:
        raise DefarError(f"labels must have shape ({count},), one for each image; got {tuple(labels.shape)}")
    if chunk < 1 or count == 0:
        raise DefarError(f"nothing to sample: {count} images in chunks of {chunk}")
    if noise.dtype not in (torch.float32, torch.float64):
        raise DefarError(f"the noise must be float32 or float64, not {noise.dtype}; network_dtype lowers the network")
    if labels is not None:
        known = [network.num_classes for network in networks(model) if hasattr(network, "num_classes")]
        lowest, highest = int(labels.min()), int(labels.max())
        if labels.is_floating_point() or lowest < 0 or (known and highest > min(known)):
            classes = f"0 to {min(known)} (no label)" if known else "0 up"
            raise DefarError(f"labels are whole numbers from {classes}; got {labels.dtype}, {lowest} to {highest}")
    if correction is not None and isinstance(solver, Dopri5):
        raise DefarError("a correction needs the steps of a fixed grid, and Dopri5 chooses its own; use Euler or Heun")
    if not solver.draws_noise:
        return
    name = type(solver).__name__
    if generators is None or len(generators) != count:
        got = "none" if generators is None else len(generators)
        raise DefarError(
            f"{name} draws noise and needs {count} generators, one for each image (sde_generators(seed, range(n))); "
            f"got {got}"
        )
    if len({id(generator) for generator in generators}) != count:
        raise DefarError(f"{name}: two images share a generator, so their noise would depend on the order of drawing")
    if any(generator.device.type != "cpu" for generator in generators):
        raise DefarError(f"{name}: generators must be on the CPU, so that the noise is the same on every device")


def _indices(save: Save, points: int) -> tuple[int, ...]:
    """Grid indices to keep, increasing."""
    if save is None:
        return ()
    if isinstance(save, str):
        if save != "all":
            raise DefarError(f"save must be 'all', a whole number or a list of grid indices; got {save!r}")
        return tuple(range(points))
    if isinstance(save, int):
        if isinstance(save, bool) or save < 1:
            raise DefarError(f"save = {save!r} keeps nothing; give k >= 1 for every k-th state")
        return tuple(sorted({*range(0, points, save), points - 1}))
    if len(save) == 0 or any(not -points <= int(i) < points for i in save):
        raise DefarError(f"save = {list(save)} must name states of a grid of {points} points, 0 to {points - 1}")
    return tuple(sorted({int(i) % points for i in save}))


def _room(shape: tuple[int, ...], dtype: torch.dtype, path: Path | None, stack: ExitStack) -> Tensor:
    """Room for the states: memory, or a mapped .npy that takes its place when the sampling ends well."""
    if path is None:
        return torch.empty(shape, dtype=dtype)
    beside = stack.enter_context(replaced(Path(path)))
    kind = np.float64 if dtype == torch.float64 else np.float32
    room = np.lib.format.open_memmap(beside, mode="w+", dtype=kind, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a mapped file that outgrows the disk later would end the process by SIGBUS
        with open(beside, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, beside.stat().st_size)
    return torch.from_numpy(room)
