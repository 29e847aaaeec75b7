"""torch-fidelity imports torchvision, which it needs for none of what is used here: make that import succeed."""

from __future__ import annotations

import importlib
import sys
import types
from importlib.util import find_spec

from .errors import DefarError

# What torch-fidelity 0.4 imports at its top; the three data sets are only named there.
MODULES = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional",
           "torchvision.models")  # fmt: skip
DATASETS = ("CIFAR10", "CIFAR100", "STL10")
# Operators that a torchvision built for another torch fails to load, but whose existence its import checks.
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list = []  # definitions live as long as their library does


def import_torch_fidelity() -> types.ModuleType:
    """The module torch_fidelity, whatever torchvision is installed beside it.

    A torchvision that imports is left alone. One whose operators do not exist (built for another torch) gets them
    defined, so that it imports, for others too. Without any, a stand-in takes its place for the time of the import and
    is gone afterwards, so that nobody else takes it for the real one. Raises DefarError where torch-fidelity is absent.
    """
    if "torch_fidelity" in sys.modules:
        return sys.modules["torch_fidelity"]
    if find_spec("torch_fidelity") is None:
        raise DefarError("torch-fidelity is not installed; run: pip install --no-deps torch-fidelity==0.4.0")
    if _torchvision_works():
        return importlib.import_module("torch_fidelity")
    stand_in = _stand_in()
    sys.modules.update(stand_in)
    try:
        return importlib.import_module("torch_fidelity")
    finally:
        for name in stand_in:
            sys.modules.pop(name, None)


def _torchvision_works() -> bool:
    if "torchvision" not in sys.modules and find_spec("torchvision") is None:
        return False
    for attempt in ("as it is", "with operators"):
        try:
            importlib.import_module("torchvision")
            return True
        except Exception as error:
            # A failed import leaves its submodules behind, half made.
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            if attempt == "with operators" or "torchvision::" not in str(error):
                return False
            _define_operators()
    return False


def _define_operators() -> None:
    import torch

    for schema in OPERATORS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(schema)
            _libraries.append(library)


def _stand_in() -> dict[str, types.ModuleType]:
    modules = {name: types.ModuleType(name, "Stands in while torch_fidelity is imported.") for name in MODULES}
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(modules[parent], leaf, module)
    for name in DATASETS:
        setattr(modules["torchvision.datasets"], name, type(name, (), {}))
    return modules
