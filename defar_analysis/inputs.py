"""Small files that somebody else may have written, tables, notes and recipes: read whole, but never more than a bound.
Standard library only."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from .errors import DefarError, reason

LARGEST = 256 << 20  # bytes of one file; the largest that we wrote has one million


def read_bytes(path: str | Path, largest: int = LARGEST) -> bytes:
    """A file's content. Raises OSError as the system does, and DefarError for what is no file, or one without end:
    a pipe would be waited for, /dev/zero read until memory is full."""
    try:
        status = os.stat(path)
    except ValueError as error:  # a zero byte in its name
        raise DefarError(f"{path}: names no file ({error}); give another") from None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise DefarError(f"{path}: is a device or a pipe; name a file")
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise DefarError(f"{path}: more than {largest} bytes, larger than any file of its kind; name another")
    return content


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """A text file, UTF-8, with the line ends of text. Raises DefarError also where it is not UTF-8."""
    try:
        text = read_bytes(path, largest).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DefarError(f"{path}: is not UTF-8 ({reason(error)}); write it again") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, largest: int = LARGEST) -> Any:
    """What a JSON file holds. Raises DefarError also where it is not JSON."""
    return parse_json(read_text(path, largest), str(path))


def parse_json(text: str, where: str) -> Any:
    """What JSON text holds. Raises DefarError naming where it is from."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # nested too deeply for Python, or a number too long
        raise DefarError(f"{where}: is no JSON ({reason(error)}); write it again") from None
