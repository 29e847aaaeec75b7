"""Where tensors live: one rule for CPU, CUDA, Ascend NPU and whatever torch.accelerator knows."""

from __future__ import annotations

import ctypes
import platform

import torch

from ..errors import DefarError


def resolve_device(name: str = "auto") -> torch.device:
    """The device `name`; "auto" is the accelerator where there is one. Raises DefarError if it cannot be used."""
    if name == "auto":
        found = torch.accelerator.is_available()
        return torch.accelerator.current_accelerator() if found else torch.device("cpu")
    try:
        if not isinstance(name, str):
            raise RuntimeError("no name")
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise DefarError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from None
    return device


def hardware(device: torch.device) -> str:
    """The device's name as a card shows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}"


def works_apart(device: torch.device) -> bool:
    """Whether the CPU is free while the device computes."""
    return device.type != "cpu"


def keep_heap() -> bool:
    """Tell the C library to keep what this process frees; whether it could.

    glibc gives large freed blocks back to the system, and a step with several forwards (SDSS, DEFAR) then faults tens
    of thousands of pages in again: 5 % of its time on our CPU, nothing on an accelerator. Other C libraries are left
    alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return False
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    return mallopt(mmap_threshold, 2**25) == 1 and mallopt(trim_threshold, -1) == 1
