"""One sweep over the time grid feeds every measurement: the model's forwards are all that a user waits for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..core.codecs import Codec, PixelCodec
from ..core.datasets import Batch
from ..core.interpolants import Interpolant, Linear
from ..core.parallel import ALONE, Processes
from ..core.rollout import Draw, Rollout, VelocityModel, rollout
from ..core.seeding import image_noise
from ..errors import DefarError

CURVE_COLUMNS = ["model", "quantity", "dc", "estimator", "t", "value", "low", "high", "n"]


class Arrays(dict):
    """Arrays by name, in a table's attrs["arrays"]: what a figure shows beyond the table.

    pandas copies and compares attrs in every operation; the identity of this object is all that it may look at.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __deepcopy__(self, memo) -> Arrays:
        return self


@dataclass(frozen=True)
class TimeGrid:
    """Starts t0 of simulated steps and, for each, the ends t1 > t0. `last` is looked at without a step.

    Times are shares of the interpolant's interval, so the same grid serves paths with a singular end.
    """

    name: str
    t0: tuple[float, ...]
    t1: tuple[tuple[float, ...], ...]
    last: float = 1.0

    @classmethod
    def spaced(cls, name: str, starts: int, ends: int) -> TimeGrid:
        """`starts` uniform t0 from 0, each with `ends` uniform t1 in (t0, 1]."""
        t0 = tuple(i / starts for i in range(starts))
        return cls(name, t0, tuple(tuple(t + (1 - t) * (k + 1) / ends for k in range(ends)) for t in t0))

    @classmethod
    def all_pairs(cls, name: str, points: int) -> TimeGrid:
        """`points` uniform times on [0, 1] and every pair t0 < t1 of them (the paper's grid has 50)."""
        times = tuple(i / (points - 1) for i in range(points))
        return cls(name, times[:-1], tuple(times[i + 1 :] for i in range(points - 1)))

    @property
    def times(self) -> tuple[float, ...]:
        """All times at which the plain prediction is looked at."""
        return (*self.t0, self.last)

    @property
    def pairs(self) -> int:
        return sum(map(len, self.t1))


@dataclass(frozen=True)
class Context:
    """What is measured, and on what.

    model under the label `name`; batch, the images; each image's noise depends on `seed` and its entry in `indices`
    (default 0, 1, ...) alone. identity: whatever else tells this context from another (checkpoint and data hashes);
    it goes into the key under which a result is kept. codec: how what is measured becomes pictures.
    """

    model: VelocityModel
    batch: Batch
    grid: TimeGrid
    name: str = "model"
    interpolant: Interpolant = field(default_factory=Linear)
    indices: tuple[int, ...] | None = None
    seed: int = 0
    chunk: int = 64
    device: str = "cpu"
    identity: dict[str, Any] = field(default_factory=dict)
    codec: Codec = field(default_factory=PixelCodec)

    @property
    def count(self) -> int:
        return self.batch.data.shape[0]

    def key_parts(self) -> dict[str, Any]:
        """Everything a result depends on, as plain values."""
        return {
            "model": self.name,
            "interpolant": repr(self.interpolant),
            "grid": [self.grid.name, list(self.grid.t0), [list(row) for row in self.grid.t1], self.grid.last],
            "indices": list(self.indices or range(self.count)),
            "seed": self.seed,
            "chunk": self.chunk,
            "device": torch.device(self.device).type,
            "images_sha256": tensor_sha256(self.batch.data),
            "labels_sha256": None if self.batch.labels is None else tensor_sha256(self.batch.labels),
            **({} if isinstance(self.codec, PixelCodec) else {"codec": self.codec.identity}),
            **self.identity,
        }


def tensor_sha256(tensor: Tensor) -> str:
    """Of the values as they lie in memory; which dtype and shape they have is part of it."""
    content = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(f"{content.dtype} {content.shape}".encode() + content.tobytes()).hexdigest()


@dataclass(frozen=True)
class AtTime:
    """The i-th grid time of a chunk: the ideal state x, the model's velocity there and the pair's own, (B, C, H, W)."""

    index: int
    t: float
    velocity: Tensor
    target: Tensor
    batch: Batch
    x: Tensor


@dataclass(frozen=True)
class AtPair:
    """The j-th end t1 of the i-th start t0 of a chunk."""

    index: int
    end: int
    t0: float
    t1: float
    rollout: Rollout


class Reducer(Protocol):
    """Turns the sweep's tensors into a table. Its hooks are called in this order for each chunk of images:
    at_time(t0), then at_pair for each t1, then after_pairs(t0), and at last at_time(last).

    collected: what the chunks gave, by any names: a list for each, with one entry a chunk, in order. It is all that a
    table is made of, and what several processes put together.
    """

    collected: dict[Any, list]

    def at_time(self, step: AtTime) -> None: ...
    def at_pair(self, step: AtPair) -> None: ...
    def after_pairs(self, step: AtTime) -> None: ...
    def table(self) -> pd.DataFrame: ...


class Measurement(Protocol):
    """A frozen dataclass whose fields are its settings. `version` grows when the numbers would change."""

    name: str
    version: int

    def reducer(self, ctx: Context) -> Reducer: ...
    def run(self, ctx: Context) -> pd.DataFrame: ...


@torch.no_grad()
def measure(measurements: Sequence[Measurement], ctx: Context, processes: Processes = ALONE) -> dict[str, pd.DataFrame]:
    """Run the measurements on shared forwards; tables by measurement name.

    Each table's attrs hold "arrays" (what a figure shows beyond the table, numpy) and "forwards", the network calls
    that the whole sweep made. Several processes, each of which calls this, share the chunks of images; the first one
    gets the tables, the same as if it were alone, the others none. Raises DefarError when the model returns a wrong
    shape or something not finite.
    """
    if len({m.name for m in measurements}) < len(measurements):
        raise DefarError(f"measurements must have distinct names; got {', '.join(m.name for m in measurements)}")
    reducers = [m.reducer(ctx) for m in measurements]
    starts = range(0, ctx.count, ctx.chunk)
    forwards = sum(_sweep(ctx, reducers, start) for start in _progress(ctx, starts[processes.rank :: processes.size]))
    if processes.size > 1:
        forwards = sum(processes.gather(forwards))
        _put_together(reducers, processes, len(starts))
        if not processes.first:
            return {}
    tables = {m.name: r.table() for m, r in zip(measurements, reducers, strict=True)}
    for table in tables.values():
        table.attrs["forwards"] = forwards
    return tables


def _put_together(reducers: Sequence[Reducer], processes: Processes, chunks: int) -> None:
    """Give the first process's reducers what every process collected, in the order of the chunks."""
    everything = processes.gather([reducer.collected for reducer in reducers])
    for reducer, *parts in zip(reducers, *everything, strict=True) if everything else ():
        for name in reducer.collected:
            reducer.collected[name] = [parts[k % len(parts)][name][k // len(parts)] for k in range(chunks)]


def minimal_forwards(grid: TimeGrid) -> int:
    """Network calls for one chunk: one at each distinct time, one for each pair."""
    return len({*grid.times, *(t for row in grid.t1 for t in row)}) + grid.pairs


def _sweep(ctx: Context, reducers: Sequence[Reducer], start: int) -> int:
    """Walk the grid once for the images from `start` on; returns the number of forwards."""
    stop = min(start + ctx.chunk, ctx.count)
    indices = (ctx.indices or range(ctx.count))[start:stop]
    data = ctx.batch.data[start:stop].to(ctx.device)
    labels = None if ctx.batch.labels is None else ctx.batch.labels[start:stop].to(ctx.device)
    batch = Batch(data, labels)
    noise = image_noise(ctx.seed, indices, data.shape[1:]).to(data)
    begin, end = ctx.interpolant.interval("train")
    ideal: dict[float, Tensor] = {}  # velocities at ideal states: each time is evaluated once, whoever asks
    forwards = 0

    def full(t: float) -> Tensor:
        return torch.full((stop - start,), begin + (end - begin) * t, device=data.device)

    def at_ideal(t: float) -> Tensor:
        nonlocal forwards
        if t not in ideal:
            velocity = ctx.model(ctx.interpolant.at(noise, data, full(t)).x, full(t), labels)
            if velocity.shape != data.shape or not bool(torch.isfinite(velocity).all()):
                raise DefarError(
                    f"{ctx.name} at t = {t:.3g}: velocity of shape {tuple(velocity.shape)} for images "
                    f"{tuple(data.shape)}, or not finite; check the model"
                )
            ideal[t] = velocity
            forwards += 1
        return ideal[t]

    def at_time(index: int, t: float) -> AtTime:
        true = ctx.interpolant.at(noise, data, full(t))
        return AtTime(index, t, at_ideal(t), true.velocity, batch, true.x)

    for i, (t0, ends) in enumerate(zip(ctx.grid.t0, ctx.grid.t1, strict=True)):
        step = at_time(i, t0)
        for reducer in reducers:
            reducer.at_time(step)
        for j, t1 in enumerate(ends):
            draw = Draw(data, noise, labels, torch.stack([full(t0), full(t1)]))
            r = rollout(ctx.model, ctx.interpolant, draw, v0=step.velocity, v_ideal=at_ideal(t1))
            forwards += r.forwards
            pair = AtPair(i, j, t0, t1, r)
            for reducer in reducers:
                reducer.at_pair(pair)
        for reducer in reducers:
            reducer.after_pairs(step)
    last = at_time(len(ctx.grid.t0), ctx.grid.last)
    for reducer in reducers:
        reducer.at_time(last)
    return forwards


def _progress(ctx: Context, starts: Sequence[int]):
    from tqdm import tqdm

    return tqdm(starts, desc=f"measuring {ctx.name}", unit="chunk", disable=None)


def curve_rows(
    model: str, quantity: str, t: Sequence[float], interval, n: int, dc: str = "", estimator: str = ""
) -> pd.DataFrame:
    """Rows of the curve table; interval is (value, low, high), each (T,)."""
    value, low, high = interval
    return pd.DataFrame(
        {
            "model": model, "quantity": quantity, "dc": dc, "estimator": estimator, "t": np.asarray(t, dtype=float),
            "value": value, "low": low, "high": high, "n": n,
        }
    )  # fmt: skip
