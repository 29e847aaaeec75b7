"""CIFAR-10's python layout, pickles of 2009: read without running anything that is in them."""

import io
import pickle
import pickletools

import numpy as np

from defar_analysis.errors import DefarError

MEMO_LIMIT = 1 << 20  # places of a pickle's memory: one number in it makes Python reserve as many


class _Recorded:
    """Stands for a numpy array or dtype in a pickle: keeps what it was told and does nothing else."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state):
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        allowed = {("numpy", "ndarray"), ("numpy", "dtype")}
        allowed |= {(core + ".multiarray", "_reconstruct") for core in ("numpy.core", "numpy._core")}
        if (module, name) not in allowed:
            raise DefarError(f"its pickle asks for {module}.{name}, which CIFAR-10 does not need: refused")
        return _Recorded


def unpickled(data: bytes) -> tuple[list[int], np.ndarray]:
    """Labels and images (n, 3072) of a batch. Raises DefarError, and many other kinds where it is broken."""
    if any("PUT" in code.name and int(place or 0) > MEMO_LIMIT for code, place, _ in pickletools.genops(data)):
        raise DefarError("its pickle numbers more objects than CIFAR-10 has: refused")
    batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
    batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    _, shape, dtype, fortran, content = batch["data"].state
    if dtype.arguments[0] not in (b"u1", "u1") or fortran:
        raise DefarError("its images are not rows of uint8; download it again")
    return batch["labels"], np.frombuffer(content, np.uint8).reshape(shape)
