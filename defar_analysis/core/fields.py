"""The network as a solver sees it: a velocity field of a chunk at one time, in the state's precision, with its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import DefarError
from .interpolants import Interpolant
from .rollout import VelocityModel
from .seeding import step_noise

LOW = (torch.bfloat16, torch.float16)
Watch = Callable[[str, float, Tensor], None]


@dataclass(frozen=True)
class Precision:
    """x is given to the network in `network`, t in `time`; `autocast` is the dtype of autocast around it, or None."""

    network: torch.dtype
    autocast: torch.dtype | None = None

    @property
    def time(self) -> torch.dtype:
        return torch.float64 if self.network == torch.float64 else torch.float32


def precision_for(model: VelocityModel, state: torch.dtype, asked: torch.dtype | None) -> Precision:
    """How to call `model` from a state in `state`: in `asked`, else in its own parameters' dtype, else in the state's.

    Raises DefarError where the parameters would have to be converted.
    """
    parameters = (p for network in networks(model) for p in network.parameters())
    own = next((p.dtype for p in parameters if p.is_floating_point()), None)
    if asked is None or asked == own:
        return Precision(own or state)
    if asked in LOW and own not in LOW:
        return Precision(own or torch.float32, asked)
    if own is None and asked in (torch.float32, torch.float64):
        return Precision(asked)
    raise DefarError(f"network_dtype = {asked} does not fit a network in {own or state}; convert the network first")


def networks(model: VelocityModel) -> Iterator[nn.Module]:
    """The networks behind a field: itself, or those that wrappers such as guidance hold in their dataclass fields."""
    if isinstance(model, nn.Module):
        yield model
    elif dataclasses.is_dataclass(model):
        for part in dataclasses.fields(model):
            yield from networks(getattr(model, part.name))


@contextmanager
def counted_forwards(model: VelocityModel) -> Iterator[Callable[[], int | None]]:
    """A function that returns how often the networks behind `model` were called so far; None if there is none."""
    calls, found = 0, set(networks(model))

    def count(*_) -> None:
        nonlocal calls
        calls += 1

    hooks = [network.register_forward_pre_hook(count) for network in found]
    try:
        yield lambda: calls if found else None
    finally:
        for hook in hooks:
            hook.remove()


class NetworkField:
    """A :class:`~.solvers.Field` of one chunk. x, labels are padded to the chunk; `generators` has one for each image.

    calls counts the evaluations; first is the first velocity since it was set to None; watch(what, t, velocity), where
    set, sees every velocity.
    """

    def __init__(
        self,
        model: VelocityModel,
        interpolant: Interpolant,
        precision: Precision,
        x: Tensor,
        labels: Tensor | None,
        generators: Sequence[torch.Generator] | None,
    ) -> None:
        self.model, self.interpolant, self.precision, self.labels = model, interpolant, precision, labels
        self.start, self.generators = x, generators
        self.states = [generator.get_state() for generator in generators or ()]
        self.calls, self.first, self.watch = 0, None, None

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self.calls += 1
        time = torch.full((x.shape[0],), t, dtype=self.precision.time, device=x.device)
        autocast = self.precision.autocast
        with torch.autocast(x.device.type, autocast) if autocast else nullcontext():
            velocity = self.model(x.to(self.precision.network), time, self.labels)
        if not isinstance(velocity, Tensor) or velocity.shape != x.shape:
            got = tuple(velocity.shape) if isinstance(velocity, Tensor) else type(velocity).__name__
            raise DefarError(f"the model returned {got} for x {tuple(x.shape)}; a velocity has the shape of x")
        velocity = velocity.to(x.dtype)
        self.first = velocity if self.first is None else self.first
        if self.watch:
            self.watch("the velocity", t, velocity)
        return velocity

    def draw(self) -> Tensor:
        """Standard normal noise in the shape of the chunk, the next of each image's own stream, drawn on the CPU."""
        return padded(step_noise(self.generators, self.start.shape[1:]), len(self.start)).to(self.start)

    def rewind(self) -> None:
        """Set the generators back to where this field found them."""
        for generator, state in zip(self.generators or (), self.states, strict=True):
            generator.set_state(state)


def padded(tensor: Tensor, length: int) -> Tensor:
    """(n, ...) -> (length, ...), the last row repeated."""
    count = tensor.shape[0]
    if count == length:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(length - count, *tensor.shape[1:])])
