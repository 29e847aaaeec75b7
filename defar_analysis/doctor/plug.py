"""A network together with the Conventions it is called by: every mistake that the doctor looks for is another set."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.adapters import Adapted, Conventions
from ..core.rollout import VelocityModel
from ..errors import DefarError
from .findings import Finding, fails, in_one_line, passes

ORDERS = (["x", "t", "labels"], ["t", "x", "labels"], ["x", "t"], ["t", "x"], ["x", "labels", "t"])
OUTPUTS = ({}, {"output": 0}, {"attribute": "sample"}, {"output": 1})  # of a tuple, of diffusers, of a tuple
PLACE = "([network.conventions] in card.toml)"


@dataclass(frozen=True)
class Plug:
    """The network, the Conventions it was given with, or none of its own, and those that it is called by now."""

    network: Callable[..., Any]
    conventions: Conventions
    config: dict[str, Any]

    def changed(self, **conventions: Any) -> Plug:
        return dataclasses.replace(self, conventions=dataclasses.replace(self.conventions, **conventions))

    @property
    def field(self) -> VelocityModel:
        """The network as v(x, t, labels)."""
        return Adapted(self.network, self.conventions, self.config)

    def mend(self, *names: str) -> str:
        """ "set noise_at = 1 (...)": what these conventions should be."""
        values = ", ".join(f"{name} = {getattr(self.conventions, name)!r}" for name in names)
        return f"set {values} {PLACE}".replace("'", '"')


def plug_of(model: VelocityModel, classes: int | None, null_label: int | None = None) -> Plug:
    """The plug as it is given. null_label: what the network itself calls "no label", where that is not `classes`."""
    if isinstance(model, Adapted):
        plug = Plug(model.network, model.conventions, {**model.config, "num_classes": _classes(model, classes)})
    else:
        arguments = ["x", "t"] if classes is None else ["x", "t", "labels"]
        plug = Plug(model, Conventions(arguments=arguments), {"num_classes": _classes(model, classes)})
    return plug if null_label is None else plug.changed(null_label=null_label)


def _classes(model: VelocityModel, classes: int | None) -> int:
    """The label that means none: a network trained without labels may have rows for some all the same."""
    return classes if classes is not None else getattr(model, "config", {}).get("num_classes") or 0


def asked(field: Callable[..., Any], *given: Any) -> tuple[Any, str]:
    """(the answer, "") or (None, the error in one line), without gradients."""
    try:
        with torch.no_grad():
            return field(*given), ""
    except torch.OutOfMemoryError:
        raise DefarError("the device's memory is too small for this many images; take fewer with --images") from None
    except Exception as error:  # of somebody else's code, so of any kind
        return None, in_one_line(error)


def answers(plug: Plug, x: Tensor, t: Tensor, labels: Tensor | None) -> tuple[Tensor | None, str]:
    """A velocity in the shape of x, or None and what came instead."""
    answer, error = asked(plug.field, x, t, labels)
    if error:
        return None, error
    if not isinstance(answer, Tensor):
        return None, f"a {type(answer).__name__} came back"
    if answer.shape != x.shape:
        return None, f"{tuple(answer.shape)} came back for {tuple(x.shape)}"
    return answer, ""


def called(
    model: VelocityModel, plug: Plug, x: Tensor, t: Tensor, labels: Tensor | None
) -> tuple[list[Finding], Plug | None]:
    """The checks "arguments" and "output", and the plug by which the network answers; None where no order does."""
    shapes = f"(B, {', '.join(map(str, x.shape[1:]))})"
    answer, error = answers(plug, x, t, labels)
    if answer is not None:
        order = passes("arguments", f"takes {', '.join(plug.conventions.arguments)}")
        bare, _ = (answer, "") if isinstance(model, Adapted) else asked(model, x, t, labels)
        if isinstance(bare, Tensor) and bare.shape == x.shape:
            return [order, passes("output", f"a velocity {shapes}, as the input")], plug
        extra = f"{tuple(bare.shape)} came back for {tuple(x.shape)}" if isinstance(bare, Tensor) else "another call"
        mend = f"wrap it: an empty table {PLACE}, or Adapted, cuts learn_sigma's further channels"
        return [order, fails("output", extra, mend)], plug
    for other, changes in _others(plug):
        found, _ = answers(other, x, t, labels)
        if found is None or not bool(torch.isfinite(found).any()):
            continue
        order, output = "arguments" in changes, tuple(name for name in changes if name != "arguments")
        was = f"{', '.join(plug.conventions.arguments)}: {error}"
        return [
            fails("arguments", was, other.mend("arguments")) if order
            else passes("arguments", f"takes {', '.join(plug.conventions.arguments)}"),
            fails("output", "an entry of the answer is the velocity" if order else error, other.mend(*output)) if output
            else passes("output", f"a velocity {shapes}, as the input"),
        ], other  # fmt: skip
    mend = f"no order of x, t, labels gives a velocity {shapes}; look at arguments, output and attribute {PLACE}"
    return [fails("arguments", error, mend)], None


def _others(plug: Plug) -> Iterator[tuple[Plug, dict[str, Any]]]:
    """Other orders of arguments and other entries of the answer; what changes least comes first."""
    told = plug.conventions
    orders = [{}, *({"arguments": order} for order in ORDERS if order != told.arguments)]
    outputs = [{}, *(dict(o) for o in OUTPUTS if any(getattr(told, name) != value for name, value in o.items()))]
    for order, output in sorted(itertools.product(orders, outputs), key=lambda pair: len(pair[0]) + len(pair[1])):
        if order or output:
            clean = {"output": None, "attribute": None, **output} if output else {}
            yield plug.changed(**order, **clean), order | output


def parameters_dtype(network: Callable[..., Any]) -> torch.dtype | None:
    """Of the first floating parameter; None for a field without."""
    parameters = network.parameters() if isinstance(network, nn.Module) else ()
    return next((p.dtype for p in parameters if p.is_floating_point()), None)
