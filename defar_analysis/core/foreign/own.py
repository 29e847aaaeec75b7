"""A network that the user's own function builds, or a card of the user's that names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ...config import from_table, read_toml
from ...errors import DefarError
from ..adapters import SHAPE, build_model, described
from ..checkpoints import Card, fitted
from ..factories import TRUST, is_factory
from .entries import Entries, entries_of, finite, without_wrappers
from .families import Tensors
from .options import ImportOptions
from .reading import read_file
from .writing import digests, in_words, save, source_of, taken


def from_factory(
    name: str,
    out: Path,
    asked: ImportOptions,
    weights_file: Path | None,
    trust: Sequence[str],
    beside: Path | None = None,
) -> list[str]:
    """What `name` builds, with the weights of the file or else those that it comes with."""
    shape = {"--input-size": asked.input_size, "--channels": asked.channels}
    missing = [option for option, value in shape.items() if value is None]
    if missing:
        raise DefarError(f"{name}: say what one x is with {' and '.join(missing)} (and --classes, if it takes labels)")
    if asked.family:
        raise DefarError(f"--family {asked.family}: {name} builds a network of its own; leave it out")
    conventions = dict(asked.conventions)
    if asked.classes is None:
        conventions.setdefault("arguments", ["x", "t"])
    options = {
        "input_size": asked.input_size, "in_channels": asked.channels, "num_classes": asked.classes,
        "options": asked.settings, "conventions": conventions,
    }  # fmt: skip
    if weights_file is None:
        model = build_model(name, None, options, trust, beside)
        finite(described(model)[1].state_dict(), Path(name))
        source, said = {"family": name}, [f"{name}: with the weights it comes with; {in_words(model)}"]
    else:
        entries = entries_of(read_file(weights_file, asked.allow), weights_file)
        kind = entries.kind(asked.weights)
        finite(entries.weights[kind], weights_file)
        model = _fitted({"family": name, **options}, entries.weights[kind], weights_file, trust, beside)
        source = {**source_of(weights_file, name, entries, kind), **_digests(entries, kind, model, weights_file, asked)}
        said = [f"{name}: weights of {weights_file}, {taken(entries, kind, asked)}; {in_words(model)}"]
    said.append(f"to load it later, trust its code by name: {TRUST}={name}")
    return said + save(model, out, asked, source, name.partition(":")[0])


def from_card(file: Path, out: Path, asked: ImportOptions, weights_file: Path | None) -> list[str]:
    """The same as a card says it: name, interpolant, [codec], and [network] with family, input_size, in_channels,
    num_classes, [network.options], [network.conventions]. What is asked for stands over it. A file is no trust."""
    card = from_table(Card, {"name": file.stem, "weights": asked.weights, "sha256": "", **read_toml(file)}, str(file))
    family, network = card.network.get("family"), card.network
    if not isinstance(family, str) or not is_factory(family):
        raise DefarError(f"{file}: network.family = {family!r}; name a function of yours: family = 'my_model:build'")
    unknown = sorted(network.keys() - {"family", *SHAPE, "options", "conventions"})
    tables = [key for key in ("options", "conventions") if not isinstance(network.get(key, {}), dict)]
    if unknown or tables:
        raise DefarError(f"{file}: network.{(unknown + tables)[0]}: what is passed on stands in [network.options]")
    asked = dataclasses.replace(
        asked,
        name=asked.name or card.name,
        codec=asked.codec or (file if isinstance(card.codec, dict) else None),
        interpolant=card.interpolant if asked.interpolant == "linear" else asked.interpolant,
        input_size=asked.input_size or network.get("input_size"),
        channels=asked.channels or network.get("in_channels"),
        classes=asked.classes or network.get("num_classes"),
        settings={**network.get("options", {}), **asked.settings},
        conventions={**network.get("conventions", {}), **asked.conventions},
    )
    return from_factory(family, out, asked, weights_file, (), file.parent)


def _fitted(
    network: dict[str, Any], tensors: Tensors, file: Path, trust: Sequence[str], beside: Path | None
) -> nn.Module:
    """With the weights under the names that the file gives them, or else without a wrapper's prefix."""
    try:
        return fitted(network, tensors, network["family"], str(file), trust, beside)
    except DefarError:
        plain = without_wrappers(tensors, file)
        if plain.keys() == tensors.keys():
            raise
        return fitted(network, plain, network["family"], str(file), trust, beside)


def _digests(entries: Entries, kind: str, model: nn.Module, file: Path, asked: ImportOptions) -> dict[str, str]:
    state = described(model)[1].state_dict()
    both = {asked.weights: state}
    for other in entries.weights.keys() - {kind}:
        tensors = entries.weights[other]
        both[other] = tensors if tensors.keys() == state.keys() else without_wrappers(tensors, file)
    return digests(both)
