"""How an entry finds the module that builds it, which is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from ..artefacts import Artefact

if TYPE_CHECKING:
    from ..experiment import Experiment


def built_by(module: str, *given: str) -> Callable[[Experiment], Artefact]:
    """The build(*given, experiment) of defar_analysis.<module>."""
    return lambda e: import_module(f"..{module}", __package__).build(*given, e)
