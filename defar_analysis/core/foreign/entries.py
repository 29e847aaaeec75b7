"""Which of a file's tensors are the averaged weights, which the raw ones, under the network's own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import DefarError

AVERAGED, RAW = ("ema", "ema_model"), ("model", "net_model")  # entries of SiT's, REPA's, RAE's and torchcfm's files
PREFIXES = {"ema": "ema_denoiser.", "raw": "denoiser."}  # of DDT's Lightning files


@dataclass(frozen=True)
class Entries:
    """A file's weights by kind: "ema", "raw", or "bare" where it does not say; what each is called there; the rest."""

    weights: dict[str, dict[str, Tensor]]
    names: dict[str, str]
    left_out: tuple[str, ...] = ()

    def kind(self, wanted: str) -> str:
        """Which to take for "ema" or "raw". Raises DefarError where the file has only the other."""
        if wanted in self.weights:
            return wanted
        if "bare" in self.weights:
            return "bare"
        other = next(iter(self.weights))
        raise DefarError(f"has no {wanted} weights, only {self.names[other]!r}; take those with --weights {other}")


def entries_of(content: Any, path: Path) -> Entries:
    """Find the weights in what a file holds. Raises DefarError where there are none, or none that are plain tensors."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise DefarError(f"{path}: holds {type(content).__name__}, no mapping of names to weights")
    if all(isinstance(value, Tensor) for value in content.values()):
        return _flat(content, path)
    found = {}
    for kind, names in (("ema", AVERAGED), ("raw", RAW)):
        name = next((name for name in names if isinstance(content.get(name), Mapping)), None)
        if name is not None:
            found[kind] = name
    if not found:
        known = ", ".join((*AVERAGED, *RAW, "state_dict"))
        raise DefarError(f"{path}: holds {', '.join(list(content)[:6])}; the weights must be one of {known}, or alone")
    return Entries({kind: _checked(content[name], path) for kind, name in found.items()}, found)


def _flat(tensors: Mapping[str, Tensor], path: Path) -> Entries:
    present = {kind: p for kind, p in PREFIXES.items() if any(name.startswith(p) for name in tensors)}
    if not present:
        return Entries({"bare": _checked(tensors, path)}, {"bare": "bare"})
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in present}
    left_out = {}
    for name, tensor in tensors.items():
        kind = next((kind for kind, prefix in present.items() if name.startswith(prefix)), None)
        if kind is None:
            left_out[name.partition(".")[0]] = None
        else:
            parts[kind][name.removeprefix(present[kind])] = tensor
    weights = {kind: _checked(part, path) for kind, part in parts.items()}
    return Entries(weights, {kind: prefix[:-1] for kind, prefix in present.items()}, tuple(left_out))


def _checked(tensors: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Plain tensors by name. A pickle can describe a tensor larger than the bytes behind it, or on no device at all."""
    if not tensors:
        raise DefarError(f"{path}: holds no weights")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise DefarError(f"{path}: {name!r} is {type(tensor).__name__}, no tensor; name a file of weights")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu" or tensor.is_complex():
            raise DefarError(f"{path}: {name} is {tensor.dtype} on {tensor.device}, {tensor.layout}; save plain floats")
        if tensor.numel() == 0 or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DefarError(f"{path}: {name} claims the shape {tuple(tensor.shape)}, which its bytes do not hold")
    return dict(tensors)


def without_wrappers(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same under the network's own names, without what DDP and torch.compile put before them."""
    plain = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    while all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): tensor for name, tensor in plain.items()}
    if len(plain) != len(tensors):
        raise DefarError(f"{path}: two weights have one name once _orig_mod. is taken off; save the network itself")
    return plain


def finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise DefarError, naming it, for a weight that is not finite."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor.float()).all()):
            raise DefarError(f"{path}: {name} is not finite: the file is broken, or its training was; take another")
