"""What a training step costs: counted exactly (network passes, FLOPs) and measured (seconds, memory).

The paper prints hours on hardware of its own. Counts are free of hardware, and times are given as ratios to a
flow-matching step of the same network and batch, taken in the same run.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..core.datasets import Batch
from ..core.devices import keep_heap, resolve_device
from ..core.ema import Ema
from ..core.objectives import Objective
from ..core.recipes import Optimizer
from ..errors import DefarError

BASELINE = "flow_matching"
PARTS = ("draw", "grad_forward", "plain_forward", "loss", "backward", "update")


@dataclass(frozen=True)
class StepCost:
    """One step, counted. Passes are in units of the whole batch: a call on half of it is half a pass.

    forwards: network calls; forward_passes, and grad_forward_passes of them with autograd; backward_passes: forwards
    whose output received a gradient. forward_flops, backward_flops: floating-point operations of matrix products and
    convolutions (a multiply-add is 2), the only ones that are counted.
    """

    forwards: int
    forward_passes: float
    grad_forward_passes: float
    backward_passes: float
    forward_flops: int
    backward_flops: int

    @property
    def passes(self) -> float:
        """Forward passes + 2 x backward passes: 3 for flow matching, 7 for DEFAR."""
        return self.forward_passes + 2 * self.backward_passes

    @property
    def flops(self) -> int:
        return self.forward_flops + self.backward_flops


def count_step(
    objective: Objective, model: nn.Module, batch: Batch, generator: torch.Generator | None = None
) -> StepCost:
    """Draw, loss and backward of one step, counted; the weights and their gradients stay as they were.

    batch.data (B, C, H, W), on the model's device. On the "meta" device nothing is computed or stored, so a network of
    any size can be counted: build it under `with torch.device("meta")`. Attention runs as plain matrix products, the
    one form that is counted on every device; the update (no matrix products) is left out. Raises DefarError where no
    parameter of the model gets a gradient.
    """
    draw = objective.draw(batch, generator or torch.Generator().manual_seed(0))
    flops, plain_attention = FlopCounterMode(display=False), sdpa_kernel(SDPBackend.MATH)
    with _watched(model, time.perf_counter) as calls, plain_attention, flops, torch.enable_grad():
        loss = objective(model, draw).total
        forward = flops.get_total_flops()
        if not loss.requires_grad:
            raise DefarError("no parameter of the model gets a gradient: there is no training step to count")
        torch.autograd.grad(loss, _trained(model), allow_unused=True)
        backward = flops.get_total_flops() - forward
    whole = batch.data.shape[0]
    forwards, grad, backwards = (
        sum(c.images for c in calls if counts(c)) / whole
        for counts in (lambda c: True, lambda c: c.tracked, lambda c: c.reached)
    )
    return StepCost(len(calls), forwards, grad, backwards, forward, backward)


def measure_steps(
    objectives: Mapping[str, Objective],
    make_model: Callable[[], nn.Module],
    batch: Batch,
    *,
    device: str = "cpu",
    repeats: int = 9,
    split: bool = False,
) -> pd.DataFrame:
    """One row for each objective, by its name; "flow_matching" must be one of them.

    Columns: method; forwards, forward_passes, grad_forward_passes, backward_passes, passes and gflops (StepCost's);
    seconds, seconds_low, seconds_high: median, least and most of a :class:`Stepper` step; ratio_to_flow_matching,
    ratio_low, ratio_high: the same of its ratio to the flow-matching step of the same repeat; peak_memory_mib: the most
    memory that tensors made during a step hold at once, so without weights, averages and Adam's moments; parameters,
    trained ones; batch_size. split=True adds draw_seconds, ... (PARTS), medians.

    All objectives take turns within a repeat, in rotating order, so that a drift of the machine cancels; they train
    one network, since no cost depends on the weights. On accelerators peak_memory_mib is the allocator's peak; where
    there is none (CPU), the tensors that operations return are followed, and scratch inside an operation is not seen.
    Raises DefarError without the baseline, for repeats < 1 and for the "meta" device, which has no time.
    """
    if BASELINE not in objectives:
        raise DefarError(f"objectives must hold {BASELINE!r}, the unit of the ratios; got {', '.join(objectives)}")
    if repeats < 1:
        raise DefarError(f"repeats must be at least 1; got {repeats}")
    on = resolve_device(str(device))
    if on.type == "cpu":
        keep_heap()  # as training does
    if on.type == "meta":
        raise DefarError("the meta device computes nothing, so it has no time: use count_step there")
    batch = replace(batch, data=batch.data.to(on), labels=None if batch.labels is None else batch.labels.to(on))
    stepper = Stepper(make_model(), on)
    generator = torch.Generator().manual_seed(0)
    counts = {name: count_step(o, stepper.model, batch) for name, o in objectives.items()}
    peaks = {}
    for name, objective in objectives.items():
        stepper.step(objective, batch, generator)  # warm-up
        peaks[name] = _peak_bytes(lambda o=objective: stepper.step(o, batch, generator), stepper.optimizer, on)
    names, runs = list(objectives), {name: [] for name in objectives}
    for i in range(repeats):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            runs[name].append(stepper.step(objectives[name], batch, generator, split))
    trained, rows = sum(p.numel() for p in stepper.parameters), []
    for name, cost in counts.items():
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(runs[name], runs[BASELINE], strict=True)]
        passes = {key: value for key, value in asdict(cost).items() if not key.endswith("flops")}
        row = {"method": name, **passes, "passes": cost.passes, "gflops": cost.flops / 1e9}
        row |= _spread("seconds", "seconds", [run["seconds"] for run in runs[name]])
        row |= _spread("ratio_to_flow_matching", "ratio", ratios)
        row |= {"peak_memory_mib": peaks[name] / 2**20, "parameters": trained, "batch_size": batch.data.shape[0]}
        parts = [key for key in runs[name][0] if key != "seconds"]
        rows.append(row | {part: statistics.median(run[part] for run in runs[name]) for part in parts})
    return pd.DataFrame(rows)


class Stepper:
    """A network with its optimizer and average, and training steps in core.training's order, timed.

    A step is: draw, loss, zero_grad, backward, gradient clipping, Adam, moving average. Loading the images, the check
    for finite values and the log are not part of it.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        settings = Optimizer()
        self.device, self.clip = device, settings.clip
        self.model = model.to(device).train()
        self.parameters = _trained(self.model)
        if not self.parameters:
            raise DefarError("no parameter of the model requires a gradient: there is no training step to time")
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.lr, betas=settings.betas)
        self.ema = Ema(self.model, decay=0.9999, total_steps=10**6)

    def step(self, objective: Objective, batch: Batch, generator: torch.Generator, split=False) -> dict[str, float]:
        """Train one step. "seconds", and with split=True also each part's, draw_seconds, ... (PARTS), of which they
        are the sum: the objective's network calls with and without autograd, its own arithmetic ("loss"), zero_grad
        and backward (the arithmetic's too), and the update. An accelerator is then waited for after every part."""
        part = self._now if split else time.perf_counter
        with _watched(self.model, part) as calls:
            times = [self._now()]
            draw = objective.draw(batch, generator)
            times.append(part())
            loss = objective(self.model, draw).total
            times.append(part())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        times.append(part())
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.ema.update(self.model, 0)
        times.append(self._now())
        seconds = {"seconds": times[-1] - times[0]}
        if split:
            drawn, whole, backward, update = (b - a for a, b in pairwise(times))
            grad, plain = (sum(c.seconds for c in calls if c.tracked is kind) for kind in (True, False))
            parts = (drawn, grad, plain, whole - grad - plain, backward, update)
            seconds |= {f"{name}_seconds": value for name, value in zip(PARTS, parts, strict=True)}
        return seconds

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


@dataclass
class _Call:
    """One network call: when it began and its seconds; its images; whether autograd recorded it; whether a gradient
    came back to it."""

    started: float
    seconds: float = 0.0
    images: int = 0
    tracked: bool = False
    reached: bool = False

    def reach(self, gradient: Tensor) -> None:
        self.reached = True


@contextmanager
def _watched(model: nn.Module, now: Callable[[], float]) -> Iterator[list[_Call]]:
    """The calls of `model`, noted by hooks: an objective sees the network itself."""
    calls: list[_Call] = []

    def before(module, inputs) -> None:
        calls.append(_Call(now()))

    def after(module, inputs, v) -> None:
        call = calls[-1]
        call.seconds = now() - call.started
        call.images, call.tracked = v.shape[0], v.requires_grad
        if call.tracked:
            v.register_hook(call.reach)

    hooks = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


class _Alive(TorchDispatchMode):
    """Bytes of the tensors that operations made and that still live; `peak`, the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.peak, self._known = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {s._cdata for s in _storages((args, kwargs))}  # views and in-place results are nothing new
        for storage in _storages(out):
            key = storage._cdata
            if key not in given and key not in self._known:
                self._known[key] = weakref.finalize(storage, self._free, key, storage.nbytes())
                self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        return out

    def _free(self, key: int, size: int) -> None:
        del self._known[key]
        self.bytes -= size


def _storages(tree) -> list[torch.UntypedStorage]:
    return [z.untyped_storage() for z in tree_leaves(tree) if isinstance(z, Tensor)]


def _peak_bytes(step: Callable[[], object], optimizer: torch.optim.Optimizer, device: torch.device) -> int:
    """The most that a step holds beyond what lay in memory before it."""
    optimizer.zero_grad(set_to_none=True)
    allocator = torch.get_device_module(device)
    if device.type == "cpu" or not hasattr(allocator, "max_memory_allocated"):
        with _Alive() as alive:
            step()
        return alive.peak
    torch.accelerator.synchronize()
    before = allocator.memory_allocated(device)
    allocator.reset_peak_memory_stats(device)
    step()
    return allocator.max_memory_allocated(device) - before


def _spread(name: str, prefix: str, values: list[float]) -> dict[str, float]:
    return {name: statistics.median(values), f"{prefix}_low": min(values), f"{prefix}_high": max(values)}
