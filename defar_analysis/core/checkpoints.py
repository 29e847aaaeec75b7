"""Checkpoints: a folder with one .safetensors file and a card.toml that says what it is and where it came from."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import from_table, read_toml
from ..errors import DefarError
from .adapters import DIFFUSERS, build_model, described
from .cards import CARD, WEIGHTS, as_saved, read_weights, write_pair
from .codecs import Codec, open_codec
from .interpolants import INTERPOLANTS, Interpolant
from .networks import NETWORKS


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself.

    weights: "ema" or "raw". sha256: of the weights file. network: family and constructor arguments. data: name, split,
    hash, classes. codec: "pixel" or the table of a codecs.VAESpec. training: recipe, steps, seconds, hardware,
    versions. source: of another project's model, the file that it was imported from, its sha256, family and entry, and
    the tensors_digest of its averaged and raw weights.
    """

    name: str
    weights: str
    sha256: str
    network: dict[str, Any]
    interpolant: str = "linear"
    codec: str | dict[str, Any] = "pixel"
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A network ready to be evaluated, the codec between its space and pixels, and its card."""

    model: nn.Module
    codec: Codec
    card: Card

    @property
    def interpolant(self) -> Interpolant:
        return INTERPOLANTS[self.card.interpolant]()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one sample as the network sees it: pixels, or latents."""
        size = self.model.config["input_size"]
        return self.model.config["in_channels"], size, size

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image, which `codec` encodes to `shape`."""
        return self.codec.pixel_shape(self.shape)

    @property
    def classes(self) -> int | None:
        """How many labels the network was trained with; None for a network trained without."""
        return self.model.config["num_classes"] if self.card.data.get("class_conditional", True) else None


def as_checkpoint(model: nn.Module, name: str, interpolant: str = "linear") -> Checkpoint:
    """A model in memory, such as adapt() makes of any callable, where a checkpoint is asked for. Nothing is written.

    Its card's sha256 is the digest of its weights, that of no weights for a callable without any.
    """
    if interpolant not in INTERPOLANTS:
        raise DefarError(f"interpolant {interpolant!r}; choose from {', '.join(INTERPOLANTS)}")
    if not isinstance(getattr(model, "config", None), dict):
        raise DefarError(f"{type(model).__name__} does not say its shape; give adapt({name}, shape, classes)")
    data = {"class_conditional": model.config.get("num_classes") is not None}
    card = Card(name, "ema", tensors_digest(model.state_dict()), dict(model.config), interpolant, data=data)
    return Checkpoint(model.eval(), open_codec("pixel"), card)


def save_checkpoint(folder: Path, model: nn.Module, card: Card, dtype: torch.dtype = torch.float16) -> Path:
    """Write `model` in `dtype` and its card into `folder`, each file beside and then renamed. Returns the folder.

    The card's sha256 and network are filled in here. What a network lists as `kept_in_float32` is not rounded. Raises
    DefarError for a network no family knows.
    """
    network, holder = described(model)
    tensors = as_saved(holder.state_dict(), dtype)
    exact = {name: holder.state_dict()[name] for name in getattr(holder, "kept_in_float32", ())}
    return write_pair(folder, tensors | as_saved(exact, torch.float32), card, network, "save with dtype=torch.float32")


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 (hex) over names, types, shapes and bytes: equal tensors, equal digest, whatever file they are in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_checkpoint(
    path: Path, weights: str = "ema", device: torch.device | str = "cpu", *, trust: Sequence[str] = ()
) -> Checkpoint:
    """The checkpoint in a folder (or the .safetensors file inside it), as float32, in eval mode, without gradients.

    trust: names of factories ("my_model:build") whose code may run, besides those in $DEFAR_TRUST. Raises DefarError,
    naming the file, when something is missing, when the weights do not match the card's checksum or the network, when
    the file holds other weights ("ema" or "raw") than asked for, or when the network is built by code nobody trusts.
    """
    named = Path(path)
    folder = named.parent if named.suffix == ".safetensors" else named
    if not folder.is_dir() or (named != folder and named.name != WEIGHTS):
        raise DefarError(f"{path}: no such checkpoint; give a folder with {WEIGHTS} and {CARD}")
    card = from_table(Card, read_toml(folder / CARD), str(folder / CARD))
    if card.weights != weights:
        raise DefarError(f"{folder}: holds {card.weights!r} weights, not {weights!r}; pass weights={card.weights!r}")
    if card.interpolant not in INTERPOLANTS:
        raise DefarError(f"{folder / CARD}: unknown interpolant {card.interpolant!r}")
    try:
        codec = open_codec(card.codec, folder, device)
    except DefarError as error:
        raise DefarError(f"{folder / CARD}: {error}") from None
    tensors = read_weights(folder, card.sha256)
    model = fitted(card.network, tensors, str(folder / CARD), str(folder / WEIGHTS), trust, beside=folder)
    loaded = Checkpoint(model.to(device).eval().requires_grad_(False), codec, card)
    if card.codec != "pixel":
        try:
            codec.pixel_shape(loaded.shape)  # one for other latents is refused here, not in the middle of something
        except DefarError as error:
            raise DefarError(f"{folder / CARD}: {error}") from None
    return loaded


def fitted(
    network: dict[str, Any],
    tensors: dict[str, Tensor],
    told_by: str,
    held_by: str,
    trust: Sequence[str] = (),
    beside: Path | None = None,
) -> nn.Module:
    """The network that `network` describes, with `tensors` as its weights, float32.

    A network of our own is built without memory first, so that a description which the weights do not bear out costs
    nothing. Raises DefarError, naming who told of the network or who holds the weights, where the two do not agree.
    """
    family, options = network.get("family", "?"), {key: value for key, value in network.items() if key != "family"}
    try:
        if isinstance(family, str) and (family in NETWORKS or family.startswith(DIFFUSERS)):
            _check_types(NETWORKS.get(family), options)
            _refuse_giants(options, tensors)
            with torch.device("meta"), warnings.catch_warnings(action="ignore"):
                _check_shapes(described(build_model(family, None, options))[1], tensors, held_by)
        model = build_model(family, None, options, trust, beside)
    except _Unfit as error:
        raise DefarError(str(error)) from None
    except Exception as error:  # a description can be wrong in any way, and torch answers each in another
        raise DefarError(f"{told_by}: network: {' '.join(str(error).split())[:300]}") from None
    holder = described(model)[1]
    try:
        holder.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise DefarError(f"{held_by}: does not fit its network: {' '.join(str(error).split())[:200]}") from None
    return model.float()


class _Unfit(Exception):
    """Network and weights do not fit; the message names both."""


def _check_types(network: type[nn.Module] | None, options: dict[str, Any]) -> None:
    """Raise DefarError where a number or a truth value of the constructor is something else."""
    for name, parameter in inspect.signature(network).parameters.items() if network else ():
        needed, value = type(parameter.default), options.get(name, parameter.default)
        whole_float = needed is float and type(value) is int
        if needed in (bool, int, float) and type(value) is not needed and not whole_float:
            raise DefarError(f"{name} = {value!r}; {needed.__name__} is needed")


def _refuse_giants(options: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """What counts blocks cannot exceed the number of tensors: building them takes time even without memory. Nor is
    anything else larger than the largest side of a tensor, or than an image may be."""
    largest = max([4096, *(side for tensor in tensors.values() for side in tensor.shape)])
    for key, value in options.items():
        if isinstance(value, dict):
            _refuse_giants(value, tensors)
        counts = isinstance(value, list) or any(word in key for word in ("depth", "blocks", "layers"))
        count, bound = len(value) if isinstance(value, list) else value, len(tensors) if counts else largest
        if isinstance(count, int) and count > bound:
            raise DefarError(f"{key} = {count} is more than its weights, {len(tensors)} tensors, can bear out")


def _check_shapes(expected: nn.Module, tensors: dict[str, Tensor], held_by: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in tensors:
            reason = f"{name} is missing"
        elif name not in shapes:
            reason = f"{name} is not expected"
        elif shapes[name] != tuple(tensors[name].shape):
            reason = f"{name} is {tuple(tensors[name].shape)}, the network has {shapes[name]}"
        else:
            continue
        raise _Unfit(f"{held_by}: does not fit its network: {reason}")
