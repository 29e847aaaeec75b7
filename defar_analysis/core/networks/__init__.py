"""Network architectures, each a velocity field v(x, t, labels)."""

from typing import Any

from torch import nn

from ...errors import DefarError
from .ddt import DDT, ddt
from .lightningdit import LightningDiT, lightningdit
from .rae import DiTDH, ditdh
from .sit import SiT, sit
from .unet import UNet, unet

NETWORKS = {"sit": SiT, "ddt": DDT, "rae": DiTDH, "lightningdit": LightningDiT, "unet": UNet}
NAMED = {"sit": sit, "ddt": ddt, "rae": ditdh, "lightningdit": lightningdit, "unet": unet}  # take a size's name first


def build_network(family: str, size: str | None, options: dict[str, Any]) -> nn.Module:
    """A network by family and, where given, named size. Raises DefarError on options it does not take."""
    if family not in NETWORKS:
        raise DefarError(f"unknown network family {family!r}; choose from {', '.join(NETWORKS)}")
    try:
        return NAMED[family](size, **options) if size else NETWORKS[family](**options)
    except TypeError as error:
        raise DefarError(f"network {family} {size or ''}: {error}") from None


__all__ = [
    "DDT",
    "NAMED",
    "NETWORKS",
    "DiTDH",
    "LightningDiT",
    "SiT",
    "UNet",
    "build_network",
    "ddt",
    "ditdh",
    "lightningdit",
    "sit",
    "unet",
]
