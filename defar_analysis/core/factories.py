"""Networks built by the user's own code, named "module:function". A file that names one never makes it run."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import DefarError

TRUST = "DEFAR_TRUST"  # the names that the user trusts, separated by commas


def is_factory(family: str) -> bool:
    """Whether a card's or a command line's word is "module:function"."""
    module, colon, function = family.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def build_from(name: str, options: dict[str, Any], trust: Sequence[str] = (), beside: Path | None = None) -> Callable:
    """What the factory `name` returns for `options`: a network, or any callable.

    The module is looked for in the current folder, then in `beside`, then among what is installed. Raises DefarError,
    before anything of it runs, unless `name` is in `trust` or in $DEFAR_TRUST; and where it cannot be had or fails.
    """
    folders = [Path.cwd(), *([Path(beside).resolve()] if beside is not None else [])]
    module, _, function = name.partition(":")
    file = _file_of(module, folders)
    if name not in {*trust, *(word.strip() for word in os.environ.get(TRUST, "").split(","))}:
        raise DefarError(
            f"{name!r} is code to be run, from {file or 'an installed module'}; if you trust it, say so by name: "
            f"{TRUST}={name}, or load_checkpoint(..., trust=({name!r},))"
        )
    with _importable(folders):
        try:
            factory = getattr(_module(module, file), function, None)
            if not callable(factory):
                raise DefarError(f"{name!r}: {file or module} has no function {function!r}; name one that it has")
            network = factory(**options)
        except DefarError:
            raise
        except Exception as error:  # the user's code may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DefarError(f"{name!r} cannot build the network from {options}: {reason}") from error
    if not callable(network):
        raise DefarError(f"{name!r} returned {type(network).__name__}, nothing that can be called as a velocity")
    return network


def _file_of(module: str, folders: list[Path]) -> Path | None:
    relative = Path(*module.split("."))
    candidates = [folder / end for folder in folders for end in (relative.with_suffix(".py"), relative / "__init__.py")]
    return next((file for file in candidates if file.is_file()), None)


def _module(name: str, file: Path | None) -> ModuleType:
    """The module of that file, though another folder's module of the same name has been imported before."""
    if file is None or "." in name or getattr(sys.modules.get(name), "__file__", None) == str(file):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folders: list[Path]) -> Iterator[None]:
    """The folders' modules can be imported inside the block, as a script's neighbours can."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before
