"""Files that are whole or not there, whoever is killed and whatever the disk says. Standard library only."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from .errors import DefarError

try:
    import fcntl
except ImportError:  # Windows: files stay whole, but two processes may do the same work
    fcntl = None

HOST = re.sub(r"[^\w]", "_", platform.node())
FORSAKEN = 24 * 3600  # seconds after which a half-written file of another host counts as dead
PATIENCE = 1.0  # seconds for which another process is waited for in silence: one that was killed takes a moment to end


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` only if the block ends without an error.

    What was written is on the disk before it takes that place, so that after a power cut, too, the file is the old one
    or the new one. The first writing in a folder removes what dead processes left half written there. Raises OSError,
    naming `path`, where the system refuses to write, whichever library was told so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy_once(path.parent.resolve())
    beside = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None or refusal.filename not in (None, str(beside)):
            raise
        reason = refusal.strerror or f"not written whole ({refusal})"  # numpy does not tell why
        raise OSError(refusal.errno or errno.EIO, reason, str(path)) from error
    finally:
        with suppress(OSError):  # it was never made, or the disk is read-only
            beside.unlink()


def _refusal(error: BaseException | None) -> OSError | None:
    """What the system said, if that is what `error` is about: torch and safetensors wrap it in errors of their own."""
    if isinstance(error, OSError):
        return error
    if numbered := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return OSError(int(numbered[1]), os.strerror(int(numbered[1])))
    if type(error) is RuntimeError:  # torch.save: raised while the OSError of its file was on its way
        return _refusal(error.__context__)
    return None


def tidy(folder: Path, name: str = "") -> None:
    """Remove what dead processes left half written in `folder`: all of it, or that of one file."""
    for stray in Path(folder).glob(f".{glob.escape(name)}*.tmp"):
        with suppress(OSError):  # another process was faster
            if _is_dead(stray):
                stray.unlink()


_tidy_once = cache(tidy)  # once in a process: a folder may hold 50,000 images


def _is_dead(temporary: Path) -> bool:
    """Whether nobody writes it any more. Of another host, where a process may live, only its age tells."""
    host, _, number = temporary.name.removesuffix(".tmp").rpartition(".")[2].rpartition("-")
    if host != HOST or not number.isdecimal() or os.name == "nt":  # there os.kill(..., 0) would kill
        return time.time() - temporary.stat().st_mtime > FORSAKEN
    if int(number) == os.getpid():  # of a dead one with our number: we have not written here yet
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's, and alive
        pass
    return False


@contextmanager
def alone(path: Path, refusal: str = "") -> Iterator[bool]:
    """Inside the block this process works on `path` alone. Another one that does is waited for; or with a `refusal`,
    what to do then, DefarError is raised.

    The lock is a file beside, gone with the block; a killed process lets go of it. Where none can be made (a read-only
    folder, a file system without locks) False is given: files are still written whole, at worst twice.
    """
    real = Path(os.path.realpath(path))  # one lock, by whichever name it is reached
    lock = real.parent / f".{real.name}.lock"
    file = _locked(lock, path, refusal)
    try:
        yield file is not None
    finally:
        if file is not None:
            with suppress(OSError):  # before it is let go: who waits sees that it is gone, and makes another
                lock.unlink()
            os.close(file)


def _locked(lock: Path, path: Path, refusal: str) -> int | None:
    """A descriptor that holds the lock; None where there can be none."""
    while fcntl is not None:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            _flock(file, path, refusal)
            if os.path.samestat(os.fstat(file), os.stat(lock)):
                return file
        except BaseException as error:
            removed = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESTALE)
            if not removed:  # by the one that was waited for; on a network file system that is a stale handle
                os.close(file)
                if isinstance(error, OSError):
                    return None
                raise
        os.close(file)
    return None


def _flock(file: int, path: Path, refusal: str) -> None:
    given_up = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > given_up:
                break
        time.sleep(0.02)
    if refusal:
        raise DefarError(f"{path}: another process is writing it; {refusal}")
    print(f"{path}: another process is writing it; waiting", file=sys.stderr)
    fcntl.flock(file, fcntl.LOCK_EX)


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
