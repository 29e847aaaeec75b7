"""Network architectures, each a velocity field v(x, t, labels)."""

from typing import Any

from torch import nn

from ...errors import DefarError
from .sit import SiT, sit

NETWORKS = {"sit": SiT}


def build_network(family: str, size: str | None, options: dict[str, Any]) -> nn.Module:
    """A network by family and, where given, named size. Raises DefarError on options it does not take."""
    try:
        return sit(size, **options) if size else NETWORKS[family](**options)
    except KeyError:
        raise DefarError(f"unknown network family {family!r}; choose from {', '.join(NETWORKS)}") from None
    except TypeError as error:
        raise DefarError(f"network {family} {size or ''}: {error}") from None


__all__ = ["NETWORKS", "SiT", "build_network", "sit"]
