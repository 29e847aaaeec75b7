"""What the user says of a model that is to be brought, besides where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DefarError
from ..interpolants import INTERPOLANTS

WHOLE = ("input_size", "in_channels", "num_classes", "num_heads", "decoder_num_heads", "encoder_depth", "patch_size",
         "head_width")  # fmt: skip


@dataclass(frozen=True)
class ImportOptions:
    """The options of one import.

    family: where keys cannot tell. weights: "ema" or "raw". settings: arguments of the network, or of its factory.
    input_size: of one x; other than the file's, positions are made anew. conventions: what differs from ours, for a
    factory's network. codec: a TOML file with the codec's table. allow: classes that a pickle may rebuild. constants:
    a .safetensors of inputs that are the same for every image, for a network of diffusers.
    """

    family: str | None = None
    weights: str = "ema"
    settings: dict[str, Any] = field(default_factory=dict)
    input_size: int | None = None
    channels: int | None = None
    classes: int | None = None
    conventions: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    interpolant: str = "linear"
    codec: Path | None = None
    allow: Sequence[str] = ()
    constants: Path | None = None

    def __post_init__(self) -> None:
        if self.interpolant not in INTERPOLANTS:
            raise DefarError(f"--interpolant {self.interpolant}: choose from {', '.join(INTERPOLANTS)}")
        if self.weights not in ("ema", "raw"):
            raise DefarError(f"--weights {self.weights}: ema or raw")
        for name in ("input_size", "channels", "classes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise DefarError(f"--{name.replace('_', '-')} {value}: a whole number above 0 is needed")
        for name in WHOLE:
            if name in self.settings and (type(self.settings[name]) is not int or self.settings[name] < 1):
                raise DefarError(f"--set {name}={self.settings[name]}: a whole number above 0 is needed")
