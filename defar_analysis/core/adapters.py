"""Foreign networks as v(x, t, labels): noise at t = 0, velocity data - noise, labels 0 ... K with K for "no label".

Nothing is guessed from a network: what differs from ours is written down once, as Conventions, in the card that
travels with the weights. `build_model` and `described` are each other's inverse, for every network a card can name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..config import check_fields, from_table
from ..errors import DefarError
from .networks import NETWORKS, build_network


@dataclass(frozen=True)
class Conventions:
    """How a foreign network is to be called, and what its answer means.

    noise_at: the time of pure noise in its clock; time_scale: what it calls the other end's distance (1000 for clocks
    that run 0 ... 1000). velocity: which way it points. arguments: what it takes, in its order; "name=x" passes x by
    name. output: which entry of a tuple, or which attribute, is the velocity; None where it is the answer itself.
    null_label: its label for "no label"; None where that is the one after the last class, as here. takes_labels=False:
    the network knows none.
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
        passed = [argument.rpartition("=")[2] for argument in self.arguments]
        if sorted(passed) not in (["labels", "t", "x"], ["t", "x"]):
            raise DefarError(
                f"conventions: arguments = {self.arguments}; name x, t and, where it takes them, labels, once each, in "
                "its order, by name as 'timestep=t'"
            )
        if not self.time_scale > 0:
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

    def _labels(self, x: Tensor, labels: Tensor | None) -> Tensor:
        classes = self.config["num_classes"]
        if labels is None:
            labels = torch.full((x.shape[0],), classes, device=x.device)
        null = self.conventions.null_label
        return labels if null is None else torch.where(labels == classes, null, labels)


def build_model(family: str, size: str | None, options: dict[str, Any]) -> nn.Module:
    """The network of a card or a recipe: built by family, then adapted where its table has [conventions].

    Raises DefarError on a family or an option that it does not know.
    """
    options = dict(options)
    conventions = options.pop("conventions", None)
    network = build_network(family, size, options)
    if conventions is None:
        return network
    config = {**network.config, "conventions": conventions}
    return Adapted(network, from_table(Conventions, conventions, "conventions"), config)


def described(model: nn.Module) -> tuple[dict[str, Any], nn.Module]:
    """(what a card says of its network, the module that holds the weights). Raises DefarError for an unknown class."""
    inner = model.network if isinstance(model, Adapted) else model
    family = next((name for name, cls in NETWORKS.items() if type(inner) is cls), None)
    if family is None:
        raise DefarError(f"{type(inner).__name__} is none of the known network families: {', '.join(NETWORKS)}")
    return {"family": family, **model.config}, inner
