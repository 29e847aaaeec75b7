"""A file of weights of a known family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ...errors import DefarError
from ..adapters import described
from ..checkpoints import fitted
from .entries import entries_of, finite, without_wrappers
from .families import FAMILIES, Tensors, family_named
from .options import ImportOptions
from .reading import read_file
from .surgery import modernized, resized, with_null_row
from .writing import digests, in_words, save, source_of, taken


def from_family(file: Path, out: Path, asked: ImportOptions) -> list[str]:
    entries = entries_of(read_file(file, asked.allow), file)
    try:
        kind = entries.kind(asked.weights)
        name = family_named(without_wrappers(entries.weights[kind], file), entries.names[kind], asked.family)
        family = FAMILIES[name]
        if asked.interpolant not in family.paths:
            raise DefarError(f"--interpolant {asked.interpolant}: {name}'s path of that name is another than ours")
        tensors, said = _prepared(entries.weights[kind], file, asked)
        given = {**asked.settings, **_present(input_size=asked.input_size, in_channels=asked.channels)}
        shape, assumed = _shape_of(tensors, name, given)
        tensors, config, more = resized(tensors, shape, given.get("input_size"))
        finite(tensors, file)
        others = {
            other: resized(_prepared(entries.weights[other], file, asked)[0], shape, given.get("input_size"))[0]
            for other in entries.weights
            if other != kind
        }
    except DefarError as error:
        raise DefarError(str(error) if str(error).startswith(f"{file}:") else f"{file}: {error}") from None
    network = {
        "family": family.network,
        **config,
        **({"conventions": family.conventions} if family.conventions else {}),
    }
    model = _fits(network, tensors, file)
    both = digests({asked.weights: described(model)[1].state_dict(), **others})
    lines = [f"{file}: {name}, {taken(entries, kind, asked)}; {in_words(model)}", *said, *assumed, *more]
    lines += [f"left out {prefix}.*: no part of the network" for prefix in entries.left_out]
    return lines + save(model, out, asked, {**source_of(file, name, entries, kind), **both}, file.stem)


def _prepared(tensors: Tensors, file: Path, asked: ImportOptions) -> tuple[Tensors, list[str]]:
    tensors, said = modernized(without_wrappers(tensors, file))
    whole = next((name for name, tensor in tensors.items() if not tensor.is_floating_point()), None)
    if whole is not None:
        raise DefarError(f"{whole} is {tensors[whole].dtype}: quantized, perhaps; save it as floats")
    tensors, more = with_null_row(tensors, asked.classes)
    return tensors, said + more


def _shape_of(tensors: Tensors, name: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the constructor's arguments, with the positions that the tensors have; what was assumed, in words)."""
    family = FAMILIES[name]
    config = family.read(tensors, given)
    unknown = sorted(given.keys() - config.keys())
    if unknown:
        raise DefarError(f"--set {unknown[0]}=...: {name} has {', '.join(config)}")
    assumed = [f"{key} = {config[key]}" for key in family.assumed if key not in given and not config.get("qk_norm")]
    said = [f"not in the weights, taken as in the published network of this shape: {', '.join(assumed)}"]
    return {**config, **{key: value for key, value in given.items() if key != "input_size"}}, said if assumed else []


def _fits(network: dict[str, Any], tensors: Tensors, file: Path) -> nn.Module:
    try:
        return fitted(network, tensors, str(file), str(file))
    except DefarError as error:
        raise DefarError(f"{error}; --set or --input-size change what was read from its shapes") from None


def _present(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
