"""Files of weights, read without running anything that is in them."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ...errors import DefarError

SAFETENSORS, PICKLED = ".safetensors", (".pt", ".pth", ".ckpt", ".bin")
HARMLESS = (argparse.Namespace,)  # SiT's and REPA's training files keep their command line in one
FIRST_BYTES = 1 << 20  # of a pickle, where its classes are looked for once it has been refused


def read_file(path: Path, allow: Sequence[str] = ()) -> Any:
    """What a .safetensors or a file of torch.save holds: tensors, in mappings and lists of plain values.

    allow: classes ("package.Class") that the user wants rebuilt from a pickle. Raises DefarError, on one line, for
    everything else that a pickle asks for, and for a file that is broken, compressed or not of weights.
    """
    path = Path(path)
    if not path.is_file():
        raise DefarError(f"{path}: {'is a folder; name a file of weights' if path.is_dir() else 'no such file'}")
    if path.suffix == SAFETENSORS:
        try:
            return load_file(path)
        except Exception as error:  # SafetensorError, and what torch says of a type that it does not know
            raise DefarError(f"{path}: cannot be read as safetensors: {_line(error)}") from None
    if path.suffix not in PICKLED:
        raise DefarError(f"{path}: no file of weights by its name; give {SAFETENSORS}, {', '.join(PICKLED)}")
    classes = [*HARMLESS, *(_class(name) for name in allow)]
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _refuse_bomb(path)
    try:
        with torch.serialization.safe_globals(classes), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # hostile bytes reach torch's reader anywhere
        raise DefarError(f"{path}: {_refusal(path, zipped, error)}") from None


def _class(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DefarError(f"--allow-class {name}: cannot be imported: {_line(error)}; install its package") from None
    if not inspect.isclass(found):
        raise DefarError(f"--allow-class {name}: is no class; a file that calls functions is not read")
    return found


def _refuse_bomb(path: Path) -> None:
    """torch.save stores its records as they are: what claims more bytes than the file has was made to harm."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except Exception as error:
        raise DefarError(f"{path}: a broken archive: {_line(error)}") from None
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise DefarError(f"{path}: holds compressed records, which torch.save does not write; save it again with torch")
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise DefarError(f"{path}: claims more bytes than it has; get it again from where it was published")


def _refusal(path: Path, zipped: bool, error: Exception) -> str:
    """Why torch did not read it and what helps, naming the class that the pickle asked for."""
    asked = re.search(r"GLOBAL (\S+) (was not|whose module)", str(error))
    names = [asked[1]] if asked else [name for name in _names(path, zipped) if not name.startswith(("torch", "coll"))]
    if not names:
        return f"cannot be read as a file of torch.save: {_line(error)}"
    module, _, _ = names[0].rpartition(".")
    if module in ("", "os", "posix", "nt", "sys", "builtins", "subprocess"):
        return f"asks to run {names[0]} while it is read, which no file of weights needs; refused, get another one"
    return (
        f"asks for {names[0]}, which is code, while it is read; if you trust the file, allow it by name: "
        f"--allow-class {names[0]}, or save its weights alone as {SAFETENSORS}"
    )


def _names(path: Path, zipped: bool) -> Iterator[str]:
    """The classes and functions that a pickle names, found without unpickling it."""
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                record = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                first = archive.open(record).read(FIRST_BYTES)
        else:
            with open(path, "rb") as file:
                first = file.read(FIRST_BYTES)
        words: list[str] = []
        for code, argument, _ in pickletools.genops(first):
            if code.name == "GLOBAL":
                yield ".".join(argument.split(" "))
            elif code.name == "STACK_GLOBAL" and len(words) >= 2:
                yield ".".join(words[-2:])
            elif isinstance(argument, str):
                words.append(argument)
    except Exception:  # not a pickle, or not to its end: then it names nothing more
        return


def _line(error: Exception) -> str:
    return " ".join(f"{error}".split())[:160] or type(error).__name__
