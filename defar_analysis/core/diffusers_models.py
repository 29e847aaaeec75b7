"""Networks of the diffusers package that can be velocity fields. The package is an extra, imported where it is used."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DefarError

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
MISSING = "diffusers is not installed: pip install 'defar-analysis[latents]'"


@dataclass(frozen=True)
class Known:
    """How a class is called. x: its name for x. labels: its name for labels, and the config's for their number.
    needs: the names of its other inputs. is_flow: nothing but flow matching was ever trained with it."""

    x: str
    labels: tuple[str, str] | None = None
    needs: tuple[str, ...] = ()
    is_flow: bool = False


KNOWN = {
    "SD3Transformer2DModel": Known(
        "hidden_states", needs=("encoder_hidden_states", "pooled_projections"), is_flow=True
    ),
    "DiTTransformer2DModel": Known("hidden_states", labels=("class_labels", "num_embeds_ada_norm")),
    "UNet2DModel": Known("sample", labels=("class_labels", "num_class_embeds")),
}


class WithConstants(nn.Module):
    """A network and those of its inputs that are the same for every image, such as a prompt's embedding.

    They are kept with the weights and repeated over the batch.
    """

    def __init__(self, network: nn.Module, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(shapes)
        for name, shape in shapes.items():
            self.register_buffer(f"constant_{name}", torch.zeros(shape))

    def forward(self, *args: Tensor, **inputs: Tensor) -> Any:
        batch = next(iter((*args, *inputs.values()))).shape[0]
        constants = {name: getattr(self, f"constant_{name}") for name in self.names}
        repeated = {name: value[None].expand(batch, *value.shape) for name, value in constants.items()}
        return self.network(*args, **inputs, **repeated)


def build(name: str, options: dict[str, Any], constants: dict[str, list[int]]) -> WithConstants:
    """The network of that class. Raises DefarError for a class that is not in KNOWN, or options it does not take."""
    if name not in KNOWN:
        raise DefarError(f"diffusers' {name!r} is not known here; known are {', '.join(KNOWN)}")
    try:
        import diffusers
    except ImportError:
        raise DefarError(MISSING) from None
    try:
        return WithConstants(getattr(diffusers, name)(**options), constants)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise DefarError(f"diffusers' {name}: {' '.join(str(error).split())[:200]}") from None


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """(class, its options) of a folder that diffusers saved. Raises DefarError where it is none that we know."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DefarError(f"{folder}: no model of diffusers, {CONFIG} is missing; name a file of weights") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DefarError(f"{file}: cannot be read as JSON: {' '.join(str(error).split())[:120]}") from None
    name = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in KNOWN:
        raise DefarError(f"{file}: its class is {name!r}; known are {', '.join(KNOWN)}")
    try:
        import diffusers
    except ImportError:
        raise DefarError(MISSING) from None
    defaults = inspect.signature(getattr(diffusers, name).__init__).parameters
    options = {}
    for key, value in config.items():
        if key.startswith("_") or (value is None and key in defaults and defaults[key].default is None):
            continue
        if value is None or key not in defaults:  # a card cannot say "nothing", and a later version may know more
            raise DefarError(f"{file}: {key} = {value!r} is not taken by {name} here; use the version that saved it")
        options[key] = value
    return name, options
