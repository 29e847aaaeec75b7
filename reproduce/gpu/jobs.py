"""A queue of commands that share one GPU, several at a time, until a deadline; called again, it goes on.

A job is done when its file is there. At the deadline the running ones get SIGTERM: a training then saves its state
and leaves. Everything lies in $DEFAR_GPU_WORK (runs/gpu); what is to come back goes to $OUT, in files of limited size.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package need not be installed on a lent machine

WORK = Path(os.environ.get("DEFAR_GPU_WORK", ROOT / "runs" / "gpu"))
OUT = Path(os.environ.get("OUT", WORK / "out"))
TAR_LIMIT = 15 << 20  # bytes of a file that comes back: 16 MiB are allowed
TARS = 6  # of the 8 files that may come back
MARK = "brought-back"  # in a folder that was
GRACE = 25  # seconds for a step, its saving and the exit
DONE, WAITING, RUNNING, STOPPED, FAILED = "done", "waiting", "running", "stopped", "failed"


@dataclass(frozen=True)
class Job:
    """A command, the file that is there once it has done its work, and the job that it needs the result of."""

    name: str
    command: tuple[str, ...]
    done: Path
    after: str | None = None


def work(jobs: Sequence[Job], at_once: int, seconds: float, say: Callable[[str], None] = print) -> dict[str, str]:
    """Run what is not done, in the given order, `at_once` at a time, for `seconds`; every job's state by its name.

    A job that fails is not tried again in this call, and what needs it stays waiting; one that somebody else kills has
    failed: it was for memory, most likely. Output goes to WORK/logs.
    """
    from defar_analysis.core.runs import stop_requests

    logs, began = WORK / "logs", time.monotonic()
    logs.mkdir(parents=True, exist_ok=True)
    states = {job.name: DONE if job.done.exists() else WAITING for job in jobs}
    running: dict[str, subprocess.Popen] = {}
    signalled: set[tuple[str, int]] = set()  # by us: a job and the status that it has if it dies of that
    by_name = {job.name: job for job in jobs}

    def collect() -> None:
        for name in [name for name, process in running.items() if process.poll() is not None]:
            code = running.pop(name).returncode
            # a stop is often sent to the whole group, to us and to the job
            stopped = code == 130 or (name, code) in signalled or (stop.requested and code == -signal.SIGTERM)
            states[name] = DONE if by_name[name].done.exists() else STOPPED if stopped else FAILED
            by = f" by signal {-code}" if code < 0 else ""
            told = f"{by}: {last_line(logs / f'{name}.log')}" if states[name] == FAILED else ""
            say(f"{time.monotonic() - began:6.0f} s  {name} {states[name]}{told}")

    def send(number: signal.Signals) -> None:
        for name, process in running.items():
            if process.poll() is None:
                process.send_signal(number)
                signalled.add((name, -number))

    with stop_requests() as stop:
        while not stop.requested and time.monotonic() - began < seconds:
            collect()
            free = [job for job in jobs if states[job.name] == WAITING and states.get(job.after, DONE) == DONE]
            for job in free[: max(0, at_once - len(running))]:
                with open(logs / f"{job.name}.log", "a", encoding="utf-8") as log:
                    running[job.name] = subprocess.Popen(
                        job.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=surroundings(at_once)
                    )
                states[job.name] = RUNNING
            if not running:
                break
            time.sleep(0.1)
        send(signal.SIGTERM)
        patience = time.monotonic() + GRACE
        while running:
            collect()
            if time.monotonic() > patience:
                send(signal.SIGKILL)
            time.sleep(0.05)
    return states


def surroundings(at_once: int) -> dict[str, str]:
    """The environment of a job: its share of the processor's cores, and one cache of compiled kernels for all."""
    threads = str(max(1, (os.cpu_count() or 1) // max(1, at_once)))
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"), str(WORK / "site"))))
    own = {"OMP_NUM_THREADS": threads, "TORCHINDUCTOR_COMPILE_THREADS": "4", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own, "TORCHINDUCTOR_CACHE_DIR": str(WORK / "inductor"), "PYTHONPATH": path}


def last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def bring_back(folders: Iterable[Path], prefix: str, *, weights: bool = True, again: bool = False) -> list[Path]:
    """Tars in OUT of runs' folders: recipe, log, checkpoint; what was brought back before stays out unless `again`.

    Each tar stays under TAR_LIMIT and at most TARS are written: what does not fit is left for the next call, and said.
    A folder that no tar can hold stays out, and that is said in every call.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    loads: list[list[tuple[Path, list[Path]]]] = []
    most, room = TAR_LIMIT - tarfile.RECORDSIZE - 2 * tarfile.BLOCKSIZE, 0  # a tar ends with two blocks, fills a record
    for folder in folders:
        files = [f for f in sorted(folder.rglob("*")) if _travels(f, weights)]
        if not files or ((folder / MARK).exists() and not again):
            continue
        own = sum(f.stat().st_size + 4 * tarfile.BLOCKSIZE for f in files)  # three of headers, one to fill the last
        if own > most:
            told = f"{own:,} bytes do not fit into a tar of {TAR_LIMIT:,}, so it stays out"
            print(f"{folder.name}: {told}; copy its files to $OUT in parts", file=sys.stderr)
            continue
        if own > room:
            if len(loads) == TARS:
                print(f"{folder.name} and what follows did not fit; call again", file=sys.stderr)
                break
            loads.append([])
            room = most
        loads[-1].append((folder, files))
        room -= own
    tars = [OUT / f"{prefix}-{number}.tar" for number in range(len(loads))]
    for place, load in zip(tars, loads, strict=True):
        with tarfile.open(place, "w") as tar:
            for folder, files in load:
                for file in files:
                    tar.add(file, f"{folder.name}/{file.relative_to(folder)}")
        for folder, _ in load:  # not before the tar is whole
            (folder / MARK).touch()
    return tars


def _travels(file: Path, weights: bool) -> bool:
    from defar_analysis.core.states import POINTER

    if file.name == POINTER:  # the states that it vouches for stay
        return False
    if file.suffix == ".safetensors":
        return weights
    return file.is_file() and file.suffix in (".toml", ".jsonl", ".csv", ".json")


def tell(states: dict[str, str], say: Callable[[str], None] = print) -> int:
    """Say how many jobs are in which state and note it in OUT; the exit status: 0 when all are done, 3 when some are
    left, 1 when some failed."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "states.json").write_text(json.dumps(states, indent=1), encoding="utf-8")
    found = {state: [n for n, s in states.items() if s == state] for state in sorted(set(states.values()))}
    for state, names in found.items():
        say(f"{len(names)} {state}: {', '.join(names)}")
    return 1 if FAILED in found else 0 if set(found) <= {DONE} else 3


def use_what_came() -> None:
    """Find the data and the packages that pack.py unpacked."""
    if (WORK / "data" / "cifar10").is_dir():
        os.environ.setdefault("DEFAR_DATA", str(WORK / "data"))
    if (WORK / "site").is_dir():
        sys.path.append(str(WORK / "site"))


def run_script(main: Callable[[], int]) -> None:
    """Exit with what `main` returns, which finds what came along; a mistake is told in one line."""
    from defar_analysis.errors import DefarError, one_line

    use_what_came()
    try:
        sys.exit(main())
    except DefarError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {one_line(error)}")
