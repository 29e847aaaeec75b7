"""What a number came from: code, machine and inputs, as plain values that ride with every result."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from . import __version__


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this process."""
    import torch

    return {
        "defar_analysis": __version__,
        "commit": git_commit(Path(__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def git_commit(folder: Path) -> str | None:
    """The commit that `folder` is at, with "+" where files differ from it; None outside a repository."""
    try:
        commit = _git(folder, "describe", "--always", "--abbrev=12")
        return f"{commit}{'+' if _git(folder, 'status', '--porcelain', '--untracked-files=no') else ''}"
    except (OSError, subprocess.SubprocessError):
        return None


def last_commit(files: list[Path]) -> str | None:
    """The commit that last changed any of the files, with "+" where one differs from it by now; None outside of one."""
    if not files:
        return None
    folder, names = files[0].parent, [str(file.absolute()) for file in files]
    try:
        commit = _git(folder, "log", "-1", "--format=%h", "--abbrev=12", "--", *names)
        changed = _git(folder, "status", "--porcelain", "--", *names)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}{'+' if changed else ''}" if commit else None


def _git(folder: Path, *words: str) -> str:
    """What git says of a repository that it only reads: a run killed meanwhile must not leave it locked, as by
    `git describe --dirty`, which writes the index whatever it is told."""
    run = ["git", "--no-optional-locks", "-C", str(folder), *words]
    return subprocess.run(run, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def digest(value: Any) -> str:
    """A short name for plain values: equal values, equal name."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def files_digest(files: list[Path]) -> str:
    """A short name for the contents of files; a missing file counts as such."""
    return digest([hashlib.sha256(f.read_bytes()).hexdigest() if f.is_file() else None for f in files])
