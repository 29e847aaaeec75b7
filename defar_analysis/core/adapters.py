"""Foreign networks as v(x, t, labels): noise at t = 0, velocity data - noise, labels 0 ... K with K for "no label".

Nothing is guessed from a network: what differs from ours is written down once, as Conventions, in the card that
travels with the weights. `build_model` and `described` are each other's inverse, for every network a card can name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..config import check_fields, from_table
from ..errors import DefarError
from .factories import build_from, is_factory
from .networks import NETWORKS, build_network
from .networks.aligned import unaligned

SHAPE = ("input_size", "in_channels", "num_classes")  # what must be known of any network
DIFFUSERS = "diffusers:"  # begins the family of a network that the diffusers package builds


@dataclass(frozen=True)
class Conventions:
    """How a foreign network is to be called, and what its answer means.

    noise_at: the time of pure noise in its clock; time_scale: what it calls the other end's distance (1000 for clocks
    that run 0 ... 1000). velocity: which way it points. arguments: what it takes, in its order; "name=x" passes x by
    name; without labels, it knows none. output: which entry of a tuple is the velocity, attribute: which attribute of
    an answer with names; None where it is the answer itself. null_label: its label for "no label"; None where that is
    the one after the last class, as here.
    """

    noise_at: Literal[0, 1] = 0
    velocity: Literal["data-noise", "noise-data"] = "data-noise"
    arguments: list[str] = dataclasses.field(default_factory=lambda: ["x", "t", "labels"])
    time_scale: float = 1.0
    output: int | None = None
    attribute: str | None = None
    null_label: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        passed = [str(argument).rpartition("=")[2] for argument in self.arguments]
        if sorted(passed) not in (["labels", "t", "x"], ["t", "x"]):
            raise DefarError(
                f"conventions: arguments = {self.arguments}; name x, t and, where it takes them, labels, once each, in "
                "its order, by name as 'timestep=t'"
            )
        if not 0 < self.time_scale < math.inf:
            raise DefarError(f"conventions: time_scale = {self.time_scale} must be positive: noise_at turns a clock")


class Adapted(nn.Module):
    """A foreign network in our clock, sign, argument order and labels.

    x (B, C, H, W), t (B,) in [0, 1], labels (B,) or None -> velocity (B, C, H, W). With noise_at = 1 the network is
    asked at 1 - t; a velocity "noise-data" is negated: v(x, t) = -v'(x, 1 - t). Exact for every path that both clocks
    run through in the same way: Linear and GVP. Further channels of the answer (learn_sigma's) are cut off.
    """

    def __init__(self, network: nn.Module | Callable, conventions: Conventions, config: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.conventions, self.config = network, conventions, config

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        told = self.conventions
        given = {"x": x, "t": (1 - t if told.noise_at else t) * told.time_scale, "labels": self._labels(x, labels)}
        positional, by_name = [], {}
        for argument in told.arguments:
            name, _, what = argument.rpartition("=")
            if name:
                by_name[name] = given[what]
            else:
                positional.append(given[what])
        answer = self.network(*positional, **by_name)
        if told.output is not None:
            answer = answer[told.output]
        if told.attribute is not None:
            answer = getattr(answer, told.attribute)
        velocity = answer[:, : x.shape[1]]
        return -velocity if told.velocity == "noise-data" else velocity

    def _labels(self, x: Tensor, labels: Tensor | None) -> Tensor | None:
        classes = self.config.get("num_classes")
        if labels is None and classes is None:
            return None
        if labels is None:
            labels = torch.full((x.shape[0],), classes, device=x.device)
        null = self.conventions.null_label
        return labels if null is None else torch.where(labels == classes, null, labels)

    def without_labels(self, num_classes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and config of the network with `num_classes` classes that is, for any label, this one without one."""
        if not hasattr(self.network, "without_labels"):
            raise DefarError(f"{type(self.network).__name__} is foreign: where its table of labels lies is not known")
        weights, config = self.network.without_labels(num_classes)
        conventions = self.config["conventions"]
        return {f"network.{name}": w for name, w in weights.items()}, {**config, "conventions": conventions}


def adapt(
    network: Callable, shape: tuple[int, int, int] = (3, 32, 32), classes: int | None = 10, **conventions: Any
) -> Adapted:
    """Any callable as v(x, t, labels), for sample(), measure() and everything else that takes a model.

    shape: (C, H, W) of one x, H = W. classes: how many labels it knows, None for a network without; it is then called
    without. conventions: what differs from ours, by Conventions' names: adapt(net, noise_at=1, velocity="noise-data").
    Raises DefarError on a convention or a shape that cannot be.
    """
    if not callable(network):
        raise DefarError(f"{type(network).__name__} cannot be called; give a function or a module")
    if len(shape) != 3 or shape[1] != shape[2] or min(shape) < 1:
        raise DefarError(f"shape = {shape}; give (channels, side, side) of one image")
    if classes is None:
        conventions.setdefault("arguments", ["x", "t"])
    config = {"input_size": shape[1], "in_channels": shape[0], "num_classes": classes, "conventions": conventions}
    return Adapted(network, from_table(Conventions, conventions, "conventions"), config)


def build_model(
    family: str, size: str | None, options: dict[str, Any], trust: Sequence[str] = (), beside: Path | None = None
) -> nn.Module:
    """The network of a card or a recipe: built by family, then adapted where its table has [conventions].

    A family "module:function" is the user's own code, run only if it is in `trust` or $DEFAR_TRUST; its module may lie
    in `beside`. Raises DefarError on a family or an option that it does not know, and on code that nobody trusts.
    """
    options = dict(options)
    conventions = options.pop("conventions", None)
    if not isinstance(family, str) or not isinstance(conventions, dict | None):
        raise DefarError(f"family = {family!r}, conventions = {conventions!r}; a name and a table are needed")
    if family.startswith(DIFFUSERS) or is_factory(family):
        return _foreign(family, options, conventions or {}, trust, beside)
    network = build_network(family, size, options)
    if conventions is None:
        return network
    config = {**network.config, "conventions": conventions}
    return Adapted(network, from_table(Conventions, conventions, "conventions"), config)


def _foreign(
    family: str, table: dict[str, Any], conventions: dict[str, Any], trust: Sequence[str], beside: Path | None
) -> Adapted:
    """A network whose class is not ours: `table` has its SHAPE, which it cannot be asked for, and [options] to pass."""
    table = {"options": {}, "num_classes": None, **table}
    unknown = sorted(table.keys() - {*SHAPE, "options", "constants"})
    if unknown or not isinstance(table["options"], dict):
        what = f"unknown key {unknown[0]!r}" if unknown else f"options = {table['options']!r}"
        raise DefarError(f"{what}; {family} has {', '.join(SHAPE)}, and what is passed to it in [network.options]")
    for key in SHAPE:
        whole = isinstance(table.get(key), int) and not isinstance(table[key], bool) and table[key] > 0
        if not whole and not (key == "num_classes" and table[key] is None):
            raise DefarError(f"{key} = {table.get(key)!r}; {family} needs it as a whole number above 0")
    told = from_table(Conventions, conventions, "conventions")
    if family.startswith(DIFFUSERS):
        from .diffusers_models import build

        network = build(family.removeprefix(DIFFUSERS), table["options"], table.get("constants", {}))
    else:
        network = build_from(family, table["options"], trust, beside)
    return Adapted(network, told, {"family": family, **table, "conventions": conventions})


def described(model: nn.Module) -> tuple[dict[str, Any], nn.Module]:
    """(what a card says of its network, the module that holds the weights). Raises DefarError for an unknown class."""
    model = unaligned(model)  # projectors belong to the training alone
    inner = model.network if isinstance(model, Adapted) else model
    known = getattr(model, "config", {}).get("family")
    family = known or next((name for name, cls in NETWORKS.items() if type(inner) is cls), None)
    if family is None:
        raise DefarError(
            f"{type(inner).__name__} is none of the known network families: {', '.join(NETWORKS)}; to keep a network "
            "of your own, name the function that builds it: defar import my_model:build"
        )
    return {"family": family, **model.config}, inner if isinstance(inner, nn.Module) else model
