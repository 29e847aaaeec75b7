"""Where tensors live: one rule for CPU, CUDA, Ascend NPU and whatever torch.accelerator knows."""

from __future__ import annotations

import torch

from ..errors import DefarError


def resolve_device(name: str = "auto") -> torch.device:
    """The device `name`; "auto" is the accelerator where there is one. Raises DefarError if it cannot be used."""
    if name == "auto":
        found = torch.accelerator.is_available()
        return torch.accelerator.current_accelerator() if found else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise DefarError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from None
    return device
