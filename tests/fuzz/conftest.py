"""Watching what a hostile input does: one line or a right answer, and nothing else."""

import contextlib
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counted import AT_LEAST

from defar_analysis.errors import LONGEST, DefarError, visible

HANGS = 300  # seconds until a call counts as hanging; none takes one
MEMORY = 1536 << 20  # bytes that a call may take beyond what the process has; the bombs ask for more


class Watch:
    """watch(what, call): `call` is refused by a DefarError on one line, which is returned, or its answer is right.

    Meanwhile nothing may be written below `top`, where home and the current folder are, except in `out`, no code may
    run, and memory is bounded. done(kind) says what was found wrong, and that there were as many inputs as promised.
    """

    def __init__(self, top: Path) -> None:
        self.top, self.out, self.home = top, top / "out", top / "home"
        self.count, self.taken = 0, 0
        self.wrong: list[str] = []

    def __call__(self, what: str, call: Callable[[], Any], right: Callable[[Any], bool] = lambda answer: False) -> str:
        before, line = self.files(), ""
        self.count += 1
        try:
            with bounded():
                answer = call()
                self.taken += 1
                if not right(answer):
                    self.wrong.append(f"{what}: was taken, as {str(answer)[:300]}")
        except DefarError as error:
            line = str(error)
            if not one_line(line) or "memory" in line:  # refused before any was taken, not because there was none
                self.wrong.append(f"{what}: {line[:400]!r}")
        except Exception as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {str(error)[:400]}")
        self.unchanged(before, what)
        return line

    def done(self, kind: str) -> None:
        count, self.count = self.count, 0
        print(f"{kind}: {count} inputs, {self.taken} of them taken, rightly")  # pytest -rP shows it
        assert not self.wrong, f"{len(self.wrong)} of {count}:\n" + "\n".join(self.wrong)
        assert count >= AT_LEAST[kind], f"{kind}: {count}"

    def unchanged(self, before: dict[str, tuple], what: str) -> None:
        after = self.files()
        if after != before:
            self.wrong.append(f"{what}: files changed: {sorted(set(before.items()) ^ set(after.items()))[:5]}")

    def files(self) -> dict[str, tuple]:
        """All that is below `top`, but not in `out`, and what would tell that it was changed."""
        found = {}
        for folder, folders, files in os.walk(self.top):
            if Path(folder) == self.top and "out" in folders:
                folders.remove("out")
            for name in [*folders, *files]:
                status = os.lstat(os.path.join(folder, name))
                changed = status.st_mtime_ns if name in files else 0
                found[os.path.join(folder, name)] = (status.st_mode, status.st_size if changed else 0, changed)
        return found


def one_line(line: str) -> bool:
    return line != "" and line == visible(line) and len(line) < LONGEST + 100


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A call that may take so much memory, and so long, and no more. A call that hangs inside a library ends all."""

    def hangs(signum, frame):
        raise AssertionError(f"more than {HANGS} seconds")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        taken = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, limits[1]))
    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS)
    faulthandler.dump_traceback_later(2 * HANGS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A Watch whose home, data and current folder are below tmp_path."""
    seen = Watch(tmp_path)
    for folder in (seen.out, seen.home, tmp_path / "here"):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(seen.home))
    monkeypatch.setenv("DEFAR_DATA", str(seen.home / "data"))
    monkeypatch.setenv("MPLCONFIGDIR", str(seen.out / "matplotlib"))
    for name in ("XDG_CACHE_HOME", "DEFAR_TRUST", "DEFAR_INCEPTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path / "here")
    yield seen
    assert seen.count == 0, "ends with done()"
