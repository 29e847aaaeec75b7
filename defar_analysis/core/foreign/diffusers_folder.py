"""A model's folder as diffusers saves it: flow matching with noise at 1 and times 0 ... 1000."""

from __future__ import annotations

from pathlib import Path

from ...errors import DefarError
from ...files import file_sha256
from .. import diffusers_models
from ..adapters import DIFFUSERS, described
from ..checkpoints import fitted
from .entries import finite
from .options import ImportOptions
from .reading import read_file
from .writing import digests, in_words, save


def from_folder(folder: Path, out: Path, asked: ImportOptions) -> list[str]:
    name, options = diffusers_models.read_config(folder)
    known = diffusers_models.KNOWN[name]
    if not known.is_flow and asked.family != "diffusers":
        raise DefarError(
            f"{folder}: whether this {name} predicts a velocity (scheduler FlowMatch...) its config does not say; "
            "if it does, say --family diffusers"
        )
    tensors = read_file(folder / diffusers_models.WEIGHTS)
    constants = read_file(asked.constants) if asked.constants else {}
    if set(known.needs) != set(constants):
        raise DefarError(
            f"{folder}: {name} takes {' and '.join(known.needs) or 'no other inputs'}, each a tensor without a batch, "
            f"from --constants FILE.safetensors; {' and '.join(constants) or 'none'} given"
        )
    side, channels = options.get("sample_size"), options.get("in_channels")
    classes = options.get(known.labels[1]) if known.labels else None
    arguments = [f"{known.x}=x", "timestep=t", *([f"{known.labels[0]}=labels"] if classes else [])]
    conventions = {
        "noise_at": 1, "velocity": "noise-data", "time_scale": 1000.0, "attribute": "sample", "arguments": arguments,
        **asked.conventions,
    }  # fmt: skip
    network = {
        "family": DIFFUSERS + name, "input_size": asked.input_size or side, "in_channels": channels,
        "num_classes": classes, "options": options, "conventions": conventions,
        "constants": {key: list(value.shape) for key, value in constants.items()},
    }  # fmt: skip
    weights = {f"network.{key}": value for key, value in tensors.items()}
    weights |= {f"constant_{key}": value for key, value in constants.items()}
    file = folder / diffusers_models.WEIGHTS
    finite(weights, file)
    model = fitted(network, weights, str(folder), str(file))
    source = {"file": file.name, "sha256": file_sha256(file), "family": DIFFUSERS + name, "entry": "bare"}
    source |= digests({asked.weights: described(model)[1].state_dict()})
    said = [f"{folder}: {name} of diffusers, noise at 1, times 0 ... 1000, velocity noise - data; {in_words(model)}"]
    return said + save(model, out, asked, source, folder.resolve().name)
